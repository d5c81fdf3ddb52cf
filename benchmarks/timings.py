# SPDX-License-Identifier: Apache-2.0
"""When many calls, made at once, began and ended, and what came of them.

Moments are of the monotonic clock, which all processes of a machine share.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """What one process measured, or several together."""

    began: float
    ended: float
    seconds: Sequence[float]
    """Of each call."""
    codes: Counter[str] = field(default_factory=Counter)
    """How the calls were answered; those that were repeated count each time."""

    @property
    def wall(self) -> float:
        """Seconds from the first call's start to the last one's end."""
        return self.ended - self.began

    @property
    def rate(self) -> float:
        """Calls a second."""
        return len(self.seconds) / self.wall

    @property
    def p50(self) -> float:
        """The median call, in seconds."""
        return median(self.seconds)


def together(parts: Iterable[Timings]) -> Timings:
    """Put together what several processes measured at the same time."""
    parts = [part for part in parts if part.seconds]
    return Timings(
        began=min(part.began for part in parts),
        ended=max(part.ended for part in parts),
        seconds=[each for part in parts for each in part.seconds],
        codes=sum((part.codes for part in parts), Counter()),
    )
