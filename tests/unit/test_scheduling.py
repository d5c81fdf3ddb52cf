# SPDX-License-Identifier: Apache-2.0
"""A schedule that one driver removes while another one asks for it is put back."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, cast

import pytest
from structlog.testing import capture_logs
from test_promotion_rules import NOW, status, view
from test_promotion_rules import PRIMARY as IS_PRIMARY

from csi_addons_rbd.replication import scheduling
from csi_addons_rbd.replication.calls import Health, MirroringMode, Schedule
from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.errors import (
    ClusterUnreachable,
    DriverError,
    Exhausted,
    ManagerUnavailable,
    PermissionDenied,
)
from csi_addons_rbd.replication.image import Epoch, ImageSpec, MirroredImage, MirrorView, Torn
from csi_addons_rbd.replication.info import replication_info
from csi_addons_rbd.replication.notes import (
    ENDED,
    SCHEDULE,
    end_schedule,
    ended,
    ended_schedule,
    forget_ended_schedule,
    synced,
    wanted_schedule,
)
from csi_addons_rbd.replication.observations import Observation
from csi_addons_rbd.replication.scheduling import Scheduler, as_kept

if TYPE_CHECKING:
    from csi_addons_rbd.replication.keeper import SnapshotKeeper

SPEC: Final = ImageSpec(cluster="a", pool="b", pool_id=1, namespace="", image="c")
PRIMARY: Final = replace(
    view(status("", IS_PRIMARY), status("a", IS_PRIMARY), epoch=Epoch.PRIMARY), primary=True
)
FIVE: Final = Schedule(seconds=300, by_driver=False, start_time=None)


@dataclass
class Image:
    """One image and the manager's schedule of it, with another driver on the same image."""

    asked_for_meanwhile: str
    """The note that the other driver writes while this one is at the manager."""
    spec: ImageSpec = SPEC
    noted: str = ENDED
    scheduled: Schedule | None = FIVE
    failing: list[DriverError] = field(default_factory=list)
    restored: threading.Event = field(default_factory=threading.Event)

    def notes(self) -> Mapping[str, str]:
        """Read the notes, if the cluster answers."""
        if self.noted != ENDED and self.failing:
            raise self.failing.pop()
        return {SCHEDULE: self.noted}

    def note(self, key: str, value: str | None, *, only: str | None = None) -> None:
        """Fail: the other driver's note is not this one's to change."""
        raise AssertionError(key, value, only)

    def keep_schedule(self, wanted: Schedule | None) -> None:
        """Change what the manager has."""
        self.scheduled, self.noted = wanted, self.asked_for_meanwhile
        if wanted is not None:
            self.restored.set()


@pytest.mark.parametrize("failures", [0, 1, 3])
def test_a_late_removal_is_taken_back(monkeypatch: pytest.MonkeyPatch, failures: int) -> None:
    """Also when the cluster does not answer at first after it, as after a freeze."""
    monkeypatch.setattr(scheduling, "_RETRY", 0.01)
    noted = {"seconds": 300, "by_driver": False, "start_time": None, "placed": True}
    image = Image(json.dumps(noted), failing=[ClusterUnreachable("silent")] * failures)
    Scheduler(cast("SnapshotKeeper", None)).drop(cast("MirroredImage", image))
    assert image.restored.wait(5)
    assert image.scheduled == FIVE


