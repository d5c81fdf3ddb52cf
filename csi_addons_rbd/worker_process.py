# SPDX-License-Identifier: Apache-2.0
"""One worker process: the connection to it, and the calls that wait for its replies."""

import itertools
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Final, Self

import structlog

from csi_addons_rbd.replication.calls import STUCK, Answer, Ask, Beat, Call, Place, Reply
from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.errors import (
    NOTHING_TO_DO,
    ClusterUnreachable,
    DeadlineExceeded,
    DriverError,
    Exhausted,
    Unavailable,
    WorkerLost,
)

_log = structlog.get_logger(__name__)
_REAP_SECONDS: Final = 1.0
"""How long a worker that closed its connection may take to end."""
_LOOK_SECONDS: Final = 2.0
_LOOKS: Final = 10
"""Looks in a row at which a worker, which beats every second, had no message."""
_LOOKS_AT_FIRST: Final = 30
"""The same for one that is still loading the Ceph libraries."""
_KILL_SECONDS: Final = 0.5
"""How long the kernel may take to end a killed worker."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """How long one call may take, and whose limit that is."""

    seconds: float
    until: Deadline
    """When it ends."""
    callers: bool
    """Whether the caller's deadline is the nearer limit, rather than our own bound."""

    @classmethod
    def bounded(cls, *, caller: float | None, own: float) -> Self:
        """Take the nearer of the caller's remaining time and our own bound, in seconds.

        The caller's is cut by up to 0.25 s, so that the answer arrives before its deadline.
        """
        callers = None if caller is None else caller - min(0.25, 0.05 * caller)
        nearer = own if callers is None else min(callers, own)
        return cls(
            seconds=nearer,
            until=Deadline.after(nearer),
            callers=callers is not None and callers < own,
        )

    def at_most(self, seconds: float) -> Self:
        """Return this wait, or one of so many seconds if that is sooner."""
        if self.until.remaining <= seconds:
            return self
        return replace(self, seconds=seconds, until=self.until.or_after(seconds), callers=False)

    def over(self, cluster: str) -> DriverError:
        """Return the error to raise when the wait for this cluster has ended."""
        if self.callers:
            return DeadlineExceeded(
                f"the caller's deadline ended before cluster {cluster} had answered; "
                f"the operation goes on, and the next call joins it; {NOTHING_TO_DO}"
            )
        return ClusterUnreachable(
            f"cluster {cluster} did not answer within {self.seconds:g} s; see its health, and "
            "whether its rbd-mirror hangs; the operation goes on, and the controller's next call "
            "joins it"
        )


