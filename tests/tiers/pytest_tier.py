# SPDX-License-Identifier: Apache-2.0
"""Runs one tier's tests with pytest; each that fails is run once more, alone.

``python -m tests.tiers.pytest_tier NAME ARGUMENT...``. A test that needs the lab gets a new one
then, since the lab lasts as long as a run of pytest. Exit code 1 when a test failed twice, or when
more were unsteady than a run may have.
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from xml.etree import ElementTree as ET

from csi_addons_conformance.steadiness import MOST_AGAIN, bearable

from tests.tiers import reports

_TESTS_FAILED: Final = 1
"""pytest's exit code when all was run and something failed; others are no matter of chance."""


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
    if len(failed) > MOST_AGAIN:
        print(f"{len(failed)} tests failed; that is no chance, and none is run again")
        return code
    reports.mark_unsteady(report, [key for test in failed for key in _passed_alone(test)])
    seen = reports.read(report)
    return int(bool(seen.failed) or not bearable([each.kind for each in seen.unsteady]))


def _passed_alone(test: str) -> list[tuple[str, str]]:
    """Run one test by itself; return its class name and name when it passed."""
    print(f"\nonce more, alone: {test}", flush=True)
    with TemporaryDirectory() as directory:
        again = Path(directory) / "again.xml"
        if _pytest(again, Path(directory), [test]):
            return []
        cases = ET.parse(again).getroot().iter("testcase")
        return [(each.get("classname", ""), each.get("name", "")) for each in cases]


def _pytest(report: Path, cache: Path, arguments: list[str]) -> int:
    options = (f"--junitxml={report}", "-o", f"cache_dir={cache}", "-o", "junit_family=xunit2")
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *arguments], check=False
    ).returncode


if __name__ == "__main__":
    main()
