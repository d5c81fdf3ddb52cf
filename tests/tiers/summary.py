# SPDX-License-Identifier: Apache-2.0
"""The end of a run: what ran on what, how it ended, and what was unsteady."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from csi_addons_conformance.steadiness import tolerable
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.tiers.reports import Case, Report

_LONGEST: Final = 600
"""Characters of what came; the report of the tier has it all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How one tier ended."""

    tier: str
    passed: bool
    """Whether its command ended with exit code 0, and a case passed if it has any."""
    seconds: float
    report: Report = field(default_factory=Report)


def exit_code(results: Iterable[Result]) -> int:
    """Return 1 when a tier failed, or when too much was unsteady in all of them together."""
    results = list(results)
    kinds = [case.kind for each in results for case in each.report.unsteady]
    return int(not all(each.passed for each in results) or not tolerable(kinds))


def show(
    results: Sequence[Result], environment: Mapping[str, str], console: Console, *, seconds: float
) -> None:
    """Print the summary; ``environment`` is that of all tiers that tell of none themselves."""
    table = Table(title="What ran")
    for title in ("tier", "", "cases"):
        table.add_column(title)
    table.add_column("s", justify="right")
    for each in results:
        mark = "[green]passed[/]" if each.passed else "[bold red]failed[/]"
        table.add_row(each.tier, mark, each.report.counts, f"{each.seconds:.0f}")
    console.print(table)
    console.print(_words("native", environment))
    for each in results:
        if each.report.environment:
            console.print(_words(each.tier, each.report.environment))
    _list(console, "failed cases", [(each.tier, each.report.failed) for each in results])
    _list(
        console,
        "unsteady cases (failed at first, passed alone; each is a fault to find)",
        [(each.tier, each.report.unsteady) for each in results],
    )
    ended = "failed" if exit_code(results) else "passed"
    console.print(f"{ended} in {seconds:.0f} s", style="bold")


def _words(where: str, environment: Mapping[str, str]) -> str:
    return f"{where}: " + ", ".join(f"{name} {value}" for name, value in environment.items())


def _list(console: Console, title: str, tiers: Iterable[tuple[str, Collection[Case]]]) -> None:
    lines = [*_lines(tiers)]
    console.print(f"{title}:" if lines else f"{title}: none")
    for line in lines:
        console.print(f"  {line}")


def _lines(tiers: Iterable[tuple[str, Collection[Case]]]) -> Iterator[str]:
    for tier, cases in tiers:
        for case in cases:
            kind = f" ({case.kind})" if case.kind else ""
            first = " ".join(case.first.split())[:_LONGEST]
            yield escape(f"{tier}: {case.name}{kind}: {first}")
