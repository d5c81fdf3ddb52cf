# SPDX-License-Identifier: Apache-2.0
"""The dashboard of deploy/ as one figure, drawn from what Prometheus saw, alerts shaded."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator, MultipleLocator

from demo.prometheus import MONITORING, Prometheus, Series

_RATE_INTERVAL: Final = "15s"
"""What Grafana fills in from the scrape interval."""
_ROW: Final = 8
"""Height of a panel in the dashboard's own units, of which its width has 24."""
_COLUMNS: Final = 24
_ALERTS: Final = 'max by (alertname, severity) (ALERTS{alertstate="firing"})'
_SEVERITIES: Final = {"critical": "tab:red", "warning": "tab:orange"}
_COLOURS: Final = {
    "healthy": "tab:green",
    "degraded": "tab:orange",
    "error": "tab:red",
    "unknown": "tab:grey",
    "never_synced": "tab:purple",
}
_HANDLE: Final = re.compile(r"\b0001-\S+(?=[0-9a-f]{4}\b)")
_GAP: Final = 1.5
"""Seconds between two points beyond which the series was interrupted."""
_LONG: Final = 240
"""Seconds beyond which a label each half minute would be too many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What is to be drawn."""

    prometheus: Prometheus
    chapters: Sequence[tuple[str, float]]
    """Their titles, and when they began in seconds since the epoch; the first begins the figure."""
    end: float

    @property
    def begin(self) -> float:
        """When the figure begins."""
        return self.chapters[0][1]

    def series(self, expression: str) -> list[Series]:
        """Return what an expression was all the while."""
        filled_in = expression.replace("$__rate_interval", _RATE_INTERVAL)
        return self.prometheus.query_range(filled_in, self.begin, self.end)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A time during which an alert fired."""

    name: str
    colour: str
    begin: float
    end: float


def draw(run: Run, file: Path) -> list[str]:
    """Write the figure as PNG; return the titles of panels for which there was no data."""
    panels = json.loads((MONITORING / "dashboard.json").read_text())["panels"]
    alerts = _spans(run.series(_ALERTS))
    rows = 1 + max(panel["gridPos"]["y"] for panel in panels) // _ROW
    figure = Figure(figsize=(16, 2.2 * (rows + 1)))
    grid = figure.add_gridspec(
        rows + 1, _COLUMNS, left=0.035, right=0.99, top=0.975, bottom=0.1, hspace=0.5, wspace=2.6
    )
    top = figure.add_subplot(grid[0, _COLUMNS // 6 :])
    _draw_alerts(top, alerts, run)
    _mark_time(top, run)
    empty = []
    for panel in panels:
        place = panel["gridPos"]
        columns = slice(place["x"], place["x"] + place["w"])
        axes = figure.add_subplot(grid[1 + place["y"] // _ROW, columns], sharex=top)
        if not _draw_panel(axes, panel, run):
            empty.append(panel["title"])
        for alert in alerts:
            axes.axvspan(alert.begin, alert.end, color=alert.colour, alpha=0.12, linewidth=0)
    for axes in figure.axes:
        for _, began in run.chapters:
            axes.axvline(began, color="black", linewidth=0.7, linestyle=":", alpha=0.6)
    _write_contents(figure, run)
    figure.savefig(file, dpi=100)
    return empty


def _mark_time(axes: Axes, run: Run) -> None:
    """Count minutes and seconds from the beginning."""
    each = 60 if run.end - run.begin > _LONG else 30
    axes.set_xlim(run.begin, run.end)
    axes.xaxis.set_major_locator(MultipleLocator(each, offset=run.begin))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda now, _: _clock(now - run.begin)))


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def _write_contents(figure: Figure, run: Run) -> None:
    """Say at the bottom what the numbers of the chapters stand for."""
    lines = [f"{number}  {title}" for number, (title, _) in enumerate(run.chapters, start=1)]
    third = -(-len(lines) // 3)
    for column in range(3):
        text = "\n".join(lines[column * third : (column + 1) * third])
        figure.text(0.035 + 0.33 * column, 0.075, text, fontsize=10, va="top", linespacing=1.3)


def _spans(series: Sequence[Series]) -> list[Span]:
    """Return when each alert fired."""
    spans = []
    for each in series:
        name, colour = each.labels["alertname"], _SEVERITIES[each.labels["severity"]]
        begin = before = each.points[0][0]
        for now, _ in [*each.points[1:], (float("inf"), 0)]:
            if now - before > _GAP:
                spans.append(Span(name=name, colour=colour, begin=begin, end=before + 1))
                begin = now
            before = now
    return sorted(spans, key=lambda span: span.begin)


def _draw_alerts(axes: Axes, alerts: Sequence[Span], run: Run) -> None:
    """Draw a lane for each alert that ever fired, below the chapters' numbers."""
    lanes = list(dict.fromkeys(span.name for span in alerts))
    for span in alerts:
        axes.barh(lanes.index(span.name), span.end - span.begin, left=span.begin, color=span.colour)
    axes.set_yticks(range(len(lanes)), lanes, fontsize=9)
    axes.invert_yaxis()
    axes.set_title("Alerts that fired", fontsize=11, loc="left", pad=16)
    for number, (_, began) in enumerate(run.chapters, start=1):
        axes.text(began, 1.02, f" {number}", transform=axes.get_xaxis_transform(), fontsize=9)


