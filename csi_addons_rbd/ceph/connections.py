# SPDX-License-Identifier: Apache-2.0
"""Connected, shared Rados handles per (monitors, user, key).

A connection costs 12 to 27 ms and about 15 threads, so it is shared, expires when idle, and
is dropped when cephx or the cluster refuses it. Keys live in memory only: neither ceph.conf
nor a keyring is read.
"""

import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

import rados

from csi_addons_rbd.ceph.translate import translating
from csi_addons_rbd.replication.calls import Credentials
from csi_addons_rbd.replication.errors import (
    ClientBlocklisted,
    ClusterUnreachable,
    PermissionDenied,
    Unauthenticated,
)

_BREAKING: Final = (ClusterUnreachable, PermissionDenied, Unauthenticated)


class Purpose(Enum):
    """What a handle may be used for.

    Only handles that read carry ``rados_osd_op_timeout``. On handles that enable, disable,
    promote, demote or resync it made librbd crash when it struck (Ceph 16.2 and 20.2).
    """

    READ = "read"
    WRITE = "write"
    MANAGER = "manager"
    """Carries no timeout at all: a command that the manager answers after it would write into
    memory that is no longer there. Whoever asks waits no longer than it wants."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    monitors: tuple[str, ...]
    user: str
    key: str = field(repr=False)
    purpose: Purpose


@dataclass(slots=True)
class _Connection:
    """One handle: being connected or connected, shared by ``users`` calls."""

    ready: "Future[rados.Rados]" = field(default_factory=Future)
    users: int = 0
    last_used: float = 0.0
    dropped: bool = False


class Connections:
    """The pool. Every method may be called from any thread.

    Args:
        connect_timeout: Bound of one connect, in seconds.
        read_timeout: Bound of one read operation, in seconds.
        idle: A handle unused for this many seconds is shut down.
    """

    def __init__(self, *, connect_timeout: float, read_timeout: float, idle: float = 600) -> None:
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._idle = idle
        self._lock = threading.Lock()
        self._pool: dict[_Key, _Connection] = {}

    @contextmanager
    def use(
        self, monitors: tuple[str, ...], credentials: Credentials, purpose: Purpose
    ) -> Iterator[rados.Rados]:
        """Lend a connected handle; it is dropped if the block ends in a connection's error.

        Raises:
            Unauthenticated: cephx refuses user or key.
            ClusterUnreachable: no monitor answered within the connect timeout.
        """
        key = _Key(monitors=monitors, user=credentials.user, key=credentials.key, purpose=purpose)
        connection, first = self._join(key)
        try:
            if first:
                self._connect(key, connection)
            yield connection.ready.result()
        except ClientBlocklisted:
            # who is fenced as one client of the cluster may be so as the others, too
            self._drop(key, connection)
            self._drop_pooled(replace(key, purpose=other) for other in Purpose)
            raise
        except _BREAKING:
            self._drop(key, connection)
            raise
        finally:
            self._leave(connection)

    def _join(self, key: _Key) -> tuple[_Connection, bool]:
        with self._lock:
            self._expire()
            first = key not in self._pool
            connection = self._pool.setdefault(key, _Connection())
            connection.users += 1
            return connection, first

    def _connect(self, key: _Key, connection: _Connection) -> None:
        """Connect once for all who wait: a dead monitor costs one timeout, not one each."""
        try:
            connection.ready.set_result(self._dial(key))
        except BaseException as exc:
            self._drop(key, connection)
            connection.ready.set_exception(exc)
            raise

    def _dial(self, key: _Key) -> rados.Rados:
        with translating(f"connecting to {', '.join(key.monitors)} as client.{key.user}"):
            cluster = rados.Rados(rados_id=key.user, conf=self._conf(key))
            try:
                cluster.connect()
            except rados.Error:
                cluster.shutdown()
                raise
        return cluster

    def _conf(self, key: _Key) -> dict[str, str]:
        conf = {
            "mon_host": ",".join(key.monitors),
            "key": key.key,
            "client_mount_timeout": str(self._connect_timeout),
            # librados would print refused authentication into the log stream
            "log_to_stderr": "false",
            "err_to_stderr": "false",
            "log_file": "",
        }
        if key.purpose is not Purpose.MANAGER:
            conf["rados_mon_op_timeout"] = str(self._read_timeout)
        if key.purpose is Purpose.READ:
            conf["rados_osd_op_timeout"] = str(self._read_timeout)
        return conf

    def _drop(self, key: _Key, connection: _Connection) -> None:
        with self._lock:
            connection.dropped = True
            if self._pool.get(key) is connection:
                del self._pool[key]

    def _drop_pooled(self, keys: Iterable[_Key]) -> None:
        with self._lock:
            for key in keys:
                connection = self._pool.pop(key, None)
                if connection is not None:
                    connection.dropped = True
                    self._retire(connection)

    def _leave(self, connection: _Connection) -> None:
        with self._lock:
            connection.users -= 1
            connection.last_used = time.monotonic()
            finished = connection.dropped and connection.users == 0
        if finished:
            _shut_down(connection)

    def _expire(self) -> None:
        """Forget handles that nobody used for long; the lock is held."""
        oldest = time.monotonic() - self._idle
        for key, connection in list(self._pool.items()):
            if connection.users == 0 and connection.last_used < oldest:
                del self._pool[key]
                self._retire(connection)

    @staticmethod
    def _retire(connection: _Connection) -> None:
        """Shut a handle down that nobody uses; its last user does it otherwise."""
        if connection.users == 0:
            threading.Thread(target=_shut_down, args=(connection,), daemon=True).start()


def _shut_down(connection: _Connection) -> None:
    if connection.ready.exception() is None:
        connection.ready.result().shutdown()
