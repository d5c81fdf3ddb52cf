# SPDX-License-Identifier: Apache-2.0
"""How old the newest mirror snapshot is, whatever the clocks say; and that turns are taken."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, cast

import pytest
from test_promotion_rules import PRIMARY, SPEC, status, view

from csi_addons_rbd.replication import keeper
from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.errors import (
    CephFailure,
    ClusterUnreachable,
    DriverError,
    Exhausted,
    LeaseHeld,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)
from csi_addons_rbd.replication.image import Epoch, ImageSpec, MirroredImage, MirrorView
from csi_addons_rbd.replication.keeper import SnapshotKeeper, _Kept
from csi_addons_rbd.replication.notes import SCHEDULE
from csi_addons_rbd.replication.observations import Observations


def seen(mark: int, taken: float) -> MirrorView:
    """Make a reading of a primary whose newest snapshot has this id and this time."""
    primary = view(status("", PRIMARY), epoch=Epoch.PRIMARY)
    return replace(primary, history=replace(primary.history, mark=mark, newest_at=int(taken)))


@pytest.fixture
def kept() -> _Kept:
    """An image whose interval is 30 s; nothing here talks to it."""
    return _Kept(cast("MirroredImage", None), 30)


@pytest.mark.parametrize(("ago", "age"), [(0, 0), (12, 12), (3600, 30), (-3600, 0)])
def test_the_clock_of_the_cluster_is_believed_within_the_interval(
    kept: _Kept, ago: int, age: int
) -> None:
    """At first sight the difference of the clocks counts, but never beyond the interval."""
    assert kept.age(seen(1, time.time() - ago)) == pytest.approx(age, abs=1.5)


def test_our_own_snapshots_are_timed_by_our_own_clock(kept: _Kept) -> None:
    """With the cluster's clock an hour behind, the next snapshot is still an interval away."""
    assert kept.age(seen(1, time.time() - 3600)) == pytest.approx(30, abs=1)
    kept.taken(2)
    assert kept.age(seen(2, time.time() - 3600)) == pytest.approx(0, abs=1)
    assert kept.age(seen(2, time.time() - 3600)) == pytest.approx(0, abs=1)


def test_a_snapshot_of_somebody_else_counts(kept: _Kept) -> None:
    """Whoever took the newest snapshot, an interval passes before the next."""
    kept.age(seen(1, time.time() - 30))
    assert kept.age(seen(2, time.time() - 5)) == pytest.approx(5, abs=1.5)


START: Final = threading.Thread.start


@dataclass
class Image:
    """An image whose first look ends its schedule."""

    spec: ImageSpec = SPEC
    looked_at: threading.Event = field(default_factory=threading.Event)

    def notes(self) -> Mapping[str, str]:
        """Say that there is no such image."""
        self.looked_at.set()
        raise NotFound("gone")


