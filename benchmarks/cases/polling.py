# SPDX-License-Identifier: Apache-2.0
"""What it costs to have every volume polled as the controller does."""

import time
from collections.abc import Iterator
from typing import Final

from benchmarks import floor
from benchmarks.bench import Bench, case, handles
from benchmarks.footprint import processor_seconds
from benchmarks.load import INFO, Job
from benchmarks.osd import Osd, clients_of
from benchmarks.rows import Row, milliseconds

_EVERY: Final = 30.0
"""Seconds between two questions about the same volume."""
_SECONDS: Final = 60.0
_CALLERS: Final = 16
_WHOLE_POOL: Final = "mirror_image_status_list"
_SHOWN: Final = 6


@case("polling")
def polling(bench: Bench) -> Iterator[Row]:
    """Polling, after a minute of quiet whose operations are rbd-mirror's own."""
    volumes = bench.volumes(bench.many)
    asked = handles(volumes)
    job = Job(site=bench.here.name, method=INFO, handles=asked, callers=_CALLERS)
    bench.crew.pace(job, every=_EVERY, seconds=_EVERY / 3)  # has it connect
    with Osd.of(bench.here.site) as osd:
        bench.say("a quiet minute")
        before = osd.counters()
        time.sleep(_SECONDS)
        quiet = osd.counters()
        bench.say("polling")
        used = _used(bench)
        with osd.remembering():
            start = osd.counters()
            timings = bench.crew.pace(job, every=_EVERY, seconds=_SECONDS)
            end = osd.counters()
            counted = osd.remembered(_clients(bench))
    calls = len(timings.seconds)
    share = timings.wall / _SECONDS
    extra = {name: end[name] - start[name] - (quiet[name] - before[name]) * share for name in end}
    lists = sum(number for words, number in counted.items() if _WHOLE_POOL in words)
    rate = calls / timings.wall
    polled = f"{len(volumes):,} volumes polled once each per {_EVERY:.0f} s"
    yield Row(
        name=f"{polled}: reads of the whole pool's statuses",
        ours=f"{rate:.1f} calls a second, p50 {milliseconds(timings.p50)}",
        # what is read at the very beginning serves the second that follows
        figure=max(0, lists - 1) / timings.wall,
        unit="a second",
        at_most=1.0,
        note=_codes(timings.codes),
    )
    yield Row(
        name="the same: RADOS operations per call",
        ours=f"{counted.total() / calls:.2f}",
        figure=counted.total() / calls,
        note=f"by the OSD's counters, less those of a quiet minute: {extra['op'] / calls:.2f}, of "
        f"which reads {extra['op_r'] / calls:.2f}; "
        + ", ".join(f"{words} {n / calls:.2f}" for words, n in counted.most_common(_SHOWN)),
    )
    if used is not None:
        after = _used(bench) or 0.0
        yield Row(
            name="the same: processor time of driver and worker",
            ours=f"{after - used:.1f} s in {timings.wall:.0f} s",
            figure=100 * (after - used) / timings.wall,
            unit="% of a core",
            at_most=5.0,
        )


def _used(bench: Bench) -> float | None:
    started = bench.here.started
    return processor_seconds(started.pid) if started is not None else None


def _clients(bench: Bench) -> frozenset[int]:
    """Return the driver's clients: the floor's has the same user."""
    site = bench.here.site
    own = bench.floors[site.name].run(floor.client_id)
    return clients_of(site, site.secrets["userID"]) - {own}


def _codes(codes: dict[str, int]) -> str:
    return ", ".join(f"{code} {number}" for code, number in sorted(codes.items()))
