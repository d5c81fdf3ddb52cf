# SPDX-License-Identifier: Apache-2.0
"""Where a promotion by force has to take an image back to when its newest copy is half made.

librbd's own choice is wrong. rbd-mirror takes the snapshot of a copy first, and then writes the
data above it, so a copy's snapshot holds what the image was *before* that copy. librbd goes back to
the snapshot of the last whole copy, and loses that copy, too: after a first copy all data is gone
(seen on Ceph 16.2 and 20.2: every byte read zero). Where the half copy is that of a demotion,
librbd does not go back at all, and promotes the mixture.

What is right is the snapshot of the half copy itself. librbd takes the newest one that is marked
complete below an incomplete orphan (a copy of nobody's, which librbd takes first, too). So the
orphan is added, and the mark is set. Once it sees an orphan, rbd-mirror leaves the image alone (but
for one of which it has copied nothing: that it takes for a copy of its own which it had just begun,
and removes it); and whoever comes after a crash, here or in librbd, finds the orphan and goes on.

There is no way back where users took snapshots since the last whole copy. rbd-mirror writes their
data first, in each object, as a part of the time before the copy's snapshot, and so over the last
whole copy; the snapshot of the half copy holds a mixture (seen on Ceph 16.2 and 20.2).
"""

import errno
import struct
import uuid
from collections.abc import Sequence
from enum import Enum
from itertools import takewhile
from typing import Final

import rados
import rbd

from csi_addons_rbd.ceph.announcements import announce_header
from csi_addons_rbd.ceph.encoding import structure, text
from csi_addons_rbd.ceph.fault_points import step
from csi_addons_rbd.ceph.lockers import is_followed
from csi_addons_rbd.ceph.rbd_header import Header, MirrorSnapshot, header_object, read_header
from csi_addons_rbd.replication.image import Epoch

_COPIES: Final = (Epoch.NON_PRIMARY, Epoch.NON_PRIMARY_DEMOTED)
_MIRROR: Final = 3
"""``SNAPSHOT_NAMESPACE_TYPE_MIRROR``."""
_NO_SNAPSHOT: Final = (1 << 64) - 2
"""``CEPH_NOSNAP``."""
_BEGUN: Final = 1
"""Objects that the orphan claims to hold, so that rbd-mirror does not remove it."""
_TRIES: Final = 16
"""How often an orphan gets another number, when librbd took a newer one in that moment."""


class Rollback(Enum):
    """What stands between an image and its promotion by force."""

    NONE = "nothing: the newest copy is whole"
    READY = "it is to be taken back, and librbd knows where to"
    HELD = "it is to be taken back, and rbd-mirror still has it open"


def is_needed(snapshots: Sequence[MirrorSnapshot]) -> bool:
    """Tell from the mirror snapshots, oldest first, whether the newest copy is half made."""
    orphans, copy = _newest(snapshots)
    if copy is None:
        return False
    return not copy.complete or not all(orphan.complete for orphan in orphans)


def overwritten_by(header: Header) -> tuple[str, ...]:
    """Name the users' snapshots with which a half made copy is written over the last whole one."""
    _, copy = _newest(header.snapshots)
    if copy is None or copy.complete:
        return ()
    earlier = [each.number for each in header.snapshots if each.number < copy.number]
    if not earlier:
        return ()  # the first copy, with nothing below
    between = (each for each in header.user_snapshots if earlier[-1] < each.number < copy.number)
    return tuple(each.name for each in between)


def prepare(cluster: rados.Rados, ioctx: rados.Ioctx, image_id: str, global_id: str) -> Rollback:
    """Have librbd's next promotion by force take the image back to its last whole copy.

    Only under the lease, and when the image is to be promoted by force in any case.
    """
    snapshots = read_header(ioctx, image_id).snapshots
    if not is_needed(snapshots):
        return Rollback.NONE
    with rbd.Image(ioctx, image_id=image_id, read_only=True) as image:
        if not _newest(snapshots)[0]:
            with cluster.open_ioctx2(image.data_pool_id()) as data:
                _add_orphan(ioctx, data, image_id, global_id)
        if is_followed(ioctx, image):
            return Rollback.HELD
    orphans, copy = _newest(read_header(ioctx, image_id).snapshots)
    if copy is None or not orphans:
        return Rollback.HELD  # rbd-mirror changed it in this moment
    if copy.complete and copy.copied:
        # by rbd-mirror, before it let go: the mark set here counts no objects
        _mark(ioctx, image_id, orphans[0], complete=True, copied=_BEGUN)
        return Rollback.NONE
    if orphans[0].complete or not orphans[0].copied:
        _mark(ioctx, image_id, orphans[0], complete=False, copied=_BEGUN)
    if copy.epoch is Epoch.NON_PRIMARY and not copy.complete:
        _mark(ioctx, image_id, copy, complete=True, copied=0)
    return Rollback.READY


def _newest(
    snapshots: Sequence[MirrorSnapshot],
) -> tuple[Sequence[MirrorSnapshot], MirrorSnapshot | None]:
    """Return the orphans, newest first, and the newest copy below them, if any."""
    backwards = list(reversed(snapshots))
    orphans = list(takewhile(lambda each: each.orphan, backwards))
    below = backwards[len(orphans) :]
    return orphans, below[0] if below and below[0].epoch in _COPIES else None


def _add_orphan(ioctx: rados.Ioctx, data: rados.Ioctx, image_id: str, global_id: str) -> None:
    """Add what tells rbd-mirror to let go, with cls_rbd's own method; then wake it.

    Snapshots are numbered by the pool that holds the image's data, which may be another one.
    """
    namespace = structure(
        struct.pack("<IBB", _MIRROR, rbd.RBD_SNAP_MIRROR_STATE_NON_PRIMARY, 0),
        struct.pack("<I", 0) + text(""),
        struct.pack("<QQI", _NO_SNAPSHOT, _BEGUN, 0),
    )
    name = f".mirror.non_primary.{global_id}.{uuid.uuid4()}"
    with step("adding an orphan snapshot to"):
        for left in reversed(range(_TRIES)):
            number = data.create_self_managed_snap()
            request = text(name) + struct.pack("<Q", number) + namespace
            try:
                ioctx.execute(header_object(image_id), "rbd", "snapshot_add", request)
            except rados.OSError as exc:
                if exc.errno != errno.ESTALE or not left:
                    raise
            else:
                break
    announce_header(ioctx, image_id)


def _mark(
    ioctx: rados.Ioctx, image_id: str, snapshot: MirrorSnapshot, *, complete: bool, copied: int
) -> None:
    method = "mirror_image_snapshot_set_copy_progress"
    with step("marking a snapshot of"):
        request = struct.pack("<QBQ", snapshot.number, complete, copied)
        ioctx.execute(header_object(image_id), "rbd", method, request)
