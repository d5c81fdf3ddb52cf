# SPDX-License-Identifier: Apache-2.0
"""ResyncVolume: delete this site's image and copy it anew, if the evidence allows.

``ready=true`` is what orchestrators wait for before they move an application: it may only
mean that both sides are demoted and nothing is missing here.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import structlog

from csi_addons_rbd.replication.calls import ResyncCall
from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.errors import (
    NOTHING_TO_DO,
    DriverError,
    ImageChanged,
    IsPrimary,
    MirrorDaemonDown,
    NoGoodCopyElsewhere,
    SplitBrain,
)
from csi_addons_rbd.replication.image import (
    Epoch,
    MirroredImage,
    MirrorState,
    MirrorView,
    ResyncRecord,
)
from csi_addons_rbd.replication.observations import Observation
from csi_addons_rbd.replication.patience import POLL, Hindsight, Patience
from csi_addons_rbd.replication.promote import all_waiting, last_primary_obstacle
from csi_addons_rbd.replication.sync_info import Role, role, sync_report, text

_FRESH: Final = 2
_log = structlog.get_logger()


def forget_resync(
    image: MirroredImage,
    text: str | None,
    until: Deadline,
    *,
    is_void: Callable[[MirroredImage, MirrorView], bool],
) -> None:
    """Remove the resync record that was read, if the image shows under the lease that it is void.

    Another driver may have asked for another resync since.
    """
    if text is None:
        return
    with image.lease(until) as leased:
        if is_void(leased, leased.view()):
            leased.forget_resync(text)


def is_done(image: MirroredImage, _: MirrorView) -> bool:
    """Tell whether the copy that the resync on record made was seen whole."""
    record = image.resync_record()
    return record is not None and record.done


def is_over(image: MirroredImage, view: MirrorView) -> bool:
    """Tell whether the resync on record has no more to do on what is a secondary."""
    record = image.resync_record()
    if record is None or view.primary:
        return False
    return record.done or not (record.sent or image.resync_requested())


def cannot_happen(image: MirroredImage, record: ResyncRecord, view: MirrorView) -> bool:
    """Tell whether rbd-mirror will neither delete nor fill the image, as it is not mirrored.

    It moves an image to the trash before it takes it out of mirroring.
    """
    disabled = view.state is MirrorState.DISABLED and view.image_id == record.image_id
    return disabled and not image.is_trashed(record.image_id)


def _is_void(record: ResyncRecord, view: MirrorView) -> bool:
    """Tell whether mirroring was switched off since: the request went with it."""
    return record.mirroring not in ("", view.mirroring)


def _take_back(image: MirroredImage, record: ResyncRecord) -> None:
    """Remove the record of a request that was never made, if it still is this one."""
    with suppress(DriverError):
        image.record_resync(None, standing=record)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resync:
    """One ResyncVolume call on one secondary."""

    image: MirroredImage
    call: ResyncCall
    observation: Observation
    patience: Patience

    def run(self, view: MirrorView) -> bool:
        """Return whether the image is ready to be moved."""
        if view.primary:
            raise IsPrimary(f"{self.image.spec} is primary; demote it before a resync")
        record = self.image.resync_record()
        if record is not None and self._under_way(view, record):
            if view.image_id == record.image_id:
                self.image.announce(view)
            if view.local is not None:
                self._require_daemon(view)
            return False
        if record is not None and not record.done and view.image_id != record.image_id:
            self.image.record_resync(done := replace(record, done=True), standing=record)
            record = done
        if self._split(view):
            self._resolve_split(view, record)
            return False
        if view.local is None and not view.history.complete:
            return False  # the first copy has hardly begun
        self._require_daemon(view)
        if view.history.epoch in (Epoch.NON_PRIMARY_DEMOTED, Epoch.PRIMARY_DEMOTED):
            return self._await_ready(view)
        once = record is None or _is_void(record, view) or not (record.sent or record.done)
        if self.call.always and self.call.force and once and self._peer_is_primary(view):
            self._request(view, record)
        return False

    def _require_daemon(self, view: MirrorView) -> None:
        if view.local is None or not self.observation.alive(view.local, view):
            raise MirrorDaemonDown(
                f"rbd-mirror of this site is down or silent about {self.image.spec}; nothing "
                "can be copied without it; start it"
            )

    def _under_way(self, view: MirrorView, record: ResyncRecord) -> bool:
        """Tell whether the resync on record is not over: it must never be started again."""
        if _is_void(record, view):
            return False
        if view.image_id == record.image_id:
            # neither sent nor requested: a crash came between; the evidence is judged anew
            return record.sent or self._was_requested(record)
        new = view.state is MirrorState.CREATING or not view.history.complete
        return new or view.local is None or sync_report(view.local).syncing

    def _was_requested(self, record: ResyncRecord) -> bool:
        """Ask librbd itself: a crash may have come between the request and its record."""
        requested = self.image.resync_requested()
        if requested:
            self.image.record_resync(replace(record, sent=True), standing=record)
        return requested

    def _split(self, view: MirrorView) -> bool:
        local = view.local
        return (
            local is not None
            and self.observation.alive(local, view)
            and role(local) is Role.SPLIT_BRAIN
        )

    def _peer_is_primary(self, view: MirrorView) -> bool:
        return any(
            role(peer) is Role.PRIMARY and self.observation.alive(peer, view) for peer in view.peers
        )

    def _resolve_split(self, view: MirrorView, record: ResyncRecord | None) -> None:
        spec = self.image.spec
        if not self.call.force:
            raise SplitBrain(
                f"{spec} is in split-brain: both sides were written since they last agreed. "
                "A resync keeps the primary's data and deletes this site's; force it (autoResync) "
                "if that is right"
            )
        if not self._peer_is_primary(view):
            words = ", ".join(
                f"{peer.state.name.lower()} ({text(peer)!r}), {'up' if peer.up else 'down'}"
                for peer in view.peers
            )
            raise NoGoodCopyElsewhere(
                f"{spec} is in split-brain, but no peer is known to be up and primary "
                f"({words or 'none was ever heard of'}): a resync could delete the only copy; "
                "promote the site whose data shall live; the controller retries by itself"
            )
        self._request(view, record)

    def _request(self, seen: MirrorView, judged: ResyncRecord | None) -> None:
        """Record, look again, then request: the image itself may be gone a moment later.

        A record that stands there by now, other than the one judged before, counts as requested:
        it is of another driver that had the lease first.
        """
        image = self.image
        record = ResyncRecord(
            image_id=seen.image_id,
            requested=int(time.time()),
            sent=False,
            mirroring=seen.mirroring,
        )
        with image.lease(self.patience.call) as leased:
            if leased.resync_record() != judged:
                return
            if leased.resync_requested():
                leased.record_resync(replace(record, sent=True), standing=judged)
                return
            leased.record_resync(record, standing=judged)
            view = self._last_look(leased, seen, record)
            _log.warning(
                "resync requested: this image will be deleted and copied anew",
                image=image.spec.path,
                cluster=image.spec.cluster,
                image_id=view.image_id,
                peers=[f"{peer.state.name}: {peer.description}" for peer in view.peers],
            )
            try:
                leased.resync(view.image_id)
            except ImageChanged:  # a last look, before librbd was asked
                _take_back(leased, record)
                raise
            leased.record_resync(replace(record, sent=True), standing=record)

    def _last_look(
        self, image: MirroredImage, seen: MirrorView, record: ResyncRecord
    ) -> MirrorView:
        """Read the evidence again; when it does not hold, take the record back, if it is ours."""
        try:
            view = image.view()
            self.observation.note(view)
            wanted = self._split(view) or (self.call.always and not view.primary)
            if view.image_id != seen.image_id or not wanted or not self._peer_is_primary(view):
                raise ImageChanged(
                    f"{self.image.spec} or its peer changed while a resync was decided; nothing "
                    f"was done; {NOTHING_TO_DO}"
                )
        except DriverError:
            _take_back(image, record)
            raise
        return view

    def _await_ready(self, start: MirrorView) -> bool:
        """Wait for fresh statuses that show both sides demoted, twice; else it is not ready."""
        hindsight = Hindsight(self.patience.check_interval)
        first: float | None = None
        view = start
        while True:
            hindsight.note(view)
            settled = self._settled(view, start, hindsight)
            if settled is None:
                return False
            if not settled:
                first = None
            elif first is None:
                first = time.monotonic()
            elif time.monotonic() - first >= _FRESH:
                return True
            if self.patience.until.remaining <= 0:
                return False
            time.sleep(POLL)
            view = self.image.view()
            self.observation.note(view)

    def _settled(self, view: MirrorView, start: MirrorView, hindsight: Hindsight) -> bool | None:
        """Judge one reading: settled, not yet, or (``None``) not about to be."""
        if view.history != start.history or not all_waiting(view):
            return None
        if view.history.epoch is Epoch.PRIMARY_DEMOTED:
            spec = self.image.spec
            return last_primary_obstacle(spec, view, self.observation, hindsight) is None
        fresh = start.newest_update + _FRESH
        return all(each.last_update >= fresh for each in view.statuses)
