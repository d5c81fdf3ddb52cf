# SPDX-License-Identifier: Apache-2.0
"""What each call means: preconditions, idempotency and the order of its steps."""

from functools import partial
from typing import Final

from csi_addons_rbd.replication.calls import (
    Answer,
    Call,
    DemoteCall,
    DestinationCall,
    DisableCall,
    EnableCall,
    InfoCall,
    Located,
    MirroringMode,
    PromoteCall,
    ResyncCall,
    Resynced,
    RunningOperations,
    Schedule,
)
from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.demote import demote
from csi_addons_rbd.replication.errors import (
    LEASE_LOSSES,
    DriverError,
    ImageRecreating,
    NotEnabled,
    PermissionDenied,
    PoolFull,
    PromotionBarred,
)
from csi_addons_rbd.replication.holders import finish_demotion
from csi_addons_rbd.replication.image import (
    Absent,
    Found,
    MirroredImage,
    MirrorState,
    MirrorView,
    Torn,
)
from csi_addons_rbd.replication.info import agreed, note_last_sync, replication_info
from csi_addons_rbd.replication.keeper import SnapshotKeeper
from csi_addons_rbd.replication.notes import (
    DEMOTING,
    ENDED,
    LAST_SYNC,
    READERS,
    SCHEDULE,
    end_schedule,
    ended_schedule,
    forget_ended_schedule,
    wanted_schedule,
)
from csi_addons_rbd.replication.observations import Observation, Observations
from csi_addons_rbd.replication.operations import Operations
from csi_addons_rbd.replication.patience import Patience
from csi_addons_rbd.replication.promote import await_release, promote
from csi_addons_rbd.replication.resync import Resync, cannot_happen, forget_resync, is_done, is_over
from csi_addons_rbd.replication.scheduling import Scheduler, as_kept
from csi_addons_rbd.replication.switching import disable, enable, is_left_alone
from csi_addons_rbd.replication.torn import refuse_torn, torn_info
from csi_addons_rbd.replication.torn_repair import (
    end_torn_demotion,
    end_torn_promotion,
    fill_hollow_epoch,
    finish_torn_demotion,
)
from csi_addons_rbd.replication.vanished import let_go

_MARGIN: Final = 5
"""Seconds that a waiting call ends before its caller's deadline."""
_IF_STILL: Final = "if nothing moves for minutes, see rbd-mirror of this site"
_BRIEF: Final = 1.0
"""Seconds that a call waits for the manager which has nothing else to do."""
_HEARTBEAT: Final = 30
"""Seconds between two statuses of an rbd-mirror that has nothing new to say."""
_LOST: Final = 30
"""Seconds for which the manager must lack a schedule that it had, before it is given it again."""


