# SPDX-License-Identifier: Apache-2.0
"""The omap of an object, read whole or page by page."""

from collections.abc import Iterator
from typing import Final

import rados

_BATCH: Final = 512
_LEAST: Final = 64
"""An OSD may return fewer entries than asked for (``osd_max_omap_entries_per_request``), though
never as few as this; what comes in a smaller batch is the rest."""


def read_omap(ioctx: rados.Ioctx, name: str, prefix: str = "") -> dict[str, bytes]:
    """Read all entries whose keys begin with ``prefix``.

    Raises:
        rados.ObjectNotFound: there is no such object.
    """
    found: dict[str, bytes] = {}
    after = ""
    while True:
        batch = _page(ioctx, name, prefix, after)
        found |= batch
        if len(batch) < _LEAST:
            return found
        after = max(batch)


def omap_pages(ioctx: rados.Ioctx, name: str, prefix: str = "") -> Iterator[dict[str, bytes]]:
    """Yield those entries page by page, for objects with many of them.

    However few there are on a page, only an empty one is the end: the limits of an OSD are not
    known here, and what is overlooked would be taken for absent.

    Raises:
        rados.ObjectNotFound: there is no such object.
    """
    after = ""
    while page := _page(ioctx, name, prefix, after):
        yield page
        after = max(page)


def _page(ioctx: rados.Ioctx, name: str, prefix: str, after: str) -> dict[str, bytes]:
    with rados.ReadOpCtx() as operation:
        entries, _ = ioctx.get_omap_vals(operation, after, prefix, _BATCH)
        ioctx.operate_read_op(operation, name)
        # of an empty value librados returns no pointer, and the binding None
        return {key: value or b"" for key, value in entries}
