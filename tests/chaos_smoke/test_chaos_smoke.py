# SPDX-License-Identifier: Apache-2.0
"""A short version of each long run under faults and load, all of them side by side."""

import os
import shlex
import subprocess
import sys
from typing import Final

import pytest

DRIVER: Final = os.environ["DRIVER"]
"""The command that starts a driver, with places for the suite to fill in: see tox.ini."""
pytestmark = pytest.mark.timeout(900)
_BOUND: Final = 10
"""Seconds within which the fuzzed driver answers."""


def _run(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", *arguments], check=False)
    assert done.returncode == 0, f"{shlex.join(arguments)}: see what it printed"


@pytest.mark.safety
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
    """A few thousand calls leave nothing that grows."""
    limits = ("--calls", "4000", "--every", "1")
    _run("csi_addons_conformance.load.soak", *limits, "--driver", DRIVER)
