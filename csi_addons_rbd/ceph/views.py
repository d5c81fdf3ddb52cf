# SPDX-License-Identifier: Apache-2.0
"""One read of an open image → the model's view of its mirroring."""

from calendar import timegm
from collections.abc import Mapping
from typing import Any, Final

import rados
import rbd

from csi_addons_rbd.ceph.histories import NOTHING, journal_history, snapshot_history
from csi_addons_rbd.ceph.image_notes import read_notes
from csi_addons_rbd.replication.calls import MirroringMode
from csi_addons_rbd.replication.image import MirrorState, MirrorView, SiteState, SiteStatus
from csi_addons_rbd.replication.notes import SWITCHING

MODES: Final = {
    MirroringMode.JOURNAL: rbd.RBD_MIRROR_IMAGE_MODE_JOURNAL,
    MirroringMode.SNAPSHOT: rbd.RBD_MIRROR_IMAGE_MODE_SNAPSHOT,
}
_MODE_NAMES: Final = {number: mode for mode, number in MODES.items()}


def read_view(ioctx: rados.Ioctx, image: rbd.Image) -> MirrorView:
    """Read statuses first and the image's own history last: the history is the truth."""
    if image.old_format():
        return _unmirrored("")
    info = image.mirror_image_get_info()
    state = MirrorState(info["state"])
    image_id = image.id()
    if state is MirrorState.DISABLED:
        return _unmirrored(image_id)
    mode = _MODE_NAMES[image.mirror_image_get_mode()]
    status = image.mirror_image_get_status()
    heard = (_site_status(peer["mirror_uuid"], peer) for peer in status["remote_statuses"])
    # one that has yet to speak is listed as down, since 1970: it is not dead, but unheard of
    peers = tuple(peer for peer in heard if peer.last_update)
    journal = mode is MirroringMode.JOURNAL
    history = journal_history(ioctx, image_id) if journal else snapshot_history(image)
    if history == NOTHING and not info["primary"] and SWITCHING in read_notes(image):
        state = MirrorState.TORN
    return MirrorView(
        state=state,
        mode=mode,
        primary=info["primary"],
        image_id=image_id,
        local=_local_status(status),
        peers=peers,
        peered=bool(peers) or _has_peer(ioctx),
        history=history,
    )


def _unmirrored(image_id: str) -> MirrorView:
    return MirrorView(
        state=MirrorState.DISABLED,
        mode=MirroringMode.SNAPSHOT,
        primary=False,
        image_id=image_id,
        local=None,
        peers=(),
        peered=False,
        history=NOTHING,
    )


def _has_peer(ioctx: rados.Ioctx) -> bool:
    return any(True for _ in rbd.RBD().mirror_peer_list(ioctx))


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
