# SPDX-License-Identifier: Apache-2.0
"""Keeps the snapshot schedule that was asked for, also while the ceph-mgr is away.

What was asked for is noted on the image (which mirrors no such note), with whether the
manager has it. So a promotion never waits for the manager longer than a moment: what is
missing is brought in line in the background, or by the next call, also after a restart.
"""

import heapq
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from csi_addons_rbd.replication.calls import Schedule
from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.errors import DriverError, Exhausted, PermissionDenied
from csi_addons_rbd.replication.image import ImageSpec, MirroredImage, MirrorView
from csi_addons_rbd.replication.keeper import SnapshotKeeper
from csi_addons_rbd.replication.notes import (
    SCHEDULE,
    Wanted,
    ended_schedule,
    keeps_unreadable_schedule,
    note_schedule,
    schedule_note,
    unreadable_schedule,
    wanted_schedule,
)

_MANAGER_BOUND: Final = 5
"""Seconds by which a manager that is away may delay a call."""
_RETRY: Final = 5
_GIVE_UP: Final = 600
_AT_ONCE: Final = 8
"""Images that are brought in line at the same time; each may wait for the manager without limit."""
_log = structlog.get_logger()


@dataclass(slots=True)
class _Target:
    """What one image shall have, as of the last call; ``None`` stands for no schedule."""

    image: MirroredImage
    schedule: Schedule | None
    reached: threading.Event = field(default_factory=threading.Event)
    refused: PermissionDenied | None = None
    """Set when the caps do not allow it: no other attempt will, either."""
    spare: MirroredImage | None = None
    """The image once more, with what another call brought: the newest key and monitors, or those
    of a user that may only read."""
    touched: bool = False
    """Whether the manager may have it: an attempt that failed may have been carried out."""


@dataclass(frozen=True, order=True, slots=True, kw_only=True)
class _Turn:
    """One attempt to come."""

    due: float
    """When, by the monotonic clock."""
    spec: ImageSpec = field(compare=False)
    deadline: Deadline = field(compare=False)
    """When it is the last one."""


class Scheduler:
    """Brings schedules in line, a few images at once, each always after its newest target."""

    def __init__(self, keeper: SnapshotKeeper) -> None:
        self._keeper = keeper
        self._changed = threading.Condition()
        self._targets: dict[ImageSpec, _Target] = {}
        self._turns: list[_Turn] = []
        """One for each image that has a target and is in no thread's hands."""
        self._threads = 0
        self._unreadable: set[ImageSpec] = set()
        """The primaries whose note of a schedule could not be read, and was told of."""

    def keep(
        self, image: MirroredImage, schedule: Schedule, until: Deadline
    ) -> PermissionDenied | None:
        """Put exactly this schedule on a primary; a silent manager gets it later.

        Returns the error to tell of, when the caps for the manager are missing.
        """
        if _noted(image.notes()) != schedule:
            with image.lease(until) as leased:
                if not leased.view().primary:
                    return None
                note_schedule(leased, Wanted(schedule=schedule, placed=False))
        if schedule.by_driver:
            self._keeper.keep(image, schedule.seconds)
        target = self._aim(image, schedule)
        target.reached.wait(_MANAGER_BOUND)
        return target.refused

    def resume(self, image: MirroredImage, view: MirrorView) -> None:
        """Go on, in the background, with what is kept here or not in place yet.

        So with what a demotion had ended that never happened. What this version cannot read is
        left as it is.
        """
        if self._warn_of_unreadable(image.spec, view):
            return
        notes = view.notes
        wanted = wanted_schedule(notes)
        if wanted is not None and wanted.schedule.by_driver:
            self._keeper.keep(image, wanted.schedule.seconds)
        if wanted is not None and not wanted.placed:
            self._aim(image, wanted.schedule)
        if wanted is None and SCHEDULE in notes:
            again = ended_schedule(notes) if view.primary else None
            self._aim(image, again.schedule if again else None)

    def drop(self, image: MirroredImage, *, wait: float = _MANAGER_BOUND) -> None:
        """Remove the image's schedules, whose end is noted, as far as the manager answers.

        What a silent manager keeps does no harm: it skips images that are not primary, and
        forgets those that are not mirrored.
        """
        self._aim(image, None).reached.wait(wait)

    def _warn_of_unreadable(self, spec: ImageSpec, view: MirrorView) -> bool:
        unreadable = keeps_unreadable_schedule(view)
        with self._changed:
            told = spec in self._unreadable
            if unreadable:
                self._unreadable.add(spec)
            else:
                self._unreadable.discard(spec)
        if unreadable and not told:
            _log.warning(
                "this version cannot read the snapshot schedule that is noted; it is left as it is "
                "until Enable or Promote brings another one",
                image=spec.path,
            )
        return unreadable

    def _aim(self, image: MirroredImage, schedule: Schedule | None) -> _Target:
        """Set the target, and see that somebody goes after it."""
        with self._changed:
            running = self._targets.get(image.spec)
            if running is not None and running.schedule == schedule:
                running.spare = image
                return running
            target = self._targets[image.spec] = _Target(image, schedule)
            if running is None:
                deadline = Deadline.after(_GIVE_UP)
                self._plan(_Turn(due=time.monotonic(), spec=image.spec, deadline=deadline))
                self._staff(image.spec)
            return target

    def _plan(self, turn: _Turn) -> None:
        heapq.heappush(self._turns, turn)
        self._changed.notify()

    def _staff(self, spec: ImageSpec) -> None:
        """See that somebody takes an image's turn; the lock is held."""
        if self._threads >= min(_AT_ONCE, len(self._targets)):
            return
        try:
            threading.Thread(target=self._take_turns, daemon=True).start()
        except RuntimeError:
            if self._threads:
                return  # those that run take it later
            del self._targets[spec]
            self._turns.clear()
            raise Exhausted(
                f"no thread can be started to keep the schedule of {spec}; see the limits of this "
                "process and of its node; the controller retries by itself"
            ) from None
        self._threads += 1

    def _take_turns(self) -> None:
        """Take one turn after the other until there is none to come."""
        while turn := self._next():
            target = self._targets[turn.spec]
            done = _attempt(target) or turn.deadline.remaining <= 0
            with self._changed:
                now = time.monotonic()
                if not done:
                    self._plan(replace(turn, due=now + _RETRY))
                    continue
                target.reached.set()
                if self._targets[turn.spec] is target:
                    del self._targets[turn.spec]
                else:
                    self._plan(replace(turn, due=now))

    def _next(self) -> _Turn | None:
        with self._changed:
            while self._turns:
                wait = self._turns[0].due - time.monotonic()
                if wait <= 0:
                    return heapq.heappop(self._turns)
                self._changed.wait(wait)
            self._threads -= 1
            return None


