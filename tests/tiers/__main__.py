# SPDX-License-Identifier: Apache-2.0
"""What ``make test`` runs: every tier, and a summary at the end.

Tiers that need the processor run one after the other. Those that mostly wait, for leases to run out
and for rbd-mirror, run side by side after them. ``--also RELEASE`` runs the contract with that
Debian release's Ceph, too. Exit code 1 when a tier failed, or when more cases were unsteady than
a run may have.
"""

import argparse
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from csi_addons_conformance.report import surroundings
from rich.console import Console

from tests.tiers import reports, summary

WORKING: Final = ("lint", "typing", "drift", "unit", "deploy", "monitoring")
WAITING: Final = ("contract", "ceph", "chaos-smoke")
_WIDTH: Final = 120
_printing = threading.Lock()


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
    # an orderly end: what was started is ended, too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    shutil.rmtree(reports.DIRECTORY, ignore_errors=True)
    reports.DIRECTORY.mkdir(parents=True)
    began = time.monotonic()
    working = [_on_menu(name) for name in WORKING]
    waiting = [_on_menu(name) for name in WAITING]
    if also:
        working.append(_elsewhere(also, "setup"))
        waiting.append(_elsewhere(also, "contract"))
    results = [_run(each) for each in working]
    with ThreadPoolExecutor(len(waiting)) as executor:
        results += executor.map(lambda each: _run(each, prefix=f"{each.name} | "), waiting)
    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
    summary.show(results, surroundings(), console, seconds=time.monotonic() - began)
    sys.exit(summary.exit_code(results))


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
        for line in process.stdout or ():
            _print(prefix + line)
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
