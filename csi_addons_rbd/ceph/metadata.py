# SPDX-License-Identifier: Apache-2.0
"""Entries of the metadata that librbd keeps of images and pools, changed only as they were read."""

import errno
import struct

import rados

from csi_addons_rbd.ceph.encoding import text
from csi_addons_rbd.replication.errors import NOTHING_TO_DO, ImageChanged


def replace_metadata(
    ioctx: rados.Ioctx, name: str, key: str, standing: str, value: str | None
) -> None:
    """Write or remove an entry of an object's metadata, if there still stands what was read before.

    ``cls_rbd``'s ``metadata_set`` takes a map of strings, and puts each below ``metadata_``.

    Args:
        ioctx: Where the object lies, which must be there.
        name: The object.
        key: The entry.
        standing: What was read; one that is not there compares as empty.
        value: What shall stand there; ``None`` removes it.

    Raises:
        ImageChanged: another driver was quicker.
    """
    with rados.WriteOpCtx() as operation:
        operation.omap_cmp(f"metadata_{key}", _for_comparison(standing))
        if value is None:
            operation.execute("rbd", "metadata_remove", text(key))
        else:
            entries = struct.pack("<I", 1) + text(key) + text(value)
            operation.execute("rbd", "metadata_set", entries)
        if not write_if_equal(ioctx, operation, name):
            raise ImageChanged(
                f"{key} on {name} was changed by another driver meanwhile; {NOTHING_TO_DO}"
            )


def write_if_equal(ioctx: rados.Ioctx, operation: rados.WriteOp, name: str) -> bool:
    """Carry out an operation that compares first; false when something else stands there."""
    try:
        ioctx.operate_write_op(operation, name)
    except rados.OSError as exc:
        if exc.errno != errno.ECANCELED:
            raise
        return False
    return True


def _for_comparison(value: str) -> str:
    """Return a text of which the binding compares as many bytes as the value has.

    It hands librados the encoded text, and the number of its characters as the length.
    """
    return value + "." * (len(value.encode()) - len(value))
