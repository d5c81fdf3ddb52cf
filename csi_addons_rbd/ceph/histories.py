# SPDX-License-Identifier: Apache-2.0
"""Who wrote an image's newest history, and who has followed it: read from the image itself.

Statuses of rbd-mirror lag by up to half a minute and may be wrong; this cannot be.
"""

from calendar import timegm
from collections.abc import Mapping
from typing import Any, Final

import rados
import rbd

from csi_addons_rbd.ceph.image_notes import read_metadata
from csi_addons_rbd.ceph.rbd_journal import (
    OWN_CLIENT,
    epoch_start,
    read_clients,
    read_resync_request,
    read_tags,
)
from csi_addons_rbd.replication.image import Epoch, History

NOTHING: Final = History(
    epoch=Epoch.NONE,
    mark=0,
    began=0,
    began_at=None,
    newest_at=None,
    awaited=False,
    copied_until=None,
    followed=False,
    delivered=False,
    complete=False,
    progress="",
)
_EPOCHS: Final = {
    rbd.RBD_SNAP_MIRROR_STATE_PRIMARY: Epoch.PRIMARY,
    rbd.RBD_SNAP_MIRROR_STATE_PRIMARY_DEMOTED: Epoch.PRIMARY_DEMOTED,
    rbd.RBD_SNAP_MIRROR_STATE_NON_PRIMARY: Epoch.NON_PRIMARY,
    rbd.RBD_SNAP_MIRROR_STATE_NON_PRIMARY_DEMOTED: Epoch.NON_PRIMARY_DEMOTED,
}
_MIRROR_METADATA: Final = ".rbd_mirror."
"""Where rbd-mirror keeps what it knows of an image, one entry for each peer."""
_OWN: Final = (Epoch.PRIMARY, Epoch.PRIMARY_DEMOTED)
_DEMOTIONS: Final = (Epoch.PRIMARY_DEMOTED, Epoch.NON_PRIMARY_DEMOTED)
_EVICTING: Final = 3
"""Snapshots still needed by a peer at which librbd may begin to drop the oldest
(``rbd_mirroring_max_mirroring_snapshots``: 3 in Ceph 16, 5 since 17)."""


def snapshot_history(image: rbd.Image) -> History:
    """Read the mirror snapshots of an open image."""
    snapshots = sorted(
        (snap for snap in image.list_snaps() if "mirror" in snap), key=lambda snap: snap["id"]
    )
    if not snapshots:
        return NOTHING
    newest = snapshots[-1]
    epoch, settled = _epoch(newest), _complete(newest)
    # an incomplete copy of a demotion is still coming
    if epoch is Epoch.NON_PRIMARY_DEMOTED and not settled:
        epoch = Epoch.NON_PRIMARY
    present = _present_epoch(snapshots)
    held = _held_by_peers(snapshots[: -len(present)], present) if present else None
    began = _taken_at(image, present[0]) if present else 0
    copied = newest["mirror"]["last_copied_object_number"]
    return History(
        epoch=epoch,
        mark=newest["id"],
        began=began,
        began_at=began or None,
        newest_at=_taken_at(image, newest),
        awaited=any(_claimed(snap) for snap in snapshots[:-1]),
        copied_until=_taken_at(image, held) if held else None,
        followed=held is not None and _after_demotion(snapshots, present),
        delivered=epoch is Epoch.PRIMARY_DEMOTED and not any(map(_claimed, snapshots[:-1])),
        complete=any(_complete(snap) for snap in snapshots),
        progress="" if settled else f"copied {copied} objects",
    )


def journal_history(ioctx: rados.Ioctx, image_id: str) -> History:
    """Read the tags and the peers' positions in the journal of an image."""
    try:
        tags = read_tags(ioctx, image_id)
    except rados.ObjectNotFound:
        return NOTHING
    if not tags:
        return NOTHING
    newest, began = tags[-1], epoch_start(tags)
    # a new copy starts with tag 0, and its first replay, after the whole copy, with another:
    # making that copy leaves entries in the primary's journal
    complete = newest.number > 0 or newest.epoch is Epoch.PRIMARY
    clients = read_clients(ioctx, image_id) if newest.epoch in _OWN else {}
    own, peers = clients.pop(OWN_CLIENT, None), tuple(clients.values())
    return History(
        epoch=newest.epoch,
        mark=newest.number,
        began=began,
        began_at=None,
        newest_at=None,
        awaited=False,
        copied_until=None,
        followed=newest.epoch is Epoch.PRIMARY
        and bool(peers)
        and all(peer is not None and peer[0] >= began for peer in peers),
        delivered=newest.epoch is Epoch.PRIMARY_DEMOTED
        and bool(peers)
        and all(peer == own for peer in peers),
        complete=complete,
        progress="" if complete else "the first copy is being made",
    )


def resync_requested(ioctx: rados.Ioctx, image: rbd.Image) -> bool:
    """Tell whether librbd was asked to resync this very image.

    The request outlives a promotion, and rbd-mirror grants it after the next demotion.
    """
    if image.mirror_image_get_mode() == rbd.RBD_MIRROR_IMAGE_MODE_JOURNAL:
        return read_resync_request(ioctx, image.id())
    return any(
        '"resync_requested": true' in value
        for key, value in read_metadata(image).items()
        if key.startswith(_MIRROR_METADATA)
    )


def _taken_at(image: rbd.Image, snapshot: Mapping[str, Any]) -> int:
    return timegm(image.get_snap_timestamp(snapshot["id"]).utctimetuple())


def _claimed(snapshot: Mapping[str, Any]) -> bool:
    """Tell whether a peer still needs the snapshot: to copy it, or as what to start from."""
    return bool(snapshot["mirror"]["mirror_peer_uuids"])


def _epoch(snapshot: Mapping[str, Any]) -> Epoch:
    return _EPOCHS[snapshot["mirror"]["state"]]


def _complete(snapshot: Mapping[str, Any]) -> bool:
    return _epoch(snapshot) in _OWN or bool(snapshot["mirror"]["complete"])


def _present_epoch(snapshots: list[Any]) -> list[Any]:
    """Return the snapshots of the present primary epoch, oldest first.

    The oldest is the promotion's own until the peer has it; librbd may drop it afterwards.
    """
    present: list[Any] = []
    for snap in reversed(snapshots):
        if _epoch(snap) is not Epoch.PRIMARY:
            break
        present.insert(0, snap)
    return present


def _after_demotion(snapshots: list[Any], present: list[Any]) -> bool:
    """Tell whether the epoch began with a planned promotion: only a demotion bears claims.

    After a forced one nothing before the epoch ever had a claim that could be given up.
    """
    earlier = snapshots[: -len(present)]
    return bool(earlier) and _epoch(earlier[-1]) in _DEMOTIONS


def _held_by_peers(earlier: list[Any], present: list[Any]) -> Any | None:
    """Return the newest snapshot of the epoch that every peer has whole, if the claims tell.

    rbd-mirror gives up its claim to the snapshot it started from when it has the next one
    whole: so it has the oldest that it claims, once it has had any. librbd revokes claims too,
    of the oldest, when there are too many: then they prove nothing, nor do they where a peer
    never had one.
    """
    needed = [snap for snap in present if _claimed(snap)]
    if not 0 < len(needed) < _EVICTING or any(map(_claimed, earlier)):
        return None
    return needed[0]