@dataclass
class Ending:
    """A primary whose schedule was to end with a demotion that never happened."""

    noted: str | None
    seen: MirrorView = PRIMARY
    spec: ImageSpec = SPEC
    scheduled: Schedule | None = None
    leased: bool = False
    settled: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def lease(self, _: Deadline) -> Iterator["Ending"]:
        """Be the only driver."""
        self.leased = True
        yield self
        self.leased = False

    def view(self) -> MirrorView:
        """Read the image."""
        return self.seen

    def notes(self) -> Mapping[str, str]:
        """Read the note, if there is one."""
        return {} if self.noted is None else {SCHEDULE: self.noted}

    def note(self, key: str, value: str | None, *, only: str | None = None) -> None:
        """Write the note."""
        assert key == SCHEDULE
        if only in (None, self.noted):
            assert self.leased or value is None or '"placed": true' in value
            self.noted = value
            if not self.leased:
                self.settled.set()

    def schedule_stands(self, image_id: str, schedule: Schedule) -> bool:
        """Read the manager's record."""
        assert image_id == self.seen.image_id
        return self.scheduled == schedule

    def keep_schedule(self, wanted: Schedule | None) -> None:
        """Change what the manager has."""
        self.scheduled = wanted


def noted(*, placed: bool = True) -> str:
    """Return the note of a schedule."""
    return json.dumps({"seconds": 300, "by_driver": False, "start_time": None, "placed": placed})


def test_an_end_that_never_came_is_undone() -> None:
    """The driver was killed before librbd demoted, and only GetVolumeReplicationInfo comes."""
    image = Ending(noted(), leased=True)
    end_schedule(cast("MirroredImage", image))
    image.leased = False
    assert wanted_schedule(image.notes()) is None
    seen = replace(PRIMARY, notes=image.notes())
    told = replication_info(SPEC, seen, Observation(last_sync=synced(seen, NOW)))
    assert (told.health, told.schedule_in_place) == (Health.DEGRADED, False)
    Scheduler(cast("SnapshotKeeper", None)).resume(cast("MirroredImage", image), seen)
    assert image.settled.wait(5)
    assert (image.scheduled, image.noted) == (FIVE, noted())


def test_what_did_end_does_not_come_back_with_the_next_enable() -> None:
    """The manager, or the caps, kept its end from being placed."""
    image = Ending(ended(noted()), leased=True)
    forget_ended_schedule(cast("MirroredImage", image))
    image.leased = False
    assert image.noted == ENDED
    Scheduler(cast("SnapshotKeeper", None)).resume(
        cast("MirroredImage", image), replace(PRIMARY, notes=image.notes())
    )
    assert image.settled.wait(5)
    assert (image.scheduled, image.noted) == (None, None)


@pytest.mark.parametrize("stands", [True, False])
@pytest.mark.parametrize("primary", [True, False])
def test_what_the_manager_has_counts_and_not_the_note(*, stands: bool, primary: bool) -> None:
    """The schedule of a primary that the manager lost is put back with the next call."""
    image = Ending(noted(), scheduled=FIVE if stands else None)
    seen = as_kept(
        cast("MirroredImage", image), replace(PRIMARY, primary=primary, notes=image.notes())
    )
    wanted = wanted_schedule(seen.notes)
    assert wanted is not None
    assert (wanted.schedule, wanted.placed) == (FIVE, stands or not primary)
    Scheduler(cast("SnapshotKeeper", None)).resume(cast("MirroredImage", image), seen)
    assert image.settled.wait(5 if primary and not stands else 0) == (primary and not stands)
    assert (image.scheduled, image.noted) == (FIVE if stands or primary else None, noted())


@pytest.mark.parametrize(
    "seen",
    [
        replace(PRIMARY, primary=False),
        replace(PRIMARY, torn=Torn.READ_ONLY),
    ],
)
def test_an_end_that_came_stays(seen: MirrorView) -> None:
    """The image is secondary by now, or about to be: whatever was read before."""
    image = Ending(ended(noted()), seen=seen, scheduled=FIVE)
    before = replace(PRIMARY, notes=image.notes())
    scheduler = Scheduler(cast("SnapshotKeeper", None))
    scheduler.resume(cast("MirroredImage", image), before)
    target = scheduler._targets.get(SPEC)
    assert target is None or target.reached.wait(5)
    assert image.noted == ended(noted())
    if not seen.primary:
        scheduler.resume(cast("MirroredImage", image), replace(seen, notes=image.notes()))
        assert image.settled.wait(5)
        assert (image.scheduled, image.noted) == (None, None)


