# SPDX-License-Identifier: Apache-2.0
"""Which of several clusters is asked. The processes are real, but for Ceph."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import stand_in
from stand_in import KEY, UUID, Pool, demote, place

from csi_addons_rbd.candidates import Candidates
from csi_addons_rbd.clusters import Leads
from csi_addons_rbd.metrics import Metrics
from csi_addons_rbd.replication.calls import Credentials, DestinationCall, Located, Place
from csi_addons_rbd.replication.errors import (
    ClusterAmbiguous,
    ClusterUnreachable,
    Exhausted,
    PermissionDenied,
    SplitBrain,
    Unauthenticated,
    Unavailable,
    VolumeNotFound,
    WorkerLost,
)
from csi_addons_rbd.replication.volume_id import VolumeId
from csi_addons_rbd.worker_process import Wait
from csi_addons_rbd.workers import Workers

WHERE = Pool.HERITAGE
"""The pool in which the answer to a call that writes names the cluster, too."""


@pytest.fixture
def candidates(tmp_path: Path) -> Iterator[Candidates]:
    """Clusters whose workers speak the protocol, ended after the test."""
    metrics = Metrics(version="0", driver_name="rbd.test")
    workers = Workers(stand_in.work, stand_in.config(tmp_path), metrics)
    yield Candidates(workers, connect_timeout=5)
    workers.close(2)


def write(
    candidates: Candidates,
    *places: Place,
    named: bool = False,
    dropped: tuple[str, ...] = (),
    doubt: str = "",
    seconds: float = 20,
) -> str:
    """Demote; return the cluster that did it."""
    leads = Leads(places=places, named=named, dropped=dropped, doubt=doubt)
    answer = candidates.ask(demote(), leads, Wait.bounded(caller=None, own=seconds))
    assert isinstance(answer, Located)
    return answer.cluster


def read(candidates: Candidates, *places: Place, named: bool = False, seconds: float = 20) -> str:
    """Ask where the volume is."""
    call = DestinationCall(
        volume=VolumeId(cluster="here", pool=1, uuid=UUID),
        credentials=Credentials(user="csi", key=KEY),
    )
    leads = Leads(places=places, named=named)
    answer = candidates.ask(call, leads, Wait.bounded(caller=None, own=seconds))
    assert isinstance(answer, Located)
    return answer.cluster


# --- calls that write ---------------------------------------------------------------------


def test_a_write_goes_to_the_cluster_that_accepts_the_key(candidates: Candidates) -> None:
    """Wherever it stands in the order."""
    refused, good = place(Pool.REFUSED, "there"), place(WHERE)
    assert write(candidates, refused, good) == "here"
    assert write(candidates, good, refused) == "here"


@pytest.mark.parametrize("pool", [WHERE, Pool.ABSENT, Pool.SPLIT, Pool.FORBIDDEN])
def test_a_key_that_is_valid_on_two_clusters_writes_to_neither(
    candidates: Candidates, pool: Pool
) -> None:
    """Whether or not the volume is there, or the caps would allow it; the flag is named."""
    for places in ((place(pool), place(WHERE, "there")), (place(WHERE, "there"), place(pool))):
        with pytest.raises(ClusterAmbiguous, match=r"several clusters.*--local-clusters"):
            write(candidates, *places)


@pytest.mark.parametrize("pool", [Pool.CRASH, Pool.SILENT])
def test_no_write_while_one_cluster_does_not_tell_who_it_is(
    candidates: Candidates, pool: Pool
) -> None:
    """It may be the one that is meant; the caller's time is not used up for it."""
    began = time.monotonic()
    for places in ((place(pool, "dead"), place(WHERE)), (place(WHERE), place(pool, "dead"))):
        with pytest.raises(ClusterAmbiguous, match=r"cluster dead.*--local-clusters"):
            write(candidates, *places, seconds=4)
    assert time.monotonic() - began < 4 + 3


def test_two_ids_of_one_cluster_are_one(candidates: Candidates) -> None:
    """Told by the fsid, whichever way the monitors are written; both are asked in one message."""
    one, other = place(WHERE, "here-one"), place(WHERE, "here-two")
    assert write(candidates, one, other) == "here-one"
    assert write(candidates, other, one) == "here-two"


def test_the_first_error_is_told_when_no_cluster_accepts_the_key(candidates: Candidates) -> None:
    """As the cause and the cluster of that one."""
    with pytest.raises(Unauthenticated, match=r"^cluster there refuses"):
        write(candidates, place(Pool.REFUSED, "there"), place(Pool.REFUSED))


def test_absence_is_not_proven_by_a_refused_key(candidates: Candidates) -> None:
    """The volume may be in the cluster that refused it."""
    with pytest.raises(
        Unauthenticated,
        match=r"nothing on cluster here.*there.*refuses.*--local-clusters.*mend the secret$",
    ):
        write(candidates, place(Pool.ABSENT), place(Pool.REFUSED, "there"))


def test_the_answer_of_the_only_cluster_stands(candidates: Candidates) -> None:
    """An image in the wrong state, caps that do not allow it: no other cluster is asked."""
    for pool, error in ((Pool.SPLIT, SplitBrain), (Pool.ABSENT, VolumeNotFound)):
        with pytest.raises(error):
            write(candidates, place(pool))
    with pytest.raises(PermissionDenied):
        write(candidates, place(Pool.FORBIDDEN), place(Pool.REFUSED, "there"))


