# SPDX-License-Identifier: Apache-2.0
"""A moment after which nobody waits any more."""

import time
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment after which nobody waits any more, by the monotonic clock."""

    moment: float

    @classmethod
    def after(cls, seconds: float) -> Self:
        """Return the deadline that many seconds from now."""
        return cls(time.monotonic() + seconds)

    @property
    def remaining(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.moment - time.monotonic())

    def or_after(self, seconds: float) -> Self:
        """Return this deadline, or the one that many seconds from now if that is sooner."""
        return type(self)(min(self.moment, time.monotonic() + seconds))

    def earlier(self, seconds: float) -> Self:
        """Return the deadline that many seconds before this one."""
        return type(self)(self.moment - seconds)
