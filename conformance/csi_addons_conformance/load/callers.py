# SPDX-License-Identifier: Apache-2.0
"""One process that draws requests and sends them, many at once, and judges the answers."""

import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Self

import grpc
from hypothesis import HealthCheck, Phase, given, seed, settings

from csi_addons_conformance.load.inputs import Attempt, Known, attempts
from csi_addons_conformance.load.oracle import Oracle, Outcome, channels, send

_ROUND: Final = 200
"""Requests that hypothesis draws at once: it remembers them all, and slows down."""
_MANY: Final = 10
"""Findings after which no more are looked for."""
_SHOWN: Final = 3000
"""Characters of a request that are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What came of some calls."""

    tally: "Counter[tuple[str, str]]" = field(default_factory=Counter)
    """Answers, by method and code."""
    findings: tuple[str, ...] = ()
    latest: float = 0.0
    """How many seconds after its bound an answer came, at most."""

    def __add__(self, other: Self) -> Self:
        """Put two together."""
        return type(self)(
            tally=self.tally + other.tally,
            findings=self.findings + other.findings,
            latest=max(self.latest, other.latest),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """What one process is to do."""

    known: Known
    oracle: Oracle
    endpoints: Mapping[str, str]
    seed: int
    calls: int
    threads: int
    deadline: float
    """A moment of the monotonic clock, which all processes share, after which nothing begins."""

    def run(self, results: Any) -> None:
        """Be that process: draw, send, judge; put a report."""
        session = _Session(self.oracle, channels(self.endpoints))
        free = threading.BoundedSemaphore(2 * self.threads)
        with ThreadPoolExecutor(self.threads) as executor:

            def submit(attempt: Attempt) -> None:
                free.acquire()
                executor.submit(session.make, attempt).add_done_callback(lambda _: free.release())

            try:
                self._draw(submit, session)
            except Exception as exc:  # noqa: BLE001 - the others must hear of it, whatever it is
                session.findings.append(f"drawing failed: {type(exc).__name__}: {exc}")
        results.put(session.report)
        results.close()
        results.join_thread()
        # gRPC's threads may outlive an orderly end for long
        os._exit(0)

    def _draw(self, submit: Any, session: "_Session") -> None:
        """Draw round by round, each with a seed of its own, until there is enough."""
        strategy = attempts(self.known)
        for number in range(-(-self.calls // _ROUND)):
            if time.monotonic() > self.deadline or len(session.findings) >= _MANY:
                return
            chosen = settings(
                max_examples=min(_ROUND, self.calls - number * _ROUND),
                deadline=None,
                database=None,
                # nothing fails in here: answers are judged elsewhere
                phases=(Phase.generate,),
                suppress_health_check=list(HealthCheck),
            )
            seed(f"{self.seed} {number}")(chosen(given(strategy)(submit)))()


class _Session:
    """What is counted and found. Called from many threads."""

    def __init__(self, oracle: Oracle, sites: Mapping[str, grpc.Channel]) -> None:
        self._oracle = oracle
        self._channels = sites
        self._lock = threading.Lock()
        self._tally: Counter[tuple[str, str]] = Counter()
        self._latest = 0.0
        self.findings: list[str] = []

    @property
    def report(self) -> Report:
        """Everything until now."""
        return Report(tally=self._tally, findings=tuple(self.findings), latest=self._latest)

    def make(self, attempt: Attempt) -> None:
        """Make a call and judge its answer."""
        try:
            limit = self._oracle.limit(attempt)
            outcome = send(self._channels[attempt.site], attempt, limit)
            faults = list(self._oracle.faults(attempt, outcome))
        except Exception as exc:  # noqa: BLE001 - a fault of the suite must not be lost in a thread
            outcome = Outcome(code="(broken)", seconds=0)
            faults = [f"the suite itself failed: {type(exc).__name__}: {exc}"]
        with self._lock:
            self._tally[attempt.method, outcome.code] += 1
            self._latest = max(self._latest, outcome.seconds - self._oracle.limit(attempt))
            if faults and len(self.findings) < _MANY:
                self.findings.append(_words(attempt, outcome, faults))


def _words(attempt: Attempt, outcome: Outcome, faults: list[str]) -> str:
    shown = str(attempt.decoded or attempt.raw)[:_SHOWN]
    return (
        f"{'; '.join(faults)}\n  {attempt.path} on {attempt.site} answered {outcome}\n"
        f"{shown}\n  again: --repeat '{attempt}'"
    )
