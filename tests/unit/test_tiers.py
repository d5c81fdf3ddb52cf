# SPDX-License-Identifier: Apache-2.0
"""The gate itself: what fails is run once more, and what that may excuse is bounded."""

import io
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from csi_addons_conformance import report, runner
from csi_addons_conformance.case import Case, Kind, SkippedError, UnmetError
from csi_addons_conformance.runner import Result, Verdict
from csi_addons_conformance.steadiness import MAX_RERUNS, MAX_UNSTEADY
from rich.console import Console

from tests.tiers import pytest_tier, reports, summary

FLAKY = """
import os
import pathlib
import pytest

@pytest.mark.parametrize("number", range({number}))
def test_flaky(number, record_property):
    record_property("kind", "{kind}")
    flag = pathlib.Path(__file__).with_name(f"flag-{{number}}")
    first = not flag.exists()
    flag.touch()
    assert {holds}, "what came at first"
"""


@pytest.fixture
def report_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a directory without this repository's settings, and return the report to write."""
    monkeypatch.chdir(tmp_path)
    # a run below pytest-xdist would take itself for one of its workers
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        monkeypatch.delenv(name)
    # none is needed, and they take most of the time
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return tmp_path / "report.xml"


def run_tier(report_file: Path, **words: object) -> tuple[int, reports.Report]:
    """Run a file of tests as a tier; return the exit code and what was reported."""
    tests = report_file.with_name("test_it.py")
    tests.write_text(FLAKY.format(**{"number": 1, "kind": "", "holds": "not first"} | words))
    code = pytest_tier.run(report_file, [str(tests)])
    return code, reports.read(report_file)


def test_a_test_that_fails_once_is_unsteady(report_file: Path) -> None:
    """It passes alone, so the tier does; the report names it and what came at first."""
    code, seen = run_tier(report_file)
    (case,) = seen.unsteady
    assert code == 0
    assert case.name.startswith("test_flaky[0]")
    assert "what came at first" in case.first
    assert seen.counts == "1 unsteady"


def test_a_test_that_fails_twice_fails_the_tier(report_file: Path) -> None:
    """The second failure counts; what passed at first is not run again."""
    code, seen = run_tier(report_file, number=2, holds="number == 0")
    assert code == 1
    assert seen.counts == "1 passed, 1 failed"


def test_unsteady_safety_fails_the_tier(report_file: Path) -> None:
    """What guards data must pass the first time."""
    code, seen = run_tier(report_file, kind="safety")
    assert code == 1
    assert [case.kind for case in seen.unsteady] == ["safety"]


def test_a_test_that_skips_the_second_time_is_not_excused(report_file: Path) -> None:
    """It did not pass."""
    code, seen = run_tier(report_file, number=2, holds="not first and pytest.skip()")
    assert code == 1
    assert len(seen.failed) == 2


def test_many_failures_are_no_chance(report_file: Path) -> None:
    """None of them is run again."""
    code, seen = run_tier(report_file, number=MAX_RERUNS + 1)
    assert code == 1
    assert seen.counts == f"{MAX_RERUNS + 1} failed"


def test_many_unsteady_tests_fail_the_tier(report_file: Path) -> None:
    """Each passes alone, but together they are too many."""
    code, seen = run_tier(report_file, number=MAX_UNSTEADY + 1)
    assert code == 1
    assert seen.counts == f"{MAX_UNSTEADY + 1} unsteady"


def test_tests_that_cannot_be_read_fail_the_tier(report_file: Path) -> None:
    """An error of collection is not run again."""
    assert pytest_tier.run(report_file, ["no-such-file.py"]) not in (0, 1)


def test_tiers_are_judged_together() -> None:
    """Two tiers that may each pass can be too unsteady as one run, which names every case."""
    case = reports.Case(name="x", kind="contract", first="something else")
    few = reports.Report(unsteady=[case] * (MAX_UNSTEADY - 1))
    tier = summary.Result(tier="a", passed=True, seconds=1, report=few)
    assert summary.exit_code([tier]) == 0
    assert summary.exit_code([tier, tier]) == 1
    printed = io.StringIO()
    summary.show([tier], {"Ceph": "20.2"}, Console(file=printed, width=120), seconds=1)
    assert "a: x (contract): something else" in printed.getvalue()
    assert "native: Ceph 20.2" in printed.getvalue()
    assert "passed in 1 s" in printed.getvalue()


def test_a_tier_that_failed_fails_the_run() -> None:
    """Also without any report."""
    passed = summary.Result(tier="a", passed=True, seconds=1)
    failed = summary.Result(tier="b", passed=False, seconds=1)
    assert summary.exit_code([passed]) == 0
    assert summary.exit_code([passed, failed]) == 1


