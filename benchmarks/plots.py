# SPDX-License-Identifier: Apache-2.0
"""The results as one figure: how much of what is allowed is used, and the samples behind it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from textwrap import fill
from typing import Any, Final

from matplotlib.figure import Figure

from benchmarks.rows import Row

_MET: Final = "tab:green"
_MISSED: Final = "tab:red"
_FARTHEST: Final = 3.0
"""Where bars end, however far a target is missed."""


def draw(rows: Sequence[Row], machine: Mapping[str, str], file: Path) -> None:
    """Write the figure as PNG."""
    judged = [row for row in rows if row.judged]
    compared = [row for row in rows if row.floor_samples]
    height = 2.5 + 0.45 * max(len(judged), len(compared))
    figure = Figure(figsize=(16, height), layout="constrained")
    figure.suptitle("; ".join(f"{key} {value}" for key, value in machine.items()), fontsize=9)
    left, right = figure.subplots(1, 2)
    _shares(left, judged)
    _samples(right, compared)
    figure.savefig(file, dpi=100)


def _shares(axes: Any, rows: Sequence[Row]) -> None:
    """One bar a row."""
    shares = [min(row.share, _FARTHEST) for row in rows]
    axes.barh(range(len(rows)), shares, color=[_MET if row.met else _MISSED for row in rows])
    for y, row in enumerate(rows):
        axes.text(0.02, y, f"{row.shown} ({row.target})", va="center", fontsize=8)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlim(0, _FARTHEST)
    axes.set_title("share of what is allowed (1: just met)", fontsize=10, loc="left")
    _name(axes, rows)


def _samples(axes: Any, rows: Sequence[Row]) -> None:
    """Every sample over the floor's median."""
    for y, row in enumerate(rows):
        bare = median(row.floor_samples)
        for offset, samples, color, label in (
            (0.15, row.floor_samples, "tab:grey", "floor"),
            (-0.15, row.samples, "tab:blue", "driver"),
        ):
            ratios = [each / bare for each in samples]
            axes.plot(
                ratios,
                [y + offset] * len(ratios),
                "o",
                color=color,
                alpha=0.5,
                markersize=4,
                label=label if y == 0 else None,
            )
    axes.set_title("each sample over the floor's median", fontsize=10, loc="left")
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8)
    _name(axes, rows)


def _name(axes: Any, rows: Sequence[Row]) -> None:
    axes.set_yticks(range(len(rows)), [fill(row.name, 38) for row in rows], fontsize=8)
    axes.invert_yaxis()
