# SPDX-License-Identifier: Apache-2.0
"""Many volumes changing sides at once, by the driver and by bare librbd in turn."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from csi_addons_conformance.sites import SiteUnderTest

from benchmarks import floor
from benchmarks.bench import CALLERS, Bench, case, handles
from benchmarks.rows import Row, beside
from benchmarks.timings import Timings
from lab import Volume

_TARGET: Final = 1.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One failover of many volumes, in seconds."""

    demote: float
    picked_up: float
    promote: float

    @property
    def whole(self) -> float:
        """From the first demotion to the last promotion."""
        return self.demote + self.picked_up + self.promote

    def __str__(self) -> str:
        """Tell it in seconds."""
        return (
            f"{self.whole:.1f} s: demoted in {self.demote:.1f}, picked up after "
            f"{self.picked_up:.1f}, promoted in {self.promote:.1f}"
        )


Change: TypeAlias = Callable[[Bench, SiteUnderTest, str, Sequence[Volume], int], Timings]


def by_driver(
    bench: Bench, site: SiteUnderTest, what: str, volumes: Sequence[Volume], callers: int
) -> Timings:
    """Change all volumes through the driver."""
    return bench.crew.each(site.name, f"{what}Volume", handles(volumes), callers)


def by_librbd(
    bench: Bench, site: SiteUnderTest, what: str, volumes: Sequence[Volume], callers: int
) -> Timings:
    """Change all volumes with bare librbd."""
    operation = {"Demote": floor.demote, "Promote": floor.promote}[what]
    names = [volume.image for volume in volumes]
    return bench.floors[site.name].run(floor.each, operation, names, threads=callers)


def move(
    bench: Bench,
    change: Change,
    old: SiteUnderTest,
    new: SiteUnderTest,
    volumes: Sequence[Volume],
) -> Move:
    """Fail over all of them, and then wait until the old site follows."""
    demoted = change(bench, old, "Demote", volumes, CALLERS)
    bench.await_picked_up(new, volumes)
    picked_up = time.monotonic()
    promoted = change(bench, new, "Promote", volumes, CALLERS)
    done = Move(demote=demoted.wall, picked_up=picked_up - demoted.ended, promote=promoted.wall)
    bench.await_followed(new, volumes)
    return done


def there_and_back(
    bench: Bench, volumes: Sequence[Volume], rounds: int
) -> tuple[list[Move], list[Move]]:
    """Have the driver move all volumes there and back, then librbd, and so on."""
    ours: list[Move] = []
    bare: list[Move] = []
    for _ in range(rounds):
        for change, moves in ((by_driver, ours), (by_librbd, bare)):
            for old, new in ((bench.here, bench.there), (bench.there, bench.here)):
                moves.append(move(bench, change, old, new, volumes))
                bench.say(f"{change.__name__.replace('_', ' ')}: {moves[-1]}")
    return ours, bare


@case("moves")
def at_once(bench: Bench) -> Iterator[Row]:
    """As many volumes as callers."""
    volumes = bench.volumes(min(CALLERS, bench.many))
    ours, bare = there_and_back(bench, volumes, bench.rounds)
    for what in ("demote", "promote"):
        yield beside(
            f"{what} {len(volumes)} volumes at once",
            [getattr(each, what) for each in ours],
            [getattr(each, what) for each in bare],
            at_most=_TARGET,
        )
