# SPDX-License-Identifier: Apache-2.0
"""What a driver's processes hold and use: memory, threads, processor time."""

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from typing import Final

from csi_addons_conformance.load.processes import family, usage

from benchmarks.bench import Bench
from benchmarks.rows import Row

_EVERY: Final = 1.0
_MB: Final = 1_000_000
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_MEMORY: Final = 180
_CONFIGURED: Final = re.compile(r"--max-calls(-per-cluster)?[ =](\d+)")
_SPARE: Final = 120
"""Threads beside those of calls: gRPC's, and librados' fifteen or so a connection."""


def processor_seconds(pid: int) -> float:
    """Return the processor time that a driver's processes have used."""
    used = 0.0
    for _, each in family(pid):
        # the name in brackets may hold blanks
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        used += (int(fields[11]) + int(fields[12])) / _TICKS
    return used


class Watch:
    """Looks every second at how many threads each site's driver has."""

    def __init__(self, pids: dict[str, int], configured: int) -> None:
        self._pids, self._configured = pids, configured
        self._peaks = dict.fromkeys(pids, 0)
        self._over = threading.Event()

    @classmethod
    @contextmanager
    def over(cls, bench: Bench) -> "Iterator[Watch]":
        """Look for the length of a block; nothing is seen of a driver whose socket was given."""
        sites = (bench.here, bench.there)
        pids = {each.name: each.started.pid for each in sites if each.started is not None}
        watch = cls(pids, _configured(bench.command))
        thread = threading.Thread(target=watch._run)
        thread.start()
        try:
            yield watch
        finally:
            watch._over.set()
            thread.join()

    def rows(self) -> Iterator[Row]:
        """Judge what the drivers hold now, and the threads that they had: of the larger site."""
        if not self._pids:
            return
        resident = {name: _resident(pid) for name, pid in self._pids.items()}
        largest = max(resident, key=lambda name: resident[name])
        yield Row(
            name="resident memory of driver and worker after that",
            ours=f"{resident[largest]:.0f} MB",
            figure=resident[largest],
            unit="MB",
            at_most=_MEMORY,
            note="RSS, in which pages that both share count twice; "
            f"PSS {_proportional(self._pids[largest]):.0f} MB",
        )
        yield Row(
            name="threads of driver and worker, most at once",
            ours=str(max(self._peaks.values())),
            figure=max(self._peaks.values()),
            at_most=self._configured or inf,
            note=f"--max-calls, a lease's besides for each of --max-calls-per-cluster, and {_SPARE}"
            if self._configured
            else "no bound is known",
        )

    def _run(self) -> None:
        while not self._over.wait(_EVERY):
            for name, pid in self._pids.items():
                seen = (usage(each) for _, each in family(pid))
                threads = sum(each.threads for each in seen if each is not None)
                self._peaks[name] = max(self._peaks[name], threads)


def _configured(command: str) -> int:
    """Return the bound that a command line's own limits set; 0 when it names none."""
    limits = {bool(per_cluster): int(value) for per_cluster, value in _CONFIGURED.findall(command)}
    if len(limits) < 2:
        return 0
    return limits[False] + 2 * limits[True] + _SPARE


def _resident(pid: int) -> float:
    seen = (usage(each) for _, each in family(pid))
    return sum(each.rss for each in seen if each is not None) / _MB


def _proportional(pid: int) -> float:
    return sum(
        int(line.split()[1]) * 1024 / _MB
        for _, each in family(pid)
        for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
        if line.startswith("Pss:")
    )
