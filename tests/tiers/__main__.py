# SPDX-License-Identifier: Apache-2.0
"""What ``make test`` runs: every tier, and a summary at the end.

Quick tiers come first, one after the other, and end the run if one of them fails. Tiers that need a
lab mostly wait, so some run side by side. ``--also RELEASE`` runs the contract with that Debian
release's Ceph, too. Exit code 1 when a tier failed, or when more cases were unsteady than a run
may have.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Final

from csi_addons_conformance import speed
from csi_addons_conformance.environment import environment
from rich.console import Console

from tests.tiers import reports, summary

CHECKS: Final = ("lint", "typing", "drift")
"""What has no cases."""
QUICK: Final = (*CHECKS, "unit", "deploy", "monitoring")
LONG: Final = (("contract", "ceph"), ("chaos-smoke",))
"""What needs a lab. Those of one stage mostly wait, and run side by side; the last loads the
machine on purpose."""
_WIDTH: Final = 120
_BOUND: Final = 1800
"""Seconds after which a tier is ended."""
_printing = threading.Lock()
_running: set[subprocess.Popen[str]] = set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One command, and the name of the report that it may leave."""

    name: str
    command: Sequence[str]
    has_cases: bool
    """Whether it leaves a report; without a case in it that passed, it has failed."""


def main() -> None:
    """Run all tiers, say what came, and exit by it."""
    parser = argparse.ArgumentParser(prog="python -m tests.tiers", description=__doc__)
    parser.add_argument("--also", metavar="RELEASE", help="a Debian release, such as forky")
    also = parser.parse_args().also
    signal.signal(signal.SIGTERM, _end)
    # nothing that needs a lab may pass by being skipped
    os.environ["REQUIRE_CEPH"] = "1"
    # measured now, and told to all tiers: later they load the machine themselves
    os.environ[speed.VARIABLE] = f"{speed.factor():.2f}"
    print(f"bounds on time: those of a quiet machine, times {speed.factor():.2f}", flush=True)
    shutil.rmtree(reports.DIRECTORY, ignore_errors=True)
    reports.DIRECTORY.mkdir(parents=True)
    began = time.monotonic()
    results = [*_run_all(also)]
    console = Console(width=None if sys.stdout.isatty() else _WIDTH, highlight=False)
    summary.show(results, environment(), console, seconds=time.monotonic() - began)
    sys.exit(summary.exit_code(results))


def _end(*_: object) -> None:
    """End in order: what was started is ended, too."""
    for each in [*_running]:
        each.terminate()
    sys.exit(143)


def _run_all(also: str | None) -> Iterator[summary.Result]:
    quick = [_tox_tier(name) for name in QUICK]
    if also:
        quick.append(_release_tier(also, "setup"))
    failed = False
    for tier in quick:
        result = _run(tier)
        failed = failed or not result.passed
        yield result
    if failed:
        _print(f"not run, since a quick tier failed: {', '.join(chain(*LONG))}\n")
        return
    waiting, loading = ([_tox_tier(name) for name in names] for names in LONG)
    if also:
        waiting.append(_release_tier(also, "contract"))
    for stage in (waiting, loading):
        with ThreadPoolExecutor(len(stage)) as executor:
            yield from executor.map(lambda each: _run(each, prefix=f"{each.name} | "), stage)


def _tox_tier(name: str) -> Tier:
    command = (".venv/bin/tox", "run", "--quiet", "-e", name)
    return Tier(name=name, command=command, has_cases=name not in CHECKS)


def _release_tier(release: str, target: str) -> Tier:
    name = f"{release}-{target}"
    command = ("scripts/in-release", release, "make", target, f"REPORT={reports.path_of(name)}")
    return Tier(name=name, command=command, has_cases=target != "setup")


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
        limit = threading.Timer(_BOUND, process.terminate)
        limit.start()
        _running.add(process)
        for line in process.stdout or ():
            _print(prefix + line)
    limit.cancel()
    _running.discard(process)
    report = reports.read(reports.path_of(tier.name))
    return summary.Result(
        tier=tier.name,
        passed=process.returncode == 0 and bool(report.passed or not tier.has_cases),
        seconds=time.monotonic() - began,
        report=report,
    )


def _print(text: str) -> None:
    with _printing:
        sys.stdout.write(text)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