@dataclass(frozen=True)
class Bare:
    """As much of a stage as the runner itself needs."""

    mode: str = ""
    say: Any = None


@dataclass
class Flaky:
    """A case that fails as often as it is told to."""

    failures: int
    stages: list[Bare] = field(default_factory=list)

    def __call__(self, stage: Any) -> None:
        """Something must come."""
        self.stages.append(stage)
        if len(self.stages) <= self.failures:
            raise UnmetError(f"attempt {len(self.stages)}")


class FailsThenSkips(Flaky):
    """A case that cannot be run again."""

    def __call__(self, stage: Any) -> None:
        """Something must come."""
        super().__call__(stage)
        raise SkippedError("not here")


def run_suite(*cases: Case) -> tuple[list[Result], int]:
    """Run cases as the suite does; return the results and how many fresh labs it took."""
    fresh: list[Bare] = []

    @contextmanager
    def lab() -> Iterator[Any]:
        fresh.append(Bare())
        yield fresh[-1]

    stage: Any = Bare()
    results = [*runner.run_all(cases, [stage], modes=("snapshot",), side_by_side=2)]
    again = {each.case.name: each for each in runner.run_again(results, lab)}
    return [again.get(each.case.name, each) for each in results], len(fresh)


def flaky(name: str, *, failures: int, kind: Kind = Kind.CONTRACT) -> Case:
    """Make a case."""
    return Case(
        name=name,
        kind=kind,
        row="",
        modes=("snapshot",),
        alone=False,
        tags=frozenset(),
        run=Flaky(failures),
    )


def test_a_case_that_fails_once_is_unsteady(tmp_path: Path) -> None:
    """It gets a lab of its own; both outcomes are told, and the run passes."""
    results, labs = run_suite(flaky("once", failures=1), flaky("good", failures=0))
    (unsteady,) = (each for each in results if each.verdict is Verdict.UNSTEADY)
    assert labs == 1
    assert (unsteady.first, unsteady.came) == ("attempt 1", "as expected")
    assert report.exit_code(results, strict=True) == 0
    assert "at first: attempt 1" in report.line(unsteady)
    report.write_junit(results, tmp_path / "new" / "report.xml", 1, {"Ceph": "20.2"})
    seen = reports.read(tmp_path / "new" / "report.xml")
    assert seen.counts == "1 passed, 1 unsteady"
    assert [(case.kind, case.first) for case in seen.unsteady] == [("contract", "attempt 1")]
    assert seen.environment == {"Ceph": "20.2"}


def test_a_case_that_fails_twice_fails_the_run() -> None:
    """What came the second time stands beside what came at first."""
    results, _ = run_suite(flaky("twice", failures=2))
    assert [(each.verdict, each.first, each.came) for each in results] == [
        (Verdict.FAILED, "attempt 1", "attempt 2")
    ]
    assert report.exit_code(results, strict=True) == 1


def test_unsteady_safety_fails_the_run() -> None:
    """Even one such case, and without --strict."""
    results, _ = run_suite(flaky("data", failures=1, kind=Kind.SAFETY))
    assert report.exit_code(results, strict=False) == 1


def test_a_case_that_skips_the_second_time_is_not_excused() -> None:
    """It counts as it did at first."""
    case = flaky("x", failures=1, kind=Kind.SAFETY)
    results, _ = run_suite(replace(case, run=FailsThenSkips(1)))
    assert [each.verdict for each in results] == [Verdict.FAILED]
    assert report.exit_code(results, strict=False) == 1


def test_no_lab_for_the_second_time_is_told() -> None:
    """What came at first still counts."""

    def nothing() -> AbstractContextManager[Any]:
        raise OSError("no port")

    stage: Any = Bare()
    cases = [flaky("x", failures=1)]
    results = [*runner.run_all(cases, [stage], modes=("snapshot",), side_by_side=1)]
    (again,) = runner.run_again(results, nothing)
    assert (again.verdict, again.first) == (Verdict.FAILED, "attempt 1")
    assert "no port" in again.came


def test_a_run_of_nothing_fails() -> None:
    """A mistyped choice of cases proves nothing."""
    assert report.exit_code([], strict=False) == 1


def test_many_cases_that_fail_are_no_chance() -> None:
    """No lab is started for them."""
    results, labs = run_suite(*(flaky(str(n), failures=1) for n in range(MAX_RERUNS + 1)))
    assert labs == 0
    assert report.exit_code(results, strict=True) == 1
