# SPDX-License-Identifier: Apache-2.0
"""One read of an open image → the model's view of its mirroring."""

from calendar import timegm
from collections.abc import Mapping
from typing import Any, Final

import rados
import rbd

from csi_addons_rbd.ceph.journal_tags import epoch_start, read_tags
from csi_addons_rbd.replication.model import (
    Epoch,
    History,
    MirroringMode,
    MirrorState,
    MirrorView,
    SiteState,
    SiteStatus,
)

MODES: Final = {
    MirroringMode.JOURNAL: rbd.RBD_MIRROR_IMAGE_MODE_JOURNAL,
    MirroringMode.SNAPSHOT: rbd.RBD_MIRROR_IMAGE_MODE_SNAPSHOT,
}
_MODE_NAMES: Final = {number: mode for mode, number in MODES.items()}
_EPOCHS: Final = {
    rbd.RBD_SNAP_MIRROR_STATE_PRIMARY: Epoch.PRIMARY,
    rbd.RBD_SNAP_MIRROR_STATE_PRIMARY_DEMOTED: Epoch.PRIMARY_DEMOTED,
    rbd.RBD_SNAP_MIRROR_STATE_NON_PRIMARY: Epoch.NON_PRIMARY,
    rbd.RBD_SNAP_MIRROR_STATE_NON_PRIMARY_DEMOTED: Epoch.NON_PRIMARY_DEMOTED,
}
_OWN: Final = (Epoch.PRIMARY, Epoch.PRIMARY_DEMOTED)
_NOTHING: Final = History(epoch=Epoch.NONE, mark=0, began=0, complete=False, progress="")


def read_view(ioctx: rados.Ioctx, image: rbd.Image) -> MirrorView:
    """Read statuses first and the image's own history last: the history is the truth."""
    info = image.mirror_image_get_info()
    state = MirrorState(info["state"])
    image_id = image.id()
    if state is MirrorState.DISABLED:
        return MirrorView(
            state=state,
            mode=MirroringMode.SNAPSHOT,
            primary=False,
            image_id=image_id,
            local=None,
            peers=(),
            history=_NOTHING,
        )
    mode = _MODE_NAMES[image.mirror_image_get_mode()]
    status = image.mirror_image_get_status()
    journal = mode is MirroringMode.JOURNAL
    return MirrorView(
        state=state,
        mode=mode,
        primary=info["primary"],
        image_id=image_id,
        local=_local_status(status),
        peers=tuple(_site_status(peer["mirror_uuid"], peer) for peer in status["remote_statuses"]),
        history=_journal_history(ioctx, image_id) if journal else _snapshot_history(image),
    )


def _local_status(status: Mapping[str, Any]) -> SiteStatus | None:
    """Read the local part; before the first status it is not there, or of the year 1970."""
    if "last_update" not in status:
        return None
    local = _site_status("", status)
    return local if local.last_update else None


def _site_status(site: str, status: Mapping[str, Any]) -> SiteStatus:
    return SiteStatus(
        site=site,
        up=status["up"],
        state=SiteState(status["state"]),
        description=status["description"],
        last_update=timegm(status["last_update"].utctimetuple()),
    )


def _snapshot_history(image: rbd.Image) -> History:
    """Read the mirror snapshots. An incomplete copy of a demotion counts as still coming."""
    snapshots = sorted(
        (snap for snap in image.list_snaps() if "mirror" in snap), key=lambda snap: snap["id"]
    )
    if not snapshots:
        return _NOTHING
    newest = snapshots[-1]
    epoch = _EPOCHS[newest["mirror"]["state"]]
    settled = _complete(newest)
    if epoch is Epoch.NON_PRIMARY_DEMOTED and not settled:
        epoch = Epoch.NON_PRIMARY
    return History(
        epoch=epoch,
        mark=newest["id"],
        began=_promotion_time(image, snapshots),
        complete=any(_complete(snap) for snap in snapshots),
        progress=""
        if settled
        else f"copied {newest['mirror']['last_copied_object_number']} objects",
    )


def _complete(snapshot: Mapping[str, Any]) -> bool:
    return _EPOCHS[snapshot["mirror"]["state"]] in _OWN or bool(snapshot["mirror"]["complete"])


def _promotion_time(image: rbd.Image, snapshots: list[Any]) -> int:
    """Return the time of the oldest snapshot of the present primary epoch, 0 if there is none.

    That is the promotion's own until the peer has it; librbd may drop it afterwards.
    """
    began = 0
    for snap in reversed(snapshots):
        if snap["mirror"]["state"] != rbd.RBD_SNAP_MIRROR_STATE_PRIMARY:
            break
        began = timegm(image.get_snap_timestamp(snap["id"]).utctimetuple())
    return began


def _journal_history(ioctx: rados.Ioctx, image_id: str) -> History:
    try:
        tags = read_tags(ioctx, image_id)
    except rados.ObjectNotFound:
        tags = ()
    if not tags:
        return _NOTHING
    newest = tags[-1]
    # a new copy starts with tag 0, and its first replay, after the whole copy, with another:
    # making that copy leaves entries in the primary's journal
    complete = newest.number > 0 or newest.epoch is Epoch.PRIMARY
    return History(
        epoch=newest.epoch,
        mark=newest.number,
        began=epoch_start(tags),
        complete=complete,
        progress="" if complete else "the first copy is being made",
    )
