# SPDX-License-Identifier: Apache-2.0
"""Connected, shared Rados handles per (monitors, user, key).

A connection costs 12 to 27 ms and about 15 threads, so it is shared, expires when idle, and
is dropped when cephx or the cluster refuses it. Keys live in memory only: neither ceph.conf
nor a keyring is read.

A worker that died leaves clients behind, whose watches and locks the cluster keeps for another
30 s. Its successor has them fenced with its first connection.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from math import inf
from typing import Final

import rados
import structlog

from csi_addons_rbd.ceph.dialing import Dialer, Target
from csi_addons_rbd.ceph.limits import in_background, within
from csi_addons_rbd.ceph.pulse import LEASH, Objects, Pulse, Use
from csi_addons_rbd.ceph.translate import translating
from csi_addons_rbd.replication.calls import Credentials, Place
from csi_addons_rbd.replication.errors import (
    ClientBlocklisted,
    ClusterUnreachable,
    DriverError,
    Exhausted,
    PermissionDenied,
    Unauthenticated,
)

_FENCED: Final = 60
"""Seconds for which a client stays fenced: longer than any watch of its lasts."""
_KEPT_OUT: Final = 24 * 60 * 60
"""Seconds for which another process's client stays fenced: frozen ones may thaw late."""
_LEARNING: Final = 32
"""Threads that wait for a newer map, perhaps for as long as no monitor answers."""
_BREAKING: Final = (ClusterUnreachable, PermissionDenied, Unauthenticated)
_log = structlog.get_logger()


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


@dataclass(slots=True, eq=False)
class _Connection:
    """One handle: being connected or connected, shared by ``users`` calls."""

    purpose: Purpose
    ready: "Future[rados.Rados]" = field(default_factory=Future)
    address: str = ""
    """What the cluster knows this client by, once it is connected."""
    users: int = 0
    last_used: float = 0.0
    dropped: bool = False


