# SPDX-License-Identifier: Apache-2.0
"""Looks every few seconds at what drivers and their workers hold while calls are made."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from csi_addons_conformance.load.processes import family, usage
from csi_addons_conformance.load.slopes import Trend, trend

_MIB: Final = 1 << 20


UNITS: Final[Mapping[str, str]] = {
    "RSS": "MiB",
    "threads": "threads",
    "descriptors": "descriptors",
    "connections": "connections",
    "watchers": "watchers",
}
"""What is looked at, and what is counted there."""
_ALLOWED: Final = 3
"""By how many each but the memory may grow: calls come and go while they are counted."""
CALLS: Final = "calls"
_WATCHERS_EVERY: Final = 3
"""Looks at processes for one at watchers: those cost the drivers' clusters some work."""
_LOOKS_AT_WATCHERS: Final = 8
"""The fewest from which a trend can be told: a short run must not end before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One measure of one process, or of one site."""

    measure: str
    whose: str
    times: list[float] = field(default_factory=list)
    """Seconds since the run began."""
    values: list[float] = field(default_factory=list)


class Sampler:
    """Keeps one series for each measure of each process.

    Args:
        pids: Each site's serving process.
        watchers: Counts the drivers' watchers on each site.
        calls: Counts the calls that were answered.
        memory: MiB that a process may grow.
        warm_up: Calls before the first look: caches fill by what was done, not by time.
    """

    def __init__(
        self,
        pids: Mapping[str, int],
        watchers: Mapping[str, Callable[[], int]],
        calls: Callable[[], int],
        *,
        memory: float,
        warm_up: int = 0,
    ) -> None:
        self._allowed = dict.fromkeys(UNITS, float(_ALLOWED)) | {"RSS": memory}
        self._pids, self._watchers, self._calls = pids, watchers, calls
        self._warm_up = warm_up
        self._series: dict[tuple[str, str], Series] = {}
        self._processes: dict[str, int] = {}
        self.findings: list[str] = []
        """Processes that became others."""

    @property
    def series(self) -> Sequence[Series]:
        """Everything until now."""
        return tuple(self._series.values())

    @property
    def enough(self) -> bool:
        """Whether a trend can be told of every series."""
        watchers = [each for each in self.series if each.measure == "watchers"]
        fewest = min((len(each.values) for each in watchers), default=0)
        return fewest >= _LOOKS_AT_WATCHERS or bool(self.findings)

    @property
    def trends(self) -> Sequence[Trend]:
        """What grows, and what does not."""
        return tuple(
            trend(
                f"{each.measure} of {each.whose}",
                each.times,
                each.values,
                unit=UNITS[each.measure],
                allowed=self._allowed[each.measure],
            )
            for each in self.series
            if each.measure in UNITS
        )

    @contextmanager
    def sampling(self, every: float) -> Iterator[None]:
        """Look every so many seconds for the length of a block."""
        over = threading.Event()
        thread = threading.Thread(target=self._run, args=(every, over))
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _run(self, every: float, over: threading.Event) -> None:
        while self._calls() < self._warm_up:
            if over.wait(every):
                return
        began = time.monotonic()
        for number in itertools.count():
            if over.wait(every):
                return
            try:
                self._look(time.monotonic() - began)
                if number % _WATCHERS_EVERY == 0:
                    self._look_at_images(time.monotonic() - began)
            except Exception as exc:  # noqa: BLE001 - a thread's end must not go unnoticed
                self.findings.append(f"sampling failed: {type(exc).__name__}: {exc}")
                return

    def _look(self, now: float) -> None:
        self._add(CALLS, "all callers", now, self._calls())
        for site, driver in self._pids.items():
            for name, pid in family(driver):
                self._look_at(f"{site} {name}", pid, now)

    def _look_at_images(self, now: float) -> None:
        for site, count in self._watchers.items():
            self._add("watchers", site, now, count())

    def _look_at(self, whose: str, pid: int, now: float) -> None:
        known = self._processes.setdefault(whose, pid)
        if known != pid:
            self.findings.append(f"{whose} was process {known} and is {pid} now")
            self._processes[whose] = pid
        seen = usage(pid)
        if seen is None:
            self.findings.append(f"{whose}, process {pid}, ended")
            return
        self._add("RSS", whose, now, seen.rss / _MIB)
        self._add("threads", whose, now, seen.threads)
        self._add("descriptors", whose, now, seen.descriptors)
        self._add("connections", whose, now, seen.connections)

    def _add(self, measure: str, whose: str, now: float, value: float) -> None:
        series = self._series.setdefault((measure, whose), Series(measure=measure, whose=whose))
        series.times.append(now)
        series.values.append(value)
