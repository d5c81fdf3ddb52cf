# SPDX-License-Identifier: Apache-2.0
"""A short version of each long run under faults and load, all of them side by side."""

import os
import subprocess
import sys
from collections import deque
from typing import Final

import pytest

DRIVER: Final = os.environ["DRIVER"]
"""The command that starts a driver, with places for the suite to fill in: see tox.ini."""
pytestmark = pytest.mark.timeout(900)
_BOUND: Final = 10
"""Seconds within which the fuzzed driver answers."""
_ENDS: Final = 60
"""Seconds in which a program ends its labs."""
_LAST: Final = 5
"""Lines of its output that a failure shows."""


def _run(*arguments: str) -> None:
    """Run a program to its end; a failure says what it printed last."""
    command = [sys.executable, "-m", *arguments]
    last: deque[str] = deque(maxlen=_LAST)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            for line in process.stdout or ():
                print(line, end="", flush=True)
                last.append(line)
        except BaseException:
            process.terminate()
            try:
                process.wait(_ENDS)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
    assert process.returncode == 0, "".join(last)


def test_faults() -> None:
    """Every call is answered in time under a few faults, and heals."""
    _run("csi_addons_conformance.faults", "--short", "--driver", DRIVER)


@pytest.mark.safety
def test_kills() -> None:
    """A driver killed at a step of an operation leaves nothing that the next call cannot mend."""
    _run("tests.kills", "--short")


def test_fuzz() -> None:
    """Bad input of every kind is answered with a code of the contract."""
    driver = f"{DRIVER} --call-timeout {_BOUND}"
    limits = ("--calls", "1500", "--bound", str(_BOUND))
    _run("csi_addons_conformance.load.fuzz", *limits, "--driver", driver)


def test_soak() -> None:
    """A few thousand calls leave nothing that grows, once caches are full.

    On Ceph 20.2 a worker grows by 10 MiB in its first 6,000 calls, by 3 in the next 24,000.
    """
    limits = ("--calls", "8000", "--warm-up", "4000", "--every", "1")
    _run("csi_addons_conformance.load.soak", *limits, "--driver", DRIVER)
