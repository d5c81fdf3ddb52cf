# SPDX-License-Identifier: Apache-2.0
"""Where tests kill, freeze or hang a worker: before and after every step that changes something.

Inactive unless the environment names a file, which only tests do. When that file appears, the
points that are passed are counted, and at the N-th the file's one line ``ACTION N`` is carried
out. So tests find every step by counting, also those that later code adds.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

VARIABLE: Final = "CSI_ADDONS_RBD_FAULT_FILE"


def _signal_self(number: signal.Signals) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def _kill_driver() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    _hang()  # this process ends as soon as it sees that


def _hang() -> None:
    while True:
        time.sleep(3600)


ACTIONS: Final[Mapping[str, Callable[[], None]]] = {
    "kill-worker": _signal_self(signal.SIGKILL),
    "kill-driver": _kill_driver,
    "freeze-worker": _signal_self(signal.SIGSTOP),
    "crash": _signal_self(signal.SIGSEGV),
    "hang": _hang,
}


class FaultPoints:
    """Counts the points passed since a file was put there."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._armed: tuple[int, int] | None = None
        self._passed = 0

    def reach(self, point: str) -> None:
        """Pass a point, or never get beyond it."""
        act = self._due(point)
        if act is not None:
            act()

    def _due(self, point: str) -> Callable[[], None] | None:
        with self._lock:
            try:
                found = self._file.stat()
                action, number = self._file.read_text().split()
            except FileNotFoundError:
                return None
            if self._armed != (found.st_ino, found.st_mtime_ns):
                self._armed, self._passed = (found.st_ino, found.st_mtime_ns), 0
            self._passed += 1
            if self._passed != int(number):
                return None
            fired = self._file.with_name(f"{self._file.name}.fired")
            self._file.rename(fired)
            fired.write_text(point)
            return ACTIONS[action]


_points: Final = FaultPoints(Path(os.environ[VARIABLE])) if VARIABLE in os.environ else None


@contextmanager
def step(doing: str) -> Iterator[None]:
    """Mark one change of the cluster."""
    if _points is None:
        yield
        return
    _points.reach(f"before {doing}")
    yield
    _points.reach(f"after {doing}")
