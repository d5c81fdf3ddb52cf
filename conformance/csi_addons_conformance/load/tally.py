# SPDX-License-Identifier: Apache-2.0
"""What callers were answered: codes, seconds, and answers that should not have come."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Final

from csi_addons_conformance.client import Answer

_MANY: Final = 20
"""Findings after which callers stop."""


class Tally:
    """Counts answers. Used by all callers at once.

    Args:
        calls: How many answers are enough.
        watched: Whether what is watched meanwhile was seen often enough; callers go on until then.
        seconds: After this time callers end in any case.
    """

    def __init__(self, calls: int, *, watched: Callable[[], bool], seconds: float) -> None:
        self._calls = calls
        self._watched = watched
        self._deadline = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._seconds: dict[str, list[float]] = {}
        self.codes: Counter[tuple[str, str]] = Counter()
        """Answers, by method and code."""
        self.kinds: Counter[tuple[str, str]] = Counter()
        """Answers, by what callers did and code."""
        self.failed_by_design = 0
        """Calls that were made in order to fail."""
        self.findings: list[str] = []

    @property
    def made(self) -> int:
        """Calls that were answered."""
        return self.codes.total()

    @property
    def failures(self) -> int:
        """Calls that were not answered OK."""
        return sum(number for (_, code), number in self.codes.items() if code != "OK")

    @property
    def enough(self) -> bool:
        """Whether callers should end."""
        if time.monotonic() > self._deadline or len(self.findings) >= _MANY:
            return True
        return self.made >= self._calls and self._watched()

    def stop(self) -> None:
        """Let callers end as soon as they can."""
        self._deadline = -inf

    @property
    def latencies(self) -> Mapping[str, Sequence[float]]:
        """Seconds of every call by method, the shortest first."""
        return {method: sorted(self._seconds[method]) for method in sorted(self._seconds)}

    def note(self, answer: Answer, *, kind: str, codes: frozenset[str], fails: bool) -> None:
        """Count an answer; one with another code than may come is a finding."""
        with self._lock:
            self.codes[answer.method, answer.code] += 1
            self.kinds[kind, answer.code] += 1
            self.failed_by_design += fails
            self._seconds.setdefault(answer.method, []).append(answer.seconds)
        if answer.code not in codes:
            self.find(f"{kind}: expected {' or '.join(sorted(codes))}; came {answer}")

    def find(self, what: str) -> None:
        """Note what is not as it must be."""
        with self._lock:
            self.findings.append(what)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value below which a share of all lies."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
