# SPDX-License-Identifier: Apache-2.0
"""Worker processes: asked, lost, replaced, limited and ended. The processes are real."""

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import stand_in
from prometheus_client import generate_latest
from stand_in import Pool, demote, place

from csi_addons_rbd import worker_process
from csi_addons_rbd.config import Config
from csi_addons_rbd.metrics import Metrics
from csi_addons_rbd.replication.calls import Located
from csi_addons_rbd.replication.errors import (
    ClusterUnreachable,
    DeadlineExceeded,
    Exhausted,
    SplitBrain,
    Unavailable,
    WorkerLost,
)
from csi_addons_rbd.worker_process import Wait
from csi_addons_rbd.workers import Workers, _spawning, run_once


@pytest.fixture
def metrics() -> Metrics:
    """Where starts and losses are counted."""
    return Metrics(version="0", driver_name="rbd.test")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Two calls at once to one cluster."""
    return stand_in.config(tmp_path, "--max-calls-per-cluster", "2")


@pytest.fixture
def workers(config: Config, metrics: Metrics) -> Iterator[Workers]:
    """Workers that speak the protocol, ended after the test."""
    workers = Workers(stand_in.work, config, metrics)
    yield workers
    workers.close(2)


def bound(seconds: float = 20) -> Wait:
    """Return our own bound."""
    return Wait.bounded(caller=None, own=seconds)


def count(metrics: Metrics, series: str) -> float:
    """Return the sum of one metric over its labels."""
    lines = generate_latest(metrics.registry).decode().splitlines()
    series = series if "{" in series else f"{series}{{"
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(series))


def test_answer_and_error(workers: Workers) -> None:
    """An answer is returned, and an error is raised as what it was in the worker."""
    assert workers.ask(demote(), (place(Pool.ANSWER),), bound()) is None
    with pytest.raises(SplitBrain, match=r"^split-brain$"):
        workers.ask(demote(), (place(Pool.SPLIT),), bound())


@pytest.mark.parametrize("started", [0, 1])
def test_a_worker_for_which_no_thread_can_start_is_no_worker(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, started: int
) -> None:
    """The caller is told to come again later, no process is left, and the next call has one."""
    start, left = threading.Thread.start, [None] * started

    def refuse(thread: threading.Thread) -> None:
        if not left:
            raise RuntimeError("can't start new thread")
        left.pop()
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(Exhausted, match="no worker can be started for cluster here"):
            workers.ask(demote(), (place(Pool.ANSWER),), bound())
    until = time.monotonic() + 20
    while stand_in.workers_of(os.getpid()) and time.monotonic() < until:
        time.sleep(0.02)
    assert not stand_in.workers_of(os.getpid())
    assert workers.ask(demote(), (place(Pool.ANSWER),), bound()) is None


@pytest.mark.parametrize(
    "monitors",
    [
        ("10.0.0.1:6789", "10.0.0.9:6789"),
        ("[v2:10.0.0.9:3300/0,v1:10.0.0.1:6789/0]",),
        ("10.0.0.9:6789,10.0.0.1:6789",),
    ],
)
def test_one_worker_for_one_cluster(
    workers: Workers, metrics: Metrics, monitors: tuple[str, ...]
) -> None:
    """Two cluster ids with a monitor in common share one worker, and are asked in one message."""
    places = (place(Pool.ANSWER, "one", "10.0.0.1:6789"), place(Pool.ANSWER, "two", *monitors))
    for each in places:
        workers.ask(demote(), (each,), bound())
    workers.ask(demote(), places, bound())
    assert count(metrics, "csi_addons_rbd_worker_starts_total") == 1


def test_two_workers_for_two_clusters(workers: Workers, metrics: Metrics) -> None:
    """Clusters on one host, told apart by their ports, have a worker each."""
    for port in ("6789", "6790"):
        workers.ask(demote(), (place(Pool.ANSWER, port, f"127.0.0.1:{port}"),), bound())
    assert count(metrics, "csi_addons_rbd_worker_starts_total") == 2


@pytest.mark.parametrize(
    ("pool", "how"),
    [(Pool.CRASH, r"signal 11 \(Segmentation fault\)"), (Pool.EXIT, "exit code 3")],
)
def test_crash(workers: Workers, metrics: Metrics, pool: Pool, how: str) -> None:
    """A crash fails the calls that run, names cluster and end, and the next call has a worker."""
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(workers.ask, demote(), (place(Pool.SILENT),), bound())
        time.sleep(1.1)  # older than the pause between two workers
        with pytest.raises(WorkerLost, match=f"cluster here .*{how}"):
            workers.ask(demote(), (place(pool),), bound())
        with pytest.raises(WorkerLost):
            waiting.result(10)
    assert workers.ask(demote(), (place(Pool.ANSWER),), bound()) is None
    assert count(metrics, "csi_addons_rbd_worker_losses_total") == 1
    assert count(metrics, "csi_addons_rbd_worker_starts_total") == 2


def test_a_successor_is_told_what_the_dead_left_behind(workers: Workers) -> None:
    """The clients last heard of are handed on, also past a successor that died before a word."""
    assert workers.ask(demote(), (place(Pool.HERITAGE),), bound()) == left("")
    workers.ask(demote(), (place(Pool.BEAT),), bound())
    for _ in range(2):
        time.sleep(1.1)  # older than the pause between two workers
        with pytest.raises(WorkerLost):
            workers.ask(demote(), (place(Pool.CRASH),), bound())
    time.sleep(1.1)
    assert workers.ask(demote(), (place(Pool.HERITAGE),), bound()) == left("a b")


def left(clients: str) -> Located:
    """Return what the stand-in answers that knows of these clients."""
    return Located(cluster="here", pool=clients, pool_id=Pool.HERITAGE)


def test_a_successor_that_could_not_be_started_costs_nothing(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one still knows the clients of the dead, and the monitors of its cluster."""
    for monitor in ("10.0.0.1:6789", "10.0.0.2:6789"):
        workers.ask(demote(), (place(Pool.BEAT, "here", monitor),), bound())
    time.sleep(1.1)  # older than the pause between two workers
    with pytest.raises(WorkerLost):
        workers.ask(demote(), (place(Pool.CRASH, "here", "10.0.0.2:6789"),), bound())
    with monkeypatch.context() as patched:
        patched.setattr(_spawning.Process, "start", refuse(errno.EAGAIN))
        with pytest.raises(Exhausted, match="no worker can be started for cluster here"):
            workers.ask(demote(), (place(Pool.HERITAGE, "here", "10.0.0.2:6789"),), bound())
    there = place(Pool.HERITAGE, "there", "10.0.0.1:6789")
    assert workers.ask(demote(), (there,), bound()) == replace(left("a b"), cluster="there")


