# SPDX-License-Identifier: Apache-2.0
"""One worker process per Ceph cluster: spawn, ask, watch, replace.

librbd may crash its process or hang a thread for good, so it never runs in the serving
process. A worker's death costs only the calls that run on its cluster; the next call spawns
another one. Nothing is restored, because correctness never rests on a worker's memory.

Two cluster ids that have a monitor in common are one Ceph cluster and share one worker: the
table that keeps two operations off one image lives there. A cluster whose monitors all moved
keeps its worker for the same reason.
"""

import multiprocessing
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Final, TypeAlias

import structlog

from csi_addons_rbd.config import Config
from csi_addons_rbd.core_dumps import forbid_core_dumps
from csi_addons_rbd.metrics import Metrics
from csi_addons_rbd.replication.calls import Answer, Beat, Call, Place
from csi_addons_rbd.replication.errors import NOTHING_TO_DO, Exhausted, Unavailable
from csi_addons_rbd.worker_process import Wait, Worker

WorkerMain: TypeAlias = Callable[[Connection, Config, str, tuple[str, ...]], None]
"""What a worker runs; the last are the clients that its predecessor left behind when it died."""
_log = structlog.get_logger(__name__)
_spawning: Final = multiprocessing.get_context("spawn")
_ENDING: Final = frozenset({signal.SIGINT, signal.SIGTERM})
_RESPAWN_SECONDS: Final = 1.0
"""A cluster gets no second worker within this time, so that a crash loop stays slow."""


class Workers:
    """The workers of this process. Every method may be called from any thread.

    Args:
        main: What a worker runs; a function of a module, so that the spawned process finds it.
        config: Handed to every worker.
        metrics: Counts starts and losses.
    """

    def __init__(self, main: WorkerMain, config: Config, metrics: Metrics) -> None:
        self._main = main
        self._config = config
        self._metrics = metrics
        self._lock = threading.Lock()
        self._workers: list[Worker] = []
        self._closed = False

    def ask(self, call: Call, places: tuple[Place, ...], wait: Wait) -> Answer:
        """Ask the one cluster in which all of these places are.

        Raises:
            DriverError: what its worker answered, or why it could not.
        """
        return self._worker(places[0]).ask(call, places, wait)

    def asking(
        self, call: Call, places: tuple[Place, ...], wait: Wait
    ) -> AbstractContextManager[Callable[[], Answer]]:
        """Begin to ask it, and lend what waits for the answer.

        Raises:
            DriverError: no worker can be asked.
        """
        return self._worker(places[0]).asking(call, places, wait)

    def give_up(self) -> None:
        """Answer what still waits for a worker, and whatever comes: the driver ends."""
        with self._lock:
            self._closed = True
            workers = tuple(self._workers)
        for worker in workers:
            worker.give_up()

    def close(self, seconds: float) -> None:
        """End all workers, and wait so many seconds at most until they have ended."""
        self.give_up()
        workers = tuple(self._workers)
        for worker in workers:
            worker.end()
        until = time.monotonic() + seconds
        for worker in workers:
            worker.wait(max(0.0, until - time.monotonic()))

    def _worker(self, place: Place) -> Worker:
        """Return the living worker of a place's cluster, spawning it if need be."""
        endpoints = _endpoints(place.monitors)
        with self._lock:
            if self._closed:
                raise Unavailable(f"the driver is shutting down; {NOTHING_TO_DO}")
            # an address may have moved to another cluster: the id tells more than it does
            ranked = sorted(self._workers, key=lambda each: each.name != place.cluster)
            worker = next((each for each in ranked if each.serves(place, endpoints)), None)
            if worker is None:
                return self._spawn(place.cluster, endpoints, left_behind=())
            # monitors come and go; a cluster is still known by its id, or by those it once had
            worker.endpoints |= endpoints
            if worker.ended is None:
                return worker
            if time.monotonic() - worker.born < _RESPAWN_SECONDS:
                raise worker.lost()
            successor = self._spawn(worker.name, worker.endpoints, left_behind=worker.clients)
            # last: when none can be started, the next call must still know what the dead one knew
            self._workers.remove(worker)
            return successor

    def _spawn(
        self, cluster: str, endpoints: frozenset[str], *, left_behind: tuple[str, ...]
    ) -> Worker:
        """Start a worker; the lock is held."""
        try:
            worker = self._start(cluster, endpoints, left_behind)
        except (OSError, RuntimeError) as exc:
            raise Exhausted(
                f"no worker can be started for cluster {cluster} ({exc}); see the limits of the "
                "driver's container and node (pids, memory, open files); the controller retries by "
                "itself"
            ) from exc
        self._workers.append(worker)
        self._metrics.worker_starts.labels(cluster).inc()
        _log.info("a worker was started", cluster=cluster, pid=worker.pid)
        return worker

    def _start(
        self, cluster: str, endpoints: frozenset[str], left_behind: tuple[str, ...]
    ) -> Worker:
        """Start the process and the threads that serve it, or leave nothing of them."""
        ours, theirs = _spawning.Pipe()
        process = _spawning.Process(
            target=_run_worker,
            args=(self._main, theirs, self._config, cluster, left_behind),
            name=f"worker {cluster}",
        )
        try:
            # the worker's end must exist only there: its end of file tells of the worker's death
            with theirs, _unhearing():
                process.start()
            worker = Worker(cluster, endpoints, process, ours, self._config.max_calls_per_cluster)
            worker.clients = left_behind
            worker.watch(self._heard, self._lost)
        except (OSError, RuntimeError):
            ours.close()
            if process.pid is not None:
                process.kill()
            raise
        return worker

    def _heard(self, worker: Worker, beat: Beat) -> None:
        worker.clients = beat.clients
        self._metrics.show(worker.name, beat)

    def _lost(self, worker: Worker) -> None:
        if self._closed:
            return
        self._metrics.show(worker.name, None)
        self._metrics.worker_losses.labels(worker.name).inc()
        _log.error("a worker was lost", cluster=worker.name, pid=worker.pid, how=worker.ended)


