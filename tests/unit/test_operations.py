# SPDX-License-Identifier: Apache-2.0
"""One operation at a time per image: joined by its like, refused to others, never freed early."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import cast

import pytest

from csi_addons_rbd.replication.calls import (
    Answer,
    Call,
    Credentials,
    DemoteCall,
    PromoteCall,
    Resynced,
)
from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.errors import (
    DeadlineExceeded,
    DriverError,
    ImageInUse,
    OperationRunning,
    PeerBehind,
    PeerUnreachable,
    PermissionDenied,
    PoolFull,
    PromotionBarred,
)
from csi_addons_rbd.replication.image import ImageSpec, MirroredImage
from csi_addons_rbd.replication.operations import Operations
from csi_addons_rbd.replication.replicator import Replicator
from csi_addons_rbd.replication.volume_id import VolumeId

SPEC = ImageSpec(cluster="site-dr1", pool="pool", pool_id=1, namespace="", image="csi-vol-1")
UUID = "b0285c97-a0ce-11eb-8c66-0242ac110002"
READY = Resynced(ready=True)
OWN = Resynced(ready=False)


def promotion(*, cluster: str = "site-dr1", force: bool = False) -> PromoteCall:
    """Make a promotion, perhaps by another handle of the same image."""
    return PromoteCall(
        volume=VolumeId(cluster=cluster, pool=1, uuid=UUID),
        credentials=Credentials(user=cluster, key="secret"),
        force=force,
        schedule=None,
    )


class Slow:
    """An operation that ends when it is told to."""

    def __init__(self, operations: Operations, call: Call) -> None:
        self.runs = 0
        self.began, self.may_end = threading.Event(), threading.Event()
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run, args=(operations, call), daemon=True)
        self.thread.start()
        assert self.began.wait(20)

    def _run(self, operations: Operations, call: Call) -> None:
        with suppress(DriverError, ValueError):
            operations.run(SPEC, call, self.work, Deadline.after(0))

    def work(self, after: Call | None) -> Answer:
        """Count, wait, answer."""
        assert after is None
        self.runs += 1
        self.began.set()
        assert self.may_end.wait(5)
        if self.error:
            raise self.error
        return READY


@dataclass
class Arrival:
    """The deadline of a caller, with whose first look at it the slow operation may end."""

    slow: Slow

    @property
    def remaining(self) -> float:
        """Be looked at, which is right before the wait."""
        self.slow.may_end.set()
        return 5


def joined(slow: Slow, operations: Operations, call: Call) -> tuple[Answer, list[Call | None]]:
    """Join a slow operation; return the answer, and after which calls one's own work was done."""
    own: list[Call | None] = []

    def work(after: Call | None) -> Answer:
        own.append(after)
        return OWN

    try:
        return operations.run(SPEC, call, work, cast("Deadline", Arrival(slow))), own
    finally:
        slow.may_end.set()
        slow.thread.join()


@pytest.mark.parametrize("user", ["site-dr1", "site-dr2"])
def test_who_joined_is_judged_by_its_own_arrival(user: str) -> None:
    """It waits for the same operation, by whatever handle or credentials, and looks for itself."""
    operations = Operations()
    running = promotion()
    slow = Slow(operations, running)
    answer, own = joined(slow, operations, promotion(cluster=user))
    assert answer is OWN
    assert own == [running]
    assert slow.runs == 1


@pytest.mark.parametrize(
    ("failure", "user", "shared"),
    [
        (PeerBehind("not yet"), "site-dr1", True),
        (PeerBehind("not yet"), "site-dr2", False),
        (ImageInUse("by client.1"), "site-dr1", True),
        (ImageInUse("by client.1"), "site-dr2", False),
        (PermissionDenied("no caps"), "site-dr2", False),
        (PeerUnreachable("force"), "site-dr1", False),
        (ValueError("a fault"), "site-dr1", False),
    ],
)
def test_only_what_nobody_acts_on_is_shared(failure: Exception, user: str, *, shared: bool) -> None:
    """Neither what evidence of before its arrival showed, nor what another's rights forbid."""
    operations = Operations()
    slow = Slow(operations, promotion())
    slow.error = failure
    if shared:
        with pytest.raises(type(failure), match=str(failure)):
            joined(slow, operations, promotion(cluster=user))
        return
    answer, own = joined(slow, operations, promotion(cluster=user))
    assert answer is OWN
    assert len(own) == 1


