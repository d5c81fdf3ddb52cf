# SPDX-License-Identifier: Apache-2.0
"""The omap of an object, read whole."""

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
        with rados.ReadOpCtx() as operation:
            entries, _ = ioctx.get_omap_vals(operation, after, prefix, _BATCH)
            ioctx.operate_read_op(operation, name)
            # of an empty value librados returns no pointer, and the binding None
            batch = {key: value or b"" for key, value in entries}
        found |= batch
        if len(batch) < _LEAST:
            return found
        after = max(batch)
