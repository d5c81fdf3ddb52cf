# SPDX-License-Identifier: Apache-2.0
"""Runs cases: those that disturb nobody side by side, the others one after the other."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from enum import StrEnum

from csi_addons_conformance.case import Case, SkippedError, UnmetError
from csi_addons_conformance.stage import Stage


class Verdict(StrEnum):
    """How one run of a case ended."""

    PASSED = "passed"
    FAILED = "failed"
    """Something else came than what must."""
    BROKEN = "broken"
    """The case itself could not go on: a fault of the suite or of the lab."""
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One run of one case in one mode."""

    case: Case
    mode: str
    verdict: Verdict
    came: str
    """What came instead, or the facts that the case noted."""
    seconds: float

    @property
    def name(self) -> str:
        """The case's name, with the mode where it runs in both."""
        return f"{self.case.name} [{self.mode}]"


def run_all(
    cases: Iterable[Case], stage: Stage, *, modes: tuple[str, ...], side_by_side: int
) -> Iterator[Result]:
    """Run every case in every mode it has, and yield the results as they come."""
    runs = [(each, mode) for each in cases for mode in each.modes if mode in modes]
    peaceful = [run for run in runs if not run[0].alone]
    with ThreadPoolExecutor(side_by_side) as executor:
        futures = [executor.submit(_run, each, stage, mode) for each, mode in peaceful]
        for future in as_completed(futures):
            yield future.result()
    for each, mode in runs:
        if each.alone:
            yield _run(each, stage, mode)


def _run(case: Case, stage: Stage, mode: str) -> Result:
    noted: list[str] = []
    began = time.monotonic()
    verdict, came = _attempt(case.run, replace(stage, mode=mode, say=noted.append))
    return Result(
        case=case,
        mode=mode,
        verdict=verdict,
        came=came or "; ".join(noted) or "as expected",
        seconds=time.monotonic() - began,
    )


def _attempt(run: Callable[[Stage], None], stage: Stage) -> tuple[Verdict, str]:
    try:
        run(stage)
    except UnmetError as exc:
        return Verdict.FAILED, str(exc)
    except SkippedError as exc:
        return Verdict.SKIPPED, str(exc)
    except Exception as exc:  # noqa: BLE001 - one broken case must not end the others
        return Verdict.BROKEN, f"{type(exc).__name__}: {exc}"
    return Verdict.PASSED, ""
