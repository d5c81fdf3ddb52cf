# SPDX-License-Identifier: Apache-2.0
"""Mirror snapshots every few seconds, which Ceph's own scheduler cannot take."""

import os
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from csi_addons_conformance.case import SNAPSHOT, Kind, case, poll, require, settle
from csi_addons_conformance.client import Answer
from csi_addons_conformance.drills.workload import Workload, Written, start
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage

_INTERVAL: Final = 30
_SECONDS: Final = 600
_MGR_AWAY: Final = 60
_EVERY: Final = 5
_PAUSE: Final = 0.05
_ASKED: Final = f"{_INTERVAL}s"
_PASSING: Final = ("ABORTED", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED")
"""Codes that a poll may meet; meanwhile the lag goes on counting from the last answer."""


@dataclass(slots=True, kw_only=True)
class _Lags:
    """What the polls saw."""

    began: float = field(default_factory=time.monotonic)
    newest: float = 0
    """The newest ``last_sync_time`` ever answered."""
    largest: float = 0
    when: float = 0
    """Seconds into the drill at which the largest lag was seen."""
    copies: int = 0
    snapshots: int = 0
    """The most mirror snapshots that the primary had at once."""
    codes: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)

    @property
    def age(self) -> float:
        """Seconds since the drill began."""
        return time.monotonic() - self.began

    def note(self, answer: Answer) -> None:
        """Take in one answer."""
        self.codes[answer.code] += 1
        require(answer.code in ("OK", *_PASSING), "OK, or a passing outage", answer)
        if answer.code == "OK":
            self._note_copy(answer)
        lag = time.time() - self.newest
        if lag > self.largest:
            self.largest, self.when = lag, self.age

    def _note_copy(self, answer: Answer) -> None:
        response = answer.response
        self.statuses[response.Status.Name(response.status)] += 1
        synced = response.last_sync_time.ToNanoseconds() / 1e9
        require(synced >= self.newest, f"no time before {self.newest:.0f}", f"{synced:.0f}")
        self.copies += synced > self.newest
        self.newest = synced

    @property
    def words(self) -> str:
        """The facts for a report."""
        codes, statuses = (
            ", ".join(f"{word} {number}" for word, number in counted.most_common())
            for counted in (self.codes, self.statuses)
        )
        return (
            f"largest lag {self.largest:.1f} s, {self.when:.0f} s into {self.age:.0f} s; "
            f"{self.copies} copies, at most {self.snapshots} mirror snapshots at once; "
            f"answers: {codes}; status: {statuses}"
        )


@case(
    "drill/seconds-schedule",
    kind=Kind.CONTRACT,
    row="An interval in seconds is kept by the driver itself, and a restarted driver goes on as "
    "soon as any call, GetVolumeReplicationInfo included, brings credentials",
    modes=SNAPSHOT,
    alone=True,
    tags={"drill"},
)
def seconds_schedule(stage: Stage) -> None:
    """At 30s the copy is never told to be over 60 s old, by a killed driver and mgr neither."""
    seconds = float(os.environ.get("CONFORMANCE_SECONDS") or _SECONDS)
    [load] = start(stage, 1, schedulingInterval=_ASKED)
    lags = _Lags()
    with load.writing(stage.here, pause=_PAUSE) as written:
        watch = partial(_watch, stage.here, load, written, lags)
        watch(seconds / 3)
        stage.here.restart_driver()
        watch(seconds * 2 / 3)
        with stage.here.without("mgr"):
            watch(lags.age + min(_MGR_AWAY, seconds / 6))
        watch(seconds)
    stage.say(lags.words)
    require(lags.largest <= 2 * _INTERVAL, f"a lag of {2 * _INTERVAL} s at most", lags.words)
    require(not stage.here.schedules(load.volume), "none of Ceph's own schedules", "one")
    _move_over(stage, load)


def _watch(
    site: SiteUnderTest, load: Workload, written: Written, lags: _Lags, until: float
) -> None:
    """Ask as the controller does, until so many seconds into the drill."""

    def late() -> bool:
        require(not written.ended.is_set(), "a writer that goes on", "its end")
        lags.note(site.client.info(load.handle))
        lags.snapshots = max(lags.snapshots, len(site.mirror_snapshots(load.volume)))
        return lags.age >= until

    poll(late, seconds=until + 60, what="the end of the watch", every=_EVERY)


def _move_over(stage: Stage, load: Workload) -> None:
    """Move the volume: its schedule ends here, and goes on there."""
    settle(partial(stage.here.client.demote, load.handle))
    settle(partial(stage.there.client.promote, load.handle, schedulingInterval=_ASKED))
    load.require_whole(stage.there, "after the move")
    load.write(stage.there, 16)
    load.await_whole(stage.here, seconds=2 * _INTERVAL)