@pytest.mark.parametrize(("owner", "name"), [(_spawning, "Pipe"), (_spawning.Process, "start")])
def test_a_worker_that_cannot_be_started_leaves_no_descriptor(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, owner: object, name: str
) -> None:
    """The caller is told to come again later, at a limit of descriptors, too."""
    before = descriptors()
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, refuse(errno.EMFILE))
        with pytest.raises(Exhausted, match="Too many open files") as refused:
            workers.ask(demote(), (place(Pool.ANSWER),), bound())
    assert descriptors() == before, refused  # whose frames keep open what is not closed
    assert workers.ask(demote(), (place(Pool.ANSWER),), bound()) is None


def refuse(number: int) -> Callable[..., None]:
    """Return what fails at a limit of the operating system."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def descriptors() -> set[str]:
    """Return the open descriptors of this process, and what they are."""
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the directory itself
            found.add(f"{each.name} {each.readlink()}")
    return found


def test_a_worker_that_can_be_told_nothing_any_more_is_replaced(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lives and beats; without an end all later calls would wait in vain."""
    workers.ask(demote(), (place(Pool.ANSWER),), bound())
    time.sleep(1.1)  # older than the pause between two workers
    with monkeypatch.context() as patched:
        patched.setattr(workers._workers[0]._connection, "send", refuse(errno.ENOBUFS))
        with pytest.raises(WorkerLost, match="Killed"):
            workers.ask(demote(), (place(Pool.ANSWER),), bound(5))
    assert workers.ask(demote(), (place(Pool.ANSWER),), bound(5)) is None


