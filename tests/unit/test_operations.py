# SPDX-License-Identifier: Apache-2.0
"""One operation at a time per image: joined by its like, refused to others, never freed early."""

import threading

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
from csi_addons_rbd.replication.errors import DeadlineExceeded, OperationRunning, PeerBehind
from csi_addons_rbd.replication.image import ImageSpec
from csi_addons_rbd.replication.operations import Operations
from csi_addons_rbd.replication.volume_id import VolumeId

SPEC = ImageSpec(cluster="site-dr1", pool="pool", pool_id=1, namespace="", image="csi-vol-1")
UUID = "b0285c97-a0ce-11eb-8c66-0242ac110002"
READY = Resynced(ready=True)


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
        self.thread = threading.Thread(
            target=lambda: operations.run(SPEC, call, self.work, Deadline.after(0)), daemon=True
        )
        self.thread.start()
        assert self.began.wait(20)

    def work(self) -> Answer:
        """Count, wait, answer."""
        self.runs += 1
        self.began.set()
        assert self.may_end.wait(5)
        if self.error:
            raise self.error
        return READY


def test_the_same_call_joins_and_gets_the_same_answer() -> None:
    """A repeated call shares the running one's result, by whatever handle or credentials."""
    operations = Operations()
    slow = Slow(operations, promotion())
    timer = threading.Timer(0.1, slow.may_end.set)
    timer.start()
    call = promotion(cluster="site-dr2")
    assert operations.run(SPEC, call, slow.work, Deadline.after(5)) is READY
    assert slow.runs == 1
    timer.join()
    slow.thread.join()


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


def test_a_failure_is_shared_and_frees_the_image() -> None:
    """Whoever joined gets the same error; the next call starts anew."""
    operations = Operations()
    seen: list[str] = []

    def fail() -> Answer:
        raise PeerBehind("not yet")

    for _ in range(2):
        try:
            operations.run(SPEC, promotion(), fail, Deadline.after(1))
        except PeerBehind as exc:
            seen.append(exc.message)
    assert seen == ["not yet", "not yet"]


def test_images_do_not_exclude_each_other() -> None:
    """A slow image delays no other."""
    operations = Operations()
    slow = Slow(operations, promotion())
    other = ImageSpec(cluster="site-dr1", pool="pool", pool_id=1, namespace="", image="csi-vol-2")
    assert operations.run(other, promotion(), lambda: READY, Deadline.after(1)) is READY
    slow.may_end.set()
    slow.thread.join()
