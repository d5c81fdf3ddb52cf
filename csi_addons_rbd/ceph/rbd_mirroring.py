# SPDX-License-Identifier: Apache-2.0
"""What the object ``rbd_mirroring`` of a pool tells of one image, without opening the image.

``cls_rbd`` answers; its ``cls::rbd::MirrorImage`` and ``cls::rbd::MirrorImageStatus`` are decoded
here (of the releases from Ceph 16 to 20; members are only ever appended).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

import rados
import rbd

from csi_addons_rbd.ceph.encoding import Encoded, decoding, text
from csi_addons_rbd.ceph.namespaces import default_namespace
from csi_addons_rbd.ceph.omaps import read_omap
from csi_addons_rbd.replication.calls import MirroringMode
from csi_addons_rbd.replication.image import MirrorState, SiteState, SiteStatus

MIRRORING_OBJECT: Final = "rbd_mirroring"
_LEADER: Final = "rbd_mirror_leader"
MODES: Final = {
    MirroringMode.JOURNAL: rbd.RBD_MIRROR_IMAGE_MODE_JOURNAL,
    MirroringMode.SNAPSHOT: rbd.RBD_MIRROR_IMAGE_MODE_SNAPSHOT,
}
_MODE_NAMES: Final = {number: mode for mode, number in MODES.items()}
_LENGTH: Final = 65536
"""Bytes that an answer may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirroring:
    """Mirroring of one image."""

    state: MirrorState
    mode: MirroringMode
    global_id: str


Statuses: TypeAlias = tuple[SiteStatus | None, tuple[SiteStatus, ...]]
"""What the rbd-mirror of each site said last: this site's, and the peers'."""
SILENCE: Final[Statuses] = (None, ())


def ask_mirroring(image_id: str) -> tuple[str, str, str, bytes]:
    """Return the question how an image is mirrored: object, class, method, request."""
    return MIRRORING_OBJECT, "rbd", "mirror_image_get", text(image_id)


def ask_statuses(global_id: str) -> tuple[str, str, str, bytes]:
    """Return the question for the statuses of an image: object, class, method, request."""
    return MIRRORING_OBJECT, "rbd", "mirror_image_status_get", text(global_id)


def read_mirroring(ioctx: rados.Ioctx, image_id: str) -> Mirroring | None:
    """Read the mirroring of an image; ``None`` when it is off."""
    try:
        _, data = ioctx.execute(*ask_mirroring(image_id), _LENGTH)
    except rados.ObjectNotFound:
        return None
    return decode_mirroring(data)


def read_mirrored_image(ioctx: rados.Ioctx, global_id: str) -> str | None:
    """Look up which image is mirrored under a global id."""
    try:
        _, data = ioctx.execute(
            MIRRORING_OBJECT, "rbd", "mirror_image_get_image_id", text(global_id), _LENGTH
        )
    except rados.ObjectNotFound:
        return None
    with decoding(f"the image of mirroring {global_id}"):
        return Encoded(data).text()


def read_instances(ioctx: rados.Ioctx) -> frozenset[str]:
    """Read which clients this site's rbd-mirror daemons are, such as ``client.4100``.

    One takes the lock of an image that was just demoted before it writes its first status of it.
    They stand in the pool's default namespace; where the key may not look there, none is known.
    """
    try:
        with default_namespace(ioctx):
            _, data = ioctx.execute(_LEADER, "rbd", "mirror_instances_list", b"", _LENGTH)
    except (rados.ObjectNotFound, rados.PermissionError):
        return frozenset()
    with decoding("the instances of rbd-mirror"):
        instances = Encoded(data)
        return frozenset(f"client.{instances.text()}" for _ in range(instances.number()))


def read_statuses(ioctx: rados.Ioctx, global_id: str) -> Statuses:
    """Read what the rbd-mirror of each site said last."""
    try:
        _, data = ioctx.execute(*ask_statuses(global_id), _LENGTH)
    except rados.ObjectNotFound:
        return SILENCE
    return decode_statuses(data)


def read_origins(ioctx: rados.Ioctx, global_id: str) -> frozenset[str]:
    """Name the clients that wrote the statuses of an image, such as ``client.4100``.

    The rbd-mirror of each site writes them with the client by which it has the image open here.
    """
    prefixes = f"status_global_{global_id}", f"remote_status_global_{global_id}_"
    return frozenset(
        decode_origin(value)
        for prefix in prefixes
        for value in read_omap(ioctx, MIRRORING_OBJECT, prefix).values()
    )


def decode_origin(data: bytes) -> str:
    """Read who wrote a status: the ``entity_inst_t`` at the head of ``MirrorImageStatusOnDisk``.

    Raises:
        CephFailure: these bytes are none.
    """
    with decoding("the origin of a mirroring status"):
        return Encoded(data).structure(1).client()


def decode_mirroring(data: bytes) -> Mirroring:
    """Read ``MirrorImage``.

    Raises:
        CephFailure: these bytes are none.
    """
    with decoding("the mirroring of an image"):
        mirroring = Encoded(data).structure(2)
        return Mirroring(
            global_id=mirroring.text(),
            state=MirrorState(mirroring.number("B")),
            mode=_MODE_NAMES[mirroring.number("B")],
        )


def decode_statuses(data: bytes) -> Statuses:
    """Read ``MirrorImageStatus``.

    A site that has yet to speak is listed as down since 1970: it is not dead, but unheard of.

    Raises:
        CephFailure: these bytes are none.
    """
    with decoding("the mirroring status of an image"):
        statuses = Encoded(data).structure(2)
        local, valid = _status("", statuses), bool(statuses.number("B"))
        peers = tuple(_peers(statuses))
    here = local if valid and local.last_update else None
    return here, tuple(peer for peer in peers if peer.last_update)


def _peers(statuses: Encoded) -> Iterator[SiteStatus]:
    for _ in range(statuses.number()):
        yield _status(statuses.text(), statuses)


def _status(site: str, statuses: Encoded) -> SiteStatus:
    return SiteStatus(
        site=site,
        state=SiteState(statuses.number("B")),
        description=statuses.text(),
        last_update=statuses.seconds(),
        up=bool(statuses.number("B")),
    )
