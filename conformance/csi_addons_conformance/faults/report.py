# SPDX-License-Identifier: Apache-2.0
"""What the storms showed: on the terminal, as Markdown, as JSON and as a picture."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from csi_addons_conformance.faults.cells import CALLS
from csi_addons_conformance.faults.matrix import CALL_TIMEOUT, Outcome, Storm

_SHORT: Final = {
    "FAILED_PRECONDITION": "PRECONDITION",
    "DEADLINE_EXCEEDED": "DEADLINE",
    "RESOURCE_EXHAUSTED": "EXHAUSTED",
    "PERMISSION_DENIED": "DENIED",
}


def line(storm: Storm, since: float) -> str:
    """Describe one storm that is over, ``since`` seconds after the start."""
    wrong = sum(bool(each.faults) for each in storm.outcomes)
    healed = max(each.healed for each in storm.outcomes)
    return (
        f"{storm.fault.name}: {len(storm.outcomes)} calls, {wrong} not as they must be, slowest "
        f"answer {_worst(storm.outcomes, healing=False):.1f} s, all healed after {healed:.1f} s; "
        f"volumes made in {storm.prepared:.0f} s; {since:.0f} s since the start"
    )


def show(storms: Sequence[Storm], console: Console, seconds: float) -> None:
    """Print the matrix, and everything that is not as it must be."""
    for mode in _modes(storms):
        table = Table(title=f"Faults, {mode} mode: codes, slowest answer / time to heal in s")
        table.add_column("fault")
        for call in CALLS:
            table.add_column(call)
        for storm in storms:
            table.add_row(storm.fault.name, *(_words(storm, call, mode) for call in CALLS))
        console.print(table)
    for line in summary(storms, seconds):
        console.print(line)
    for outcome in _wrong(storms):
        console.print(f"[red]✘[/] {_describe(outcome)}")


def summary(storms: Sequence[Storm], seconds: float) -> list[str]:
    """Return the figures over all cells, line by line."""
    outcomes = [each for storm in storms for each in storm.outcomes]
    answers = sorted(each.seconds for each in outcomes)
    slowest, p99 = answers[-1], answers[int(0.99 * (len(answers) - 1))]
    same, lost = all(each.pid_kept for each in storms), sum(each.losses for each in storms)
    return [
        f"{len(outcomes)} calls under {len(storms)} faults in {seconds:.0f} s",
        f"bound {CALL_TIMEOUT} s; slowest answer {slowest:.1f} s, p99 {p99:.1f} s",
        f"slowest Probe {1000 * max(each.probe for each in storms):.0f} ms",
        f"the serving process was {'the same throughout' if same else 'REPLACED'}",
        f"workers replaced: {lost}",
        f"cells not as they must be: {len(_wrong(storms))}",
    ]


def failed(storms: Sequence[Storm]) -> bool:
    """Tell whether something is not as it must be."""
    return bool(_wrong(storms)) or not all(storm.pid_kept for storm in storms)


def write_markdown(storms: Sequence[Storm], path: Path, seconds: float) -> None:
    """Write the matrix as a part of a page."""
    lines: list[str] = []
    for mode in _modes(storms):
        lines += [f"### {mode.capitalize()} mode", "", f"| fault | {' | '.join(CALLS)} |"]
        lines.append("| --- " * (len(CALLS) + 1) + "|")
        for storm in storms:
            cells = (_words(storm, call, mode) for call in CALLS)
            lines.append(f"| {storm.fault.name} | {' | '.join(cells)} |")
        lines.append("")
    lines += ["### Each fault", "", _HEADER, "| --- " * 6 + "|"]
    lines += [_row(storm) for storm in storms]
    lines += ["", *(f"- {line}" for line in summary(storms, seconds))]
    path.write_text("\n".join(lines) + "\n")


_HEADER: Final = (
    "| fault | cluster answers again after | slowest answer | slowest to heal | allowed | "
    "workers replaced |"
)


def _row(storm: Storm) -> str:
    fault = storm.fault
    healed = max((each.healed for each in storm.outcomes), default=0)
    return (
        f"| {fault.name} | {storm.silent:.1f} s | "
        f"{max(each.seconds for each in storm.outcomes):.1f} s | {healed:.1f} s | "
        f"{fault.heals_in:g} s{': ' if fault.because else ''}{fault.because} | {storm.losses} |"
    )


def write_json(storms: Sequence[Storm], path: Path) -> None:
    """Write every cell."""
    cells = [asdict(each) for storm in storms for each in storm.outcomes]
    path.write_text(json.dumps(cells, indent=1) + "\n")


def draw(storms: Sequence[Storm], path: Path) -> None:
    """Draw the slowest answer and the time to heal as heat maps."""
    import matplotlib as mpl  # noqa: PLC0415 - heavy, and only for this

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    modes = _modes(storms)
    figure, axes = plt.subplots(2, len(modes), figsize=(8 * len(modes), 9), squeeze=False)
    for column, mode in enumerate(modes):
        for row, title in enumerate(("slowest answer", "time to heal")):
            values = [
                [_worst(_of(storm, call, mode), healing=bool(row)) for call in CALLS]
                for storm in storms
            ]
            axis = axes[row][column]
            image = axis.imshow(values, cmap="YlOrRd", vmin=0, vmax=30, aspect="auto")
            axis.set_title(f"{title}, {mode} mode (s)")
            axis.set_xticks(range(len(CALLS)), CALLS)
            axis.set_yticks(range(len(storms)), [storm.fault.name for storm in storms])
            for y, line in enumerate(values):
                for x, value in enumerate(line):
                    axis.text(x, y, f"{value:.1f}", ha="center", va="center", fontsize=7)
            figure.colorbar(image, ax=axis)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def _modes(storms: Sequence[Storm]) -> list[str]:
    return sorted({each.mode for storm in storms for each in storm.outcomes}, reverse=True)


def _of(storm: Storm, call: str, mode: str) -> list[Outcome]:
    return [each for each in storm.outcomes if each.call == call and each.mode == mode]


def _worst(outcomes: Iterable[Outcome], *, healing: bool) -> float:
    return max(each.healed if healing else each.seconds for each in outcomes)


def _words(storm: Storm, call: str, mode: str) -> str:
    outcomes = _of(storm, call, mode)
    codes = ", ".join(sorted({_SHORT.get(each.code, each.code) for each in outcomes}))
    mark = " ✘" if any(each.faults for each in outcomes) else ""
    slowest, healed = _worst(outcomes, healing=False), _worst(outcomes, healing=True)
    return f"{codes} {slowest:.1f} / {healed:.1f}{mark}"


def _wrong(storms: Sequence[Storm]) -> list[Outcome]:
    return [each for storm in storms for each in storm.outcomes if each.faults]


def _describe(outcome: Outcome) -> str:
    return (
        f"{outcome.fault}, {outcome.call} [{outcome.mode}] begun {outcome.moment:+g} s: "
        f"{'; '.join(outcome.faults)} — {outcome.code} {outcome.reason} {outcome.message[:200]}"
    )
