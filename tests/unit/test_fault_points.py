# SPDX-License-Identifier: Apache-2.0
"""Fault points: counted since the file came, fired once, and never without the variable."""

import subprocess
import sys
from pathlib import Path
from signal import SIGKILL, SIGSEGV

import pytest

from csi_addons_rbd.ceph.fault_points import VARIABLE, FaultPoints

THREE_STEPS = """
from csi_addons_rbd.ceph.fault_points import step
for doing in ("one", "two", "three"):
    with step(doing):
        print(doing, flush=True)
"""


def run(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Take three steps in a process of their own."""
    return subprocess.run(
        [sys.executable, "-c", THREE_STEPS],
        env={"PYTHONPATH": ":".join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    ("line", "code", "printed", "point"),
    [
        ("kill-worker 1", -SIGKILL, "", "before one"),
        ("kill-worker 4", -SIGKILL, "one\ntwo\n", "after two"),
        ("crash 5", -SIGSEGV, "one\ntwo\n", "before three"),
    ],
)
def test_it_happens_at_the_point_counted(
    tmp_path: Path, line: str, code: int, printed: str, point: str
) -> None:
    """Odd points are before a step, even ones after it."""
    file = tmp_path / "fault"
    file.write_text(line)
    done = run({VARIABLE: str(file)})
    assert (done.returncode, done.stdout) == (code, printed)
    assert (tmp_path / "fault.fired").read_text() == point
    assert not file.exists()


def test_beyond_the_last_point_nothing_happens(tmp_path: Path) -> None:
    """So tests know that they have seen them all."""
    file = tmp_path / "fault"
    file.write_text("kill-worker 7")
    assert run({VARIABLE: str(file)}).returncode == 0
    assert file.exists()


def test_without_the_variable_no_file_counts(tmp_path: Path) -> None:
    """In life nothing is armed."""
    (tmp_path / "fault").write_text("kill-worker 1")
    assert run({}).returncode == 0


def test_a_new_file_starts_the_count_anew(tmp_path: Path) -> None:
    """One driver serves many rounds."""
    file = tmp_path / "fault"
    points = FaultPoints(file)
    points.reach("nothing is armed")
    for _ in range(2):
        file.unlink(missing_ok=True)
        file.write_text("hang 3")
        points.reach("one")
        points.reach("two")
    assert file.exists()
