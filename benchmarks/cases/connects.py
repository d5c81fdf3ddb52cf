# SPDX-License-Identifier: Apache-2.0
"""How often the driver connects to its cluster."""

from collections.abc import Iterator
from typing import Final

from benchmarks.bench import Bench, case, handles
from benchmarks.load import INFO
from benchmarks.osd import Numbering, clients_of
from benchmarks.rows import Row, per_second

_CALLS: Final = 10
"""For each volume of the big cases: 10,000 by default."""
_VOLUMES: Final = 10
_CALLERS: Final = 16


@case("connects")
def connects(bench: Bench) -> Iterator[Row]:
    """Many calls with one key, to a driver that was just started."""
    volumes = bench.volumes(_VOLUMES)
    site = bench.here.site
    numbering = Numbering.begin(site)
    if bench.here.started is not None:
        bench.here.started.stop()
        bench.here.started.start()
    asked = handles(volumes) * (_CALLS * bench.many // len(volumes))
    timings = bench.crew.each(bench.here.name, INFO, asked, _CALLERS)
    number = numbering.connects()
    left = len(clients_of(site, site.secrets["userID"])) - 1  # the floor's
    yield Row(
        name=f"connects to the cluster in {len(asked):,} info calls with one key",
        ours=per_second(timings.rate),
        figure=number,
        unit="connects",
        at_most=1,
        note=f"counted by the monitor, which numbers its clients; {left} connected at the end",
    )
