# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks``: two sites and their drivers up, every case, a table; all down again."""

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from csi_addons_conformance.staging import add_arguments, staged
from rich.console import Console

from benchmarks import report
from benchmarks.bench import CASES, Bench, Run
from benchmarks.cases import load
from benchmarks.machine import describe
from benchmarks.rows import Row
from lab import LabError


def main() -> int:
    """Measure; 1 when a target is missed."""
    # an orderly end: what was started is ended, too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    load()
    options = _parser().parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    try:
        with staged(options) as stage:
            machine = describe(stage.here.site)
            with Bench.on(
                stage,
                command=options.driver or "",
                rounds=options.rounds,
                many=options.volumes,
                say=lambda text: console.print(f"[dim]  {text}[/]", highlight=False),
            ) as bench:
                rows = _run(bench, options.select, console)
    except LabError as exc:
        sys.exit(f"benchmarks: {exc}")
    report.show(rows, machine, console)
    if options.markdown:
        report.write_markdown(rows, machine, options.markdown)
    if options.json:
        report.write_json(rows, machine, options.json)
    if options.plot:
        from benchmarks.plots import draw  # noqa: PLC0415 - needs matplotlib

        draw(rows, machine, options.plot)
    return 0 if rows and all(row.met for row in rows) else 1


def _run(bench: Bench, select: list[str], console: Console) -> list[Row]:
    rows = []
    for name, run in CASES.items():
        if select and not name.startswith(tuple(select)):
            continue
        console.print(f"{name} …", highlight=False)
        began = time.monotonic()
        for row in _rows(name, run, bench):
            rows.append(row)
            console.print(f"  {row.name}: {row.shown} {row.target}", highlight=False)
        console.print(f"[dim]  {time.monotonic() - began:.0f} s[/]", highlight=False)
    return rows


def _rows(name: str, run: Run, bench: Bench) -> Iterator[Row]:
    """Run one case; one that cannot go on is a target missed, and the others still run."""
    try:
        yield from run(bench)
    except (RuntimeError, TimeoutError) as exc:
        yield Row(name=name, ours="failed", figure=1, unit="failure", at_most=0, note=str(exc))
        bench.made.clear()  # they may be anywhere now


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure a CSI-Addons replication driver for Ceph RBD beside bare librbd.",
        epilog="Exit code 0: every target was met.",
    )
    add = parser.add_argument
    add_arguments(parser)
    add("--select", action="append", default=[], metavar="WORD", help="cases that begin so")
    add("--rounds", type=int, default=5, metavar="N", help="turns of each (%(default)s)")
    add("--volumes", type=int, default=1000, metavar="N", help="of the big cases (%(default)s)")
    add("--markdown", type=Path, metavar="FILE", help="write the table, between a page's marks")
    add("--json", type=Path, metavar="FILE", help="write every sample")
    add("--plot", type=Path, metavar="FILE", help="draw it, as PNG (needs matplotlib)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