def _draw_panel(axes: Axes, panel: dict[str, Any], run: Run) -> bool:
    """Draw one panel; tell whether there was anything to draw."""
    found = [
        (_legend(target["legendFormat"], series.labels), series)
        for target in panel["targets"]
        for series in run.series(target["expr"])
    ]
    for words, series in found:
        times, values = _with_gaps(series.points)
        if not any(
            value > 0 for value in values
        ):  # what was 0 all the time is a line among others, and no legend
            axes.step(times, values, where="post", color="tab:grey", linewidth=1)
            continue
        (line,) = axes.step(times, values, where="post", label=words, color=_COLOURS.get(words))
        if panel["type"] == "stat":
            axes.fill_between(times, values, step="post", color=line.get_color(), alpha=0.5)
    axes.set_title(panel["title"], fontsize=10, loc="left")
    axes.grid(alpha=0.3)
    axes.tick_params(labelsize=8)
    axes.set_ylim(bottom=0)
    _format_values(axes, panel["fieldConfig"]["defaults"]["unit"])
    if labels := axes.get_legend_handles_labels()[1]:
        axes.legend(
            loc="lower right",
            bbox_to_anchor=(1, 0.97),
            ncols=len(labels),
            frameon=False,
            fontsize=7.5,
            handlelength=1,
            columnspacing=0.8,
        )
    return bool(found)


def _format_values(axes: Axes, unit: str) -> None:
    if unit == "bytes":
        axes.yaxis.set_major_formatter(EngFormatter("B"))
    elif unit == "s":
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} s"))
    elif unit in {"short", "bool"}:
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=4))
        axes.set_ylim(top=max(1.1, axes.get_ylim()[1]))


def _with_gaps(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """Return times and values, interrupted where the series was."""
    times: list[float] = []
    values: list[float] = []
    for now, value in points:
        if times and now - times[-1] > _GAP:
            times.append(times[-1] + 1)
            values.append(nan)
        times.append(now)
        values.append(value)
    return times, values


def _legend(form: str, labels: dict[str, str]) -> str:
    """Fill in labels as Grafana does, shortened: a handle to its end, a method to its verb."""
    words = re.sub(r"{{(\w+)}}", lambda found: labels.get(found[1], ""), form)
    words = re.sub(r"^/replication.Controller/|Volume|Replication", "", words)
    return _HANDLE.sub("…", words)
