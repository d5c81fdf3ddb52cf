# SPDX-License-Identifier: Apache-2.0
"""A whole site's volumes failed over."""

from collections.abc import Iterator
from typing import Final

from benchmarks.bench import CALLERS, Bench, case, handles
from benchmarks.cases.moves import there_and_back
from benchmarks.footprint import Watch
from benchmarks.rows import Row, beside

_TARGET: Final = 1.2
_ROUNDS: Final = 2
"""At most: a move of a thousand volumes takes minutes."""
_SERIAL: Final = 5
"""Volumes that are moved one after another, to tell what all of them would take so."""


@case("failover")
def failover(bench: Bench) -> Iterator[Row]:
    """All volumes, and what the driver holds meanwhile and then."""
    volumes = bench.volumes(bench.many)
    with Watch.over(bench) as watch:
        ours, bare = there_and_back(bench, volumes, min(bench.rounds, _ROUNDS))
    serial = _serial(bench) * len(volumes)
    whole = beside(
        f"fail over {len(volumes):,} volumes, {CALLERS} at once",
        [each.whole for each in ours],
        [each.whole for each in bare],
        at_most=_TARGET,
    )
    yield whole
    for phase, words in (("demote", "demote"), ("picked_up", "pick-up"), ("promote", "promote")):
        yield beside(
            f"of which {words}",
            [getattr(each, phase) for each in ours],
            [getattr(each, phase) for each in bare],
        )
    yield Row(
        name=f"the same {len(volumes):,} volumes one after another",
        ours=f"{serial:.0f} s",
        figure=serial,
        unit="s",
        note=f"extrapolated from {_SERIAL}",
    )
    yield from watch.rows()


def _serial(bench: Bench) -> float:
    """Return the seconds that one volume takes to fail over while no other does."""
    volumes = handles(bench.volumes(_SERIAL))
    taken = []
    for old, new in ((bench.here, bench.there), (bench.there, bench.here)):
        for handle in volumes:
            demoted = bench.crew.each(old.name, "DemoteVolume", [handle], 1)
            promoted = bench.crew.each(new.name, "PromoteVolume", [handle], 1)
            taken.append(promoted.ended - demoted.began)
        bench.await_followed(new, bench.volumes(_SERIAL))
    return sum(taken) / len(taken)
