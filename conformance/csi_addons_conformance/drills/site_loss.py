# SPDX-License-Identifier: Apache-2.0
"""A site is lost under load and comes back: force, split-brain, resync, and home again."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

from csi_addons_conformance.case import Kind, case, expect, poll, require, settle
from csi_addons_conformance.drills.workload import Workload, carry_over, start
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage

_VOLUMES: Final = 2
_WRITES: Final = 50
_BOUND: Final = 240
_PATIENCE: Final = 2
"""Answers ABORTED to a forced promotion after which its rbd-mirror is restarted."""


@dataclass(slots=True, kw_only=True)
class _Seconds:
    """How long each part took."""

    force: float = 0
    resync: float = 0
    home: float = 0
    restarts: int = 0
    """Of an rbd-mirror that hung on the lost site with the exclusive lock."""


@case(
    "drill/site-loss",
    kind=Kind.SAFETY,
    row="No sequence of calls, faults and restarts deletes or overwrites the only side that holds "
    "the newest acknowledged data",
    alone=True,
    tags={"drill"},
)
def site_loss(stage: Stage) -> None:
    """Force brings the copy up, resync only runs towards it, and all it took comes home."""
    loads = start(stage, _VOLUMES)
    for load in loads:
        load.write(stage.here, _WRITES)
        carry_over(stage, load, stage.here, stage.there)
    took = _Seconds()
    with stage.here.without():
        took.force = _timed(lambda: _fail_over(stage, loads, took))
        for load in loads:
            load.require_whole(stage.there, "after the forced promotion")
            load.write(stage.there, _WRITES)
            refused = stage.there.client.resync(load.handle, force=True)
            expect(refused, "FAILED_PRECONDITION", saying=("primary",))
            expect(stage.here.client.demote(load.handle), "UNAVAILABLE", within=65)
    for load in loads:
        _write_on_old_primary(stage, load)
    took.resync = _timed(lambda: _resolve(stage, loads))
    took.home = _timed(lambda: _each(loads, partial(_bring_home, stage)))
    stage.say(
        f"{_VOLUMES} volumes; forced over after {took.force:.0f} s with {took.restarts} restarts "
        f"of rbd-mirror; split-brain resolved in {took.resync:.0f} s, home in {took.home:.0f} s; "
        f"{sum(load.acknowledged for load in loads)} writes of the rightful primary, 0 lost"
    )


def _timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


def _each(loads: list[Workload], work: Callable[[Workload], None]) -> None:
    with ThreadPoolExecutor(len(loads)) as executor:
        list(executor.map(work, loads))


def _fail_over(stage: Stage, loads: list[Workload], took: _Seconds) -> None:
    """Take the controller's two steps for every volume: ask, and force when told so."""
    client = stage.there.client

    def refused(load: Workload) -> None:
        settle(partial(client.promote, load.handle), "FAILED_PRECONDITION", seconds=_BOUND)

    _each(loads, refused)
    for load in loads:
        _force(stage.there, load, took)


def _force(site: SiteUnderTest, load: Workload, took: _Seconds) -> None:
    """Force, and restart an rbd-mirror that hangs on the lost site: journal mode's own fault."""
    deadline = time.monotonic() + _BOUND
    aborted = 0
    while (answer := site.client.promote(load.handle, force=True)).code != "OK":
        expect(answer, "ABORTED")
        require(time.monotonic() < deadline, f"OK within {_BOUND} s", answer)
        aborted += 1
        if aborted % _PATIENCE == 0:
            with site.without("rbd-mirror"):
                took.restarts += 1


def _write_on_old_primary(stage: Stage, load: Workload) -> None:
    """Have the old primary diverge for certain: by a write that nobody's copy may keep."""
    require(stage.here.primary(load.volume), "a primary that was lost as such", "a secondary")
    stage.here.write(load.volume, b"stray" * 1000)


def _resolve(stage: Stage, loads: list[Workload]) -> None:
    """Resync the old primary by force, once, with its driver killed right after the request."""
    ids: list[set[str]] = []

    def first(load: Workload) -> None:
        _see_split_brain(stage, load)
        ids.append({stage.here.image_id(load.volume)})
        settle(partial(stage.here.client.resync, load.handle, force=True), seconds=_BOUND)

    def rest(load: Workload, seen: set[str]) -> None:
        poll(lambda: _resynced(stage, load, seen), seconds=_BOUND, what="a new copy", every=1)
        require(len(seen) == 2, "one resync, that is two image ids", seen)
        carry_over(stage, load, stage.there, stage.here)

    for load in loads:
        first(load)
    if stage.here.started:
        stage.here.restart_driver()
    with ThreadPoolExecutor(len(loads)) as executor:
        list(executor.map(rest, loads, ids))


def _see_split_brain(stage: Stage, load: Workload) -> None:
    """Demote the old primary, and ask for a resync without force until it is refused."""
    client = stage.here.client
    settle(partial(client.demote, load.handle), seconds=_BOUND)

    def refused() -> bool:
        answer = client.resync(load.handle)
        expect(answer, "OK", "ABORTED", "UNAVAILABLE", "FAILED_PRECONDITION")
        require(not answer.ready, "ready=false beside a primary", answer)
        return answer.code == "FAILED_PRECONDITION"

    poll(refused, seconds=_BOUND, what="a split-brain is refused without force", every=1)
    load.require_whole(stage.there, "beside a split-brain")


def _resynced(stage: Stage, load: Workload, ids: set[str]) -> bool:
    """Repeat the forced resync, and note every image id."""
    here = stage.here
    answer = here.client.resync(load.handle, force=True)
    expect(answer, "OK", "ABORTED", "UNAVAILABLE")
    require(not answer.ready, "ready=false beside a primary", answer)
    ids.add(here.image_id(load.volume))
    ids.discard("")
    return len(ids) > 1 and here.state(load.volume) == "up+replaying"


def _bring_home(stage: Stage, load: Workload) -> None:
    """Move back as orchestrators do: demoted, ready, promoted; and followed again."""
    here, there, volume = stage.here, stage.there, load.volume
    load.write(there, _WRITES)
    settle(partial(there.client.demote, load.handle), seconds=_BOUND)
    poll(lambda: _ready(here, load), seconds=_BOUND, what="ready=true", every=1)
    load.require_whole(here, "when it first says ready=true")
    load.require_whole(there, "when the other site first says ready=true")
    entry = here.journal_entry(volume, "csi.imageid")
    require(entry == here.image_id(volume), "csi.imageid of the new image", entry)
    settle(partial(here.client.promote, load.handle), seconds=_BOUND)
    load.require_whole(here, "at home again")
    load.write(here, _WRITES)
    carry_over(stage, load, here, there)


def _ready(site: SiteUnderTest, load: Workload) -> bool:
    answer = site.client.resync(load.handle)
    expect(answer, "OK", "ABORTED", "UNAVAILABLE")
    return answer.ready
