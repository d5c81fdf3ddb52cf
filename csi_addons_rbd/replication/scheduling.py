# SPDX-License-Identifier: Apache-2.0
"""Keeps the snapshot schedule that was asked for, also while the ceph-mgr is away.

What was asked for is noted on the image (which mirrors no such note), with whether the
manager has it. So a promotion never waits for the manager longer than a moment: what is
missing is brought in line in the background, or by the next call, also after a restart.
"""

import threading
import time
from collections.abc import Mapping
from typing import Final

import structlog

from csi_addons_rbd.replication.calls import Schedule
from csi_addons_rbd.replication.errors import DriverError
from csi_addons_rbd.replication.image import ImageSpec, MirroredImage
from csi_addons_rbd.replication.keeper import SnapshotKeeper
from csi_addons_rbd.replication.notes import Wanted, note_schedule, wanted_schedule
from csi_addons_rbd.replication.operations import Deadline

_MANAGER_BOUND: Final = 5
"""Seconds by which a manager that is away may delay a call."""
_RETRY: Final = 5
_GIVE_UP: Final = 600
_log = structlog.get_logger()


class Scheduler:
    """Brings schedules in line, on one thread at most per image."""

    def __init__(self, keeper: SnapshotKeeper) -> None:
        self._keeper = keeper
        self._lock = threading.Lock()
        self._converging: dict[ImageSpec, threading.Event] = {}

    def keep(self, image: MirroredImage, schedule: Schedule) -> None:
        """Put exactly this schedule on a primary; a silent manager gets it later."""
        standing = wanted_schedule(image.notes())
        if standing is None or standing.schedule != schedule:
            note_schedule(image, Wanted(schedule=schedule, placed=False))
        if schedule.by_driver:
            self._keeper.keep(image, schedule.seconds)
        self._converge(image).wait(_MANAGER_BOUND)

    def resume(self, image: MirroredImage, notes: Mapping[str, str]) -> None:
        """Go on, in the background, with what is kept here or not in place yet."""
        wanted = wanted_schedule(notes)
        if wanted is not None and wanted.schedule.by_driver:
            self._keeper.keep(image, wanted.schedule.seconds)
        if wanted is not None and not wanted.placed:
            self._converge(image)

    def drop(self, image: MirroredImage) -> None:
        """Remove the image's schedules, as far as the manager answers.

        What a silent manager keeps does no harm: it skips images that are not primary, and
        forgets those that are not mirrored.
        """
        gone = threading.Event()

        def attempt() -> None:
            try:
                image.keep_schedule(None)
            except DriverError as exc:
                _log.warning("schedule left behind", image=image.spec.path, error=exc.message)
            gone.set()

        threading.Thread(target=attempt, daemon=True).start()
        gone.wait(_MANAGER_BOUND)

    def _converge(self, image: MirroredImage) -> threading.Event:
        """Start to converge, unless that is going on; return what tells the end."""
        with self._lock:
            if image.spec in self._converging:
                return self._converging[image.spec]
            ended = self._converging[image.spec] = threading.Event()
        threading.Thread(target=self._retry, args=(image, ended), daemon=True).start()
        return ended

    def _retry(self, image: MirroredImage, ended: threading.Event) -> None:
        deadline = Deadline.after(_GIVE_UP)
        try:
            while deadline.remaining > 0 and not _settled(image):
                time.sleep(_RETRY)
        finally:
            with self._lock:
                del self._converging[image.spec]
            ended.set()


def _settled(image: MirroredImage) -> bool:
    """Make one attempt; true also when nothing is wanted any more."""
    try:
        wanted = wanted_schedule(image.notes())
        if wanted is None or not image.view().primary:
            return True
        image.keep_schedule(None if wanted.schedule.by_driver else wanted.schedule)
        standing = wanted_schedule(image.notes())
        if standing is not None and standing.schedule != wanted.schedule:
            return False
        if standing is not None and not standing.placed:
            note_schedule(image, Wanted(schedule=wanted.schedule, placed=True))
    except DriverError as exc:
        _log.warning("schedule not in place yet", image=image.spec.path, error=exc.message)
        return False
    return True
