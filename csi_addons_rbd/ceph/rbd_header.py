# SPDX-License-Identifier: Apache-2.0
"""An image's header: its metadata, features and snapshots, read without opening the image.

To open an image costs librbd 11 ms, a watch, and some twenty operations; the header's omap, with
all that is of interest here, is one. Hence the decoding of ``cls_rbd_snap`` here, with its
``cls::rbd::MirrorSnapshotNamespace`` (of the releases from Ceph 14 to 20; members are only ever
appended).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, TypeVar

import rados
import rbd

from csi_addons_rbd.ceph.encoding import Encoded, decoding
from csi_addons_rbd.ceph.omaps import read_omap
from csi_addons_rbd.replication.image import Epoch

_EPOCHS: Final = {
    rbd.RBD_SNAP_MIRROR_STATE_PRIMARY: Epoch.PRIMARY,
    rbd.RBD_SNAP_MIRROR_STATE_PRIMARY_DEMOTED: Epoch.PRIMARY_DEMOTED,
    rbd.RBD_SNAP_MIRROR_STATE_NON_PRIMARY: Epoch.NON_PRIMARY,
    rbd.RBD_SNAP_MIRROR_STATE_NON_PRIMARY_DEMOTED: Epoch.NON_PRIMARY_DEMOTED,
}
_SNAPSHOT: Final = "snapshot_"
_METADATA: Final = "metadata_"
_SNAPSHOT_VERSION: Final = 8
"""Of ``cls_rbd_snap``: the newest that is understood; since then, parents stand elsewhere."""
_NAMESPACES: Final = 5
"""The first version that tells what kind of snapshot it is (Ceph 12): before, all were users'."""
_USER: Final = 0
_MIRROR: Final = 3
"""``SNAPSHOT_NAMESPACE_TYPE_USER`` and ``_MIRROR``."""
NON_PRIMARY: Final = rbd.RBD_FEATURE_NON_PRIMARY
"""While an image has this feature, only rbd-mirror can write it."""
_LIMIT: Final = "snap_limit"
_UNLIMITED: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorSnapshot:
    """One mirror snapshot."""

    number: int
    taken_at: int
    """Whole Unix seconds of this cluster's clock."""
    epoch: Epoch
    claimed: bool
    """Whether a peer still needs it: to copy it, or as what to start from."""
    complete: bool
    """Whether all of it is here; of a primary's own, that goes without saying."""
    torn: bool
    """Of a primary's own: whether its making goes on, or was cut short by a crash."""
    unfinished: bool
    """The same of a primary's own demotion."""
    copied: int
    """Objects that rbd-mirror has copied."""
    orphan: bool
    """Whether it is a copy of nobody's: a promotion by force begins so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserSnapshot:
    """One snapshot that somebody took for a purpose of their own; rbd-mirror copies these, too."""

    number: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What stands in the header."""

    features: int
    has_parent: bool
    """Whether it is a clone, be it by its snapshots only."""
    metadata: Mapping[str, str]
    snapshots: tuple[MirrorSnapshot, ...]
    """The mirror snapshots, oldest first."""
    user_snapshots: tuple[UserSnapshot, ...]
    """Likewise, those of users."""
    room: int | None
    """How many more snapshots of any kind the object class allows; ``None``: no limit is set."""


_Snapshot = TypeVar("_Snapshot", MirrorSnapshot, UserSnapshot)


def id_object(name: str) -> str:
    """Name the object that holds the id of an image of that name."""
    return f"rbd_id.{name}"


def header_object(image_id: str) -> str:
    """Name the object that holds the header."""
    return f"rbd_header.{image_id}"


def read_image_id(ioctx: rados.Ioctx, name: str) -> str | None:
    """Look up the id of an image; one of format 1 has none.

    Raises:
        rados.ObjectNotFound: there is no such image.
    """
    try:
        data = ioctx.read(id_object(name))
    except rados.ObjectNotFound:
        ioctx.stat(f"{name}.rbd")
        return None
    return decode_image_id(name, data)


def decode_image_id(name: str, data: bytes) -> str:
    """Read what the object of a name holds.

    Raises:
        CephFailure: these bytes are no id.
    """
    with decoding(f"the id of image {name}"):
        return Encoded(data).text()


def require_header(ioctx: rados.Ioctx, image_id: str) -> None:
    """Look whether the header is there: a name may outlive it, or come before it.

    Raises:
        rados.ObjectNotFound: it is not.
    """
    ioctx.stat(header_object(image_id))


def read_header(ioctx: rados.Ioctx, image_id: str) -> Header:
    """Read the header of an image of format 2.

    Raises:
        rados.ObjectNotFound: the image is gone.
    """
    with decoding(f"the header of image {image_id}"):
        entries = read_omap(ioctx, header_object(image_id))
        snapshots = [
            decode_snapshot(value) for key, value in entries.items() if key.startswith(_SNAPSHOT)
        ]
        return Header(
            features=Encoded(entries["features"]).number("Q"),
            has_parent="parent" in entries,
            metadata={
                key.removeprefix(_METADATA): value.decode(errors="replace")
                for key, value in entries.items()
                if key.startswith(_METADATA)
            },
            snapshots=_oldest_first(each for each in snapshots if isinstance(each, MirrorSnapshot)),
            user_snapshots=_oldest_first(
                each for each in snapshots if isinstance(each, UserSnapshot)
            ),
            room=_room(entries.get(_LIMIT), len(snapshots)),
        )


def _oldest_first(snapshots: Iterable[_Snapshot]) -> tuple[_Snapshot, ...]:
    return tuple(sorted(snapshots, key=lambda each: each.number))


def _room(limit: bytes | None, snapshots: int) -> int | None:
    number = _UNLIMITED if limit is None else Encoded(limit).number("Q")
    return None if number == _UNLIMITED else max(0, number - snapshots)


def decode_snapshot(value: bytes) -> MirrorSnapshot | UserSnapshot | None:
    """Read one snapshot; ``None`` for those of groups, and of the trash.

    Raises:
        CephFailure: these bytes are none.
    """
    with decoding("a snapshot of an image"):
        snapshot = Encoded(value).structure(_SNAPSHOT_VERSION)
        number, name = snapshot.number("Q"), snapshot.raw()
        users = UserSnapshot(number=number, name=name.decode(errors="replace"))
        if snapshot.version < _NAMESPACES:
            return users
        _size = snapshot.number("Q")
        if snapshot.oldest < _SNAPSHOT_VERSION:
            _features, _parent = snapshot.number("Q"), snapshot.structure(1)
        _protection, _flags = snapshot.number("B"), snapshot.number("Q")
        namespace = snapshot.structure(1)
        kind = namespace.number()
        if kind != _MIRROR:
            return users if kind == _USER else None
        epoch, complete = _EPOCHS[namespace.number("B")], bool(namespace.number("B"))
        peers = [namespace.raw() for _ in range(namespace.number())]
        primary, _primary_snapshot = namespace.raw(), namespace.number("Q")
        return MirrorSnapshot(
            number=number,
            taken_at=snapshot.seconds(),
            epoch=epoch,
            claimed=bool(peers),
            complete=complete or epoch in (Epoch.PRIMARY, Epoch.PRIMARY_DEMOTED),
            torn=epoch is Epoch.PRIMARY and not complete,
            unfinished=epoch is Epoch.PRIMARY_DEMOTED and not complete,
            copied=namespace.number("Q"),
            orphan=epoch is Epoch.NON_PRIMARY and not primary,
        )
