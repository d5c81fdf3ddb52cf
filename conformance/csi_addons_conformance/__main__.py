# SPDX-License-Identifier: Apache-2.0
"""The command ``csi-addons-conformance``."""

import argparse
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from rich.console import Console

from csi_addons_conformance import report
from csi_addons_conformance.case import BOTH, CASES, Case
from csi_addons_conformance.cases import load
from csi_addons_conformance.client import Client
from csi_addons_conformance.driver_process import PLACES, DriverProcess, driver_per_site
from csi_addons_conformance.runner import Result, run_all
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage
from lab import Lab, LabError

_SITES: Final = ("dr1", "dr2")


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
    try:
        with _staged(arguments) as stage:
            results, seconds = _run(chosen, stage, arguments, console)
    except LabError as exc:
        sys.exit(f"csi-addons-conformance: {exc}")
    report.show(results, console, seconds)
    if arguments.junit:
        report.write_junit(results, arguments.junit, seconds)
    if arguments.markdown:
        report.write_markdown(results, arguments.markdown, seconds)
    sys.exit(report.exit_code(results, strict=arguments.strict))


def _run(
    chosen: list[Case], stage: Stage, arguments: argparse.Namespace, console: Console
) -> tuple[list[Result], float]:
    """Run the cases, telling of each; return the results in the cases' order, and the seconds."""
    began = time.monotonic()
    results: list[Result] = []
    for result in run_all(
        chosen,
        stage,
        modes=tuple(arguments.mode or BOTH),
        side_by_side=arguments.side_by_side,
    ):
        console.print(report.line(result), highlight=False)
        results.append(result)
    order = {each.name: number for number, each in enumerate(chosen)}
    results.sort(key=lambda each: (order[each.case.name], each.mode))
    return results, time.monotonic() - began


def _chosen(select: list[str], leave_out: list[str]) -> list[Case]:
    """Choose by the beginning of a name, or by tag; drills only where they are asked for."""

    def fits(each: Case, words: list[str]) -> bool:
        return any(each.name.startswith(word) or word in each.tags for word in words)

    wanted = [each for each in CASES.values() if fits(each, select) or not select]
    if not select:
        leave_out = [*leave_out, "drill"]
    return [each for each in wanted if not fits(each, leave_out)]


@contextmanager
def _staged(arguments: argparse.Namespace) -> Iterator[Stage]:
    """Start what has to be started, and end it again."""
    with ExitStack() as running:
        if arguments.lab:
            lab = Lab.load(arguments.lab.parent)
        else:
            lab = Lab.up(Path(running.enter_context(TemporaryDirectory(prefix="conformance-"))))
            running.callback(lab.down)
        drivers: Mapping[str, DriverProcess] = {}
        if arguments.driver:
            directory = Path(running.enter_context(TemporaryDirectory(prefix="drivers-")))
            drivers = running.enter_context(driver_per_site(arguments.driver, lab, directory))
        endpoints = {name: each.endpoint for name, each in drivers.items()}
        here, there = (
            _site(lab, name, endpoints | _endpoints(arguments.site), drivers) for name in _SITES
        )
        yield Stage(lab=lab, here=here, there=there, mode="")


def _site(
    lab: Lab, name: str, endpoints: Mapping[str, str], drivers: Mapping[str, DriverProcess]
) -> SiteUnderTest:
    if name not in endpoints:
        raise LabError(f"--site {name}=unix:///PATH is missing, and --driver, too")
    site = lab.sites[name]
    client = Client(endpoints[name], site.secrets)
    answer = client.probe()
    if answer.code != "OK":
        raise LabError(f"no driver on {client.endpoint}: {answer}")
    return SiteUnderTest(site=site, client=client, started=drivers.get(name))


def _endpoints(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, endpoint = text.partition("=")
        if not equals or name not in _SITES or not endpoint.startswith("unix://"):
            raise LabError(
                f"--site is {text!r}; accepted is NAME=unix:///PATH, NAME one of "
                f"{' and '.join(_SITES)}"
            )
        pairs[name] = endpoint
    return pairs


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="csi-addons-conformance",
        description="Prove that a CSI-Addons replication driver for Ceph RBD does what it must.",
        epilog="Exit code 0: every spec and safety case passed.",
    )
    add = parser.add_argument
    add("--site", action="append", default=[], metavar="NAME=ENDPOINT", help="a driver's socket")
    add("--driver", metavar="COMMAND", help=f"start one on each site; may hold {PLACES}")
    add("--lab", type=Path, metavar="FILE", help="lab.json of a lab; by default one is started")
    add("--select", action="append", default=[], metavar="WORD", help="names that begin so, or tag")
    add("--leave-out", action="append", default=[], metavar="WORD", help="the same, not to be run")
    add("--mode", action="append", choices=BOTH, help="one mode only")
    add("--side-by-side", type=int, default=8, metavar="N", help="cases at once (default 8)")
    add("--strict", action="store_true", help="contract cases count for the exit code, too")
    add("--list", action="store_true", help="list the cases and end")
    add("--junit", type=Path, metavar="FILE", help="write JUnit XML")
    add("--markdown", type=Path, metavar="FILE", help="write Markdown")
    return parser


if __name__ == "__main__":
    main()