@pytest.mark.parametrize("standing", ["ended", "", "{}", "[]", "1", "null", "no JSON"])
def test_an_end_of_nothing_readable(standing: str) -> None:
    """A plain end, or what is no schedule, is none to go on with; an end is not ended twice."""
    again = ended(standing)
    assert ended_schedule({SCHEDULE: again}) is None
    assert wanted_schedule({SCHEDULE: again}) is None
    assert ended(ended(noted())) == ended(noted())


# --- what this version cannot read -----------------------------------------------------------


NEWER: Final = json.dumps({"every": "5m", "placed": True})
"""As a newer version may note a schedule."""


def settled(scheduler: Scheduler) -> bool:
    """Tell whether nothing is left to be done, waiting for it."""
    target = scheduler._targets.get(SPEC)
    return target is None or target.reached.wait(5)


@pytest.mark.parametrize("note", [NEWER, noted()[:-9], ""])
def test_a_schedule_that_cannot_be_read_stays(note: str) -> None:
    """A newer version noted it, or it is damaged: the primary keeps what the manager has."""
    image, scheduler = Ending(note, scheduled=FIVE), Scheduler(cast("SnapshotKeeper", None))
    seen = replace(PRIMARY, notes=image.notes())
    with capture_logs() as logs:
        for _ in range(3):
            scheduler.resume(cast("MirroredImage", image), seen)
            assert settled(scheduler)
    assert (image.scheduled, image.noted) == (FIVE, note)
    assert [each["log_level"] for each in logs] == ["warning"]
    told = replication_info(SPEC, seen, Observation(last_sync=synced(seen, NOW)))
    assert (told.health, told.schedule_in_place) == (Health.DEGRADED, None)
    assert "a snapshot schedule is noted which this version of the driver cannot" in told.message


def test_a_schedule_that_is_asked_for_replaces_what_cannot_be_read() -> None:
    """By Enable or Promote; what becomes unreadable later is told of again."""
    image, scheduler = Ending(NEWER), Scheduler(cast("SnapshotKeeper", None))
    with capture_logs() as logs:
        for _ in range(2):
            image.noted = NEWER
            scheduler.resume(cast("MirroredImage", image), replace(PRIMARY, notes=image.notes()))
            scheduler.keep(cast("MirroredImage", image), FIVE, Deadline.after(5))
            assert (image.scheduled, image.noted) == (FIVE, noted())
            seen = replace(PRIMARY, notes=image.notes())
            scheduler.resume(cast("MirroredImage", image), seen)
    assert len(logs) == 2
    told = replication_info(SPEC, seen, Observation(last_sync=synced(seen, NOW)))
    assert "cannot read" not in told.message


@pytest.mark.parametrize(
    ("seen", "note"),
    [
        (replace(PRIMARY, primary=False), NEWER),
        (replace(PRIMARY, mode=MirroringMode.JOURNAL), NEWER),
        (PRIMARY, ended(NEWER)),
        (PRIMARY, ENDED),
    ],
)
def test_where_no_schedule_is_wanted_none_stays(seen: MirrorView, note: str) -> None:
    """On a secondary, in journal mode, or when what cannot be read was ended."""
    image = Ending(note, seen=seen, scheduled=FIVE)
    scheduler = Scheduler(cast("SnapshotKeeper", None))
    scheduler.resume(cast("MirroredImage", image), replace(seen, notes=image.notes()))
    assert image.settled.wait(5)
    assert (image.scheduled, image.noted) == (None, None)


@dataclass
class Upgraded(Ending):
    """A primary for which a newer version is asked while this one is at the manager."""

    asked: int = 0

    def view(self) -> MirrorView:
        """Read the image with its note."""
        return replace(self.seen, notes=self.notes())

    def keep_schedule(self, wanted: Schedule | None) -> None:
        """Change what the manager has."""
        self.scheduled, self.noted = wanted, NEWER
        self.asked += 1


