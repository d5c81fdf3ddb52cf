# SPDX-License-Identifier: Apache-2.0
"""Ends or freezes the driver at every step of every operation: the next call converges.

The steps are not listed here: they are counted, see ``csi_addons_rbd/ceph/fault_points.py``.
"""

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Final

from csi_addons_conformance.case import UnmetError, poll, settle
from csi_addons_conformance.stage import Stage
from csi_addons_conformance.staging import staged
from rich.console import Console
from rich.table import Table

from tests.driver_insides import alive, workers
from tests.kills.frozen import outlive
from tests.kills.holding import Held, for_each, hold
from tests.kills.lanes import DEATHS, DRIVER, Lane, lanes
from tests.kills.leftovers import await_no_stranger, leftovers
from tests.kills.operations import MOST, OPERATIONS, Operation

_LANES: Final = 8
_CONVERGES: Final = 120
"""Seconds: a lease of the dead, 30 s, may be in the way, and so may a watch of theirs."""
_FREEZES: Final = {"driver frozen": False, "driver frozen, all undone": True}
_DIES: Final = 10
_STRIKES: Final = (*DEATHS, *_FREEZES)
_FEWEST: Final = 8
"""Points of the shortest operation: a lease taken and given back, one thing signed for and done."""
_SHORT: Final = ("demote, snapshot, worker killed", "demote, snapshot, driver frozen, all undone")


@dataclass(slots=True, kw_only=True)
class Round:
    """One operation in one mode, held at each of its points, and then struck."""

    operation: Operation
    mode: str
    strike: str
    points: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """How long each took to converge."""
    faults: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What reports call it."""
        return f"{self.operation.name}, {self.mode}, {self.strike}"

    @property
    def slowest(self) -> float:
        """Seconds until the last had converged."""
        return max(self.seconds, default=0)

    def run(self, lane: Lane, other: Stage) -> None:
        """Hold, strike, look; ``other`` has another driver of the same site."""
        other = replace(other, mode=self.mode)
        while self._strike_some(lane, other):
            pass
        if len(self.points) < _FEWEST:
            self.faults.append(f"only {len(self.points)} points were found")

    def _strike_some(self, lane: Lane, other: Stage) -> bool:
        """Strike at as many further points as can be held at once; false after the last one."""
        with ThreadPoolExecutor(MOST) as callers:
            some = list(hold(lane, other, self.operation, callers, after=len(self.points)))
            free = [one for one in some if not one.point]
            held = [one for one in some if one.point]
            self.points += [one.point for one in held]
            faults = list(for_each(free, lambda one: self._leftovers(other, one)))
            faults += self._strike(lane, other, held)
        self.faults += [f"{one.point or 'undisturbed'}: {fault}" for one, fault in faults]
        strangers = await_no_stranger(other, [one.volume for one in held])
        self.faults += [f"a dead driver still watches {image}" for image in strangers]
        if self.operation.keeps_on:
            for one in some:
                settle(partial(other.here.client.disable, one.volume.handle))
        return not free

    def _strike(self, lane: Lane, other: Stage, held: list[Held]) -> Iterator[tuple[Held, str]]:
        if self.strike in _FREEZES:
            return outlive(lane, other, self.operation, held, undo=_FREEZES[self.strike])
        before = workers(lane.driver)
        DEATHS[self.strike](lane)
        poll(lambda: not alive(before), seconds=_DIES, what="those killed are gone", every=0.1)
        stage = replace(lane.stage, mode=self.mode)
        return for_each(held, lambda one: self._converge(stage, one))

    def _converge(self, stage: Stage, held: Held) -> list[str]:
        """Repeat the call as the controller does, and see what is left behind."""
        began = time.monotonic()
        settle(lambda: self.operation.act.call(stage, held.volume), seconds=_CONVERGES)
        self.seconds.append(time.monotonic() - began)
        return self._leftovers(stage, held)

    def _leftovers(self, stage: Stage, held: Held) -> list[str]:
        return leftovers(stage, self.operation.act, held.volume, held.image_id)


def main() -> None:
    """Run it all; exit code 1 when something did not converge, or was done too late."""
    # an orderly end: what was started is ended, too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parser = _parser()
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160, markup=False, highlight=False)
    rounds = list(_rounds(options))
    if not rounds:
        parser.error(f"--select {options.select!r} names no round")
    began = time.monotonic()
    with ExitStack() as running:
        options.driver, options.site, options.logs = DRIVER, [], None
        other = running.enter_context(staged(options))
        free = lanes(other, min(_LANES, len(rounds)), running)

        def run(each: Round) -> None:
            lane = free.get()
            try:
                each.run(lane, other)
            except Exception as exc:  # noqa: BLE001 - one round must not hide what the others find
                each.faults.append(str(exc) if isinstance(exc, UnmetError) else repr(exc))
                lane.begin_anew()
            finally:
                free.put(lane)
            console.print(_line(each))

        with ThreadPoolExecutor(_LANES) as executor:
            list(executor.map(run, rounds))
    _show(rounds, console, time.monotonic() - began)
    sys.exit(any(each.faults for each in rounds))


def _rounds(options: argparse.Namespace) -> Iterator[Round]:
    """Make the rounds asked for, the longest first."""
    for strike in reversed(_STRIKES):
        for operation in reversed(OPERATIONS):
            for mode in operation.modes:
                each = Round(operation=operation, mode=mode, strike=strike)
                if _FREEZES.get(strike) and operation.undone is None:
                    continue
                if options.select in each.name and (not options.short or each.name in _SHORT):
                    yield each


def _line(each: Round) -> str:
    ending = f", slowest to converge {each.slowest:.1f} s" if each.seconds else ""
    return f"{'✘' if each.faults else '✔'} {each.name}: {len(each.points)} points{ending}"


def _show(rounds: list[Round], console: Console, seconds: float) -> None:
    table = Table(title="Struck at every step", expand=True)
    for title, ratio in (("operation", 2), ("mode", 1), ("strike", 2), ("points", 6)):
        table.add_column(title, ratio=ratio, overflow="fold")
    table.add_column("converged within", justify="right")
    for each in rounds:
        table.add_row(
            each.operation.name,
            each.mode,
            each.strike,
            f"{len(each.points)}: {', '.join(each.points)}",
            f"{each.slowest:.1f} s" if each.seconds else "",
        )
    console.print(table)
    for each in rounds:
        for fault in each.faults:
            console.print(f"✘ {each.name}: {fault}")
    strikes, faults = (
        sum(len(each.points) for each in rounds),
        sum(len(each.faults) for each in rounds),
    )
    console.print(
        f"{strikes} points struck in {len(rounds)} rounds; not converged, left behind or done too "
        f"late: {faults}; {seconds:.0f} s"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.kills")
    parser.add_argument("--lab", type=Path, metavar="FILE", help="lab.json; a new lab by default")
    parser.add_argument(
        "--select", default="", metavar="WORDS", help="of operation, mode and strike"
    )
    parser.add_argument("--short", action="store_true", help="two rounds of demote")
    return parser


if __name__ == "__main__":
    main()