def as_kept(image: MirroredImage, view: MirrorView) -> MirrorView:
    """Return the reading of a primary with its schedule as the manager has it, whatever is noted.

    A driver that froze in the middle of a removal carries it out when it thaws, and may be killed
    before it can see that another one has put the schedule back; or somebody removed it by hand.
    """
    wanted = wanted_schedule(view.notes)
    if not view.primary or wanted is None or not wanted.placed or wanted.schedule.by_driver:
        return view
    if image.schedule_stands(view.image_id, wanted.schedule):
        return view
    note = schedule_note(replace(wanted, placed=False))
    return replace(view, notes={**view.notes, SCHEDULE: note})


def _attempt(target: _Target) -> bool:
    """Make one attempt; true also when another one would be in vain.

    A removal that fails is left to the next call, unless the manager was already asked for it: it
    may have taken away what another driver was asked for meanwhile.
    """
    image = target.image
    try:
        _bring_in_line(target)
    except DriverError as exc:
        _log.warning("schedule not in line", image=image.spec.path, error=exc.message)
        if target.spare is not None:
            again = None if isinstance(exc, PermissionDenied) else image
            target.image, target.spare = target.spare, again
        elif isinstance(exc, PermissionDenied):
            target.refused = exc
            return True
        return _gives_up(target)
    except Exception:  # noqa: BLE001 - or nobody would go after this image's schedule again
        _log.exception("a fault of the driver", image=image.spec.path)
        return _gives_up(target)
    return True


def _gives_up(target: _Target) -> bool:
    return target.schedule is None and not target.touched


def _bring_in_line(target: _Target) -> None:
    """Have the manager keep what was asked for, if that is still what the note says.

    This may take long, and meanwhile another driver may be asked for something else. Whatever the
    note says afterwards counts: what was just done may have undone what that one did. Where it
    cannot be read, whoever wrote it has to see to that.
    """
    image, schedule = target.image, target.schedule
    if schedule is not None:
        _note_again(image, schedule)
    notes = image.notes()
    if _is_left_alone(image, notes):
        return
    noted = _noted(notes)
    if noted != schedule:
        if target.touched:
            image.keep_schedule(_for_manager(noted))
        return
    if schedule is not None and not image.view().primary:
        return
    target.touched = True
    image.keep_schedule(_for_manager(schedule))
    notes = image.notes()
    if _is_left_alone(image, notes):
        return
    if _noted(notes) != schedule:
        image.keep_schedule(_for_manager(_noted(notes)))
    elif schedule is not None:
        note_schedule(image, Wanted(schedule=schedule, placed=True), only=notes[SCHEDULE])
    elif SCHEDULE in notes:
        image.note(SCHEDULE, None, only=notes[SCHEDULE])


def _is_left_alone(image: MirroredImage, notes: Mapping[str, str]) -> bool:
    return unreadable_schedule(notes) and keeps_unreadable_schedule(image.view())


def _note_again(image: MirroredImage, schedule: Schedule) -> None:
    """Note a schedule again whose end never came; under the lease, that is not just coming."""
    if not _is_ended(image.notes(), schedule):
        return
    with image.lease(Deadline.after(_RETRY)) as leased:
        view, notes = leased.view(), leased.notes()
        if view.primary and view.torn is None and _is_ended(notes, schedule):
            wanted = Wanted(schedule=schedule, placed=False)
            note_schedule(leased, wanted, only=notes[SCHEDULE])


def _is_ended(notes: Mapping[str, str], schedule: Schedule) -> bool:
    ended = ended_schedule(notes)
    return ended is not None and ended.schedule == schedule


def _noted(notes: Mapping[str, str]) -> Schedule | None:
    wanted = wanted_schedule(notes)
    return None if wanted is None else wanted.schedule


def _for_manager(schedule: Schedule | None) -> Schedule | None:
    return None if schedule is None or schedule.by_driver else schedule
