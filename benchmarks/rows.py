# SPDX-License-Identifier: Apache-2.0
"""One line of the table: what was measured, beside what, and whether that is good enough."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from statistics import median


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One result; without bounds it is only told."""

    name: str
    ours: str
    """What the driver took, in words."""
    floor: str = ""
    """What the floor took; empty when there is none."""
    figure: float
    """What is judged: a ratio, or a figure in ``unit``."""
    unit: str = ""
    at_most: float = inf
    at_least: float = -inf
    note: str = ""
    samples: Sequence[float] = field(default=(), repr=False)
    floor_samples: Sequence[float] = field(default=(), repr=False)

    @property
    def judged(self) -> bool:
        """Whether it has a target."""
        return self.at_most < inf or self.at_least > -inf

    @property
    def met(self) -> bool:
        """Whether the target is met."""
        return self.at_least <= self.figure <= self.at_most

    @property
    def target(self) -> str:
        """The target in words; empty when there is none."""
        if not self.judged:
            return ""
        upper = self.at_most < inf
        sign, bound = ("≤", self.at_most) if upper else ("≥", self.at_least)
        return f"{sign} {_worded(bound, self.unit)}"

    @property
    def shown(self) -> str:
        """The figure in words."""
        return _worded(self.figure, self.unit)

    @property
    def share(self) -> float:
        """The share of what is allowed that is used: at most 1 when the target is met."""
        if self.at_most < inf:
            return self.figure / self.at_most if self.at_most else float(self.figure > 0) * 2
        return self.at_least / self.figure if self.figure else inf


def _worded(figure: float, unit: str) -> str:
    number = f"{figure:.0f}" if figure >= 100 or figure == int(figure) else f"{figure:.3g}"
    return f"{number} {unit}".strip()


def milliseconds(seconds: float) -> str:
    """Word a short time."""
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.2f} s"


def per_second(rate: float) -> str:
    """Word a rate."""
    return f"{rate:.0f} a second"


def beside(
    name: str,
    ours: Sequence[float],
    floor: Sequence[float],
    *,
    words: Callable[[float], str] = milliseconds,
    at_most: float = inf,
    at_least: float = -inf,
    note: str = "",
) -> Row:
    """Put the medians of what was measured in turn beside each other."""
    mine, bare = median(ours), median(floor)
    return Row(
        name=name,
        ours=words(mine),
        floor=words(bare),
        figure=mine / bare,
        at_most=at_most,
        at_least=at_least,
        note=note,
        samples=ours,
        floor_samples=floor,
    )
