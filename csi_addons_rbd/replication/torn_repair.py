# SPDX-License-Identifier: Apache-2.0
"""Brings a torn image to one of the two sides; how it is told from others: ``torn``."""

import time
from typing import Final

import structlog

from csi_addons_rbd.replication.calls import MirroringMode
from csi_addons_rbd.replication.errors import (
    NOTHING_TO_DO,
    Busy,
    DataPending,
    ImageChanged,
    MirrorDaemonDown,
    PeerIsPrimary,
    PeerUnreachable,
)
from csi_addons_rbd.replication.holders import require_unheld
from csi_addons_rbd.replication.image import (
    ImageSpec,
    LeasedImage,
    MirroredImage,
    MirrorView,
    Torn,
)
from csi_addons_rbd.replication.notes import DEMOTING, Demotion, note_demotion
from csi_addons_rbd.replication.observations import SILENCE, Observation
from csi_addons_rbd.replication.patience import POLL, Hindsight, Patience
from csi_addons_rbd.replication.sync_info import Role, role, text
from csi_addons_rbd.replication.torn import (
    require_room,
    require_room_to_promote,
    require_same,
    words,
)
from csi_addons_rbd.replication.undecided import described, require_word_since

_WRITABLE: Final = (None, Torn.UNPROVEN)
_log = structlog.get_logger()


def end_torn_demotion(
    image: MirroredImage, view: MirrorView, observation: Observation, patience: Patience
) -> MirrorView:
    """Bring to its end a demotion that was cut short; return what the image shows then."""
    with image.lease(patience.call) as leased:
        now = require_same(image.spec, view, leased.view())
        if not _finish(leased, now):
            _demote_anew(leased, now, observation, patience)
    return _demoted(image)


def finish_torn_demotion(image: MirroredImage, view: MirrorView, patience: Patience) -> MirrorView:
    """Do so before a promotion, where the demotion's snapshot lacks nothing but its mark.

    Once it has arrived at the peer, the image itself tells whether this side has the newest data.
    Otherwise nothing is done: a demotion that is made anew leaves a primary when it is cut short,
    which the next promotion would take for one that has the newest data.
    """
    with image.lease(patience.call) as leased:
        now = require_same(image.spec, view, leased.view())
        if not _finish(leased, now):
            return now
    return _demoted(image)


def _finish(image: LeasedImage, view: MirrorView) -> bool:
    if view.mode is MirroringMode.JOURNAL or not image.finish_demotion():
        return False
    image.announce(view)
    _log.warning("a torn demotion was brought to its end", image=image.spec.path)
    return True


def _demoted(image: MirroredImage) -> MirrorView:
    after = image.view()
    if after.primary or after.torn is not None:
        raise ImageChanged(f"{image.spec} was demoted, but does not read so; {NOTHING_TO_DO}")
    return after


def _demote_anew(
    image: LeasedImage, view: MirrorView, observation: Observation, patience: Patience
) -> None:
    """Promote, as librbd demotes only a primary, and demote; to every peer it still is primary.

    Raises:
        ImageInUse: a client opened the image meanwhile; it is primary.
    """
    _require_no_other_primary(image.spec, view, observation)
    if view.mode is MirroringMode.SNAPSHOT:
        require_room(image, view, 2)
    _log.warning("a torn demotion is made anew", image=image.spec.path)
    note_demotion(image, Demotion(anew=True))
    _promote(image)
    require_unheld(image, observation, patience)
    image.demote()


def _require_no_other_primary(spec: ImageSpec, view: MirrorView, observation: Observation) -> None:
    """Refuse to promote for a moment beside a primary; an old status that says so passes."""
    for peer in view.peers:
        if role(peer) is Role.PRIMARY and observation.alive(peer, view):
            raise PeerIsPrimary(
                f"{spec} is {words(Torn.DEMOTION)}, and its peer reads primary ({text(peer)!r}), "
                "beside which this image is not promoted to be demoted once more; demote the peer, "
                "for which the controller retries; or, if the peer's data shall live, run "
                f"'rbd mirror image promote --force {spec.path}' and "
                f"'rbd mirror image demote {spec.path}', then resync this image"
            )


def fill_hollow_epoch(
    image: MirroredImage, view: MirrorView, patience: Patience, *, promoting: bool
) -> None:
    """Take the mirror snapshot that peers need to follow: the promotion's own is torn."""
    if not view.history.hollow or view.torn not in _WRITABLE:
        return
    with image.lease(patience.call) as leased:
        now = leased.view()
        if now.history.hollow and now.torn in _WRITABLE:
            require = require_room_to_promote if promoting else require_room
            require(leased, now, 1)
            leased.take_snapshot()