class Connections:
    """The pool. Every method may be called from any thread.

    Args:
        connect_timeout: Bound of one connect with the lookup of names, in seconds.
        read_timeout: Bound of one read operation, in seconds.
        idle: A handle unused for this many seconds is shut down.
        left_behind: Addresses of clients whose process died.
        connected: Told of each new connection, before anything is done with it.
    """

    def __init__(
        self,
        *,
        connect_timeout: float,
        read_timeout: float,
        idle: float = 600,
        left_behind: Iterable[str] = (),
        connected: Callable[[], None] = lambda: None,
    ) -> None:
        self._dialer = Dialer(connect_timeout)
        self._read_timeout = read_timeout
        self._idle = idle
        self._lock = threading.Lock()
        self._pool: dict[_Key, _Connection] = {}
        self._open: set[_Connection] = set()
        """The handles that are not shut down, pooled or not."""
        self._left_behind = set(left_behind)
        """The clients that are still to be fenced."""
        self._fenced: frozenset[str] = frozenset()
        self._connected = connected
        self._learning = threading.Semaphore(_LEARNING)
        self.pulse = Pulse(self._probe, self._renew)
        """Which places answer, and what hangs in them."""

    @property
    def clients(self) -> tuple[str, ...]:
        """The addresses of all handles, and of what is still to be fenced."""
        with self._lock:
            return (*(each.address for each in self._open), *self._left_behind)

    @property
    def own(self) -> frozenset[str]:
        """The addresses of this process's own handles."""
        with self._lock:
            return frozenset(each.address for each in self._open)

    @property
    def fenced(self) -> frozenset[str]:
        """The addresses of the clients left behind that can do nothing any more."""
        return self._fenced

    @property
    def count(self) -> int:
        """How many handles are connected, pooled or not."""
        with self._lock:
            return len(self._open)

    @contextmanager
    def use(
        self,
        place: Place,
        credentials: Credentials,
        purpose: Purpose,
        *,
        leash: float = LEASH,
        objects: Objects = (),
    ) -> Iterator[rados.Rados]:
        """Lend a connected handle; it is dropped if the block ends in a connection's error.

        ``objects`` are those that the block works on, as far as they are known.

        Raises:
            Unauthenticated: cephx refuses user or key.
            ClusterUnreachable: no monitor answered within the connect timeout, or the place is
                known to be silent.
        """
        if purpose is Purpose.MANAGER:
            leash = inf  # the manager may be away for as long as it likes
        with (
            self.pulse.use(place, credentials, leash, objects),
            self._lend(place, credentials, purpose) as cluster,
        ):
            yield cluster

    def identify(self, place: Place, credentials: Credentials) -> str:
        """Return the fsid of a place's cluster, which accepts the key.

        Raises:
            Unauthenticated: cephx refuses user or key.
            ClusterUnreachable: as for :meth:`use`.
        """
        with (
            self.use(place, credentials, Purpose.READ) as cluster,
            translating(f"asking cluster {place.cluster} for its fsid"),
        ):
            return str(cluster.get_fsid())

    @contextmanager
    def _lend(
        self, place: Place, credentials: Credentials, purpose: Purpose
    ) -> Iterator[rados.Rados]:
        key = _Key(
            monitors=place.monitors,
            user=credentials.user,
            key=credentials.key,
            purpose=purpose,
        )
        connection, first = self._join(key)
        try:
            if first:
                self._connect(key, connection, place.cluster)
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
            connection = self._pool.setdefault(key, _Connection(purpose=key.purpose))
            connection.users += 1
            return connection, first

    def _connect(self, key: _Key, connection: _Connection, name: str) -> None:
        """Connect once for all who wait: a dead monitor costs one timeout, not one each."""
        try:
            cluster = self._dial(key, name)
            with self._lock:
                connection.address = cluster.get_addrs()
                self._open.add(connection)
            self._connected()
            if key.purpose is not Purpose.MANAGER:  # which might wait for ever
                self._fence_left_behind(cluster)
        except BaseException as exc:
            self._drop(key, connection)
            connection.ready.set_exception(exc)
            raise
        connection.ready.set_result(cluster)

    def _dial(self, key: _Key, name: str) -> rados.Rados:
        target = Target(cluster=name, monitors=key.monitors, user=key.user, key=key.key)
        return self._dialer.dial(target, self._options(key.purpose))

    def _options(self, purpose: Purpose) -> dict[str, str]:
        options = {
            # librados would print refused authentication into the log stream
            "log_to_stderr": "false",
            "err_to_stderr": "false",
            "log_file": "",
        }
        if purpose is not Purpose.MANAGER:
            options["rados_mon_op_timeout"] = str(self._read_timeout)
        if purpose is Purpose.READ:
            options["rados_osd_op_timeout"] = str(self._read_timeout)
        return options

    def _probe(self, place: Place, credentials: Credentials, objects: Objects) -> None:
        """Read some objects, by default what every call reads, too: the mirroring of the place."""
        with (
            self._lend(place, credentials, Purpose.READ) as cluster,
            translating(f"reading from pool {place.pool} of cluster {place.cluster}"),
        ):
            try:
                ioctx = cluster.open_ioctx2(place.pool)
            except rados.ObjectNotFound:
                # nothing can be read there, and the map that says so may be an old one
                self.learn_map(place, credentials, Purpose.READ)
                return
            with ioctx:
                ioctx.set_namespace(place.namespace)
                for name in objects or ("rbd_mirroring",):
                    with suppress(rados.ObjectNotFound):  # which is an answer
                        ioctx.stat(name)

    def learn_map(self, place: Place, credentials: Credentials, purpose: Purpose) -> None:
        """Have a handle know whatever changed in the cluster until now.

        Raises:
            ClusterUnreachable: no monitor tells it in time.
        """

        def learn() -> None:
            with (
                self._lend(place, credentials, purpose) as cluster,
                translating(f"learning the newest map of cluster {place.cluster}"),
            ):
                cluster.wait_for_latest_osdmap()

        late = ClusterUnreachable(
            f"no monitor of cluster {place.cluster} told its newest map within "
            f"{self._read_timeout:g} s; see their health"
        )
        within(self._read_timeout, learn, late, most=self._learning)

    def _renew(self, place: Place, credentials: Credentials) -> None:
        """Forget the user's handles that lived through a silence: some never recover."""
        user = place.monitors, credentials.user, credentials.key
        with self._lock:
            lived = [key for key in self._pool if (key.monitors, key.user, key.key) == user]
        self._drop_pooled(lived)

    def fence(self, stuck: Iterable[Use]) -> None:
        """Have the cluster forget the clients that hang, whose watches and locks are in the way.

        For a process that is about to end: its successor need not wait until they run out.
        """
        with self._lock:
            writing = [
                each.address for each in self._open if each.users and each.purpose is Purpose.WRITE
            ]
        for place, credentials in {use.place: use.credentials for use in stuck}.items():
            with self._lend(place, credentials, Purpose.READ) as cluster:
                _fence(cluster, writing)

    def _fence_left_behind(self, cluster: rados.Rados) -> None:
        with self._lock:
            dead = tuple(self._left_behind)
        try:
            _fence(cluster, dead)
        except DriverError as exc:
            # the next connection tries again; until then, what they hold runs out by itself
            _log.warning("could not fence the clients of a process that died", error=exc.message)
            return
        with self._lock:
            self._left_behind.difference_update(dead)
            self._fenced |= set(dead)

    def keep_out(self, place: Place, credentials: Credentials, addresses: Iterable[str]) -> None:
        """Fence clients of other processes: nothing they sent arrives after what this one sends."""
        own = self.own
        with (
            self._lend(place, credentials, Purpose.READ) as cluster,
            translating(f"fencing on cluster {place.cluster} whose lease ran out"),
        ):
            for address in addresses:
                if address not in own:
                    cluster.blocklist_add(address, _KEPT_OUT)
        # an OSD that hears of it later than of what comes next would still take their messages
        for purpose in (Purpose.READ, Purpose.WRITE):
            self.learn_map(place, credentials, purpose)

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
            if connection.dropped:
                self._retire(connection)

    def _expire(self) -> None:
        """Forget handles that nobody used for long; the lock is held."""
        oldest = time.monotonic() - self._idle
        for key, connection in list(self._pool.items()):
            if connection.users == 0 and connection.last_used < oldest:
                del self._pool[key]
                self._retire(connection)

    def _retire(self, connection: _Connection) -> None:
        """Shut a handle down that nobody uses, aside: it may take as long as a silence does."""
        if connection.users == 0 and _usable(connection):
            self._open.discard(connection)
            with suppress(Exhausted):  # what is not shut down is so when Python forgets it
                in_background(partial(_shut_down, connection))


def _fence(cluster: rados.Rados, addresses: Iterable[str]) -> None:
    with translating("fencing clients"):
        for address in addresses:
            cluster.blocklist_add(address, _FENCED)


def _usable(connection: _Connection) -> bool:
    return connection.ready.done() and connection.ready.exception() is None


def _shut_down(connection: _Connection) -> None:
    connection.ready.result().shutdown()
