# SPDX-License-Identifier: Apache-2.0
"""Where tests hold an operation still: before and after every step that changes something.

Inactive unless the environment names a file, which only tests do. When that file appears, the
points that are passed are counted, and who comes to the one whose number, or name, the file holds,
waits there for a file with ``.go`` behind its name; meanwhile a test may kill or freeze the
process. So tests find every step by counting, also those that later code adds.
"""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

VARIABLE: Final = "CSI_ADDONS_RBD_FAULT_FILE"
_POLL: Final = 0.01


class FaultPoints:
    """Counts the points passed since a file was put there."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._armed: tuple[int, int] | None = None
        self._passed = 0

    def reach(self, point: str) -> None:
        """Pass a point, or wait there."""
        if self._due(point):
            while not self._beside("go").exists():
                time.sleep(_POLL)

    def _due(self, point: str) -> bool:
        with self._lock:
            try:
                found = self._file.stat()
                wanted = self._file.read_text()
            except FileNotFoundError:
                return False
            if self._armed != (found.st_ino, found.st_mtime_ns):
                self._armed, self._passed = (found.st_ino, found.st_mtime_ns), 0
            self._passed += 1
            if wanted not in (str(self._passed), point):
                return False
            self._file.unlink()
            self._beside("reached").write_text(point)
            return True

    def _beside(self, suffix: str) -> Path:
        return self._file.with_name(f"{self._file.name}.{suffix}")


_points: Final = FaultPoints(Path(os.environ[VARIABLE])) if VARIABLE in os.environ else None


def reach(point: str) -> None:
    """Mark one point between two looks at the cluster."""
    if _points is not None:
        _points.reach(point)


@contextmanager
def step(doing: str) -> Iterator[None]:
    """Mark one change of the cluster."""
    reach(f"before {doing}")
    yield
    reach(f"after {doing}")
