# SPDX-License-Identifier: Apache-2.0
"""What ``make test`` runs: every tier, and a summary at the end.

Quick tiers come first, one after the other, and end the run if one of them fails. Tiers that need a
lab mostly wait, so some run side by side. ``--also RELEASE`` runs the contract with that Debian
release's Ceph, too. Exit code 1 when a tier failed, or when more cases were unsteady than a run
may have.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from csi_addons_conformance.report import surroundings
from rich.console import Console

from tests.tiers import reports, summary

QUICK: Final = ("lint", "typing", "drift", "unit", "deploy", "monitoring")
LONG: Final = (("contract", "ceph"), ("chaos-smoke",))
"""What needs a lab. Those of one stage mostly wait, and run side by side; the last loads the
machine on purpose."""
_WIDTH: Final = 120
_printing = threading.Lock()
_running: set[subprocess.Popen[str]] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One command, and the name of the report that it may leave."""

    name: str
    command: Sequence[str]


def main() -> None:
    """Run all tiers, say what came, and exit by it."""
    parser = argparse.ArgumentParser(prog="python -m tests.tiers", description=__doc__)
    parser.add_argument("--also", metavar="RELEASE", help="a Debian release, such as forky")
    also = parser.parse_args().also
    signal.signal(signal.SIGTERM, _end)
    shutil.rmtree(reports.DIRECTORY, ignore_errors=True)
    reports.DIRECTORY.mkdir(parents=True)
    began = time.monotonic()
    results = [*_run_all(also)]
    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
    summary.show(results, surroundings(), console, seconds=time.monotonic() - began)
    sys.exit(summary.exit_code(results))


def _end(*_: object) -> None:
    """End in order: what was started is ended, too."""
    for each in _running:
        each.terminate()
    sys.exit(143)


def _run_all(also: str | None) -> Iterator[summary.Result]:
    quick = [_on_menu(name) for name in QUICK]
    if also:
        quick.append(_elsewhere(also, "setup"))
    failed = False
    for tier in quick:
        result = _run(tier)
        failed = failed or not result.passed
        yield result
    if failed:
        return
    waiting, loading = ([_on_menu(name) for name in names] for names in LONG)
    if also:
        waiting.append(_elsewhere(also, "contract"))
    for stage in (waiting, loading):
        with ThreadPoolExecutor(len(stage)) as executor:
            yield from executor.map(lambda each: _run(each, prefix=f"{each.name} | "), stage)


def _on_menu(name: str) -> Tier:
    return Tier(name=name, command=(".venv/bin/tox", "run", "--quiet", "-e", name))


def _elsewhere(release: str, target: str) -> Tier:
    name = f"{release}-{target}"
    variable = f"REPORT={reports.path_of(name)}"
    return Tier(name=name, command=("scripts/in-release", release, "make", target, variable))


def _run(tier: Tier, *, prefix: str = "") -> summary.Result:
    """Run one tier, and pass on what it prints line by line."""
    began = time.monotonic()
    with subprocess.Popen(
        tier.command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        _running.add(process)
        for line in process.stdout or ():
            _print(prefix + line)
    _running.discard(process)
    return summary.Result(
        tier=tier.name,
        passed=process.returncode == 0,
        seconds=time.monotonic() - began,
        report=reports.read(reports.path_of(tier.name)),
    )


def _print(text: str) -> None:
    with _printing:
        sys.stdout.write(text)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
