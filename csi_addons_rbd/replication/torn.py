# SPDX-License-Identifier: Apache-2.0
"""Images that a promotion or demotion left torn, since it was cut short inside librbd.

The order of librbd's steps, the states that a kill leaves, and what leads out of each:
docs/explanation/torn-images.md. Beside it: what librbd would refuse halfway, looked at before.
"""

import time
from contextlib import suppress
from dataclasses import replace
from typing import Final

import structlog

from csi_addons_rbd.replication.calls import Health, MirroringMode, ReplicationInfo
from csi_addons_rbd.replication.errors import (
    Busy,
    DataPending,
    ImageChanged,
    ImageInUse,
    ImageTorn,
    MirrorDaemonDown,
    PeerIsPrimary,
    PeerUnreachable,
    PromotionBarred,
    SnapshotLimitReached,
    SyncInfoMissing,
)
from csi_addons_rbd.replication.image import (
    Epoch,
    ImageSpec,
    LeasedImage,
    MirroredImage,
    MirrorState,
    MirrorView,
    Torn,
)
from csi_addons_rbd.replication.info import replication_info
from csi_addons_rbd.replication.observations import Observation
from csi_addons_rbd.replication.patience import POLL, Hindsight, Patience
from csi_addons_rbd.replication.sync_info import Role, role, text

_PASSES: Final = 2
"""Seconds after which an image that still reads torn is so: librbd's own steps take less."""
_SILENCE: Final = 60
"""Seconds for which a peer must be down where only it can tell whether it has newer data."""
_MIRRORED: Final = (MirrorState.ENABLED, MirrorState.CREATING)
_ORPHANED: Final = 2
"""Mirror snapshots of a promotion by force: librbd first takes an orphan's."""
_log = structlog.get_logger()


def words(torn: Torn) -> str:
    """Name the state, and why it is one."""
    return f"torn: it reads {torn}; a demotion or promotion was cut short, or is just running"


# --- what librbd would refuse halfway --------------------------------------------------------


def require_room(image: MirroredImage, view: MirrorView, needed: int) -> None:
    """Refuse what would end at the image's snapshot limit, after librbd has begun it.

    librbd of Ceph 16 even answers success then, and leaves the image torn.

    Raises:
        SnapshotLimitReached: fewer snapshots may be taken than are needed.
    """
    room = image.snapshot_room()
    if room is None or room >= needed:
        return
    spec = image.spec
    command = f"rbd snap limit clear {spec.path}"
    if view.torn is not None or not view.primary:  # rbd refuses to change what it cannot write
        place = f"--pool {spec.pool}" + (f" --namespace {spec.namespace}" if spec.namespace else "")
        command = f"rados {place} rmomapkey rbd_header.{view.image_id} snap_limit"
    raise SnapshotLimitReached(
        f"{spec} has reached its snapshot limit: {needed} mirror snapshots are needed, {room} may "
        f"be taken; nothing was changed; raise the limit, or lift it with '{command}', then ask "
        "again"
    )


def require_room_to_promote(image: MirroredImage, view: MirrorView, *, more: int = 0) -> None:
    """Do so before a promotion, by which no caller may be led to force.

    Raises:
        PromotionBarred: at the image's snapshot limit.
    """
    if view.mode is MirroringMode.JOURNAL:
        return
    try:
        require_room(image, view, snapshots_to_promote(view) + more)
    except SnapshotLimitReached as exc:
        raise PromotionBarred(exc.message) from exc


def snapshots_to_promote(view: MirrorView) -> int:
    """Count the mirror snapshots that librbd takes for a promotion, at most."""
    return _ORPHANED if view.history.epoch is Epoch.NON_PRIMARY else 1


# --- what each call makes of a torn image ----------------------------------------------------


def is_enabled_torn(
    image: MirroredImage, view: MirrorView, mode: MirroringMode, patience: Patience
) -> bool:
    """Tell whether a torn image is mirrored already as Enable asks for: then it is left as it is.

    The controller calls Enable before Promote, and does not come to Promote after an error.
    """
    if view.torn is None or view.state not in _MIRRORED or view.mode is not mode:
        return False
    with image.lease(patience.call) as leased:
        _require_same(image.spec, view, leased.view())
    _log.warning(
        "mirroring is on already, but the image is torn; Promote or Demote brings it to an end",
        image=image.spec.path,
        torn=view.torn,
    )
    return True


def refuse_torn(image: MirroredImage, view: MirrorView, patience: Patience) -> None:
    """Refuse to enable or resync a torn image, if no other driver is just changing it.

    Raises:
        ImageTorn: it is torn.
    """
    if view.torn is None:
        return
    with image.lease(patience.call) as leased:
        torn = leased.view().torn
    if torn is None:
        raise ImageChanged(f"{image.spec} was changed by another driver in this moment; ask again")
    way_out = "disable its replication first"
    if torn is not Torn.UNMIRRORED:
        way_out = "demote or promote it, by which that is brought to an end"
    raise ImageTorn(f"{image.spec} is {words(torn)}; {way_out}")


def torn_info(
    image: MirroredImage, view: MirrorView, observation: Observation
) -> ReplicationInfo | None:
    """Report on a torn image; ``None`` when it was only passing through that state."""
    passing = time.monotonic() + _PASSES
    while view.torn is not None and time.monotonic() < passing:
        time.sleep(POLL)
        view = image.view()
    if view.torn is None:
        return None
    message = f"the image is {words(view.torn)}; demote or promote it"
    known = ReplicationInfo(
        last_sync=None,
        last_sync_seconds=None,
        last_sync_bytes=None,
        entries_behind=None,
        interval=None,
        schedule_in_place=None,
        daemon_here=view.local is not None and observation.alive(view.local, view),
        daemon_there=bool(view.peers) and all(observation.alive(p, view) for p in view.peers),
        health=Health.ERROR,
        message=message,
    )
    with suppress(SyncInfoMissing):
        known = replication_info(image.spec, replace(view, primary=True), observation)
    return replace(known, health=Health.ERROR, message=message)