def test_a_dropped_candidate_keeps_a_write_from_another_sites_cluster(
    candidates: Candidates,
) -> None:
    """Unless it goes to the handle's own cluster, or the flag tells whose the others are."""
    assert write(candidates, place(WHERE, "here"), dropped=("there",)) == "here"
    with pytest.raises(ClusterAmbiguous, match=r"cluster here, too.*--local-clusters"):
        write(candidates, place(WHERE, "there"), dropped=("here",))
    with pytest.raises(ClusterAmbiguous, match=r"cluster here, too.*\(entry 2 is broken\)"):
        write(
            candidates,
            *(place(WHERE, "b"), place(Pool.REFUSED, "c")),
            dropped=("here",),
            doubt="entry 2 is broken",
        )
    assert write(candidates, place(WHERE, "there"), dropped=("here",), named=True) == "there"


def test_named_clusters_are_asked_in_order(candidates: Candidates) -> None:
    """Absence and a refused key lead on; whatever else comes ends the search."""
    there = place(WHERE, "there")
    for pool in (Pool.ABSENT, Pool.REFUSED):
        assert write(candidates, place(pool), there, named=True) == "there"
    assert write(candidates, place(WHERE), there, named=True) == "here"
    for pool, error in (
        (Pool.SPLIT, SplitBrain),
        (Pool.FORBIDDEN, PermissionDenied),
        (Pool.CRASH, WorkerLost),
    ):
        with pytest.raises(error):
            write(candidates, place(pool), there, named=True)


def test_absence_needs_all_clusters(candidates: Candidates) -> None:
    """Each proved it; one that refused the key, or was lost, did not."""
    with pytest.raises(VolumeNotFound, match="on cluster here; nothing on cluster there"):
        write(candidates, place(Pool.ABSENT), place(Pool.ABSENT, "there"), named=True)
    for last, error in ((Pool.REFUSED, Unauthenticated), (Pool.CRASH, WorkerLost)):
        with pytest.raises(error):
            write(candidates, place(Pool.ABSENT), place(last, "there"), named=True)


def test_a_stop_is_told_as_such(tmp_path: Path) -> None:
    """It is not for the flag to mend."""
    metrics = Metrics(version="0", driver_name="rbd.test")
    workers = Workers(stand_in.work, stand_in.config(tmp_path), metrics)
    candidates = Candidates(workers, connect_timeout=5)
    workers.close(2)
    with pytest.raises(Unavailable, match="shutting down") as told:
        write(candidates, place(WHERE), place(WHERE, "there"))
    assert type(told.value) is Unavailable


def test_a_limit_of_calls_is_told_as_such(tmp_path: Path) -> None:
    """At once, and not as a cluster that does not tell who it is."""
    metrics = Metrics(version="0", driver_name="rbd.test")
    one = stand_in.config(tmp_path, "--max-calls-per-cluster", "1")
    workers = Workers(stand_in.work, one, metrics)
    wait = Wait.bounded(caller=None, own=20)
    try:
        with (
            workers.asking(demote(), (place(Pool.SILENT),), wait),
            pytest.raises(Exhausted, match="which is the limit"),
        ):
            write(Candidates(workers, connect_timeout=5), place(WHERE), place(WHERE, "there"))
    finally:
        workers.close(2)


# --- calls that read ----------------------------------------------------------------------


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize(
    "pool", [Pool.REFUSED, Pool.ABSENT, Pool.CRASH, Pool.SILENT, Pool.DUMB, Pool.FORBIDDEN]
)
def test_a_read_is_answered_by_the_first_cluster_that_can(
    candidates: Candidates, pool: Pool, *, named: bool
) -> None:
    """A dead one takes half of the call's time at most, and one behind it none at all."""
    began = time.monotonic()
    places = (place(pool), place(Pool.ANSWER, "there"), place(Pool.SILENT, "last"))
    assert read(candidates, *places, seconds=8, named=named) == "there"
    assert time.monotonic() - began < 4 + 2


def test_who_a_cluster_is_takes_no_place_of_the_call(tmp_path: Path) -> None:
    """At a limit of one call to a cluster, a read and a write still have theirs."""
    metrics = Metrics(version="0", driver_name="rbd.test")
    one = stand_in.config(tmp_path, "--max-calls-per-cluster", "1")
    workers = Workers(stand_in.work, one, metrics)
    try:
        candidates = Candidates(workers, connect_timeout=5)
        refused = place(Pool.REFUSED, "there")
        for _ in range(2):
            assert read(candidates, place(Pool.ANSWER), refused) == "here"
            assert write(candidates, refused, place(WHERE)) == "here"
    finally:
        workers.close(2)


def test_a_read_that_none_can_answer(candidates: Candidates) -> None:
    """The first reason that is not absence is told; absence only where all proved it."""
    with pytest.raises(Unauthenticated, match="cluster b "):
        read(candidates, place(Pool.ABSENT), place(Pool.REFUSED, "b"), place(Pool.CRASH, "c"))
    with pytest.raises(ClusterUnreachable, match="cluster b did not tell within 1 s"):
        read(candidates, place(Pool.ABSENT), place(Pool.SILENT, "b"), seconds=2)
    with pytest.raises(VolumeNotFound, match="on cluster here; nothing on cluster b"):
        read(candidates, place(Pool.ABSENT), place(Pool.ABSENT, "b"))
    with pytest.raises(SplitBrain):
        read(candidates, place(Pool.SPLIT), place(Pool.ANSWER, "b"))
