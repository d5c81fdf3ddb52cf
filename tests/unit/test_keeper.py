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
    DriverError,
    Exhausted,
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

    def notes(self) -> Mapping[str, str]:
        """Read the schedule."""
        note = {"seconds": 10, "by_driver": True, "start_time": None, "placed": True}
        return {SCHEDULE: json.dumps(note)}

    def view(self) -> MirrorView:
        """Read the image, whose newest snapshot every peer has."""
        primary = replace(view(status("", PRIMARY), epoch=Epoch.PRIMARY), primary=True)
        return replace(primary, history=replace(primary.history, mark=self.taken, newest_at=0))

    @contextmanager
    def lease(self, _: Deadline) -> Iterator["Writing"]:
        """Be the only driver."""
        yield self

    def take_snapshot(self) -> int:
        """Take one."""
        self.taken += 1
        return self.taken


@pytest.mark.parametrize("refusal", [PermissionDenied("to read only"), Unauthenticated("old key")])
def test_a_schedule_outlives_the_credentials_of_others(refusal: DriverError) -> None:
    """Who may only read the image asks for its state: snapshots go on with the owner's rights.

    And where those are refused, as after a change of the key, with what the newest call brought.
    """
    snapshots, owner, reader = SnapshotKeeper(Observations(30)), Writing(), Reading(refusal)
    kept = _Kept(cast("MirroredImage", owner), 10)
    assert snapshots._attempt(kept) == 10
    kept.image = cast("MirroredImage", reader)
    kept.since = 0
    assert (snapshots._attempt(kept), owner.taken, reader.asked) == (10, 2, 0)
    kept.image, kept.proven = cast("MirroredImage", owner), cast("MirroredImage", reader)
    assert snapshots._attempt(kept) == 0
    kept.since = 0
    assert (snapshots._attempt(kept), owner.taken, reader.asked) == (10, 3, 1)
    kept.image, kept.proven = cast("MirroredImage", reader), None
    assert snapshots._attempt(kept) is None


def _refuse(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