class Wait:
    """A deadline that tells when it is looked at, which is right before each wait."""

    def __init__(self, looks: threading.Semaphore) -> None:
        self.looks = looks

    @property
    def remaining(self) -> float:
        """Be looked at."""
        self.looks.release()
        return 5


def test_who_joined_another_that_had_joined_knows_of_the_first() -> None:
    """Its own rights are no better than those of the one it waited for, who may have had none."""
    operations, looks = Operations(), threading.Semaphore(0)
    running, reader = promotion(), promotion(cluster="site-dr2")
    slow = Slow(operations, running)
    told: list[Call | None] = []

    def work(after: Call | None) -> Answer:
        told.append(after)
        if len(told) == 1:
            assert looks.acquire(timeout=5), "the other one waits for this one"
        raise PermissionDenied("no caps")

    def join() -> None:
        with pytest.raises(PermissionDenied):
            operations.run(SPEC, reader, work, cast("Deadline", Wait(looks)))

    with ThreadPoolExecutor() as executor:
        readers = [executor.submit(join) for _ in range(2)]
        for _ in readers:
            assert looks.acquire(timeout=5), "both wait for the first"
        slow.may_end.set()
        for each in readers:
            each.result(10)
    slow.thread.join()
    assert told == [running, running]


class Full:
    """An image in a full pool."""

    spec = SPEC

    @contextmanager
    def lease(self, _: Deadline) -> Iterator[None]:
        """Refuse."""
        raise PoolFull("no room")
        yield


@pytest.mark.parametrize(
    ("call", "refusal"),
    [
        (promotion(), PromotionBarred),
        (DemoteCall(volume=promotion().volume, credentials=promotion().credentials), PoolFull),
    ],
)
def test_nobody_is_sent_to_force_in_a_full_pool(call: Call, refusal: type[Exception]) -> None:
    """Nor where the right to do what others have done is looked for."""
    others = replace(call, credentials=Credentials(user="another", key="rotated"))
    replicator, image = Replicator(wait=1, check_interval=0), cast("MirroredImage", Full())
    with pytest.raises(refusal, match="no room") as caught:
        replicator._operate(image, call, Deadline.after(5), others)
    assert type(caught.value) is refusal


@pytest.mark.parametrize(
    "other",
    [
        promotion(force=True),
        DemoteCall(volume=promotion().volume, credentials=promotion().credentials),
    ],
)
def test_a_different_call_is_told_who_runs(other: Call) -> None:
    """Another operation, or the same with force, does not touch the image."""
    operations = Operations()
    slow = Slow(operations, promotion())
    with pytest.raises(OperationRunning, match="promote has been running on image pool/csi-vol-1"):
        operations.run(SPEC, other, slow.work, Deadline.after(5))
    assert slow.runs == 1
    slow.may_end.set()
    slow.thread.join()


def test_who_gives_up_leaves_the_image_held() -> None:
    """A caller's deadline ends its wait, not the operation, which keeps its lock."""
    operations = Operations()
    slow = Slow(operations, promotion())
    with pytest.raises(DeadlineExceeded, match="goes on"):
        operations.run(SPEC, promotion(), slow.work, Deadline.after(0.05))
    with pytest.raises(OperationRunning):
        operations.run(SPEC, promotion(force=True), slow.work, Deadline.after(0.05))
    slow.may_end.set()
    slow.thread.join()
    assert operations.run(SPEC, promotion(force=True), slow.work, Deadline.after(5)) is READY


def test_a_failure_frees_the_image() -> None:
    """The next call starts anew."""
    operations = Operations()
    after: list[Call | None] = []

    def fail(call: Call | None) -> Answer:
        after.append(call)
        raise PeerBehind("not yet")

    for _ in range(2):
        with pytest.raises(PeerBehind, match="not yet"):
            operations.run(SPEC, promotion(), fail, Deadline.after(1))
    assert after == [None, None]


def test_images_do_not_exclude_each_other() -> None:
    """A slow image delays no other."""
    operations = Operations()
    slow = Slow(operations, promotion())
    other = ImageSpec(cluster="site-dr1", pool="pool", pool_id=1, namespace="", image="csi-vol-2")
    assert operations.run(other, promotion(), lambda _: READY, Deadline.after(1)) is READY
    slow.may_end.set()
    slow.thread.join()
