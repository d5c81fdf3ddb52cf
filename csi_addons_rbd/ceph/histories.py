# SPDX-License-Identifier: Apache-2.0
"""Who wrote an image's newest history, and who has followed it: read from the image itself.

Statuses of rbd-mirror lag by up to half a minute and may be wrong; this cannot be.
"""

from calendar import timegm
from collections.abc import Mapping
from typing import Any, Final

import rados
import rbd

from csi_addons_rbd.ceph.rbd_journal import epoch_start, read_clients, read_tags
from csi_addons_rbd.replication.image import Epoch, History

NOTHING: Final = History(
    epoch=Epoch.NONE,
    mark=0,
    began=0,
    began_at=None,
    followed=False,
    complete=False,
    progress="",
)
_EPOCHS: Final = {
    rbd.RBD_SNAP_MIRROR_STATE_PRIMARY: Epoch.PRIMARY,
    rbd.RBD_SNAP_MIRROR_STATE_PRIMARY_DEMOTED: Epoch.PRIMARY_DEMOTED,
    rbd.RBD_SNAP_MIRROR_STATE_NON_PRIMARY: Epoch.NON_PRIMARY,
    rbd.RBD_SNAP_MIRROR_STATE_NON_PRIMARY_DEMOTED: Epoch.NON_PRIMARY_DEMOTED,
}
_OWN: Final = (Epoch.PRIMARY, Epoch.PRIMARY_DEMOTED)
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
    began = timegm(image.get_snap_timestamp(present[0]["id"]).utctimetuple()) if present else 0
    copied = newest["mirror"]["last_copied_object_number"]
    return History(
        epoch=epoch,
        mark=newest["id"],
        began=began,
        began_at=began or None,
        followed=_followed(snapshots[: -len(present)], present) if present else False,
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
    peers = read_clients(ioctx, image_id) if newest.epoch is Epoch.PRIMARY else ()
    return History(
        epoch=newest.epoch,
        mark=newest.number,
        began=began,
        began_at=None,
        followed=bool(peers) and all(tag is not None and tag >= began for tag in peers),
        complete=complete,
        progress="" if complete else "the first copy is being made",
    )


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


def _followed(earlier: list[Any], present: list[Any]) -> bool:
    """Tell whether no peer needs an earlier snapshot any more.

    rbd-mirror gives up its claim to the snapshot it started from when it has the next one
    whole. librbd revokes claims too, of the oldest, when there are too many: then it proves
    nothing, nor where a peer never had a claim.
    """
    needed = [snap for snap in present if snap["mirror"]["mirror_peer_uuids"]]
    return (
        bool(earlier)
        and 0 < len(needed) < _EVICTING
        and not any(snap["mirror"]["mirror_peer_uuids"] for snap in earlier)
    )