@pytest.mark.parametrize("note", [NEWER, ENDED])
def test_a_late_removal_leaves_what_it_cannot_read(note: str) -> None:
    """Whether it was noted before this one goes to the manager, or in that moment."""
    image, scheduler = Upgraded(note, scheduled=FIVE), Scheduler(cast("SnapshotKeeper", None))
    scheduler.drop(cast("MirroredImage", image))
    assert settled(scheduler)
    assert (image.noted, image.asked) == (NEWER, int(note == ENDED))


def test_what_cannot_be_read_removes_no_schedule() -> None:
    """A newer version was asked for another one while this one put its own in place."""
    image = Upgraded(noted(placed=False))
    scheduler = Scheduler(cast("SnapshotKeeper", None))
    scheduler.resume(cast("MirroredImage", image), replace(PRIMARY, notes=image.notes()))
    assert settled(scheduler)
    assert (image.scheduled, image.noted, image.asked) == (FIVE, NEWER, 1)


@dataclass
class Denying(Ending):
    """The same image, opened by a user that may only read; which a test sees."""

    denied: threading.Event = field(default_factory=threading.Event)

    def keep_schedule(self, wanted: Schedule | None) -> None:
        """Refuse, as the manager does."""
        self.denied.set()
        raise PermissionDenied(f"mgr: {wanted}")


def test_a_schedule_in_the_making_outlives_the_credentials_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Somebody who may only read asks for the image's state while the manager is away."""
    monkeypatch.setattr(scheduling, "_RETRY", 0.05)
    away, back = threading.Event(), threading.Event()
    owner, reader = Ending(noted(placed=False)), Denying(noted(placed=False))

    def keep_schedule(wanted: Schedule | None) -> None:
        if not away.is_set():
            away.set()
            assert back.wait(5)
            raise ManagerUnavailable("away")
        owner.scheduled = wanted

    monkeypatch.setattr(owner, "keep_schedule", keep_schedule)
    scheduler = Scheduler(cast("SnapshotKeeper", None))
    seen = replace(PRIMARY, notes=owner.notes())
    scheduler.resume(cast("MirroredImage", owner), seen)
    assert away.wait(5)
    scheduler.resume(cast("MirroredImage", reader), seen)
    back.set()
    assert owner.settled.wait(5)
    assert reader.denied.is_set()
    assert owner.scheduled == FIVE


@dataclass
class Waiting:
    """An image whose manager is away, for as long as it is told to be."""

    spec: ImageSpec
    back: threading.Event
    scheduled: bool = True

    def notes(self) -> Mapping[str, str]:
        """Say that the schedule is to end, until it has."""
        return {SCHEDULE: ENDED} if self.scheduled else {}

    def keep_schedule(self, wanted: Schedule | None) -> None:
        """Wait as a command to the manager does."""
        assert wanted is None
        assert self.back.wait(30)
        self.scheduled = False


def test_few_threads_wait_for_the_manager() -> None:
    """However many images wait for it; all are brought in line once it is back."""
    back = threading.Event()
    images = [Waiting(replace(SPEC, image=str(number)), back) for number in range(1000)]
    scheduler = Scheduler(cast("SnapshotKeeper", None))
    before = threading.active_count()
    for image in images:
        scheduler.drop(cast("MirroredImage", image), wait=0)
    waiting = threading.active_count() - before
    back.set()
    for image in images:
        scheduler.drop(cast("MirroredImage", image), wait=20)
    assert waiting <= 8
    assert not any(image.scheduled for image in images)


def test_a_thread_that_cannot_start_is_told_and_the_next_call_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The image is not taken to be in somebody's hands."""
    back = threading.Event()
    back.set()
    image, scheduler = Waiting(SPEC, back), Scheduler(cast("SnapshotKeeper", None))
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", _refuse)
        with pytest.raises(Exhausted, match="no thread can be started"):
            scheduler.drop(cast("MirroredImage", image))
    scheduler.drop(cast("MirroredImage", image))
    assert not image.scheduled


def _refuse(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
