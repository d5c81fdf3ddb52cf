# SPDX-License-Identifier: Apache-2.0
"""Runs cases: those that disturb nobody side by side, the others one after the other.

What failed is run once more, alone in a fresh lab.
"""

import queue
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from csi_addons_conformance.case import Case, SkippedError, UnmetError
from csi_addons_conformance.steadiness import MAX_RERUNS

if TYPE_CHECKING:
    from csi_addons_conformance.stage import Stage


class Verdict(StrEnum):
    """How one run of a case ended."""

    PASSED = "passed"
    UNSTEADY = "unsteady"
    """It failed at first, and passed when it was run again, alone in a fresh lab."""
    FAILED = "failed"
    """Something else came than what must."""
    BROKEN = "broken"
    """The case itself could not go on: a fault of the suite or of the lab."""
    SKIPPED = "skipped"


BAD: Final = (Verdict.FAILED, Verdict.BROKEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One run of one case in one mode."""

    case: Case
    mode: str
    verdict: Verdict
    came: str
    """What came instead, or the facts that the case noted."""
    seconds: float
    first: str = ""
    """What came at first, of a case that was run twice."""

    @property
    def name(self) -> str:
        """The case's name, with the mode where it runs in both."""
        return f"{self.case.name} [{self.mode}]"


def run_all(
    cases: Iterable[Case], stages: "Sequence[Stage]", *, modes: tuple[str, ...], side_by_side: int
) -> Iterator[Result]:
    """Run every case in every mode it has, and yield the results as they come.

    The first stage takes the cases that disturb nobody, the others share those that do; a single
    stage takes one kind after the other.
    """
    runs = [(each, mode) for each in cases for mode in each.modes if mode in modes]
    peaceful = [run for run in runs if not run[0].alone]
    disturbing: queue.SimpleQueue[tuple[Case, str]] = queue.SimpleQueue()
    for run in runs:
        if run[0].alone:
            disturbing.put(run)
    first, *others = stages
    results: queue.SimpleQueue[Result] = queue.SimpleQueue()
    with _cancelling(ThreadPoolExecutor(side_by_side + len(stages))) as executor:
        alone = [executor.submit(_run_alone, disturbing, stage, results) for stage in others]
        together = [executor.submit(_put, results, each, first, mode) for each, mode in peaceful]
        if not others:
            wait_for(together)
            alone = [executor.submit(_run_alone, disturbing, first, results)]
        for _ in runs:
            yield results.get()
        wait_for([*alone, *together])


def run_again(
    results: Sequence[Result], fresh: "Callable[[], AbstractContextManager[Stage]]"
) -> Iterator[Result]:
    """Run again what failed, each in a lab of its own, and yield what came then."""
    bad = [each for each in results if each.verdict in BAD]
    if len(bad) > MAX_RERUNS:
        return
    for each in bad:
        try:
            with fresh() as stage:
                second = _run(each.case, stage, each.mode)
        except Exception as exc:  # noqa: BLE001 - what failed at first must be told in any case
            second = replace(each, came=f"no lab to run it again: {exc}")
        passed = second.verdict is Verdict.PASSED
        # only that excuses the first failure; a case that skips now does not
        verdict = Verdict.UNSTEADY if passed else each.verdict
        yield replace(second, verdict=verdict, first=each.came)


@contextmanager
def _cancelling(executor: ThreadPoolExecutor) -> Iterator[ThreadPoolExecutor]:
    """Begin nothing more once the block was left by an exception, such as Ctrl-C."""
    try:
        yield executor
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    executor.shutdown()


def _run_alone(
    runs: "queue.SimpleQueue[tuple[Case, str]]",
    stage: "Stage",
    results: "queue.SimpleQueue[Result]",
) -> None:
    """Take one run after the other until there is none."""
    while True:
        try:
            case, mode = runs.get_nowait()
        except queue.Empty:
            return
        _put(results, case, stage, mode)


def _put(results: "queue.SimpleQueue[Result]", case: Case, stage: "Stage", mode: str) -> None:
    results.put(_run(case, stage, mode))


def _run(case: Case, stage: "Stage", mode: str) -> Result:
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


def _attempt(run: "Callable[[Stage], None]", stage: "Stage") -> tuple[Verdict, str]:
    try:
        run(stage)
    except UnmetError as exc:
        return Verdict.FAILED, str(exc)
    except SkippedError as exc:
        return Verdict.SKIPPED, str(exc)
    except Exception as exc:  # noqa: BLE001 - one broken case must not end the others
        return Verdict.BROKEN, f"{type(exc).__name__}: {exc}"
    return Verdict.PASSED, ""
