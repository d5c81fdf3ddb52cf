# SPDX-License-Identifier: Apache-2.0
"""A relocation as Ramen has it done: both sites asked for demote and resync until ready."""

import os
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from csi_addons_conformance.case import Kind, case, poll, require, settle
from csi_addons_conformance.drills.workload import Workload, carry_over, start
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage

_VOLUMES: Final = 4
_ROUNDS: Final = 12
_EVERY: Final = (2, 0.05)
"""Seconds between two questions: as Ramen asks, and so often that no false moment is missed."""
_BOUND: Final = 240
_WRITES: Final = 100


@dataclass(slots=True, kw_only=True)
class _Poller:
    """The controller of one site, whose VolumeReplication is to be secondary."""

    site: SiteUnderTest
    peer: SiteUnderTest
    load: Workload
    force: bool
    """Half of the volumes are marked for automatic resync: it must make no difference."""
    every: float
    codes: Counter[str] = field(default_factory=Counter)
    ready: threading.Event = field(default_factory=threading.Event)
    end: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Ask for demote and resync again and again, until told to end."""
        while not self.end.is_set():
            self._ask()
            self.end.wait(self.every)

    def _ask(self) -> None:
        client = self.site.client
        demoted = client.demote(self.load.handle)
        self.codes[demoted.code] += 1
        require(demoted.code in ("OK", "ABORTED"), "OK or ABORTED only", demoted)
        if demoted.code != "OK":
            return
        answer = client.resync(self.load.handle, force=self.force)
        self.codes[answer.code] += 1
        require(answer.code in ("OK", "ABORTED"), "OK or ABORTED only", answer)
        if answer.ready and not self.ready.is_set():
            self.load.require_whole(self.site, "when it first says ready=true")
            self.load.require_whole(self.peer, f"when {self.site.name} first says ready=true")
            self.ready.set()

    def await_ready(self) -> None:
        """Wait until the site said ``ready=true``."""
        self._await(self.ready.is_set, f"ready=true for {self.load.volume.image}")

    def await_answers(self, number: int) -> None:
        """Wait for so many more answers."""
        goal = self.codes.total() + number
        self._await(lambda: self.codes.total() >= goal, f"{number} answers")

    def _await(self, done: Callable[[], bool], what: str) -> None:
        poll(
            lambda: done() or self.end.is_set(),
            seconds=_BOUND,
            what=f"{what} on {self.site.name}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moved:
    """What one relocation came to."""

    seconds: float
    codes: Counter[str]


@case(
    "drill/relocation",
    kind=Kind.SAFETY,
    row="Resync: both sides demoted and the last data exchanged → ready=true, which is what "
    "orchestrators such as Ramen wait for before they move an application",
    tags={"drill"},
)
def relocation(stage: Stage) -> None:
    """When either site first says ready=true, both images hold every acknowledged byte."""
    rounds = int(os.environ.get("CONFORMANCE_ROUNDS") or _ROUNDS)
    volumes = min(_VOLUMES, rounds)
    shares = [rounds // volumes + (number < rounds % volumes) for number in range(volumes)]
    loads = start(stage, volumes)
    with ThreadPoolExecutor(volumes) as executor:
        histories = list(
            executor.map(partial(_back_and_forth, stage), loads, shares, range(volumes))
        )
    moves = [moved for history in histories for moved in history]
    codes = sum((moved.codes for moved in moves), Counter[str]())
    seconds = sorted(moved.seconds for moved in moves)
    stage.say(
        f"{len(moves)} relocations, {sum(load.acknowledged for load in loads)} acknowledged "
        f"writes, 0 of them missing at the first ready=true; answers while polling: "
        f"{', '.join(f'{code} {number}' for code, number in codes.most_common())}; from the end "
        f"of the writer to ready on both sites {seconds[0]:.0f} to {seconds[-1]:.0f} s"
    )


def _back_and_forth(stage: Stage, load: Workload, rounds: int, number: int) -> list[_Moved]:
    moves = []
    old, new = stage.here, stage.there
    for _ in range(rounds):
        moves.append(_relocate(load, old, new, number))
        old, new = new, old
    carry_over(stage, load, old, new)
    return moves


def _relocate(load: Workload, old: SiteUnderTest, new: SiteUnderTest, number: int) -> _Moved:
    asking = partial(_Poller, load=load, force=bool(number % 2), every=_EVERY[number // 2 % 2])
    leaving, coming = asking(site=old, peer=new), asking(site=new, peer=old)
    with _asked(coming), load.writing(old) as written:
        coming.await_answers(2)
        written.reach(1 + secrets.randbelow(_WRITES))
    require(not coming.ready.is_set(), "ready=false under a writer", "ready=true")
    began = time.monotonic()
    with _asked(leaving):
        with _asked(coming):
            coming.await_ready()
            leaving.await_ready()
        seconds = time.monotonic() - began
        # Ramen makes one site primary, while the other one goes on being asked
        settle(partial(new.client.promote, load.handle))
        load.require_whole(new, "after the relocation")
        load.write(new, 1)
        leaving.await_answers(2)
    return _Moved(seconds=seconds, codes=leaving.codes + coming.codes)


@contextmanager
def _asked(poller: _Poller) -> Iterator[None]:
    """Have a controller ask for the length of a block."""
    poller.end.clear()
    with ThreadPoolExecutor(1) as executor:
        asking = executor.submit(poller.run)
        asking.add_done_callback(lambda _: poller.end.set())
        try:
            yield
        finally:
            poller.end.set()
            # what went wrong there is why the block failed, if it did
            asking.result()
