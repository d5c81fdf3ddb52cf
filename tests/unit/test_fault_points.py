# SPDX-License-Identifier: Apache-2.0
"""Fault points: counted since the file came, reached once, and never without the variable."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from csi_addons_rbd.ceph.fault_points import VARIABLE, FaultPoints

THREE_STEPS = """
from csi_addons_rbd.ceph.fault_points import step
for doing in ("one", "two", "three"):
    with step(doing):
        print(doing, flush=True)
"""


def start(environment: Mapping[str, str]) -> subprocess.Popen[str]:
    """Take three steps in a process of their own."""
    return subprocess.Popen(
        [sys.executable, "-c", THREE_STEPS],
        env={"PYTHONPATH": ":".join(sys.path), **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file that arms the points."""
    return tmp_path / "fault"


@pytest.mark.parametrize(
    ("number", "done", "point"),
    [
        (1, "", "before one"),
        (4, "one\ntwo\n", "after two"),
        (5, "one\ntwo\n", "before three"),
        ("before three", "one\ntwo\n", "before three"),
    ],
)
def test_it_is_held_at_the_point_counted(
    file: Path, number: int | str, done: str, point: str
) -> None:
    """Odd points are before a step, even ones after it; killed there, no more is done."""
    file.write_text(str(number))
    with start({VARIABLE: str(file)}) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        assert file.with_name("fault.reached").read_text() == point
        assert not file.exists()
        process.kill()
        assert process.communicate()[0] == done


def test_it_goes_on_when_told(file: Path) -> None:
    """A process that was frozen at a point does the rest when it thaws."""
    file.write_text("3")
    file.with_name("fault.go").touch()
    with start({VARIABLE: str(file)}) as process:
        assert process.communicate(timeout=30)[0] == "one\ntwo\nthree\n"
    assert file.with_name("fault.reached").read_text() == "before two"


def test_beyond_the_last_point_nothing_happens(file: Path) -> None:
    """So tests know that they have seen them all."""
    file.write_text("7")
    with start({VARIABLE: str(file)}) as process:
        assert process.wait(30) == 0
    assert file.exists()


def test_without_the_variable_no_file_counts(file: Path) -> None:
    """In life nothing is armed."""
    file.write_text("1")
    with start({}) as process:
        assert process.wait(30) == 0


def test_a_new_file_starts_the_count_anew(file: Path) -> None:
    """One driver serves many rounds."""
    points = FaultPoints(file)
    points.reach("nothing is armed")
    for _ in range(2):
        file.unlink(missing_ok=True)
        file.write_text("3")
        points.reach("one")
        points.reach("two")
    assert file.exists()
