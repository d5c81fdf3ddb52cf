# SPDX-License-Identifier: Apache-2.0
"""Kills worker or driver at every step of every operation, and sees the next call converge.

The steps are not listed here: they are counted, see ``csi_addons_rbd/ceph/fault_points.py``.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Final

from csi_addons_conformance.case import UnmetError, settle
from csi_addons_conformance.driver_process import DriverProcess
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage
from csi_addons_conformance.staging import staged
from rich.console import Console
from rich.table import Table

from csi_addons_rbd.ceph.fault_points import VARIABLE
from lab import Lab, Volume
from tests.kills.leftovers import await_no_stranger, leftovers
from tests.kills.operations import OPERATIONS, Operation

_DRIVER: Final = (
    f"{sys.executable} -m csi_addons_rbd serve --endpoint unix://{{socket}} "
    "--driver-name rbd.csi.ceph.com --config-dir {config_dir} --metrics-address 127.0.0.1:{port} "
    "--state-check-interval {check_interval} --call-timeout 30"
)
_LANES: Final = 6
_AHEAD: Final = 4
"""Volumes that a lane makes at once."""
_MOST: Final = 60
"""Points at which an operation counts as one that never ends."""
_CONVERGES: Final = 120
"""Seconds: a lease of the dead, 30 s, may be in the way, and so may a watch of theirs."""
_SHORT: Final = ("demote", "disable")


@dataclass(slots=True, kw_only=True)
class Result:
    """One operation in one mode, cut short at every point by one kind of death."""

    operation: Operation
    mode: str
    action: str
    points: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """How long each took to converge."""
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A driver of its own on dr1, which may die as often as it likes."""

    stage: Stage
    file: Path

    @property
    def driver(self) -> DriverProcess:
        """The driver."""
        return self.stage.here.driver

    def cut_short(self, operation: Operation, mode: str, action: str, every: int) -> Result:
        """Kill at one point after the other, until there is none."""
        result = Result(operation=operation, mode=mode, action=action)
        stage = replace(self.stage, mode=mode)
        used: list[Volume] = []
        for number, volume in zip(range(1, _MOST, every), _volumes(stage, operation), strict=False):
            used.append(volume)
            if not self._kill_once(stage, result, volume, number):
                break
        else:
            result.faults.append(f"more than {_MOST} points")
        strangers = await_no_stranger(stage, used)
        result.faults += [f"a dead driver still watches {image}" for image in strangers]
        return result

    def _kill_once(self, stage: Stage, result: Result, volume: Volume, number: int) -> bool:
        """Kill at one point; tell whether the operation has that many."""
        operation, before = result.operation, stage.here.image_id(volume)
        fired = self.file.with_name(f"{self.file.name}.fired")
        fired.unlink(missing_ok=True)
        armed = self.file.with_name("armed")
        armed.write_text(f"{result.action} {number}")
        armed.rename(self.file)
        operation.call(stage, volume)
        point = fired.read_text() if fired.exists() else ""
        self.file.unlink(missing_ok=True)
        if result.action == "kill-driver" and point:
            self.driver.kill()
            self.driver.start()
        began = time.monotonic()
        try:
            settle(lambda: operation.call(stage, volume), seconds=_CONVERGES)
            seconds = time.monotonic() - began
            found = leftovers(stage, operation, volume, before)
        except UnmetError as exc:
            seconds, found = time.monotonic() - began, [str(exc)]
        where = point or "undisturbed"
        result.faults += [f"{where}: {each}" for each in found]
        if point:
            result.points.append(point)
            result.seconds.append(seconds)
        return bool(point)


def _volumes(stage: Stage, operation: Operation) -> Iterator[Volume]:
    """Make volumes ready for an operation, some ahead of their use."""
    while True:
        with ThreadPoolExecutor(_AHEAD) as executor:
            ready = [executor.submit(operation.prepare, stage) for _ in range(_AHEAD)]
        for each in ready:
            yield each.result()


def main() -> None:
    """Run it all; exit code 1 when something did not converge, or left something behind."""
    options = _parser().parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    actions = ("kill-worker",) if options.short else ("kill-worker", "kill-driver")
    jobs = [
        (operation, mode, action)
        for operation in reversed(OPERATIONS)  # the longest first
        for mode in operation.modes
        for action in actions
        if options.select in f"{operation.name} {mode} {action}"
        and (not options.short or (operation.name in _SHORT and mode == "snapshot"))
    ]
    began = time.monotonic()
    results: list[Result] = []
    with ExitStack() as running:
        options.driver, options.site = _DRIVER, []
        stage = running.enter_context(staged(options))
        lanes = _lanes(stage, min(_LANES, len(jobs)), running)
        every = 2 if options.short else 1

        def run(job: tuple[Operation, str, str]) -> Result:
            lane = lanes.get()
            try:
                return lane.cut_short(*job, every)
            finally:
                lanes.put(lane)

        with ThreadPoolExecutor(_LANES) as executor:
            for result in executor.map(run, jobs):
                results.append(result)
                console.print(_line(result), highlight=False)
    _show(results, console, time.monotonic() - began)
    sys.exit(any(result.faults for result in results))


def _lanes(stage: Stage, count: int, running: ExitStack) -> "SimpleQueue[Lane]":
    lanes: SimpleQueue[Lane] = SimpleQueue()
    directory = Path(running.enter_context(TemporaryDirectory(prefix="kills-")))
    for number in range(count):
        home = directory / str(number)
        home.mkdir()
        lanes.put(_lane(stage, stage.lab, home, running))
    return lanes


def _lane(stage: Stage, lab: Lab, home: Path, running: ExitStack) -> Lane:
    site, file = lab.sites["dr1"], home / "fault"
    driver = DriverProcess(f"env {VARIABLE}={file} {_DRIVER}", site, home)
    running.callback(driver.stop)
    here = SiteUnderTest(site=site, client=driver.client, started=driver)
    return Lane(stage=replace(stage, here=here), file=file)


def _line(result: Result) -> str:
    mark = "✘" if result.faults else "✔"
    return (
        f"{mark} {result.operation.name} [{result.mode}] {result.action}: {len(result.points)} "
        f"points, slowest to converge {max(result.seconds, default=0):.1f} s"
    )


def _show(results: list[Result], console: Console, seconds: float) -> None:
    table = Table(title="Killed at every step", expand=True)
    for title, ratio in (("operation", 2), ("mode", 1), ("who dies", 1), ("points", 5)):
        table.add_column(title, ratio=ratio, overflow="fold")
    table.add_column("converged within", justify="right")
    for each in results:
        table.add_row(
            each.operation.name,
            each.mode,
            each.action.removeprefix("kill-"),
            f"{len(each.points)}: {', '.join(each.points)}",
            f"{max(each.seconds, default=0):.1f} s",
        )
    console.print(table)
    for each in results:
        for fault in each.faults:
            console.print(f"✘ {each.operation.name} [{each.mode}] {each.action}: {fault}")
    kills, faults = (
        sum(len(each.points) for each in results),
        sum(len(each.faults) for each in results),
    )
    console.print(
        f"{kills} kills in {len(results)} operations; not converged or left behind: {faults}; "
        f"{seconds:.0f} s"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.kills")
    parser.add_argument("--lab", type=Path, metavar="FILE", help="lab.json; a new lab by default")
    parser.add_argument("--select", default="", metavar="WORD", help="of operation, mode, action")
    parser.add_argument("--short", action="store_true", help="every second point of two operations")
    return parser


if __name__ == "__main__":
    main()