class Replicator:
    """The calls of one worker.

    Args:
        wait: How long promote, demote and resync wait for the other site, in seconds.
        check_interval: rbd-mirror's image state check interval, in seconds.
    """

    def __init__(self, *, wait: float, check_interval: int) -> None:
        self._wait = wait
        self._check_interval = check_interval
        self._operations = Operations()
        self._observations = Observations(check_interval)
        self._scheduler = Scheduler(SnapshotKeeper(self._observations))

    def answer(self, call: Call, found: Found | Absent, deadline: Deadline) -> Answer:
        """Carry out one call on the image its handle led to."""
        if isinstance(found, Absent):
            return _answer_for_absent(call, found)
        image = found.image
        match call:
            case InfoCall():
                return self._info(image)
            case DestinationCall():
                return _locate(image)
            case _:
                work = partial(self._operate, image, call, deadline)
                return self._operations.run(image.spec, call, work, deadline)

    def running(self) -> tuple[RunningOperations, ...]:
        """Count the operations that hold an image."""
        return self._operations.running()

    def _patience(self, deadline: Deadline) -> Patience:
        longest = deadline.earlier(_MARGIN)
        heard = max(self._wait, self._check_interval + _HEARTBEAT)
        return Patience(
            call=deadline,
            until=longest.or_after(self._wait),
            confirmed=longest.or_after(heard),
            check_interval=self._check_interval,
        )

    def _operate(
        self, image: MirroredImage, call: Call, deadline: Deadline, after: Call | None
    ) -> Answer:
        try:
            return self._perform(image, call, deadline, after)
        except PoolFull as exc:
            if isinstance(call, PromoteCall):  # which the controller repeats by force: in vain
                raise PromotionBarred(exc.message) from exc
            raise

    def _perform(
        self, image: MirroredImage, call: Call, deadline: Deadline, after: Call | None
    ) -> Answer:
        if after is not None and after.credentials != call.credentials:
            with image.lease(deadline):
                pass  # somebody else has done the work; this caller must have the right to, too
        patience = self._patience(deadline)
        observation = self._observations.of(image.spec)
        # what was found is from before what this call waited for
        view = image.as_found() if after is None else image.view()
        observation.note(view)
        if _may_be_unannounced(view):
            image.announce(view)
        match call:
            case EnableCall():
                self._enable(image, view, call, observation, patience)
            case DisableCall():
                self._disable(image, view, call, observation, patience.call)
            case PromoteCall():
                self._promote(image, view, call, observation, patience)
            case DemoteCall():
                self._demote(image, view, observation, patience)
            case ResyncCall():
                if view.torn is not Torn.UNMIRRORED:
                    refuse_torn(image, view, patience)
                return _resync(image, view, call, observation, patience)
        return None

    def _enable(
        self,
        image: MirroredImage,
        view: MirrorView,
        call: EnableCall,
        observation: Observation,
        patience: Patience,
    ) -> None:
        if view.state is not MirrorState.DISABLING:
            refuse_torn(image, view, patience)
        if enable(image, view, call, patience.call):
            observation.last_sync = None
            forget_ended_schedule(image)
        refused = self._keep_schedule(image, call.mode, call.schedule, patience.call)
        if refused is not None:
            raise refused

    def _disable(
        self,
        image: MirroredImage,
        view: MirrorView,
        call: DisableCall,
        observation: Observation,
        until: Deadline,
    ) -> None:
        record = image.resync_text()
        if view.state is MirrorState.DISABLED:
            _require_no_recreation(image, disabling=view, force=call.force)
        standing = wanted_schedule(image.notes())

        def clear(leased: MirroredImage) -> None:
            # while the image is still mirrored: the manager refuses to touch others
            if view.mode is MirroringMode.SNAPSHOT:
                end_schedule(leased)
                self._scheduler.drop(image)
            for note in (LAST_SYNC, READERS, DEMOTING):
                leased.note(note, None)

        if not is_left_alone(image, view, force=call.force, observation=observation):
            try:
                disable(image, view, force=call.force, clear=clear, until=until)
            except LEASE_LOSSES:
                raise
            except DriverError:
                if standing is not None and view.primary and image.view().primary:
                    self._scheduler.keep(image, standing.schedule, until)
                raise
            image.restore_features(until)
            forget_resync(image, record, until, is_void=_is_disabled)
        else:
            forget_resync(image, record, until, is_void=is_done)
        observation.last_sync = None

    def _promote(
        self,
        image: MirroredImage,
        view: MirrorView,
        call: PromoteCall,
        observation: Observation,
        patience: Patience,
    ) -> None:
        _require_mirrored(image, view)
        if view.torn is Torn.DEMOTION and not call.force:
            view = finish_torn_demotion(image, view, patience)
        demotion = view.torn is Torn.DEMOTION
        if view.torn in (Torn.READ_ONLY, Torn.UNPROVEN) or (demotion and not call.force):
            end_torn_promotion(
                image, view, force=call.force, observation=observation, patience=patience
            )
        elif not view.primary:
            if ended_schedule(view.notes):
                forget_ended_schedule(image)  # that one did end: with the term before
            promote(image, view, force=call.force, observation=observation, patience=patience)
            observation.last_sync = agreed(view, image.view(), force=call.force)
            if observation.last_sync is None and LAST_SYNC in view.notes:
                image.note(LAST_SYNC, None, only=view.notes[LAST_SYNC])  # of an earlier term
        fill_hollow_epoch(image, image.view() if view.torn else view, patience, promoting=True)
        forget_resync(image, image.resync_text(), patience.call, is_void=_is_primary)
        if DEMOTING in view.notes:
            image.note(DEMOTING, None, only=view.notes[DEMOTING])
        await_release(image, patience)
        # missing caps for the manager must not fail a promotion: info tells of them
        self._keep_schedule(image, view.mode, call.schedule, patience.call)

    def _demote(
        self,
        image: MirroredImage,
        view: MirrorView,
        observation: Observation,
        patience: Patience,
    ) -> None:
        _require_mirrored(image, view)
        if view.torn is Torn.DEMOTION:
            view = end_torn_demotion(image, view, observation, patience)
        if not view.primary:
            if SCHEDULE in view.notes:  # left by a crash, by a silent manager, or by another tool
                self._end_left_schedule(image, view, patience.call)
            if DEMOTING in view.notes:
                finish_demotion(image, observation, patience)
            return
        fill_hollow_epoch(image, view, patience, promoting=False)
        demote(image, view, observation=observation, patience=patience)
        if view.mode is MirroringMode.SNAPSHOT:
            if SCHEDULE in view.notes:
                self._scheduler.drop(image)
            else:
                self._scheduler.drop(image, wait=0)  # at most one that others gave it

    def _end_left_schedule(self, image: MirroredImage, view: MirrorView, until: Deadline) -> None:
        """End what a secondary has no use for; under the lease, or it may be primary by now."""
        if wanted_schedule(view.notes) is not None:
            with image.lease(until) as leased:
                if leased.view().primary:
                    return
                leased.note(SCHEDULE, ENDED)
        forget_ended_schedule(image)
        self._scheduler.drop(image, wait=_BRIEF)

    def _info(self, image: MirroredImage) -> Answer:
        observation = self._observations.of(image.spec)
        view = image.as_found()
        _require_mirrored(image, view)
        observation.note(view)
        if view.torn is not None:
            torn = torn_info(image, view, observation)
            if torn is not None:
                return torn
            view = image.view()
        if not self._operations.busy(image.spec):  # which may be about to end the schedule
            kept = as_kept(image, view)
            # not at once: whoever is just replacing it, or has a reason to remove it, goes first
            lasted = observation.unscheduled.observe(kept is not view)
            self._scheduler.resume(image, kept if lasted >= _LOST else view)
            view = kept
        return replication_info(image.spec, view, observation)

    def _keep_schedule(
        self,
        image: MirroredImage,
        mode: MirroringMode,
        schedule: Schedule | None,
        until: Deadline,
    ) -> PermissionDenied | None:
        view = image.view()
        if not view.primary:
            return None
        note_last_sync(image, view, self._observations.of(image.spec))
        if mode is MirroringMode.JOURNAL:
            return None
        if schedule is not None:
            return self._scheduler.keep(image, schedule, until)
        self._scheduler.resume(image, view)
        return None


