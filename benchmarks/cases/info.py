# SPDX-License-Identifier: Apache-2.0
"""GetVolumeReplicationInfo: one caller, and many."""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from benchmarks import floor
from benchmarks.bench import Bench, case, handles
from benchmarks.load import INFO, PROBE, Job
from benchmarks.rows import Row, beside, per_second

_FEW: Final = 10
_TIMES: Final = 10
"""How often a round asks again about each of the few."""
_MANY: Final = 100
_CALLERS: Final = 64
_SECONDS: Final = 5


@case("info/one-caller")
def one_caller(bench: Bench) -> Iterator[Row]:
    """One caller, call by call, beside opening each image: new questions, and repeated ones."""
    volumes = bench.volumes(min(_MANY, bench.many))
    opened = [volume.image for volume in volumes]
    once, again = handles(volumes), handles(volumes[:_FEW]) * _TIMES
    new, repeated, bare = [], [], []
    for _ in range(bench.rounds):
        new.append(bench.crew.each(bench.here.name, INFO, once, 1).p50)
        bare.append(
            bench.floors[bench.here.name].run(floor.each, floor.read_status, opened, threads=1).p50
        )
        repeated.append(bench.crew.each(bench.here.name, INFO, again, 1).p50)
    yield beside("info, one caller, each volume once, p50", new, bare, at_most=0.5)
    yield beside("info, one caller, asked again within a second, p50", repeated, bare)


@case("info/many-callers")
def many_callers(bench: Bench) -> Iterator[Row]:
    """As many calls as can be, beside as many Probes."""
    asked = handles(bench.volumes(min(_MANY, bench.many)))
    rates: dict[str, list[float]] = {INFO: [], PROBE: []}
    codes: Counter[str] = Counter()
    for _ in range(bench.rounds):
        for method, seen in rates.items():
            job = Job(site=bench.here.name, method=method, handles=asked, callers=_CALLERS)
            timings = bench.crew.hammer(job, _SECONDS)
            seen.append(timings.rate)
            if method == INFO:
                codes += timings.codes
    yield beside(
        f"info, {_CALLERS} callers on {len(asked)} volumes; floor: Probe",
        rates[INFO],
        rates[PROBE],
        words=per_second,
        at_least=0.5,
        note=", ".join(f"{code} {number}" for code, number in sorted(codes.items())),
    )
    yield Row(
        name=f"info, {_CALLERS} callers: not answered OK",
        ours=f"{codes.total()} calls",
        figure=codes.total() - codes["OK"],
        unit="calls",
        at_most=0,
    )
