# SPDX-License-Identifier: Apache-2.0
"""The results as a table on a terminal, as JUnit XML and as Markdown."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from csi_addons_conformance.case import Kind
from csi_addons_conformance.runner import BAD, Result, Verdict
from csi_addons_conformance.steadiness import tolerable

_MARKS = {
    Verdict.PASSED: "[green]✔[/]",
    Verdict.UNSTEADY: "[yellow]~[/]",
    Verdict.FAILED: "[bold red]✘[/]",
    Verdict.BROKEN: "[bold magenta]![/]",
    Verdict.SKIPPED: "[yellow]–[/]",
}
_TAGS = {
    Verdict.FAILED: "failure",
    Verdict.BROKEN: "error",
    Verdict.SKIPPED: "skipped",
    Verdict.UNSTEADY: "flakyFailure",
}
_GRAVE = (Kind.SPEC, Kind.SAFETY)


def line(result: Result) -> str:
    """Return one result as a line of progress, with the terminal's markup."""
    text = f"{_MARKS[result.verdict]} {escape(result.name)}  [dim]{result.seconds:.1f} s[/]"
    if result.first:
        text += f"\n    at first: {escape(result.first)}\n    alone in a fresh lab:"
    if result.verdict is not Verdict.PASSED:
        text += f"\n    {escape(result.came)}"
    return text


def show(results: Sequence[Result], console: Console, seconds: float) -> None:
    """Print the table, and the sum of it."""
    table = Table(title="Conformance", show_lines=False, expand=True)
    for title, ratio in (("case", 3), ("kind", 1), ("mode", 1), ("expected", 4), ("came", 4)):
        table.add_column(title, ratio=ratio, overflow="fold")
    table.add_column("s", justify="right")
    table.add_column("")
    for each in results:
        table.add_row(
            each.case.name,
            each.case.kind,
            each.mode,
            escape(each.case.expected),
            escape(each.came),
            f"{each.seconds:.1f}",
            _MARKS[each.verdict],
        )
    console.print(table)
    unsteady = [each for each in results if each.verdict is Verdict.UNSTEADY]
    if unsteady:
        console.print("Unsteady, which is a fault to find:")
    for each in unsteady:
        console.print(line(each), highlight=False)
    console.print(summary(results, seconds), highlight=False)


def summary(results: Sequence[Result], seconds: float) -> str:
    """Return one sentence: how many ended how, and how long all took."""
    counted = Counter(each.verdict for each in results)
    parts = [f"{counted[verdict]} {verdict}" for verdict in Verdict if counted[verdict]]
    grave = sum(_is_grave(each) for each in results)
    return (
        f"{len(results)} runs: {', '.join(parts) or 'none'}; {grave} of them break the "
        f"specification or are unsafe; {seconds:.0f} s in all"
    )


def exit_code(results: Sequence[Result], *, strict: bool) -> int:
    """Return 0 when every spec and safety case passed; ``strict`` counts the contract, too.

    A run without any case is none that passed.
    """
    if not results:
        return 1
    bad = [each for each in results if each.verdict in BAD]
    unsteady = [each.case.kind for each in results if each.verdict is Verdict.UNSTEADY]
    if not tolerable(unsteady):
        return 1
    return int(bool(bad) if strict else any(map(_is_grave, bad)))


def _is_grave(result: Result) -> bool:
    return result.verdict in BAD and result.case.kind in _GRAVE


def write_junit(
    results: Sequence[Result], path: Path, seconds: float, environment: Mapping[str, str]
) -> None:
    """Write what CI systems read; an unsteady case as Maven's Surefire writes a flaky one."""
    bad = Counter(each.verdict for each in results)
    suite = ET.Element(
        "testsuite",
        name="csi-addons-conformance",
        tests=str(len(results)),
        failures=str(bad[Verdict.FAILED]),
        errors=str(bad[Verdict.BROKEN]),
        skipped=str(bad[Verdict.SKIPPED]),
        time=f"{seconds:.3f}",
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in environment.items():
        ET.SubElement(properties, "property", name=name, value=value)
    for each in results:
        item = ET.SubElement(
            suite,
            "testcase",
            classname=f"{each.case.kind}.{each.mode}",
            name=each.case.name,
            time=f"{each.seconds:.3f}",
        )
        if each.verdict in _TAGS:
            ET.SubElement(item, _TAGS[each.verdict], message=_message(each))
    path.parent.mkdir(parents=True, exist_ok=True)
    ET.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)


def _message(result: Result) -> str:
    if result.verdict is Verdict.UNSTEADY:
        return result.first
    return f"{result.came} (at first: {result.first})" if result.first else result.came


def write_markdown(results: Sequence[Result], path: Path, seconds: float) -> None:
    """Write a page for people."""
    rows = [
        "| case | kind | mode | row of the contract | expected | came | seconds | |",
        "| --- | --- | --- | --- | --- | --- | ---: | --- |",
        *(
            f"| {each.case.name} | {each.case.kind} | {each.mode} | {_cell(each.case.row)} | "
            f"{_cell(each.case.expected)} | {_cell(each.came)} | {each.seconds:.1f} | "
            f"{each.verdict} |"
            for each in results
        ),
    ]
    path.write_text("\n".join(["# Conformance", "", summary(results, seconds), "", *rows, ""]))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
