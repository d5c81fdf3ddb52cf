# SPDX-License-Identifier: Apache-2.0
"""DNS lookups that wait no longer than they may: ``getaddrinfo`` knows no time limit.

librados looks names up itself, but waits for as long as the resolver does, reads no name with a
protocol, and refuses all monitors for one name without an address.
"""

import socket
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeAlias

from csi_addons_rbd.ceph.limits import in_background
from csi_addons_rbd.replication.errors import Exhausted

_MOST: Final = 64
"""Lookups at once, each of which is a thread until the resolver gives up."""
_Addresses: TypeAlias = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What came of some names."""

    found: Mapping[str, _Addresses]
    """The IP addresses of each name that has any."""
    failed: Mapping[str, str]
    """Why each other one has none."""


class Lookups:
    """Looks names up, each at most once at a time. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[str, Future[_Addresses]] = {}

    def look_up(self, names: Iterable[str], seconds: float) -> Looked:
        """Return what is known of the names after so many seconds at most."""
        asked = {name: self._begin(name) for name in names}
        wait(asked.values(), timeout=seconds)
        found: dict[str, _Addresses] = {}
        failed: dict[str, str] = {}
        for name, future in asked.items():
            error = future.exception() if future.done() else TimeoutError("no answer in time")
            if error is None:
                found[name] = future.result()
            else:
                failed[name] = getattr(error, "strerror", None) or str(error)
        return Looked(found=found, failed=failed)

    def _begin(self, name: str) -> Future[_Addresses]:
        """Start a lookup, or join the one that runs."""
        with self._lock:
            running = self._running.get(name)
            if running is not None:
                return running
            future: Future[_Addresses] = Future()
            if len(self._running) >= _MOST:
                future.set_exception(TimeoutError("too many lookups wait for the resolver"))
                return future
            self._running[name] = future
        try:
            in_background(partial(self._look, name, future))
        except Exhausted as exc:
            self._end(name)
            future.set_exception(exc)
        return future

    def _look(self, name: str, future: Future[_Addresses]) -> None:
        try:
            found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
            future.set_result(tuple(dict.fromkeys(str(each[4][0]) for each in found)))
        except (OSError, UnicodeError) as exc:
            future.set_exception(exc)
        finally:
            self._end(name)

    def _end(self, name: str) -> None:
        with self._lock:
            del self._running[name]
