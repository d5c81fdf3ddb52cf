# SPDX-License-Identifier: Apache-2.0
"""Callers: what one load process does, and a crew of several that act as one."""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from typing import Any, Final

from csi_addons_conformance.case import PASSING
from csi_addons_conformance.client import Answer, Client

from benchmarks.aside import Aside
from benchmarks.timings import Timings, together

PROBE: Final = "Probe"
INFO: Final = "GetVolumeReplicationInfo"
_CLIENTS: Final[dict[str, Client]] = {}
"""The connections of this process, one a site."""
_OVER: Final[list[Event]] = []
"""Set when those that ask on and on should end: one for all processes of a crew."""
_RETRY: Final = 0.25
_MUSTER: Final = 0.3
"""Seconds ahead at which processes agree to begin together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A driver's socket, and the secrets of its site."""

    endpoint: str
    secrets: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Calls of one method on one site's driver."""

    site: str
    method: str
    handles: Sequence[str]
    callers: int
    fields: Mapping[str, Any] = field(default_factory=dict)
    at: float = 0.0
    """The moment of the monotonic clock at which to begin."""

    def parts(self, number: int) -> Iterator["Job"]:
        """Share volumes and callers among so many processes, or fewer if there are fewer."""
        number = min(number, self.callers, len(self.handles))
        for index in range(number):
            yield replace(
                self,
                handles=self.handles[index::number],
                callers=self.callers // number + (index < self.callers % number),
            )

    def call(self, handle: str) -> Answer:
        """Make one call."""
        client = _CLIENTS[self.site]
        if self.method == PROBE:
            return client.probe()
        return client.call(self.method, handle, **self.fields)

    def begin(self) -> float:
        """Wait for the beginning; return when it was."""
        return wait_for(self.at)


# --- what one process does ------------------------------------------------------------------------


def connect(targets: Mapping[str, Target], over: Event) -> None:
    """Connect this process to every driver, and be sure that they are there."""
    _OVER.append(over)
    for name, target in targets.items():
        _CLIENTS[name] = Client(target.endpoint, target.secrets)
        _CLIENTS[name].probe()


def each(job: Job) -> Timings:
    """Call about each volume once, again while the answer is to ask again."""
    codes: Counter[str] = Counter()

    def settle(handle: str) -> float:
        began = time.monotonic()
        while (answer := job.call(handle)).code in PASSING:
            codes[answer.code] += 1
            time.sleep(_RETRY)
        codes[answer.code] += 1
        if answer.code != "OK":
            raise RuntimeError(f"{job.site} answered {answer}")
        return time.monotonic() - began

    with ThreadPoolExecutor(job.callers) as executor:
        began = job.begin()
        seconds = list(executor.map(settle, job.handles))
        return Timings(began=began, ended=time.monotonic(), seconds=seconds, codes=codes)


def hammer(job: Job, seconds: float) -> Timings:
    """Call as often as can be, each caller as soon as it was answered."""

    def run(number: int) -> tuple[list[float], "Counter[str]"]:
        taken, codes = [], Counter[str]()
        # callers begin at different volumes
        for handle in itertools.islice(itertools.cycle(job.handles), number, None):
            if time.monotonic() >= job.at + seconds:
                break
            answer = job.call(handle)
            taken.append(answer.seconds)
            codes[answer.code] += 1
        return taken, codes

    with ThreadPoolExecutor(job.callers) as executor:
        began = job.begin()
        runs = list(executor.map(run, range(job.callers)))
        return Timings(
            began=began,
            ended=time.monotonic(),
            seconds=[each for taken, _ in runs for each in taken],
            codes=sum((codes for _, codes in runs), Counter()),
        )


def pace(job: Job, every: float, seconds: float) -> Timings:
    """Ask about each volume once in ``every`` seconds, spread evenly, for ``seconds``."""
    codes: Counter[str] = Counter()

    def ask(handle: str) -> float:
        answer = job.call(handle)
        codes[answer.code] += 1
        return answer.seconds

    gap = every / len(job.handles)
    with ThreadPoolExecutor(job.callers) as executor:
        began = job.begin()
        asked = []
        for number in range(int(seconds / gap)):
            wait_for(began + number * gap)
            asked.append(executor.submit(ask, job.handles[number % len(job.handles)]))
        taken = [each.result() for each in asked]
        return Timings(began=began, ended=time.monotonic(), seconds=taken, codes=codes)


def ask_on(job: Job) -> list[tuple[str, str, float]]:
    """Ask until it is over; return each answer's volume, code and moment."""

    def run(number: int) -> list[tuple[str, str, float]]:
        told = []
        for handle in itertools.islice(itertools.cycle(job.handles), number, None):
            if _OVER[0].is_set():
                break
            told.append((handle, job.call(handle).code, time.monotonic()))
        return told

    with ThreadPoolExecutor(job.callers) as executor:
        return list(itertools.chain.from_iterable(executor.map(run, range(job.callers))))


def wait_for(moment: float) -> float:
    """Sleep until a moment of the monotonic clock; return when it is."""
    time.sleep(max(0, moment - time.monotonic()))
    return time.monotonic()


# --- several of them ------------------------------------------------------------------------------


class Crew:
    """Load processes that begin together and share volumes and callers among them."""

    def __init__(self, processes: Sequence[Aside], over: Event) -> None:
        self.processes, self._over = processes, over

    @classmethod
    @contextmanager
    def of(cls, number: int, targets: Mapping[str, Target]) -> "Iterator[Crew]":
        """Start some for the length of a block."""
        over = get_context("spawn").Event()
        with ExitStack() as running:
            asides = [running.enter_context(Aside(connect, targets, over)) for _ in range(number)]
            yield cls(asides, over)

    def each(
        self, site: str, method: str, handles: Sequence[str], callers: int = 1, **fields: Any
    ) -> Timings:
        """Call about each volume once."""
        job = Job(site=site, method=method, handles=handles, callers=callers, fields=fields)
        return self._share(each, job)

    def hammer(self, job: Job, seconds: float) -> Timings:
        """Call as often as can be."""
        return self._share(hammer, job, seconds)

    def pace(self, job: Job, *, every: float, seconds: float) -> Timings:
        """Ask about each volume once in so many seconds."""
        return self._share(pace, job, every, seconds, apart=every / len(job.handles))

    @contextmanager
    def asking(self, job: Job) -> "Iterator[list[tuple[str, str, float]]]":
        """Ask for the length of a block, but in the first process; then it holds the answers."""
        answers: list[tuple[str, str, float]] = []
        self._over.clear()
        _, *askers = self.processes
        parts = job.parts(len(askers))
        started = [
            process.start(ask_on, part) for process, part in zip(askers, parts, strict=False)
        ]
        try:
            yield answers
        finally:
            self._over.set()
            for each in started:
                answers += each.result()

    def _share(
        self, work: Callable[..., Timings], job: Job, *arguments: float, apart: float = 0.0
    ) -> Timings:
        """Have all processes begin together, or each so many seconds after the one before."""
        at = time.monotonic() + _MUSTER
        parts = [
            replace(part, at=at + number * apart)
            for number, part in enumerate(job.parts(len(self.processes)))
        ]
        started = [
            process.start(work, part, *arguments)
            for process, part in zip(self.processes, parts, strict=False)
        ]
        return together([each.result() for each in started])
