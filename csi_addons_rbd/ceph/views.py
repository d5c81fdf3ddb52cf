# SPDX-License-Identifier: Apache-2.0
"""One read of an image → the model's view of its mirroring."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

import rados
import rbd

from csi_addons_rbd.ceph.histories import NOTHING, journal_history, snapshot_history
from csi_addons_rbd.ceph.image_notes import notes_among
from csi_addons_rbd.ceph.namespaces import default_namespace
from csi_addons_rbd.ceph.rbd_header import NON_PRIMARY, Header, read_header, read_image_id
from csi_addons_rbd.ceph.rbd_journal import read_resync_request
from csi_addons_rbd.ceph.rbd_mirroring import Mirroring, read_mirroring
from csi_addons_rbd.ceph.rollback import overwritten_by
from csi_addons_rbd.ceph.sightings import Sighting
from csi_addons_rbd.replication.calls import MirroringMode
from csi_addons_rbd.replication.image import (
    Epoch,
    History,
    MirrorState,
    MirrorView,
    SiteStatus,
    Torn,
)
from csi_addons_rbd.replication.notes import SWITCHING, noted_demotion

_MIRROR_METADATA: Final = ".rbd_mirror."
"""Where rbd-mirror keeps what it knows of an image, one entry for each peer."""


def read_view(ioctx: rados.Ioctx, seen: Sighting) -> MirrorView:
    """Read the image's own history, which is the truth, after the statuses that were seen.

    Args:
        ioctx: Where the image lies.
        seen: The image, and what its mirroring shows.

    Raises:
        rados.ObjectNotFound: the image is gone.
    """
    image_id, mirroring = seen.image_id, seen.mirroring
    if image_id is None or mirroring is None:
        return _unmirrored(ioctx, image_id or "")
    local, peers = seen.statuses
    header = read_header(ioctx, image_id)
    history = _history(ioctx, image_id, peers, mirroring.mode, header)
    notes = notes_among(header.metadata)
    switching = history == NOTHING and SWITCHING in notes
    return MirrorView(
        state=MirrorState.TORN if switching else mirroring.state,
        mode=mirroring.mode,
        mirroring=mirroring.global_id,
        primary=history.epoch is Epoch.PRIMARY,
        image_id=image_id,
        local=local,
        peers=peers,
        peered=bool(peers) or _has_peer(ioctx),
        history=history,
        notes=notes,
        torn=_torn(mirroring, history, header) or _unproven(history, notes),
    )


def read_resync_wish(ioctx: rados.Ioctx, name: str) -> bool:
    """Tell whether librbd was asked to resync this very image.

    The request outlives a promotion, and rbd-mirror grants it after the next demotion.
    """
    image_id = read_image_id(ioctx, name)
    mirroring = None if image_id is None else read_mirroring(ioctx, image_id)
    if image_id is None or mirroring is None:
        return False
    if mirroring.mode is MirroringMode.JOURNAL:
        return read_resync_request(ioctx, image_id)
    return any(
        '"resync_requested": true' in value
        for key, value in read_header(ioctx, image_id).metadata.items()
        if key.startswith(_MIRROR_METADATA)
    )


def _history(
    ioctx: rados.Ioctx,
    image_id: str,
    peers: Iterable[SiteStatus],
    mode: MirroringMode,
    header: Header,
) -> History:
    if mode is MirroringMode.JOURNAL:
        return journal_history(ioctx, image_id, [peer.site for peer in peers])
    history = snapshot_history(header.snapshots)
    return replace(history, overwritten_by=overwritten_by(header))


def _torn(mirroring: Mirroring, history: History, header: Header) -> Torn | None:
    """Tell what a promotion or demotion left that was cut short.

    In journal mode the newest tag alone decides whether an image is primary and whether it can be
    written, so the two never disagree; but a demotion consists of a tag and of an entry.
    """
    if history.unfinished:
        return Torn.DEMOTION
    if mirroring.mode is MirroringMode.JOURNAL or not header.features & NON_PRIMARY:
        return None
    # librbd takes an image without any mirror snapshot for a primary when it disables it
    disabling = mirroring.state is MirrorState.DISABLING and history.epoch is Epoch.NONE
    return Torn.READ_ONLY if disabling or history.epoch is Epoch.PRIMARY else None


def _unproven(history: History, notes: Mapping[str, str]) -> Torn | None:
    demotion = noted_demotion(notes)
    anew = demotion is not None and demotion.anew
    return Torn.UNPROVEN if anew and history.epoch is Epoch.PRIMARY else None


def _unmirrored(ioctx: rados.Ioctx, image_id: str) -> MirrorView:
    try:
        features = read_header(ioctx, image_id).features if image_id else 0
    except rados.ObjectNotFound:
        features = 0  # it is just being made, or removed
    return MirrorView(
        state=MirrorState.DISABLED,
        mode=MirroringMode.SNAPSHOT,
        mirroring="",
        primary=False,
        image_id=image_id,
        local=None,
        peers=(),
        peered=False,
        history=NOTHING,
        torn=Torn.UNMIRRORED if features & NON_PRIMARY else None,
    )


def _has_peer(ioctx: rados.Ioctx) -> bool:
    """Tell whether the pool has a peer: that stands in its default namespace, for all of them."""
    try:
        with default_namespace(ioctx):
            return any(True for _ in rbd.RBD().mirror_peer_list(ioctx))
    except rbd.PermissionError:
        return True  # not to be seen: then it is waited for as if it were there