def _answer_for_absent(call: Call, absent: Absent) -> Answer:
    if isinstance(call, ResyncCall):
        return Resynced(ready=False)
    if isinstance(call, DisableCall) and call.force:
        let_go(absent)
        return None
    raise ImageRecreating(
        f"{absent.image.spec} was deleted by a resync and is being copied anew by rbd-mirror of "
        f"this site; the controller retries; {_IF_STILL}"
    )


def _may_be_unannounced(view: MirrorView) -> bool:
    """Tell whether a peer may not know of what this site wrote last: see ``announce``."""
    if view.mode is MirroringMode.JOURNAL:
        return view.history.epoch.own
    return view.history.epoch.own and (view.history.awaited or not view.peers)


def _locate(image: MirroredImage) -> Located:
    _require_mirrored(image, image.as_found())
    spec = image.spec
    return Located(cluster=spec.cluster, pool=spec.pool, pool_id=spec.pool_id)


def _require_mirrored(image: MirroredImage, view: MirrorView) -> None:
    if view.state in (MirrorState.ENABLED, MirrorState.CREATING):
        return
    _require_no_recreation(image)
    raise NotEnabled(f"{image.spec} is not mirrored ({view.state.name.lower()}); enable it")


def _require_no_recreation(
    image: MirroredImage, *, disabling: MirrorView | None = None, force: bool = False
) -> None:
    """Tell an image that is not mirrored from one that a resync is about to delete or fill."""
    record = image.resync_record()
    if record is None or not record.sent or record.done:
        return
    if disabling is None or not cannot_happen(image, record, disabling):
        raise ImageRecreating(
            f"{image.spec} is being deleted and copied anew by rbd-mirror, as a resync asked for; "
            f"the controller retries; {_IF_STILL}"
        )
    if not force:
        raise ImageRecreating(
            f"a resync of {image.spec} was asked for, and its mirroring was switched off before "
            "rbd-mirror deleted it; the controller retries, until rbd-mirror has deleted it, or "
            "the parameter force=true says to keep the image as it is and to forget the resync"
        )


def _is_disabled(_: MirroredImage, view: MirrorView) -> bool:
    return view.state is MirrorState.DISABLED


def _is_primary(_: MirroredImage, view: MirrorView) -> bool:
    return view.primary


def _resync(
    image: MirroredImage,
    view: MirrorView,
    call: ResyncCall,
    observation: Observation,
    patience: Patience,
) -> Resynced:
    try:
        _require_mirrored(image, view)
    except ImageRecreating:
        return Resynced(ready=False)
    resync = Resync(image=image, call=call, observation=observation, patience=patience)
    ready = resync.run(view)
    if ready:
        image.correct_journal(view.image_id)
        forget_resync(image, image.resync_text(), patience.call, is_void=is_over)
    return Resynced(ready=ready)