def end_torn_demotion(
    image: MirroredImage, view: MirrorView, patience: Patience, *, promoting: bool
) -> MirrorView:
    """Bring to its end a demotion that was cut short; return what the image shows then.

    Promote does this first, too: only when the demotion has arrived at the peer does the image
    itself tell whether this side has the newest data.
    """
    with image.lease(patience.call) as leased:
        now = _require_same(image.spec, view, leased.view())
        _log.warning("a torn demotion is brought to its end", image=image.spec.path)
        if now.mode is MirroringMode.JOURNAL or not leased.finish_demotion():
            _demote_anew(leased, now, promoting=promoting)
    after = image.view()
    if after.primary or after.torn is not None:
        raise ImageChanged(f"{image.spec} was demoted, but does not read so; ask again")
    return after


def _demote_anew(image: LeasedImage, view: MirrorView, *, promoting: bool) -> None:
    """Promote, as librbd demotes only a primary, and demote; to every peer it still is primary."""
    if promoting:
        require_room_to_promote(image, view, more=1)
    elif view.mode is MirroringMode.SNAPSHOT:
        require_room(image, view, 2)
    _promote(image)
    holders = image.holders()
    if holders:
        raise ImageInUse(
            f"the demotion of {image.spec} was cut short and has to be made anew, but "
            f"{', '.join(map(str, holders))} opened it meanwhile; it is primary; stop the workload "
            "and unmap the volume, then ask again"
        )
    image.demote()


def fill_hollow_epoch(image: MirroredImage, view: MirrorView, patience: Patience) -> None:
    """Take the mirror snapshot that peers need to follow: the promotion's own is torn."""
    if not view.history.hollow or view.torn is not None:
        return
    with image.lease(patience.call) as leased:
        now = leased.view()
        if now.history.hollow and now.torn is None:
            require_room(leased, now, 1)
            leased.take_snapshot()


def end_torn_promotion(
    image: MirroredImage,
    view: MirrorView,
    *,
    force: bool,
    observation: Observation,
    patience: Patience,
) -> None:
    """Make an image writable that reads primary.

    Raises:
        PeerIsPrimary, PeerUnreachable: force is the legitimate next step.
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
                f"{image.spec} is {words(Torn.READ_ONLY)}, and is not promoted yet: "
                f"{obstacle}; ask again"
            )
        time.sleep(POLL)
        now = image.view()
        observation.note(now)
    with image.lease(patience.call) as leased:
        now = leased.view()
        if now.torn is not None:
            _require_same(image.spec, view, now)
            if not force and torn_obstacle(image.spec, now, observation, hindsight) is not None:
                raise ImageChanged(f"a peer of {image.spec} changed in this moment; ask again")
            make_writable(leased, now)
    now = image.view()
    if not now.primary or now.torn is not None:
        raise ImageChanged(f"{image.spec} was promoted, but does not read primary; ask again")


def _promote(image: LeasedImage) -> None:
    if not image.promote(force=False):
        raise Busy(f"{image.spec} cannot be promoted yet: librbd finds it in use; ask again")


def make_writable(image: LeasedImage, view: MirrorView) -> None:
    """End a promotion, or undo a demotion, of what librbd's mirror info does not call secondary."""
    if view.torn in (Torn.READ_ONLY, Torn.UNMIRRORED):
        _log.warning("a torn image is made writable", image=image.spec.path, torn=view.torn)
        image.make_writable()


def torn_obstacle(
    spec: ImageSpec, view: MirrorView, observation: Observation, hindsight: Hindsight
) -> str | None:
    """Decide whether what reads primary may be made so: ``None`` if so, or why to wait.

    Since it was torn a peer may have been promoted, written and demoted, and what it wrote would
    be lost. A peer that follows this image, as it said since the call began, was not.

    Raises:
        PeerIsPrimary: a peer says so.
        MirrorDaemonDown: the local rbd-mirror does not run.
        PeerUnreachable: no peer is up to ask.
    """
    alive = [peer for peer in view.peers if observation.alive(peer, view)]
    primary = [peer for peer in alive if role(peer) is Role.PRIMARY and hindsight.confirms(peer)]
    if primary:
        raise PeerIsPrimary(
            f"{spec} is torn, and its peer is primary, as its rbd-mirror says "
            f"({text(primary[0])!r}); demote this image, or force if that site is lost"
        )
    lasted = observation.silence.observe(not alive)
    if not alive and not observation.may_speak(view) and lasted >= _SILENCE:
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
        said = ", ".join(f"{peer.state.name.lower()} ({text(peer)!r})" for peer in behind)
        return (
            "waiting until the peer says that it follows this image; it reads "
            f"{said or 'nothing yet'}; if that lasts, force the side whose data shall live"
        )
    if not all(map(hindsight.confirms, view.statuses)):
        return "waiting for a fresh word of every site"
    return None


def require_lasting(image: LeasedImage, view: MirrorView) -> None:
    """Look once more at what is not mirrored and yet read-only.

    So is for a moment a copy that rbd-mirror begins.
    """
    time.sleep(_PASSES)
    _require_same(image.spec, view, image.view())


def _require_same(spec: ImageSpec, seen: MirrorView, now: MirrorView) -> MirrorView:
    if (now.torn, now.history.mark, now.image_id) != (seen.torn, seen.history.mark, seen.image_id):
        raise ImageChanged(
            f"{spec} was changed meanwhile, by another driver or by rbd-mirror; ask again"
        )
    return now
