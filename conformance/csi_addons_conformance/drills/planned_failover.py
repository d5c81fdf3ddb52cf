# SPDX-License-Identifier: Apache-2.0
"""Volumes moved back and forth as fast as the answers come."""

import os
import secrets
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from csi_addons_conformance.case import Kind, case, poll, require, settle
from csi_addons_conformance.client import Answer
from csi_addons_conformance.drills.workload import Workload, carry_over, start
from csi_addons_conformance.stage import Stage

_VOLUMES: Final = 4
_ROUNDS: Final = {"snapshot": 100, "journal": 30}
_BOUND: Final = 300
_WRITES: Final = 100


@dataclass(slots=True, kw_only=True)
class _Tally:
    """What moving one volume, or several, came to."""

    rounds: int = 0
    writes: int = 0
    read_only: int = 0
    codes: Counter[str] = field(default_factory=Counter)
    demotes: list[float] = field(default_factory=list)
    promotes: list[float] = field(default_factory=list)

    def add(self, other: "_Tally") -> None:
        self.rounds += other.rounds
        self.writes += other.writes
        self.read_only += other.read_only
        self.codes += other.codes
        self.demotes += other.demotes
        self.promotes += other.promotes

    def until_ok(self, seconds: list[float], call: Callable[[], Answer]) -> None:
        """Repeat a call as the controller does, and take its time; force is never an answer."""

        def counted() -> Answer:
            answer = call()
            self.codes[answer.code] += 1
            require(answer.code in ("OK", "ABORTED"), "OK or ABORTED only", answer)
            return answer

        began = time.monotonic()
        settle(counted, seconds=_BOUND)
        seconds.append(time.monotonic() - began)

    @property
    def words(self) -> str:
        codes = ", ".join(f"{code} {number}" for code, number in self.codes.most_common())
        return (
            f"{self.rounds} rounds, {self.writes} acknowledged writes, 0 of them lost, "
            f"0 forced promotes; answers: {codes}; demote {_spread(self.demotes)}, "
            f"promote {_spread(self.promotes)}; first writes refused as read-only: {self.read_only}"
        )


def _spread(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    middle, late = (ordered[int(share * (len(ordered) - 1) + 0.5)] for share in (0.5, 0.99))
    return f"p50 {middle:.1f} s, p99 {late:.1f} s"


@case(
    "drill/planned-failover",
    kind=Kind.SAFETY,
    row="A planned failover is never forced and loses nothing, however soon after Demote's OK the "
    "promote arrives, and however fast volumes are moved back and forth",
    tags={"drill"},
)
def planned_failover(stage: Stage) -> None:
    """Each move follows the last without a pause; every acknowledged byte is there, unforced."""
    rounds = int(os.environ.get("CONFORMANCE_ROUNDS") or _ROUNDS[stage.mode])
    volumes = min(_VOLUMES, rounds)
    shares = [rounds // volumes + (number < rounds % volumes) for number in range(volumes)]
    total = _Tally()
    with ThreadPoolExecutor(volumes) as executor:
        for tally in executor.map(partial(_back_and_forth, stage), start(stage, volumes), shares):
            total.add(tally)
    stage.say(total.words)


def _back_and_forth(stage: Stage, load: Workload, rounds: int) -> _Tally:
    tally = _Tally(rounds=rounds)
    old, new = stage.here, stage.there
    for number in range(1, rounds + 1):
        with load.writing(old) as written:
            written.reach(1 + secrets.randbelow(_WRITES))
        tally.until_ok(tally.demotes, partial(old.client.demote, load.handle))
        tally.until_ok(tally.promotes, partial(new.client.promote, load.handle))
        load.require_whole(new, f"after round {number}")
        old, new = new, old
    poll(
        lambda: new.state(load.volume) == "up+replaying",
        seconds=120,
        what=f"{new.name} follows after the last round",
    )
    carry_over(stage, load, old, new)
    tally.writes, tally.read_only = load.acknowledged, load.read_only
    return tally