def test_crash_loop_is_slow(workers: Workers, metrics: Metrics) -> None:
    """A cluster whose workers crash at once gets no more than one a second."""
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        with pytest.raises(WorkerLost):
            workers.ask(demote(), (place(Pool.CRASH),), bound())
    assert count(metrics, "csi_addons_rbd_worker_starts_total") <= 3


def test_other_clusters_live_on(workers: Workers) -> None:
    """The loss of one cluster's worker is nothing to another cluster."""
    with ThreadPoolExecutor(1) as other:
        late = other.submit(workers.ask, demote(), (place(Pool.LATE, "there"),), bound())
        with pytest.raises(WorkerLost):
            workers.ask(demote(), (place(Pool.CRASH),), bound())
        assert late.result(10) is not None


def test_unreadable_reply(workers: Workers) -> None:
    """A worker that sends something else is lost, rather than waited for."""
    with pytest.raises(WorkerLost):
        workers.ask(demote(), (place(Pool.GARBAGE),), bound())


def test_own_bound(workers: Workers) -> None:
    """At our own bound the cluster is called unreachable, and the place is free again."""
    for _ in range(3):
        began = time.monotonic()
        with pytest.raises(ClusterUnreachable, match=r"cluster here .* within 0\.3 s"):
            workers.ask(demote(), (place(Pool.SILENT),), bound(0.3))
        assert time.monotonic() - began < 10


def test_callers_deadline(workers: Workers) -> None:
    """At the caller's deadline the error says so, a little before it."""
    wait = Wait.bounded(caller=1, own=60)
    assert 0 < wait.until.remaining < 1
    with pytest.raises(DeadlineExceeded, match="goes on"):
        workers.ask(demote(), (place(Pool.SILENT),), wait)


def test_nearer_limit_counts() -> None:
    """The nearer of the two limits is taken, and remembered as whose it is."""
    assert not Wait.bounded(caller=180, own=60).callers
    assert Wait.bounded(caller=180, own=60).seconds == 60
    assert Wait.bounded(caller=30, own=60).callers
    assert Wait.bounded(caller=30, own=60).seconds == 29.75
    assert Wait.bounded(caller=0, own=60).until.remaining == 0


def test_late_reply_is_dropped(workers: Workers) -> None:
    """The reply to a call that was given up on is nobody else's."""
    with pytest.raises(ClusterUnreachable):
        workers.ask(demote(), (place(Pool.LATE),), bound(0.1))
    assert workers.ask(demote(), (place(Pool.ANSWER),), bound()) is None


def test_limit_of_one_cluster(workers: Workers) -> None:
    """One cluster takes no more than its places, refuses at once, and leaves others alone."""
    with ThreadPoolExecutor(2) as others:
        held = [
            others.submit(workers.ask, demote(), (place(Pool.SILENT),), bound(2)) for _ in range(2)
        ]
        eventually(lambda: bool(workers._workers) and len(workers._workers[0]._pending) == 2)
        began = time.monotonic()
        with pytest.raises(Exhausted, match="2 calls to cluster here"):
            workers.ask(demote(), (place(Pool.ANSWER),), bound())
        assert time.monotonic() - began < 5
        assert workers.ask(demote(), (place(Pool.ANSWER, "there"),), bound()) is None
        for each in held:
            with pytest.raises(ClusterUnreachable):
                each.result(10)
    assert workers.ask(demote(), (place(Pool.ANSWER),), bound()) is None


def test_worker_that_does_not_read(config: Config, metrics: Metrics) -> None:
    """A stopped worker with a full pipe delays nobody beyond their own time."""
    workers = Workers(stand_in.stubborn, config, metrics)
    long_handle = demote(cluster="c" * 50_000)
    try:
        for _ in range(20):
            began = time.monotonic()
            with pytest.raises(ClusterUnreachable):
                workers.ask(long_handle, (place(Pool.ANSWER),), bound(0.1))
            assert time.monotonic() - began < 10
    finally:
        workers.close(0.1)


