# SPDX-License-Identifier: Apache-2.0
"""Takes mirror snapshots at intervals in seconds, which Ceph's own scheduler cannot count.

What is kept here is forgotten with the process: the note on the image is the truth, and any
call that brings credentials makes this driver, or another one, go on.
"""

import heapq
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import inf
from typing import Final

import structlog

from csi_addons_rbd.replication.calls import MirroringMode
from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.errors import (
    Busy,
    DriverError,
    Exhausted,
    ImageVanished,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from csi_addons_rbd.replication.image import ImageSpec, MirroredImage, MirrorView
from csi_addons_rbd.replication.info import last_sync, note_last_sync
from csi_addons_rbd.replication.notes import wanted_schedule
from csi_addons_rbd.replication.observations import Observations

_AT_ONCE: Final = 8
"""Images that are looked after at the same time."""
_WAITING: Final = 1.0
"""Seconds between two looks at a peer that still lacks the newest snapshot, at first."""
_AGAIN: Final = 10.0
"""Seconds until the next attempt after a failure."""
_REFUSED: Final = (PermissionDenied, Unauthenticated)
"""After these only what another call brings can go on."""
_GONE: Final = 2
"""Looks in a row that find no image, after which it is gone: an operation may lose a race once."""
_log = structlog.get_logger()


@dataclass(slots=True)
class _Kept:
    """One image, and how old its newest snapshot is by this process's clock."""

    image: MirroredImage
    """What a call brought, its key and monitors; in use for as long as it works."""
    interval: int
    """Seconds, as of the newest call or note."""
    spare: MirroredImage | None = None
    """The image once more, with what another call brought, which takes over after a failure: the
    newest key and monitors, or those of a user that may only read."""
    due: float = 0.0
    """When its turn comes, by the monotonic clock; turns planned for other moments are void.
    While one is taken it comes never."""
    renewed: bool = False
    """Whether a call asked for it again during its turn."""
    changed: bool = False
    """Whether that call asked for another interval."""
    missing: int = 0
    """Looks in a row that found no image."""
    mark: int | None = None
    since: float = 0.0
    waits: int = 0
    """Looks in a row at which a peer still lacked the newest snapshot."""

    def age(self, view: MirrorView) -> float:
        """Return the seconds since the newest snapshot, whoever took it.

        The clocks of cluster and driver may differ, so their difference is believed once for
        each snapshot of somebody else's, and never beyond the interval.
        """
        now = time.monotonic()
        if view.history.mark != self.mark:
            difference = time.time() - (view.history.newest_at or 0)
            self.since = now - min(max(0.0, difference), self.interval)
            self.mark = view.history.mark
        return now - self.since

    def taken(self, mark: int) -> None:
        """Count from now, by this process's own clock."""
        self.mark, self.since, self.waits = mark, time.monotonic(), 0

    def replace(self, *, refused: bool) -> bool:
        """Go on with the spare, if there is one; what was not refused becomes the spare."""
        if self.spare is None:
            return False
        self.image, self.spare = self.spare, None if refused else self.image
        return True


@dataclass(order=True, slots=True)
class _Turn:
    due: float
    spec: ImageSpec = field(compare=False)


class SnapshotKeeper:
    """The images of one worker whose intervals are in seconds."""

    def __init__(self, observations: Observations) -> None:
        self._observations = observations
        self._changed = threading.Condition()
        self._kept: dict[ImageSpec, _Kept] = {}
        self._turns: list[_Turn] = []
        self._threads: ThreadPoolExecutor | None = None

    def keep(self, image: MirroredImage, interval: int) -> None:
        """Look after an image from now on, if need be with the key and monitors that it brings."""
        with self._changed:
            kept = self._kept.setdefault(image.spec, _Kept(image, 0))
            if kept.image is not image:
                kept.spare = image
            kept.renewed = True
            if kept.interval != interval:
                kept.interval, kept.changed = interval, True
                self._plan(kept, 0)
            if self._threads is None:
                self._start(image.spec)

    def _start(self, spec: ImageSpec) -> None:
        """See that turns are handed out; the lock is held."""
        try:
            threading.Thread(target=self._dispatch, daemon=True).start()
        except RuntimeError:
            raise Exhausted(
                f"no thread can be started to take the snapshots of {spec}; see the limits of this "
                "process and of its node; the controller retries by itself"
            ) from None
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="snapshots")

    def _plan(self, kept: _Kept, seconds: float) -> None:
        kept.due = time.monotonic() + seconds
        heapq.heappush(self._turns, _Turn(kept.due, kept.image.spec))
        self._changed.notify()

    def _dispatch(self) -> None:
        """Hand out each turn when it is due, for as long as the process lives."""
        while True:
            with self._changed:
                while not self._turns or self._turns[0].due > time.monotonic():
                    wait = self._turns[0].due - time.monotonic() if self._turns else None
                    self._changed.wait(wait)
                turn = heapq.heappop(self._turns)
                kept = self._kept.get(turn.spec)
            if kept is not None and kept.due == turn.due and self._threads is not None:
                self._hand_out(self._threads, kept, turn)

    def _hand_out(self, threads: ThreadPoolExecutor, kept: _Kept, turn: _Turn) -> None:
        try:
            threads.submit(self._take_turn, kept, turn)
        except RuntimeError as exc:  # no thread can be started, for the time being
            _log.warning("no mirror snapshot taken", image=turn.spec.path, error=str(exc))
            with self._changed:
                if kept.due == turn.due:  # or else one that runs took it nevertheless
                    self._plan(kept, _AGAIN)

    def _take_turn(self, kept: _Kept, turn: _Turn) -> None:
        with self._changed:
            if kept.due != turn.due:
                return
            kept.due = inf
            kept.renewed = kept.changed = False
        again = self._attempt(kept)
        with self._changed:
            if again is not None or kept.renewed:
                self._plan(kept, 0 if kept.changed else again or 0)
            else:
                del self._kept[kept.image.spec]

    def _attempt(self, kept: _Kept) -> float | None:
        try:
            again = self._look(kept, kept.image)
        except DriverError as exc:
            again = self._after(exc, kept)
            _log.warning(
                "no mirror snapshot taken",
                image=kept.image.spec.path,
                error=exc.message,
                ends=again is None,
            )
            return again
        except Exception:  # noqa: BLE001 - the schedule must outlive it
            _log.exception("a fault of the driver", image=kept.image.spec.path)
            return _AGAIN
        kept.missing = 0
        return again

    def _after(self, error: DriverError, kept: _Kept) -> float | None:
        """Return the seconds until the next attempt, if any, and see who makes it.

        A user whose rights were withdrawn, or monitors that have moved, may only show as silence;
        so everything counts that does not pass by itself.
        """
        kept.missing = kept.missing + 1 if isinstance(error, ImageVanished) else 0
        if isinstance(error, NotFound) or kept.missing >= _GONE:
            return None
        if isinstance(error, Busy):
            return _AGAIN
        refused = isinstance(error, _REFUSED)
        with self._changed:
            replaced = kept.replace(refused=refused)
        if refused:
            return 0 if replaced else None
        return _AGAIN

    def _look(self, kept: _Kept, image: MirroredImage) -> float | None:
        """Take a snapshot if it is time; return the seconds until the next look, if any."""
        wanted, view = wanted_schedule(image.notes()), image.view()
        if wanted is None or not wanted.schedule.by_driver or not _takes_snapshots(view):
            return None
        # another driver may have been asked for another one since
        kept.interval = wanted.schedule.seconds
        observation = self._observations.of(image.spec)
        observation.note(view)
        left = kept.interval - kept.age(view)
        if left > 0:
            return left
        # known of an earlier term, it does not tell that a peer has the promotion's snapshot
        if view.history.awaited or (last_sync(view, observation) or 0) < view.history.began:
            kept.waits += 1
            image.announce(view)
            return min(_WAITING * kept.waits, kept.interval)
        with image.lease(Deadline.after(_AGAIN)) as leased:
            if leased.view().history.mark != view.history.mark:
                return _WAITING
            kept.taken(leased.take_snapshot())
        note_last_sync(image, view, observation)
        return kept.interval


def _takes_snapshots(view: MirrorView) -> bool:
    return view.primary and view.mode is MirroringMode.SNAPSHOT
