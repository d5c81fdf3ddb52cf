# SPDX-License-Identifier: Apache-2.0
"""The end of a run: what ran on what, how it ended, and what was unsteady."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from csi_addons_conformance.steadiness import bearable
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
    """Whether its command ended with exit code 0."""
    seconds: float
    report: Report = field(default_factory=Report)


def exit_code(results: Iterable[Result]) -> int:
    """Return 1 when a tier failed, or when too much was unsteady in all of them together."""
    results = list(results)
    kinds = [case.kind for each in results for case in each.report.unsteady]
    return int(not all(each.passed for each in results) or not bearable(kinds))


def show(
    results: Sequence[Result], surroundings: Mapping[str, str], console: Console, *, seconds: float
) -> None:
    """Print the summary; ``surroundings`` are those of all tiers that tell of none themselves."""
    table = Table(title="What ran")
    for title in ("tier", "", "cases"):
        table.add_column(title)
    table.add_column("s", justify="right")
    for each in results:
        mark = "[green]passed[/]" if each.passed else "[bold red]failed[/]"
        table.add_row(each.tier, mark, each.report.counts, f"{each.seconds:.0f}")
    console.print(table)
    console.print(_words("here", surroundings))
    for each in results:
        if each.report.surroundings:
            console.print(_words(each.tier, each.report.surroundings))
    _list(console, "failed", ((each.tier, case) for each in results for case in each.report.failed))
    _list(
        console,
        "unsteady (failed at first, passed alone): a fault to find",
        ((each.tier, case) for each in results for case in each.report.unsteady),
    )
    ended = "failed" if exit_code(results) else "passed"
    console.print(f"{ended} in {seconds:.0f} s", style="bold")


def _words(where: str, surroundings: Mapping[str, str]) -> str:
    return f"{where}: " + ", ".join(f"{name} {value}" for name, value in surroundings.items())


def _list(console: Console, title: str, cases: Iterable[tuple[str, Case]]) -> None:
    lines = [*_lines(cases)]
    console.print(f"{title}:" if lines else f"{title}: none")
    for line in lines:
        console.print(f"  {line}")


def _lines(cases: Iterable[tuple[str, Case]]) -> Iterator[str]:
    for tier, case in cases:
        kind = f" ({case.kind})" if case.kind else ""
        first = " ".join(case.first.split())[:_LONGEST]
        yield escape(f"{tier}: {case.name}{kind}: {first}")