class Worker:
    """One process and both directions of the connection to it.

    Two threads serve the connection, so that a caller never blocks on it: a worker that does
    not read any more delays nobody beyond their own time.
    """

    def __init__(
        self,
        name: str,
        endpoints: frozenset[str],
        process: SpawnProcess,
        connection: Connection,
        limit: int,
    ) -> None:
        self.name = name
        self.endpoints = endpoints
        self.born = time.monotonic()
        self.ended: str | None = None
        """How the process ended; ``None`` while it lives."""
        self.clients: tuple[str, ...] = ()
        """What its cluster knows it by, as last heard."""
        self.pid = process.pid
        self._process = process
        self._connection = connection
        self._limit = limit
        self._free = threading.BoundedSemaphore(limit)
        self._numbers = itertools.count(1)
        self._outbox: queue.SimpleQueue[Ask | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._pending: dict[int, Future[Answer | DriverError]] = {}
        self._sender = threading.Thread(target=self._send, name=f"worker {name}, out", daemon=True)
        self._buried = threading.Event()
        self._given_up = False
        """Whether the driver ends, so that nothing is sent any more."""
        self._began = False
        """Whether anything came from it yet."""

    def watch(self, on_beat: Callable[[Self, Beat], None], on_loss: Callable[[Self], None]) -> None:
        """Start to send and to read; ``on_loss`` is told when the process has ended.

        Raises:
            RuntimeError: no thread can be started for it.
        """
        self._sender.start()
        try:
            threading.Thread(
                target=self._read,
                args=(on_beat, on_loss),
                name=f"worker {self.name}, in",
                daemon=True,
            ).start()
        except RuntimeError:
            self._outbox.put(None)  # the other one ends
            raise

    def ask(self, call: Call, places: tuple[Place, ...], wait: Wait) -> Answer:
        """Send one call and wait for its reply, no longer than ``wait``."""
        with self.asking(call, places, wait) as answer:
            return answer()

    @contextmanager
    def asking(
        self, call: Call, places: tuple[Place, ...], wait: Wait
    ) -> Iterator[Callable[[], Answer]]:
        """Send one call, and lend what waits for its reply, no longer than ``wait``."""
        cluster = places[0].cluster
        if not self._free.acquire(blocking=False):
            raise Exhausted(
                f"{self._limit} calls to cluster {cluster} are running, which is the limit; "
                "the controller retries; if it comes often, raise --max-calls-per-cluster"
            )

        def answer() -> Answer:
            try:
                answered = reply.result(timeout=wait.until.remaining)
            except TimeoutError:
                raise wait.over(cluster) from None
            if isinstance(answered, DriverError):
                raise answered
            return answered

        try:
            with self._exchange(call, places, wait) as reply:
                yield answer
        finally:
            self._free.release()

    def serves(self, place: Place, endpoints: frozenset[str]) -> bool:
        """Tell whether a place, with monitors at these endpoints, is in this worker's cluster."""
        return self.name == place.cluster or bool(self.endpoints & endpoints)

    def give_up(self) -> None:
        """Answer what still waits: the driver ends, and its callers shall know why."""
        with self._lock:
            self._given_up = True
            waiting, self._pending = tuple(self._pending.values()), {}
        for each in waiting:
            each.set_exception(
                Unavailable(
                    "the driver is shutting down in the middle of the call; what it was doing may "
                    f"or may not have happened, and the next call finds out; {NOTHING_TO_DO}"
                )
            )

    def end(self) -> None:
        """Kill the process; it is as safe as at any other moment."""
        self._process.kill()

    def wait(self, seconds: float) -> None:
        """Wait until the process has ended."""
        self._buried.wait(seconds)

    def lost(self) -> WorkerLost:
        """Return the error for a call that this worker will not answer."""
        return WorkerLost(
            f"the process that talks to cluster {self.name} {self.ended}; what it was doing may "
            f"or may not have happened, and the next call finds out; {NOTHING_TO_DO}"
        )

    @contextmanager
    def _exchange(
        self, call: Call, places: tuple[Place, ...], wait: Wait
    ) -> Iterator["Future[Answer | DriverError]"]:
        number, reply = next(self._numbers), Future[Answer | DriverError]()
        with self._lock:
            if self._given_up:
                raise Unavailable(f"the driver is shutting down; {NOTHING_TO_DO}")
            if self.ended is not None:
                raise self.lost()
            self._pending[number] = reply
        call_id = structlog.contextvars.get_contextvars().get("call_id", "")
        self._outbox.put(
            Ask(number=number, call_id=call_id, call=call, places=places, until=wait.until)
        )
        try:
            yield reply
        finally:
            with self._lock:
                self._pending.pop(number, None)

    def _send(self) -> None:
        while (ask := self._outbox.get()) is not None:
            if ask.number not in self._pending:
                continue  # nobody waits for it any more
            try:
                self._connection.send(ask)
            except OSError as exc:
                # a part of the call may have been sent, so nothing can follow it; once the process
                # has ended, the reading thread fails what waits, and the next call starts another
                _log.warning("a worker takes no more calls", cluster=self.name, error=str(exc))
                self._process.kill()
                return

    def _read(self, on_beat: Callable[[Self, Beat], None], on_loss: Callable[[Self], None]) -> None:
        try:
            while True:
                self._await_message()
                message: Reply | Beat = self._connection.recv()
                if isinstance(message, Beat):
                    on_beat(self, message)
                else:
                    self._resolve(message)
        except (EOFError, OSError):
            pass
        except Exception:  # noqa: BLE001 - unpickling may raise anything
            _log.exception("a worker sent what is no reply", cluster=self.name)
        finally:
            self._bury()
            on_loss(self)

    def _await_message(self) -> None:
        """Wait for the next message; a worker that has none for long is frozen, and is killed.

        Looks are counted rather than seconds: this process may have been frozen itself.
        """
        looks = 0
        while not self._connection.poll(_LOOK_SECONDS):
            looks += 1
            if looks == (_LOOKS if self._began else _LOOKS_AT_FIRST):
                _log.error("a worker is frozen and is killed", cluster=self.name, pid=self.pid)
                self._process.kill()
        self._began = True

    def _resolve(self, reply: Reply) -> None:
        with self._lock:
            waiting = self._pending.pop(reply.number, None)
        if waiting is not None:
            waiting.set_result(reply.answer)

    def _bury(self) -> None:
        self._process.join(_REAP_SECONDS)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        with self._lock:
            self.ended = _how(self._process.exitcode)
            orphans, self._pending = tuple(self._pending.values()), {}
        for orphan in orphans:
            orphan.set_exception(self.lost())
        # never close under a thread that sends: its descriptor may be another file by then
        self._outbox.put(None)
        self._sender.join()
        self._connection.close()
        self._buried.set()


def _how(exit_code: int | None) -> str:
    if exit_code == STUCK:
        return "hung in librbd although the cluster answers, and was replaced"
    if exit_code is None or exit_code >= 0:
        return f"ended with exit code {exit_code}"
    return f"was ended by signal {-exit_code} ({signal.strsignal(-exit_code)})"
