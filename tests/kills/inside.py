# SPDX-License-Identifier: Apache-2.0
"""Kills the worker at random moments inside librbd's demotion and promotion: all come home.

Between the two points of ``ceph/fault_points.py`` around librbd's call nothing can be held, so the
moment is left to chance. What is left is told by kind; docs/explanation/torn-images.md has figures.
"""

import argparse
import random
import signal
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from csi_addons_conformance.case import BOTH, UnmetError, poll, require, settle
from csi_addons_conformance.client import Answer
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage
from csi_addons_conformance.staging import staged
from rich.console import Console

from csi_addons_rbd.ceph.sightings import look
from csi_addons_rbd.ceph.views import read_view
from csi_addons_rbd.replication.image import Epoch, MirrorView
from lab import Volume
from tests.driver_insides import alive, workers
from tests.kills.lanes import DRIVER, Lane, lanes

_LANES: Final = 4
_REACHED: Final = 60
_DIES: Final = 10
_CONVERGES: Final = 150
"""Seconds: lease and watch of the dead, 30 s each, may be in the way, and a peer that follows."""
_HEARD: Final = 60
"""Seconds within which the peer has a demotion, whose news rbd-mirror may not have had yet."""
_ARRIVED: Final = Epoch.NON_PRIMARY_DEMOTED
_AFTER: Final = {"demote": ("demoting", 0.08), "promote": ("promoting", 0.12)}
"""Point after which the kill comes, and within how many seconds it does in snapshot mode."""
_JOURNAL: Final = 0.03
"""The same in journal mode."""
_TAKEN_OVER: Final = ("promoting", 0.6)
"""The same of a promotion by force of an image that rbd-mirror replays, which takes longer."""


@dataclass(slots=True, kw_only=True)
class Tally:
    """What was left by the kills of one operation in one mode."""

    name: str
    left: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    """How long each took to come home."""

    @property
    def kills(self) -> int:
        """Count the kills inside librbd."""
        return self.left.total()

    def __str__(self) -> str:
        """Return the line of a report."""
        kinds = ", ".join(f"{kind} {count}" for kind, count in self.left.most_common())
        return f"{self.name}: {self.kills} kills ({kinds}); home within {max(self.seconds):.1f} s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One mode on one lane."""

    lane: Lane
    stage: Stage
    tallies: dict[str, Tally]

    def there_and_back(self, kills: int) -> None:
        """Demote and promote one volume until so many were killed; at last move it, and compare."""
        volume, here = self.stage.mirrored(), self.stage.here
        marker = 0
        while any(self.tallies[name].kills < kills for name in _AFTER):
            self._strike("demote", volume, partial(here.client.demote, volume.handle))
            poll(
                lambda: self._view(volume, self.stage.there).history.epoch is _ARRIVED,
                seconds=_HEARD,
                what="the demotion is on dr2",
            )
            promote = partial(here.client.promote, volume.handle, force=True)
            self._strike("promote", volume, promote)
            marker += 1
            here.write(volume, b"%08d" % marker)
        settle(partial(here.client.demote, volume.handle), seconds=_CONVERGES)
        settle(partial(self.stage.there.client.promote, volume.handle), seconds=_CONVERGES)
        found = self.stage.there.read(volume, 8)
        require(found == b"%08d" % marker, f"{marker} on dr2", found)

    def take_over(self) -> None:
        """Promote by force what follows dr2, killed; then it must be writable, and demotable."""
        stage, here = self.stage, self.stage.here
        volume = stage.followed(size=2 << 20)
        promote = partial(here.client.promote, volume.handle, force=True)
        self._strike("take over", volume, promote)
        here.write(volume, b"taken over")
        settle(partial(here.client.demote, volume.handle), seconds=_CONVERGES)

    def _strike(self, name: str, volume: Volume, call: "partial[Answer]") -> None:
        point, within = _AFTER.get(name, _TAKEN_OVER)
        if self.stage.mode == "journal":
            within = _JOURNAL
        answer = self._cut_short(call, point, random.uniform(0, within))  # noqa: S311
        tally = self.tallies[name]
        if answer.code != "OK":
            tally.left[_kind(self._view(volume, self.stage.here))] += 1
        began = time.monotonic()
        settle(call, seconds=_CONVERGES)
        tally.seconds.append(time.monotonic() - began)
        view = self._view(volume, self.stage.here)
        require(view.torn is None, "a whole image", view)
        require(view.primary == (name != "demote"), f"what {name} leaves", view)

    def _cut_short(self, call: "partial[Answer]", point: str, delay: float) -> Answer:
        lane = self.lane
        lane.arm(f"before {point}")
        with ThreadPoolExecutor(1) as caller:
            answer = caller.submit(settle, call, "OK", "UNAVAILABLE", seconds=_CONVERGES)
            poll(
                lambda: lane.reached or answer.done(),
                seconds=_REACHED + _CONVERGES,
                what=f"{point} begins",
                every=0.02,
            )
            require(lane.reached, f"a call that comes to {point}", "another")
            before = workers(lane.driver)
            lane.thaw()
            time.sleep(delay)
            lane.kill_worker()
            poll(lambda: not alive(before), seconds=_DIES, what="the killed are gone", every=0.1)
            lane.hold_again()
            return answer.result()

    def _view(self, volume: Volume, at: SiteUnderTest) -> MirrorView:
        with at.site.ioctx() as ioctx:
            return read_view(ioctx, look(ioctx, volume.image))


def _kind(view: MirrorView) -> str:
    return f"torn: {view.torn.name.lower()}" if view.torn else str(view.history.epoch)


def main() -> None:
    """Run it all; exit code 1 when an image did not come home."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = _parser().parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160, markup=False, highlight=False)
    faults: list[str] = []
    with ExitStack() as running:
        options.driver, options.site, options.logs = DRIVER, [], None
        other = running.enter_context(staged(options))
        free = lanes(other, _LANES, running)
        for mode in options.mode or BOTH:
            names = (*_AFTER, "take over")
            tallies = {name: Tally(name=f"{name}, {mode}") for name in names}

            def run(kills: int, mode: str = mode, tallies: dict[str, Tally] = tallies) -> None:
                lane = free.get()
                stage = replace(lane.stage, mode=mode)
                each = Run(lane=lane, stage=stage, tallies=tallies)
                try:
                    each.there_and_back(kills) if kills else each.take_over()
                except UnmetError as exc:
                    faults.append(f"{mode}: {exc}")
                    lane.begin_anew()
                finally:
                    free.put(lane)

            with ThreadPoolExecutor(_LANES) as executor:
                list(executor.map(run, [options.kills] * _LANES + [0] * options.takeovers))
            for tally in tallies.values():
                if tally.seconds:
                    console.print(str(tally))
    for fault in faults:
        console.print(f"✘ {fault}")
    sys.exit(bool(faults))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.kills.inside", description=__doc__)
    add = parser.add_argument
    add("--lab", type=Path, metavar="FILE", help="lab.json; a new lab by default")
    add("--mode", action="append", choices=BOTH, help="both by default")
    add(
        "--kills",
        type=int,
        default=52,
        help="in demote and in promote, each (%(default)s)",
    )
    add("--takeovers", type=int, default=24, help="promotions of a following image (%(default)s)")
    return parser


if __name__ == "__main__":
    main()
