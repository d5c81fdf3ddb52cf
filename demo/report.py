# SPDX-License-Identifier: Apache-2.0
"""What the audience sees: chapters, steps with their seconds, facts, and tables at the end.

On a terminal a running step turns a spinner; elsewhere each line is printed once, when done.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Final

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

_PLAIN_WIDTH: Final = 110
_BAR: Final = 40


@dataclass(frozen=True, slots=True)
class Check:
    """One fact that was looked at."""

    part: str
    chapter: str
    fact: str
    expected: str
    seen: str
    ok: bool


@dataclass(slots=True)
class Step:
    """A step that runs: what it says while it waits, and what it came to."""

    text: str
    result: str = ""
    details: list[str] = field(default_factory=list)
    progress: Progress | None = None

    def waiting(self, why: str) -> None:
        """Show why the step is not over yet, on a terminal."""
        if self.progress is not None:
            self.progress.update(self.progress.task_ids[0], why=f"({why})" if why else "")


class Report:
    """Prints the story while it is acted, and remembers every check."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        if not self.console.is_terminal:
            self.console = Console(highlight=False, width=_PLAIN_WIDTH)
        self.checks: list[Check] = []
        self.chapters_began: list[tuple[str, float]] = []
        """Every chapter's title, a part's name before its first, and when it began, in seconds
        since the epoch."""
        self._part = self._chapter = ""
        self._chapters: dict[str, dict[str, float]] = {}
        self._began = time.monotonic()

    @property
    def failed(self) -> bool:
        """Tell whether any check failed."""
        return not all(check.ok for check in self.checks)

    @property
    def seconds(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._began

    def part(self, name: str) -> None:
        """Open a part, such as one mode; its chapters and checks are listed together."""
        self.console.print()
        self.console.print(Rule(Text(name, style="bold"), characters="═", style="cyan"))
        self._part = name
        self._chapters[name] = {}

    @contextmanager
    def chapter(self, title: str) -> Iterator[None]:
        """Open a chapter of the part."""
        chapters = self._chapters[self._part]
        self.console.print()
        self.console.print(Text(f"{len(chapters) + 1}  {title}", style="bold cyan"))
        began = time.monotonic()
        self._chapter = title
        name = title if chapters else f"{self._part}: {title}"
        self.chapters_began.append((name, time.time()))
        try:
            yield
        finally:
            chapters[title] = time.monotonic() - began

    @contextmanager
    def step(self, text: str) -> Iterator[Step]:
        """Run one step, and print it with its seconds when it is over."""
        step, began = Step(text), time.monotonic()
        mark = ("✘", "bold red")
        try:
            if self.console.is_terminal:
                columns = (
                    SpinnerColumn(),
                    TextColumn("{task.description} [dim]{task.fields[why]}"),
                    TimeElapsedColumn(),
                )
                with Progress(*columns, console=self.console, transient=True) as step.progress:
                    step.progress.add_task(text, total=None, why="")
                    yield step
            else:
                yield step
            mark = ("▸", "bold blue")
        finally:
            self._line(mark, text, step.result, time.monotonic() - began)
            for detail in step.details:
                self.say(detail)

    def check(self, fact: str, expected: object, seen: object, *, ok: bool | None = None) -> None:
        """Record a fact: right when it is as expected, unless ``ok`` says so or not."""
        right = expected == seen if ok is None else ok
        check = Check(self._part, self._chapter, fact, str(expected), str(seen), right)
        self.checks.append(check)
        mark = ("✔", "bold green") if right else ("✘", "bold red")
        result = check.seen if right else f"{check.seen}, but expected {check.expected}"
        self._line(mark, fact, result, None)

    def say(self, text: str) -> None:
        """Print an aside."""
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(width=5)
        grid.add_column(ratio=1)
        grid.add_row("", Text(text, style="dim"))
        self.console.print(grid)

    def picture(self, text: Text) -> None:
        """Print how the two sites stand now."""
        self.console.print(Text("     ").append(text))

    def summary(self) -> None:
        """Print every check, the seconds of every chapter, and the verdict."""
        self.console.print()
        for name, chapters in self._chapters.items():
            self._print_checks(name)
            if len(chapters) > 1:
                self._print_seconds(name, chapters)
        bad = sum(not check.ok for check in self.checks)
        verdict = f"{len(self.checks)} checks, {bad} failed, {self.seconds:.0f} s in all"
        self.console.print(Text(verdict, style="bold red" if bad else "bold green"))

    def _line(self, mark: tuple[str, str], text: str, result: str, seconds: float | None) -> None:
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(width=3, justify="right")
        grid.add_column(ratio=1)
        grid.add_column(width=8, justify="right", style="dim")
        words = Text(text)
        if result:
            words.append("  ").append(result, style=mark[1].removeprefix("bold "))
        grid.add_row(Text(*mark), words, "" if seconds is None else f"{seconds:.1f} s")
        self.console.print(grid)

    def _print_checks(self, name: str) -> None:
        table = Table(title=f"What was checked: {name}", title_style="bold", expand=True)
        table.add_column("fact", ratio=9)
        table.add_column("expected", ratio=7, overflow="fold")
        table.add_column("seen", ratio=7, overflow="fold")
        table.add_column("ok", justify="center")
        checks = [check for check in self.checks if check.part == name]
        for chapter, group in groupby(checks, lambda check: check.chapter):
            table.add_section()
            table.add_row(Text(chapter, style="bold cyan"))
            for check in group:
                mark = Text("✔", style="green") if check.ok else Text("✘", style="bold red")
                table.add_row(Text(check.fact), Text(check.expected), Text(check.seen), mark)
        if checks:
            self.console.print(table)

    def _print_seconds(self, name: str, chapters: dict[str, float]) -> None:
        table = Table.grid(padding=(0, 2))
        longest = max(chapters.values())
        for title, seconds in chapters.items():
            bar = "━" * max(1, round(_BAR * seconds / longest))
            table.add_row(Text(title), Text(f"{seconds:.1f} s"), Text(bar, style="cyan"))
        table.columns[1].justify = "right"
        table.add_row(
            Text(f"in all, {name}", style="bold"),
            Text(f"{sum(chapters.values()):.1f} s", style="bold"),
        )
        self.console.print(table)
        self.console.print()