def test_a_dispatcher_that_cannot_start_is_started_by_the_next_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first caller is told; without it no schedule of the worker would ever be kept."""
    image, snapshots = Image(), SnapshotKeeper(Observations(30))
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", _refuse)
        with pytest.raises(Exhausted, match="no thread can be started"):
            snapshots.keep(cast("MirroredImage", image), 30)
    snapshots.keep(cast("MirroredImage", image), 30)
    assert image.looked_at.wait(5)


def test_a_turn_for_which_no_thread_can_start_comes_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It must not end the thread that hands out the turns of all images."""
    monkeypatch.setattr(keeper, "_AGAIN", 0.05)
    image, snapshots = Image(), SnapshotKeeper(Observations(30))
    refused = threading.Event()

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("snapshots"):
            refused.set()
            _refuse(thread)
        START(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        snapshots.keep(cast("MirroredImage", image), 30)
        assert refused.wait(5)
    assert image.looked_at.wait(5)


@dataclass
class Reading:
    """An image as a user opens it who may read it, and no more; or whose key was changed."""

    refusal: DriverError
    spec: ImageSpec = SPEC
    asked: int = 0

    def notes(self) -> Mapping[str, str]:
        """Read the schedule."""
        self.asked += 1
        raise self.refusal


@dataclass
class Writing:
    """The same image as its owner opens it."""

    spec: ImageSpec = SPEC
    taken: int = 0
    asked: int = 0
    failing: DriverError | None = None
    awaited: bool = False
    """Whether a peer still lacks the newest snapshot."""
    announced: int = 0

    def notes(self) -> Mapping[str, str]:
        """Read the schedule, if the cluster answers."""
        self.asked += 1
        if self.failing is not None:
            raise self.failing
        note = {"seconds": 10, "by_driver": True, "start_time": None, "placed": True}
        return {SCHEDULE: json.dumps(note)}

    def view(self) -> MirrorView:
        """Read the image."""
        primary = replace(view(status("", PRIMARY), epoch=Epoch.PRIMARY), primary=True)
        history = replace(primary.history, mark=self.taken, newest_at=0, awaited=self.awaited)
        return replace(primary, history=history)

    def announce(self, view: MirrorView) -> None:
        """Notify rbd-mirror."""
        self.announced += view.history.awaited

    @contextmanager
    def lease(self, _: Deadline) -> Iterator["Writing"]:
        """Be the only driver."""
        yield self

    def take_snapshot(self) -> int:
        """Take one."""
        self.taken += 1
        return self.taken


@pytest.fixture
def snapshots(monkeypatch: pytest.MonkeyPatch) -> SnapshotKeeper:
    """A keeper that takes no turn by itself."""
    monkeypatch.setattr(SnapshotKeeper, "_start", lambda *_: None)
    return SnapshotKeeper(Observations(30))


def keep(snapshots: SnapshotKeeper, *images: Writing | Reading) -> _Kept:
    """Let calls ask for the same image, each with what it brings."""
    for image in images:
        snapshots.keep(cast("MirroredImage", image), 10)
    return snapshots._kept[SPEC]


REFUSALS = pytest.mark.parametrize(
    "refusal", [PermissionDenied("to read only"), Unauthenticated("old key")]
)


@REFUSALS
def test_a_first_snapshot_outlives_the_credentials_of_others(
    snapshots: SnapshotKeeper, refusal: DriverError
) -> None:
    """Who may only read the image asks for its state before the owner's first turn has come."""
    owner, reader = Writing(), Reading(refusal)
    kept = keep(snapshots, owner, reader, reader)
    assert snapshots._attempt(kept) == 10
    assert (owner.taken, reader.asked) == (1, 0)


@REFUSALS
def test_a_schedule_outlives_the_credentials_of_others(
    snapshots: SnapshotKeeper, refusal: DriverError
) -> None:
    """Also where they came first. Once a snapshot is taken, it goes on with the same rights.

    And where those are refused, as after a change of the key, with what the newest call brought;
    it ends when that is refused, too.
    """
    reader, owner = Reading(refusal), Writing()
    kept = keep(snapshots, reader, owner)
    assert snapshots._attempt(kept) == 0
    assert (snapshots._attempt(kept), owner.taken, reader.asked) == (10, 1, 1)
    keep(snapshots, reader)
    kept.since = 0
    assert (snapshots._attempt(kept), owner.taken, reader.asked) == (10, 2, 1)
    owner.failing = Unauthenticated("its key was changed")
    assert snapshots._attempt(kept) == 0
    assert snapshots._attempt(kept) is None
    assert (owner.asked, reader.asked) == (3, 2)


@pytest.mark.parametrize("failure", [ClusterUnreachable("silent"), CephFailure("EIO")])
def test_a_schedule_outlives_the_monitors_it_began_with(
    snapshots: SnapshotKeeper, failure: DriverError
) -> None:
    """Each call brings those of today; rights that were withdrawn may show as silence, too."""
    before, after = Writing(), Writing()
    kept = keep(snapshots, before)
    assert snapshots._attempt(kept) == 10
    before.failing = failure
    assert snapshots._attempt(kept) == keeper._AGAIN
    keep(snapshots, after)
    assert snapshots._attempt(kept) == keeper._AGAIN
    assert (snapshots._attempt(kept), after.taken) == (10, 1)
    kept.since = 0
    assert (snapshots._attempt(kept), after.taken, before.asked) == (10, 2, 3)


def test_an_outage_costs_nobody_the_schedule(snapshots: SnapshotKeeper) -> None:
    """While the cluster is silent a user that may only read is tried, and then the owner again."""
    owner, reader = Writing(), Reading(PermissionDenied("to read only"))
    kept = keep(snapshots, owner, reader)
    owner.failing = ClusterUnreachable("silent")
    assert snapshots._attempt(kept) == keeper._AGAIN
    assert snapshots._attempt(kept) == 0
    assert snapshots._attempt(kept) == keeper._AGAIN
    owner.failing = None
    assert (snapshots._attempt(kept), owner.taken, reader.asked) == (10, 1, 1)


def test_a_snapshot_that_the_peer_lacks_is_announced(snapshots: SnapshotKeeper) -> None:
    """librbd may have been killed before it did; without the news no other would ever be taken."""
    image = Writing(awaited=True)
    kept = keep(snapshots, image)
    assert snapshots._attempt(kept) == keeper._WAITING
    assert (image.taken, image.announced) == (0, 1)
    image.awaited = False
    assert (snapshots._attempt(kept), image.taken, image.announced) == (10, 1, 1)


def test_what_passes_by_itself_changes_nothing(snapshots: SnapshotKeeper) -> None:
    """Another driver has the lease for a moment: the same rights are right a little later."""
    owner, reader = Writing(), Reading(PermissionDenied("to read only"))
    kept = keep(snapshots, owner, reader)
    owner.failing = LeaseHeld("another driver")
    assert snapshots._attempt(kept) == keeper._AGAIN
    owner.failing = None
    assert (snapshots._attempt(kept), owner.taken, reader.asked) == (10, 1, 0)


def _refuse(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
