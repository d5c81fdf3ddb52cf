# SPDX-License-Identifier: Apache-2.0
"""One promote, one demote, one enable with nobody beside it."""

from collections.abc import Iterator, Sequence
from typing import Final

from csi_addons_conformance.sites import SiteUnderTest

from benchmarks import floor
from benchmarks.bench import SIZE, Bench, case, handles
from benchmarks.rows import Row, beside
from lab import Volume
from lab.volumes import make_volumes

_VOLUMES: Final = 10
_LEAST: Final = 10
"""Repetitions of each."""
_TARGET: Final = 1.05
_CALLS: Final = {
    "EnableVolumeReplication": floor.enable,
    "DemoteVolume": floor.demote,
    "PromoteVolume": floor.promote,
}


class _Duel:
    """The same call on one volume after the other, by driver and by librbd in turn."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self.ours: dict[str, list[float]] = {method: [] for method in _CALLS}
        self.bare: dict[str, list[float]] = {method: [] for method in _CALLS}
        self._turn = 0

    def run(self, method: str, site: SiteUnderTest, volumes: Sequence[Volume]) -> None:
        """Call for each volume; the next time the other one begins."""
        for index, volume in enumerate(volumes, self._turn):
            if index % 2:
                timings = self._bench.crew.each(site.name, method, [volume.handle], 1)
                self.ours[method] += timings.seconds
            else:
                timings = self._bench.floors[site.name].run(
                    floor.each, _CALLS[method], [volume.image], threads=1
                )
                self.bare[method] += timings.seconds
        self._turn += 1

    def row(self, method: str) -> Row:
        """Judge one call."""
        ours = self.ours[method]
        name = f"one {method.removesuffix('Volume').removesuffix('VolumeReplication').lower()}"
        note = f"{len(ours)} of each"
        return beside(f"{name}, alone", ours, self.bare[method], at_most=_TARGET, note=note)


@case("alone/moves")
def moves(bench: Bench) -> Iterator[Row]:
    """Demote and promote, there and back; the peer follows, and has what came last."""
    volumes, duel = bench.volumes(_VOLUMES), _Duel(bench)
    for _ in range(max(bench.rounds, -(-_LEAST // _VOLUMES))):
        for old, new in ((bench.here, bench.there), (bench.there, bench.here)):
            duel.run("DemoteVolume", old, volumes)
            bench.await_picked_up(new, volumes)
            duel.run("PromoteVolume", new, volumes)
            bench.await_followed(new, volumes)
    yield duel.row("DemoteVolume")
    yield duel.row("PromoteVolume")


@case("alone/enable")
def enable(bench: Bench) -> Iterator[Row]:
    """Volumes that were never mirrored."""
    volumes = make_volumes(bench.here.site, SIZE, 2 * _LEAST)
    duel = _Duel(bench)
    duel.run("EnableVolumeReplication", bench.here, volumes)
    yield duel.row("EnableVolumeReplication")
    bench.await_followed(bench.here, volumes)
    bench.crew.each(bench.here.name, "DisableVolumeReplication", handles(volumes), len(volumes))
