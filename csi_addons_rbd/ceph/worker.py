# SPDX-License-Identifier: Apache-2.0
"""The worker's main: calls in, answers out, one thread for each.

One such process serves one Ceph cluster. librbd may crash it or hang a thread for good; both
cost this cluster's running calls and nothing else. Whatever it knows it may forget: the next
call reads the state from the image.
"""

import ctypes
import os
import sys
import threading
import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import rados
import rbd
import structlog

from csi_addons_rbd.ceph.connections import Connections
from csi_addons_rbd.ceph.limits import in_background
from csi_addons_rbd.ceph.pulse import EVERY, Use
from csi_addons_rbd.ceph.release import release
from csi_addons_rbd.ceph.volumes import Volumes
from csi_addons_rbd.config import Config
from csi_addons_rbd.logs import configure
from csi_addons_rbd.replication.calls import (
    STUCK,
    Answer,
    Ask,
    Beat,
    Identified,
    IdentifyCall,
    Reply,
)
from csi_addons_rbd.replication.errors import (
    ClientBlocklisted,
    DriverError,
    Exhausted,
    InternalError,
)
from csi_addons_rbd.replication.replicator import Replicator

_FENCING: Final = 5.0
"""Seconds that fencing may take."""
_M_ARENA_MAX: Final = -8
"""glibc's ``mallopt`` parameter: how many arenas there are to allocate from."""
_ARENAS: Final = 2
_log = structlog.get_logger()


def main(connection: Connection, config: Config, name: str, left_behind: tuple[str, ...]) -> None:
    """Serve until the serving process is gone; ``left_behind`` are a dead predecessor's clients."""
    _silence_librados()
    _share_memory()
    configure(level=config.log_level, style=config.log_format)
    Worker(connection, config, name, left_behind).serve()


def describe(connection: Connection) -> None:
    """Send the versions of the bindings: proves that they load."""
    librados = rados.Rados(rados_id="version").version()
    librbd = rbd.RBD().version()
    connection.send(
        f"Ceph {release()}, librados {librados.major}.{librados.minor}.{librados.extra}, "
        f"librbd {'.'.join(str(part) for part in librbd)}"
    )


def _silence_librados() -> None:
    """Keep standard error for the log alone.

    librados prints there what it is told not to, such as a key that cephx cannot decode.
    """
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def _share_memory() -> None:
    """Have all threads allocate from a few arenas.

    By default glibc gives threads that come and go one after the other, up to eight a core, each of
    which keeps what it once had: the process grew for half an hour of calls.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)


class Worker:
    """Carries out what the serving process asks over one connection."""

    def __init__(
        self, connection: Connection, config: Config, name: str, left_behind: tuple[str, ...]
    ) -> None:
        self._connection = connection
        self._name = name
        self._sending = threading.Lock()
        # calls that outlive their callers still run: room for as many again
        self._free = threading.BoundedSemaphore(2 * config.max_calls_per_cluster)
        self._connections = Connections(
            connect_timeout=config.connect_timeout,
            read_timeout=config.read_timeout,
            left_behind=left_behind,
            # told at once: whoever replaces this process must know all of its clients
            connected=self._tell,
        )
        self._volumes = Volumes(self._connections)
        self._replicator = Replicator(
            wait=config.promote_wait, check_interval=config.state_check_interval
        )

    def serve(self) -> None:
        """Take calls until the other side is gone, then end at once, whatever still runs."""
        threading.Thread(target=self._beat, daemon=True).start()
        while True:
            try:
                ask: Ask = self._connection.recv()
            except (EOFError, OSError):
                os._exit(0)
            if not self._free.acquire(blocking=False):
                busy = (
                    "too many calls to this cluster still run; the controller retries; if it "
                    "lasts, see the cluster's health"
                )
                self._reply(ask, Exhausted(busy))
                continue
            try:
                in_background(partial(self._handle, ask))
            except Exhausted as exc:
                self._free.release()
                self._reply(ask, exc)

    def _handle(self, ask: Ask) -> None:
        try:
            self._reply(ask, self._outcome(ask))
        finally:
            self._free.release()

    def _outcome(self, ask: Ask) -> Answer | DriverError:
        with structlog.contextvars.bound_contextvars(worker=self._name, call_id=ask.call_id):
            try:
                return self._answer(ask)
            except DriverError as exc:
                return exc
            except Exception:  # noqa: BLE001 - whatever it is, the caller gets an answer
                _log.exception("a fault of the driver", call=ask.call.name)
                return InternalError("an internal error of the driver; its log has the details")

    def _answer(self, ask: Ask) -> Answer:
        try:
            return self._attempt(ask)
        except ClientBlocklisted:
            # the broken connection was dropped; a new one is a new client to the cluster
            return self._attempt(ask)

    def _attempt(self, ask: Ask) -> Answer:
        if isinstance(ask.call, IdentifyCall):
            fsid = self._connections.identify(ask.places[0], ask.call.credentials)
            return Identified(fsid=fsid)
        found = self._volumes.resolve(ask.call, ask.places, ask.until)
        return self._replicator.answer(ask.call, found, ask.until)

    def _reply(self, ask: Ask, answer: Answer | DriverError) -> None:
        self._send(Reply(number=ask.number, answer=answer))

    def _send(self, message: Reply | Beat) -> None:
        with self._sending:
            try:
                self._connection.send(message)
            except OSError:
                os._exit(0)

    def _beat(self) -> None:
        pulse = self._connections.pulse
        while True:
            stuck = pulse.look()
            if stuck:
                self._give_up(stuck)
            self._tell()
            time.sleep(EVERY)

    def _tell(self) -> None:
        self._send(
            Beat(
                operations=self._replicator.running(),
                silent=bool(self._connections.pulse.silent),
                clients=self._connections.clients,
                connections=self._connections.count,
                answered=self._connections.pulse.answered,
            )
        )

    def _give_up(self, stuck: tuple[Use, ...]) -> None:
        """End, to be replaced: no thread can be taken back from librbd."""
        _log.error(
            "librbd hangs although the cluster answers; this worker makes way for another",
            worker=self._name,
            hanging=len(stuck),
        )
        fencing = threading.Thread(target=self._fence, args=(stuck,), daemon=True)
        fencing.start()
        fencing.join(_FENCING)
        os._exit(STUCK)

    def _fence(self, stuck: tuple[Use, ...]) -> None:
        try:
            self._connections.fence(stuck)
        except DriverError as exc:
            _log.warning("could not fence the clients that hang", error=exc.message)