def end_torn_promotion(
    image: MirroredImage,
    view: MirrorView,
    *,
    force: bool,
    observation: Observation,
    patience: Patience,
) -> None:
    """Make a torn image primary and writable; one that reads demoted only without force.

    Raises:
        PeerIsPrimary, PeerUnreachable: force is the legitimate next step.
        PromotionBarred: at the image's snapshot limit.
        MirrorDaemonDown: the local rbd-mirror is needed, and does not run.
        DataPending: the peer has not said yet that it follows this image.
    """
    hindsight = Hindsight(patience.check_interval)
    now = view
    while not force:
        hindsight.note(now)
        obstacle = torn_obstacle(image.spec, now, observation, hindsight)
        if obstacle is None or now.torn is None:
            break
        if patience.confirmed.remaining <= 0:
            raise DataPending(
                f"{image.spec} is {words(now.torn)}, and is not promoted yet: {obstacle}; "
                "the controller retries; if it lasts, see rbd-mirror of both sites"
            )
        time.sleep(POLL)
        now = image.view()
        observation.note(now)
    with image.lease(patience.call) as leased:
        now = leased.view()
        if now.torn is not None:
            require_same(image.spec, view, now)
            if not force and torn_obstacle(image.spec, now, observation, hindsight) is not None:
                raise ImageChanged(
                    f"a peer of {image.spec} changed in this moment; {NOTHING_TO_DO}"
                )
            _end_as_primary(leased, now)
    now = image.view()
    if not now.primary or now.torn is not None:
        raise ImageChanged(f"{image.spec} was promoted, but does not read primary; {NOTHING_TO_DO}")


def _end_as_primary(image: LeasedImage, view: MirrorView) -> None:
    if view.torn is Torn.DEMOTION:
        require_room_to_promote(image, view)
        _log.warning("a torn demotion is taken back", image=image.spec.path)
        _promote(image)
        return
    if view.torn is Torn.UNPROVEN:
        image.note(DEMOTING, None)
        return
    if view.history.hollow:  # peers follow from the next snapshot on, which is taken then
        require_room_to_promote(image, view, 1)
    make_writable(image, view)


def _promote(image: LeasedImage) -> None:
    if not image.promote(force=False):
        raise Busy(f"{image.spec} cannot be promoted yet: librbd finds it in use; {NOTHING_TO_DO}")


def make_writable(image: LeasedImage, view: MirrorView) -> None:
    """End a promotion, or undo a demotion, of what librbd's mirror info does not call secondary."""
    if view.torn in (Torn.READ_ONLY, Torn.UNMIRRORED):
        _log.warning("a torn image is made writable", image=image.spec.path, torn=view.torn)
        image.make_writable()


def torn_obstacle(
    spec: ImageSpec, view: MirrorView, observation: Observation, hindsight: Hindsight
) -> str | None:
    """Decide whether a torn image may be made primary: ``None`` if so, or why to wait.

    Since it was torn a peer may have been promoted, written and demoted, and what it wrote would
    be lost. A peer that follows this image, as it said since the call began, was not.

    Raises:
        PeerIsPrimary: a peer says so.
        MirrorDaemonDown: the local rbd-mirror does not run.
        PeerUnreachable: no peer is up to ask, or none that is has told anything for 90 s.
    """
    observation.undecided_for(view)
    alive = [peer for peer in view.peers if observation.alive(peer, view)]
    primary = [peer for peer in alive if role(peer) is Role.PRIMARY and hindsight.confirms(peer)]
    if primary:
        raise PeerIsPrimary(
            f"{spec} is torn, and its peer is primary, as its rbd-mirror says "
            f"({text(primary[0])!r}); demote this image, or force if that site is lost"
        )
    lasted = observation.silent_for(view, hindsight)
    if not observation.may_speak(view) and lasted >= SILENCE:
        raise PeerUnreachable(
            f"{spec} is torn, and for {lasted:.0f} s no peer has been up to tell whether it was "
            "primary since; force if that site is lost"
        )
    here = view.local
    if here is None or not observation.alive(here, view):
        if alive:
            raise MirrorDaemonDown(
                f"{spec} is torn, and whether a peer was primary since can only be found out with "
                "rbd-mirror of this site, which is down or silent; start it"
            )
        return "no peer is up, nor is rbd-mirror of this site"
    behind = [peer for peer in view.peers if peer not in alive or role(peer) is not Role.FOLLOWING]
    if behind or not alive:
        require_word_since(spec, view, observation, hindsight)
        said = described(behind)
        demotable = "demote this image, then promote it; or " if view.torn is Torn.DEMOTION else ""
        return (
            "waiting until the peer says that it follows this image; it reads "
            f"{said or 'nothing yet'}; if that lasts, {demotable}"
            "force the side whose data shall live"
        )
    if not all(map(hindsight.confirms, view.statuses)):
        return "waiting for a fresh word of every site"
    return None
