# SPDX-License-Identifier: Apache-2.0
"""This driver's metadata on an image, below ``.rbd``: it stays on its site, librbd mirrors none.

It is written with the methods of Ceph's object class ``rbd`` on the image's header, as librbd
itself does, but without what librbd does before: it takes the exclusive lock, and so takes it
away from the workload, for whose sake Demote looks at who holds that lock. A secondary takes
notes this way, too.
"""

import struct
from contextlib import suppress
from typing import Final

import rados
import rbd

from csi_addons_rbd.replication.errors import CephFailure

_PREFIX: Final = ".rbd.csi-addons-rbd."


def read_notes(image: rbd.Image) -> dict[str, str]:
    """Read all of them."""
    return {
        key.removeprefix(_PREFIX): value
        for key, value in read_metadata(image).items()
        if key.startswith(_PREFIX)
    }


def read_metadata(image: rbd.Image) -> dict[str, str]:
    """Read all metadata of an image, anybody's.

    Where that fails, the binding stumbles over its own error text (Ceph 16), and the cause is
    lost; so a single entry is asked for, which fails for the same reason and tells it.
    """
    try:
        return dict(image.metadata_list())
    except AttributeError:
        with suppress(KeyError):
            image.metadata_get(_PREFIX)
        raise CephFailure("the metadata of an image could not be read; ask again") from None


def write_note(ioctx: rados.Ioctx, image_id: str, key: str, value: str) -> None:
    """Write one (``cls_rbd``'s ``metadata_set``: a map of strings)."""
    entries = struct.pack("<I", 1) + _text(_PREFIX + key) + _text(value)
    ioctx.execute(f"rbd_header.{image_id}", "rbd", "metadata_set", entries)


def remove_note(ioctx: rados.Ioctx, image_id: str, key: str) -> None:
    """Remove one that is there."""
    ioctx.execute(f"rbd_header.{image_id}", "rbd", "metadata_remove", _text(_PREFIX + key))


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<I", len(raw)) + raw