def _run_worker(
    main: WorkerMain,
    connection: Connection,
    config: Config,
    name: str,
    left_behind: tuple[str, ...],
) -> None:
    """Run a worker, in its own process; the first call brings the first key."""
    # the serving process decides when this one ends, and kills it then; a terminal's Ctrl-C, and
    # the SIGTERM of some supervisors, reach the whole group, and its calls have some time yet
    _be_deaf()
    forbid_core_dumps()
    main(connection, config, name, left_behind)


def run_once(main: Callable[[Connection], None], seconds: float) -> str:
    """Run ``main`` in a process of its own and return the text that it sends.

    Raises:
        TimeoutError: nothing came within ``seconds``.
        EOFError: the process ended without a word.
    """
    ours, theirs = _spawning.Pipe()
    process = _spawning.Process(target=_run_once, args=(main, theirs))
    with theirs, _unhearing():
        process.start()
    try:
        if not ours.poll(seconds):
            raise TimeoutError
        return str(ours.recv())
    finally:
        ours.close()
        process.kill()
        process.join()


def _run_once(main: Callable[[Connection], None], connection: Connection) -> None:
    _be_deaf()
    with suppress(BrokenPipeError):  # nobody waits any more
        main(connection)


@contextmanager
def _unhearing() -> Iterator[None]:
    """Start processes that hear no signal before they have said what to do at one.

    Until then Python would show a traceback, or the one who waits take an end for a failure.
    """
    resource_tracker.ensure_running()  # or the start of one would, which unblocks them
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)


def _be_deaf() -> None:
    """Ignore what is to end the serving process."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)


def by_cluster(places: Iterable[Place]) -> Iterator[tuple[Place, ...]]:
    """Put the places of one Ceph cluster together, in the order in which they come."""
    rest = tuple(places)
    while rest:
        endpoints = _endpoints(rest[0].monitors)
        yield tuple(each for each in rest if endpoints & _endpoints(each.monitors))
        rest = tuple(each for each in rest if not endpoints & _endpoints(each.monitors))


def _endpoints(monitors: tuple[str, ...]) -> frozenset[str]:
    """Return host:port of each monitor address, whichever way it is written."""
    return frozenset(
        address.strip("[] ").removeprefix("v1:").removeprefix("v2:").partition("/")[0]
        for monitor in monitors
        for address in monitor.split(",")
        if address.strip("[] ")
    ) or frozenset(monitors)