def test_beats_show_in_the_metrics(workers: Workers, metrics: Metrics) -> None:
    """What runs, and how the cluster is reached; a lost worker runs nothing and holds nothing."""
    workers.ask(demote(), (place(Pool.BEAT),), bound())
    assert count(metrics, "csi_addons_rbd_cluster_silent") == 1
    assert count(metrics, "csi_addons_rbd_cluster_connections") == 2
    answered = "csi_addons_rbd_cluster_last_answer_timestamp_seconds"
    assert count(metrics, answered) == 1_700_000_000.5
    assert count(metrics, 'csi_addons_rbd_operations_running{cluster="here",operation="pro') == 2
    assert count(metrics, "csi_addons_rbd_operation_oldest_seconds") == 61.5
    with pytest.raises(WorkerLost):
        workers.ask(demote(), (place(Pool.CRASH),), bound())
    eventually(lambda: count(metrics, "csi_addons_rbd_operations_running") == 0)
    assert count(metrics, "csi_addons_rbd_cluster_connections") == 0
    assert count(metrics, "csi_addons_rbd_cluster_silent") == 0
    assert count(metrics, answered) == 1_700_000_000.5


def test_a_frozen_worker_is_replaced(
    workers: Workers, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not even beat gives its calls back, and makes way."""
    monkeypatch.setattr(worker_process, "_LOOK_SECONDS", 0.15)
    workers.ask(demote(), (place(Pool.ANSWER),), bound())
    with pytest.raises(WorkerLost, match="Killed"):
        workers.ask(demote(), (place(Pool.FREEZE),), bound())
    assert workers.ask(demote(), (place(Pool.ANSWER),), bound()) is None
    assert count(metrics, "csi_addons_rbd_worker_losses_total") == 1


def test_a_cluster_whose_monitors_moved_keeps_its_worker(
    workers: Workers, metrics: Metrics
) -> None:
    """Its table of operations must not be split."""
    for monitor in ("10.0.0.1:6789", "10.0.0.2:6789"):
        workers.ask(demote(), (place(Pool.ANSWER, "one", monitor),), bound())
    assert count(metrics, "csi_addons_rbd_worker_starts_total") == 1


def test_close(workers: Workers) -> None:
    """Closing ends the processes, fails what waits, and refuses what comes."""
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(workers.ask, demote(), (place(Pool.SILENT),), bound())
        eventually(lambda: bool(children()))
        workers.close(5)
        with pytest.raises(Unavailable, match=r"shutting down .* the controller retries"):
            waiting.result(5)
    assert not children()
    with pytest.raises(Unavailable, match="shutting down"):
        workers.ask(demote(), (place(Pool.ANSWER),), bound())


def test_close_kills(config: Config, metrics: Metrics) -> None:
    """A worker that is deaf to everything is killed all the same."""
    workers = Workers(stand_in.stubborn, config, metrics)
    with pytest.raises(ClusterUnreachable):
        workers.ask(demote(), (place(Pool.ANSWER),), bound(1))
    began = time.monotonic()
    workers.close(0.2)
    assert time.monotonic() - began < 10
    assert not children()


def test_run_once() -> None:
    """A text from a process of its own; a process that says nothing is an error."""
    assert run_once(stand_in.describe, 20) == "librados 0.0, librbd 0.0"
    with pytest.raises(EOFError):
        run_once(os.close, 20)  # type: ignore[arg-type] # fails in the child, as wanted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stray_signal(workers: Workers, number: signal.Signals) -> None:
    """What a terminal or a supervisor sends to the whole group does not end a worker."""
    workers.ask(demote(), (place(Pool.ANSWER),), bound())
    (worker,) = children()
    os.kill(worker, number)
    assert workers.ask(demote(), (place(Pool.ANSWER),), bound()) is None
    assert children() == [worker]


def children() -> list[int]:
    """Return the worker processes of this process."""
    return stand_in.workers_of(os.getpid())


def eventually(check: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until a check holds."""
    until = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < until, "did not come true in time"
        threading.Event().wait(0.02)
