# SPDX-License-Identifier: Apache-2.0
"""The way from a volume to its image, and what its mirroring shows there.

The first look goes from one object to the next, as each tells where to look. Whoever looks again
knows where they led, and reads them all at once. None is left out: what they say now must be what
they said then, or else the way is gone anew.

The CSI journal is the omap object ``csi.volume.<uuid>`` that ceph-csi keeps beside the images. It
is only read here: creating it would keep ceph-csi from ever making its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

import rados

from csi_addons_rbd.ceph.encoding import decoding
from csi_addons_rbd.ceph.rbd_header import (
    decode_image_id,
    header_object,
    id_object,
    read_image_id,
    require_header,
)
from csi_addons_rbd.ceph.rbd_mirroring import (
    SILENCE,
    Mirroring,
    Statuses,
    ask_mirroring,
    ask_statuses,
    decode_mirroring,
    decode_statuses,
    read_mirroring,
    read_statuses,
)
from csi_addons_rbd.ceph.wave import Wave

IMAGE_NAME: Final = "csi.imagename"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What one look found."""

    name: str
    image_id: str | None
    """An image of format 1 has none."""
    mirroring: Mirroring | None
    """``None`` when it is off."""
    statuses: Statuses
    instead: str = ""
    """The name that the way led to, and that no image has; this one was found by its end."""


NOT_FOUND: Final = Sighting(name="", image_id=None, mirroring=None, statuses=SILENCE)


def read_name(ioctx: rados.Ioctx, uuid: str) -> str:
    """Read the image's name from the CSI journal; ceph-csi's default without an entry."""
    return read_journal(ioctx, uuid) or _default(uuid)


def read_journal(ioctx: rados.Ioctx, uuid: str) -> str:
    """Read the image's name from the CSI journal; empty without an entry."""
    with rados.ReadOpCtx() as operation:
        entries, _ = ioctx.get_omap_vals_by_keys(operation, (IMAGE_NAME,))
        try:
            ioctx.operate_read_op(operation, _journal(uuid))
        except rados.ObjectNotFound:
            return ""
        return name_among(entries, uuid)


def look(ioctx: rados.Ioctx, name: str) -> Sighting:
    """Look at the image of that name.

    Raises:
        rados.ObjectNotFound: there is none.
    """
    image_id = read_image_id(ioctx, name)
    mirroring = None if image_id is None else read_mirroring(ioctx, image_id)
    return Sighting(
        name=name,
        image_id=image_id,
        mirroring=mirroring,
        statuses=read_statuses(ioctx, mirroring.global_id) if mirroring else SILENCE,
    )


def look_at(ioctx: rados.Ioctx, name: str) -> Sighting:
    """Look at an image whose header is there: a name may outlive it, or come before it.

    Raises:
        rados.ObjectNotFound: there is none.
    """
    seen = look(ioctx, name)
    if seen.image_id is not None:
        require_header(ioctx, seen.image_id)
    return seen


def look_again(ioctx: rados.Ioctx, uuid: str, before: Sighting) -> Sighting | None:
    """Look where an earlier look led to; ``None`` when anything leads elsewhere by now.

    Whether an image that was found by the end of its name still is the only one is not looked at.
    """
    if before.image_id is None or before.mirroring is None:
        return None
    global_id = before.mirroring.global_id
    with rados.ReadOpCtx() as operation:
        entries, _ = ioctx.get_omap_vals_by_keys(operation, (IMAGE_NAME,))
        with Wave(ioctx) as wave:
            journal = wave.operate(operation, _journal(uuid))
            found = wave.read(id_object(before.name))
            expected = wave.read(id_object(before.instead)) if before.instead else None
            header = wave.read(header_object(before.image_id))
            mirroring = wave.execute(*ask_mirroring(before.image_id))
            statuses = wave.execute(*ask_statuses(global_id))
        name = ("" if journal.data is None else name_among(entries, uuid)) or _default(uuid)
    if found.data is None or header.data is None or mirroring.data is None:
        return None
    now = decode_mirroring(mirroring.data)
    same = (
        name == (before.instead or before.name)
        and (expected is None or expected.data is None)
        and decode_image_id(before.name, found.data) == before.image_id
        and now.global_id == global_id
    )
    said = SILENCE if statuses.data is None else decode_statuses(statuses.data)
    return replace(before, mirroring=now, statuses=said) if same else None


def name_among(entries: Iterable[tuple[str, bytes]], uuid: str) -> str:
    """Return the image's name that an entry of the CSI journal holds; empty when none does."""
    for key, value in entries:
        if key == IMAGE_NAME and value:
            with decoding(f"{IMAGE_NAME} of {_journal(uuid)}"):
                return value.decode()
    return ""


def _journal(uuid: str) -> str:
    return f"csi.volume.{uuid}"


def _default(uuid: str) -> str:
    return f"csi-vol-{uuid}"
