# SPDX-License-Identifier: Apache-2.0
"""Runs one tier's tests with pytest; each that fails is run once more, alone.

``python -m tests.tiers.pytest_tier NAME ARGUMENT...``. A test that needs the lab gets a new one
then, since the lab lasts as long as a run of pytest. Exit code 1 when a test failed twice, or when
more were unsteady than a run may have.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from xml.etree import ElementTree as ET

from csi_addons_conformance.steadiness import MAX_RERUNS, tolerable

from tests.tiers import reports

_TESTS_FAILED: Final = 1
"""pytest's exit code when all was run and something failed; no other is a matter of chance."""


def main() -> None:
    """Run the tier that the command line names; exit by what came."""
    name, *arguments = sys.argv[1:]
    sys.exit(run(reports.path_of(name), arguments))


def run(report: Path, arguments: list[str]) -> int:
    """Run tests and leave a JUnit report; return the exit code."""
    report.unlink(missing_ok=True)
    with TemporaryDirectory() as directory:
        cache = Path(directory)
        code = _pytest(report, cache, arguments)
        if code != _TESTS_FAILED:
            return code
        failed = [*json.loads((cache / "v/cache/lastfailed").read_text())]
    if len(failed) > MAX_RERUNS:
        print(f"{len(failed)} tests failed, more than {MAX_RERUNS}: none is run again")
        return code
    passed = [case for test in failed for case in _passed_alone(test)]
    reports.mark_unsteady(report, passed)
    seen = reports.read(report)
    excused = len(passed) == len(failed) and not seen.failed
    return 0 if excused and tolerable([each.kind for each in seen.unsteady]) else 1


def _passed_alone(test: str) -> list[ET.Element]:
    """Run one test by itself; return its case of that report when it passed."""
    print(f"\nonce more, alone: {test}", flush=True)
    with TemporaryDirectory() as directory:
        again = Path(directory) / "again.xml"
        _pytest(again, Path(directory), [test])
        cases = ET.parse(again).getroot().iter("testcase") if again.exists() else ()
        return [case for case in cases if reports.passed(case)]


def _pytest(report: Path, cache: Path, arguments: list[str]) -> int:
    """Run pytest, which gets a signal to end in order, so that it ends its lab; return its code."""
    options = (f"--junitxml={report}", "--override-ini", f"cache_dir={cache}")
    with subprocess.Popen([sys.executable, "-m", "pytest", *options, *arguments]) as process:
        # a terminal's Ctrl-C reaches it by itself
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: process.send_signal(signal.SIGINT))
        try:
            return process.wait()
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


if __name__ == "__main__":
    main()
