# SPDX-License-Identifier: Apache-2.0
"""The results: on a terminal, as a part of a page, and as JSON."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.rows import Row

BEGIN: Final = "<!-- measured: begin -->"
END: Final = "<!-- measured: end -->"
_HEAD: Final = ("case", "driver", "floor", "ratio or figure", "target", "met")


def show(rows: Sequence[Row], machine: Mapping[str, str], console: Console) -> None:
    """Print the table."""
    table = Table()
    for name in _HEAD:
        table.add_column(name)
    for row in rows:
        mark = "" if not row.judged else "[green]✔[/]" if row.met else "[bold red]✘[/]"
        table.add_row(*_cells(row), mark)
    console.print(table)
    console.print(_words(machine), highlight=False)
    for row in rows:
        if row.note:
            console.print(f"[dim]{row.name}: {row.note}[/]", highlight=False)


def write_markdown(rows: Sequence[Row], machine: Mapping[str, str], file: Path) -> None:
    """Write the table: between the two marks of a page that has them, else as the whole file."""
    table = "\n".join(_markdown(rows, machine))
    page = file.read_text() if file.exists() else ""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    file.write_text(f"{before}{begin}\n{table}\n{end}{after}" if end else f"{table}\n")


def write_json(rows: Sequence[Row], machine: Mapping[str, str], file: Path) -> None:
    """Write everything, with every sample."""
    values = [{**asdict(row), "met": row.met} for row in rows]
    file.write_text(json.dumps({"machine": machine, "rows": _plain(values)}, indent=1) + "\n")


def _markdown(rows: Sequence[Row], machine: Mapping[str, str]) -> Iterator[str]:
    yield "| " + " | ".join(_HEAD) + " |"
    yield "| --- " * len(_HEAD) + "|"
    for row in rows:
        met = "" if not row.judged else "yes" if row.met else "**no**"
        yield "| " + " | ".join((*_cells(row), met)) + " |"
    yield ""
    yield from (f"- {row.name}: {row.note}" for row in rows if row.note)
    yield ""
    yield f"Measured on: {_words(machine)}."


def _words(machine: Mapping[str, str]) -> str:
    return "; ".join(f"{key} {value}" for key, value in machine.items())


def _cells(row: Row) -> tuple[str, ...]:
    return row.name, row.ours, row.floor, row.shown, row.target


def _plain(values: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Replace what JSON has no word for: a bound that is none."""
    return [
        {
            key: None if isinstance(value, float) and not isfinite(value) else value
            for key, value in each.items()
        }
        for each in values
    ]
