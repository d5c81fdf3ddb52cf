# SPDX-License-Identifier: Apache-2.0
"""The command ``csi-addons-conformance``."""

import argparse
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from csi_addons_conformance import report, speed
from csi_addons_conformance.case import BOTH, CASES, Case
from csi_addons_conformance.cases import load
from csi_addons_conformance.environment import environment
from csi_addons_conformance.runner import Result, run_again, run_all
from csi_addons_conformance.stage import Stage
from csi_addons_conformance.staging import add_arguments, staged
from lab import LabError


def main() -> None:
    """Run the cases asked for and exit by what came."""
    load()
    # an orderly end: what was started is ended, too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    arguments = _parser().parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    chosen = _chosen(arguments.select, arguments.leave_out)
    if arguments.list:
        for each in chosen:
            console.print(f"{each.name}  [dim]{each.kind}, {', '.join(each.modes)}[/]  {each.row}")
        return
    console.print(f"bounds on time: those of a quiet machine, times {speed.factor():.2f}")
    began = time.monotonic()
    try:
        with ExitStack() as running:
            stages = _start(_labs(arguments), arguments, running)
            results = _run(chosen, stages, arguments, console)
        if not arguments.once and _own_labs(arguments):
            results = _run_again(results, arguments, console)
    except LabError as exc:
        sys.exit(f"csi-addons-conformance: {exc}")
    seconds = time.monotonic() - began
    report.show(results, console, seconds)
    if arguments.junit:
        report.write_junit(results, arguments.junit, seconds, environment())
    if arguments.markdown:
        report.write_markdown(results, arguments.markdown, seconds)
    sys.exit(report.exit_code(results, strict=arguments.strict))


def _run(
    chosen: list[Case], stages: list[Stage], arguments: argparse.Namespace, console: Console
) -> list[Result]:
    """Run the cases, telling of each; return the results in the cases' order."""
    results: list[Result] = []
    for result in run_all(
        chosen,
        stages,
        modes=tuple(arguments.mode or BOTH),
        side_by_side=arguments.side_by_side,
    ):
        console.print(report.line(result), highlight=False)
        results.append(result)
    order = {each.name: number for number, each in enumerate(chosen)}
    results.sort(key=lambda each: (order[each.case.name], each.mode))
    return results


def _run_again(
    results: list[Result], arguments: argparse.Namespace, console: Console
) -> list[Result]:
    """Run again what failed, telling of each; return the results with what came then."""
    again = {}
    for result in run_again(results, lambda: staged(arguments)):
        console.print(report.line(result), highlight=False)
        again[result.case.name, result.mode] = result
    return [again.get((each.case.name, each.mode), each) for each in results]


def _start(labs: int, arguments: argparse.Namespace, running: ExitStack) -> list[Stage]:
    """Start labs and drivers, all at once."""
    with ThreadPoolExecutor() as executor:
        return list(executor.map(lambda _: running.enter_context(staged(arguments)), range(labs)))


def _labs(arguments: argparse.Namespace) -> int:
    """Return how many labs to use: several only where the suite starts them itself."""
    return int(arguments.labs) if _own_labs(arguments) else 1


def _own_labs(arguments: argparse.Namespace) -> bool:
    return not arguments.lab and not arguments.site


def _chosen(select: list[str], leave_out: list[str]) -> list[Case]:
    """Choose by the beginning of a name, or by tag; drills only where they are asked for."""

    def fits(each: Case, words: list[str]) -> bool:
        return any(each.name.startswith(word) or word in each.tags for word in words)

    wanted = [each for each in CASES.values() if fits(each, select) or not select]
    if not select:
        leave_out = [*leave_out, "drill"]
    return [each for each in wanted if not fits(each, leave_out)]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="csi-addons-conformance",
        description="Prove that a CSI-Addons replication driver for Ceph RBD does what it must.",
        epilog="Exit code 0: every spec and safety case passed.",
    )
    add = parser.add_argument
    add_arguments(parser)
    add("--select", action="append", default=[], metavar="WORD", help="names that begin so, or tag")
    add("--leave-out", action="append", default=[], metavar="WORD", help="the same, not to be run")
    add("--mode", action="append", choices=BOTH, help="one mode only")
    add("--side-by-side", type=int, default=8, metavar="N", help="cases at once (default 8)")
    add("--labs", type=int, default=4, metavar="N", help="labs to start (default 4)")
    add("--strict", action="store_true", help="contract cases count for the exit code, too")
    add("--once", action="store_true", help="do not run again what failed")
    add("--list", action="store_true", help="list the cases and end")
    add("--junit", type=Path, metavar="FILE", help="write JUnit XML")
    add("--markdown", type=Path, metavar="FILE", help="write Markdown")
    return parser


if __name__ == "__main__":
    main()
