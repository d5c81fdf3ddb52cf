# SPDX-License-Identifier: Apache-2.0
"""DemoteVolume: give up being primary, under no open writer and ahead of no peer."""

import time
from typing import Final

from csi_addons_rbd.replication.calls import MirroringMode
from csi_addons_rbd.replication.errors import (
    LEASE_LOSSES,
    NOTHING_TO_DO,
    DriverError,
    ImageChanged,
    PeerBehind,
    ResyncPending,
)
from csi_addons_rbd.replication.holders import require_nobody_came, require_unheld
from csi_addons_rbd.replication.image import (
    LeasedImage,
    MirroredImage,
    MirrorView,
    SiteStatus,
    Torn,
)
from csi_addons_rbd.replication.info import note_last_sync
from csi_addons_rbd.replication.notes import (
    SCHEDULE,
    Demotion,
    end_schedule,
    ended,
    late_readers,
    note_demotion,
    noted_demotion,
)
from csi_addons_rbd.replication.observations import Observation
from csi_addons_rbd.replication.patience import POLL, Hindsight, Patience
from csi_addons_rbd.replication.sync_info import Role, role, sync_report, text
from csi_addons_rbd.replication.torn import require_room

_RETURN: Final = 15
"""Seconds for which a peer that reads down may be one whose rbd-mirror was just restarted."""


def demote(
    image: MirroredImage, view: MirrorView, *, observation: Observation, patience: Patience
) -> None:
    """Demote a primary; returns only after a fresh read shows it secondary.

    Raises:
        ImageInUse: a client holds the image.
        ResyncPending: rbd-mirror would delete the image as soon as it is secondary.
        PeerBehind: a peer has not yet followed this primary epoch.
    """
    _require_no_resync(image)
    if image.holders():
        with image.lease(patience.call) as leased:
            # a driver that froze in the middle of a change may be who, until it is fenced
            require_unheld(leased, observation, patience)
    # nothing was written since a promotion that was cut short: there is nothing to follow
    unwritten = view.torn is Torn.READ_ONLY and view.history.hollow
    epoch = view.history.began
    if not unwritten:
        epoch = _await_peers(image, view, observation, patience)
    with image.lease(patience.call) as leased:
        require_unheld(leased, observation, patience)
        view = leased.view()
        if view.primary and view.history.began != epoch:
            raise ImageChanged(
                f"{image.spec} was demoted and promoted by another driver meanwhile; "
                f"{NOTHING_TO_DO}"
            )
        if view.primary:
            if view.mode is MirroringMode.SNAPSHOT:
                require_room(leased, view, 1)
            note_last_sync(leased, view, observation)
            _demote_without_schedule(leased, observation, patience)
    after = image.view()
    if after.primary or after.torn is not None:
        raise ImageChanged(f"{image.spec} was demoted, but does not read so; {NOTHING_TO_DO}")


def _demote_without_schedule(
    image: LeasedImage, observation: Observation, patience: Patience
) -> None:
    """Demote, and first end the schedule: after a crash it would stay in the manager."""
    schedule = end_schedule(image)
    standing = noted_demotion(image.notes())
    # until it is demoted, it is a primary of which nobody knows whether a peer was one, too
    note_demotion(image, Demotion(anew=standing is not None and standing.anew))
    try:
        image.demote()
        require_nobody_came(image, observation, patience)
    except LEASE_LOSSES:
        raise
    except DriverError:
        if schedule is not None:
            image.note(SCHEDULE, schedule, only=ended(schedule))
        raise


def _require_no_resync(image: MirroredImage) -> None:
    if image.resync_requested():
        raise ResyncPending(
            f"{image.spec} was promoted while a resync of it was asked for, and that request "
            "still stands: rbd-mirror would delete the image as soon as it is demoted; disable "
            "its replication and enable it again first"
        )


def _await_peers(
    image: MirroredImage, view: MirrorView, observation: Observation, patience: Patience
) -> int:
    """Wait until each live secondary has followed into this primary epoch; return its start.

    Otherwise a peer could be promoted on the history before it, and demoted again, without
    either side ever noticing: the writes of one of them would be lost.
    """
    hindsight = Hindsight(patience.check_interval)
    while behind := _late(view, observation) or _behind(view, observation, hindsight):
        if patience.until.remaining <= 0:
            raise PeerBehind(
                f"the peer of {image.spec} has not followed yet: {behind}, and may have nothing "
                "of what was written since the promotion here; the controller retries; if it "
                "lasts, see rbd-mirror of the peer's site"
            )
        time.sleep(POLL)
        view = image.view()
        observation.note(view)
        hindsight.note(view)
    return view.history.began


def _late(view: MirrorView, observation: Observation) -> str:
    """Describe a peer that can never follow: it missed what was written first; empty for none."""
    late = late_readers(view)
    spoken = {peer.site: peer for peer in view.peers}
    unheard = late - set(spoken) if observation.may_speak(view) else ()
    alive = (
        site
        for site in late & set(spoken)
        if observation.alive(spoken[site], view) and role(spoken[site]) is not Role.PRIMARY
    )
    if any(alive) or unheard:
        return (
            "it began to read the journal after the promotion and may lack the first writes; "
            "disable replication and enable it again to have all of it copied"
        )
    return ""


def _behind(view: MirrorView, observation: Observation, hindsight: Hindsight) -> str:
    """Describe the first peer that has yet to follow; empty when there is none."""
    if view.history.followed and _replays(view):
        return ""
    if observation.may_speak(view):
        return "it has not spoken of the image yet"
    for peer in view.peers:
        if _is_lost(peer, view, observation, hindsight) or _is_primary(peer, view, hindsight):
            continue
        if not _has_followed(peer, view):
            return f"it reads {peer.state.name.lower()} ({text(peer)!r})"
    return ""


def _replays(view: MirrorView) -> bool:
    """Journal mode: a peer that just came begins at this site's own position, not at its own.

    Only that it replays tells that the two histories fit together.
    """
    spoken = [role(peer) is Role.FOLLOWING for peer in view.peers]
    return view.mode is MirroringMode.SNAPSHOT or (bool(spoken) and all(spoken))


def _is_lost(
    peer: SiteStatus, view: MirrorView, observation: Observation, hindsight: Hindsight
) -> bool:
    return not observation.alive(peer, view) and hindsight.age >= _RETURN


def _is_primary(peer: SiteStatus, view: MirrorView, hindsight: Hindsight) -> bool:
    """Believe only a status that cannot be older than the promotion here: see Hindsight."""
    if role(peer) is not Role.PRIMARY:
        return False
    began = view.history.began_at
    checked = began is not None and peer.last_update > began + hindsight.check_interval
    return checked or hindsight.confirms(peer)


def _has_followed(peer: SiteStatus, view: MirrorView) -> bool:
    report = sync_report(peer)
    if view.mode is MirroringMode.JOURNAL:
        return report.position is not None and report.position[0] >= view.history.began
    return report.copied_until is not None and report.copied_until >= view.history.began
