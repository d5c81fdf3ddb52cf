# SPDX-License-Identifier: Apache-2.0
"""Does a series grow? A straight line by least squares, and bounds for it. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WARM_UP: Final = 0.2
"""Share of a run that is not judged: pools of threads and of memory fill up."""
_SHARE: Final = 0.02
"""Growth over the whole run, as a share of the series' mean, that is taken for noise."""
_LEAST: Final = 4
"""Samples without which there is nothing to judge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """One series, judged."""

    name: str
    unit: str
    mean: float
    growth: float
    """What the line climbs from the end of the warm-up to the end of the run."""
    noise: float
    """Twice the standard error of the growth: how far chance alone may take it, 19 times in 20.

    It falls as a run gets longer, and never excuses more than the bound.
    """
    bound: float
    """The growth that is allowed."""
    samples: int

    @property
    def flat(self) -> bool:
        """Whether the series does not grow. One that shrinks is flat, too."""
        return self.samples >= _LEAST and self.growth - min(self.noise, self.bound) <= self.bound


def trend(
    name: str, times: Sequence[float], values: Sequence[float], *, unit: str, allowed: float
) -> Trend:
    """Judge the part of a series after the warm-up.

    Args:
        name: What the series shows.
        times: Seconds since the run began, rising.
        values: What was seen then.
        unit: What is counted.
        allowed: Growth over the run that is no growth, in units; or 2 % of the mean if that is
            more.
    """
    start = times[0] + WARM_UP * (times[-1] - times[0]) if times else 0.0
    points = [(x, y) for x, y in zip(times, values, strict=True) if x >= start]
    mean = sum(y for _, y in points) / len(points) if points else 0.0
    length = points[-1][0] - points[0][0] if points else 0.0
    return Trend(
        name=name,
        unit=unit,
        mean=mean,
        growth=slope(points) * length,
        noise=2 * _standard_error(points) * length,
        bound=max(allowed, _SHARE * mean),
        samples=len(points),
    )


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return what the line through the points climbs per unit; 0 where no line can be told."""
    if len(points) < 2:
        return 0.0
    middle_x = sum(x for x, _ in points) / len(points)
    middle_y = sum(y for _, y in points) / len(points)
    spread = sum((x - middle_x) ** 2 for x, _ in points)
    if not spread:
        return 0.0
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / spread


def _standard_error(points: Sequence[tuple[float, float]]) -> float:
    """Return the standard error of the slope: it falls as a run gets longer; 0 without a line."""
    if len(points) < 3:
        return 0.0
    middle_x = sum(x for x, _ in points) / len(points)
    middle_y = sum(y for _, y in points) / len(points)
    climb = slope(points)
    spread = sum((x - middle_x) ** 2 for x, _ in points)
    scatter = sum((y - middle_y - climb * (x - middle_x)) ** 2 for x, y in points)
    return math.sqrt(scatter / (len(points) - 2) / spread) if spread else 0.0
