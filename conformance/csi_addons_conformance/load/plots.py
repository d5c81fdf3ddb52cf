# SPDX-License-Identifier: Apache-2.0
"""A soak as one figure: what processes held, and how many calls were answered meanwhile."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from csi_addons_conformance.load.sampling import CALLS, Series
from csi_addons_conformance.load.slopes import WARM_UP

_PANELS: Final = {
    "RSS": "resident memory, MiB",
    "threads": "threads",
    "descriptors": "open file descriptors",
    "connections": "TCP connections",
    "watchers": "watchers of the drivers, all images",
    CALLS: "calls per second",
}


def draw(series: Sequence[Series], title: str, file: Path) -> None:
    """Write the figure as PNG; the part that is not judged is grey."""
    figure = Figure(figsize=(12, 10), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(len(_PANELS) // 2, 2, sharex=True)
    for axes, (measure, words) in zip(panels.flat, _PANELS.items(), strict=True):
        _panel(axes, [each for each in series if each.measure == measure], words)
    for axes in panels[-1]:
        axes.set_xlabel("seconds")
    figure.savefig(file, dpi=110)


def _panel(axes: Any, series: Sequence[Series], words: str) -> None:
    for each in series:
        times, values = each.times, each.values
        if each.measure == CALLS:
            times, values = times[1:], _rates(times, values)
        axes.plot(times, values, label=each.whose, linewidth=1)
    axes.set_title(words, fontsize=10, loc="left")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if series and series[0].times:
        first, last = series[0].times[0], series[0].times[-1]
        axes.axvspan(first, first + WARM_UP * (last - first), color="grey", alpha=0.15)
        axes.legend(fontsize=8, loc="lower right")


def _rates(times: Sequence[float], totals: Sequence[float]) -> list[float]:
    points = list(zip(times, totals, strict=True))
    return [(b - a) / (later - earlier) for (earlier, a), (later, b) in pairwise(points)]
