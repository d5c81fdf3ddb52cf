# SPDX-License-Identifier: Apache-2.0
"""Drivers to be cut short, side by side on dr1."""

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from signal import SIGCONT, SIGKILL, SIGSEGV, SIGSTOP, Signals
from tempfile import TemporaryDirectory
from typing import Final

from csi_addons_conformance.driver_process import DriverProcess
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage

from csi_addons_rbd.ceph.fault_points import VARIABLE
from tests.driver_insides import workers

DRIVER: Final = (
    f"{sys.executable} -m csi_addons_rbd serve --endpoint unix://{{socket}} "
    "--driver-name rbd.csi.ceph.com --config-dir {config_dir} --metrics-address 127.0.0.1:{port} "
    "--state-check-interval {check_interval} --call-timeout 30"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """A driver of its own, in which operations are held still at points that are counted."""

    stage: Stage
    file: Path

    @property
    def driver(self) -> DriverProcess:
        """The driver."""
        return self.stage.here.driver

    @property
    def reached(self) -> str:
        """The point at which one is held since the last was armed; empty when none is."""
        file = self._beside("reached")
        return file.read_text() if file.exists() else ""

    def arm(self, point: int | str) -> None:
        """Hold who comes to the point of that number from now on, or first to that of this name."""
        self._beside("reached").unlink(missing_ok=True)
        armed = self._beside("armed")
        armed.write_text(str(point))
        armed.rename(self.file)

    def disarm(self) -> None:
        """Hold nobody any more, but who is held."""
        self.file.unlink(missing_ok=True)

    def kill_worker(self) -> None:
        """End what talks to Ceph."""
        self._signal(workers(self.driver), SIGKILL)

    def crash_worker(self) -> None:
        """End it as librbd would by a fault of its own."""
        self._signal(workers(self.driver), SIGSEGV)

    def kill_driver(self) -> None:
        """End all of the driver, and start it again."""
        self.driver.kill()
        self.driver.start()

    def begin_anew(self) -> None:
        """End all, and what was armed, after a round that went wrong."""
        self.driver.kill()
        self.disarm()
        for suffix in ("armed", "reached", "go"):
            self._beside(suffix).unlink(missing_ok=True)
        self.driver.start()

    def freeze(self) -> None:
        """Stop all of the driver, as a node that is out of memory does."""
        self._signal([self.driver.pid, *workers(self.driver)], SIGSTOP)

    def thaw(self) -> None:
        """Let it go on, and everybody in it who was held."""
        self._beside("go").touch()
        self._signal([*workers(self.driver), self.driver.pid], SIGCONT)

    def hold_again(self) -> None:
        """Be ready for another round after a thaw."""
        self._beside("go").unlink()

    def _signal(self, pids: list[int], number: Signals) -> None:
        for pid in pids:
            os.kill(pid, number)

    def _beside(self, suffix: str) -> Path:
        return self.file.with_name(f"{self.file.name}.{suffix}")


DEATHS: Final[Mapping[str, Callable[[Lane], None]]] = {
    "worker killed": Lane.kill_worker,
    "worker crashed": Lane.crash_worker,
    "driver killed": Lane.kill_driver,
}


def lanes(stage: Stage, count: int, running: ExitStack) -> "SimpleQueue[Lane]":
    """Start that many drivers."""
    directory = Path(running.enter_context(TemporaryDirectory(prefix="kills-")))
    queue: SimpleQueue[Lane] = SimpleQueue()
    for number in range(count):
        home = directory / str(number)
        home.mkdir()
        queue.put(_lane(stage, home, running))
    return queue


def _lane(stage: Stage, home: Path, running: ExitStack) -> Lane:
    site, file = stage.lab.sites["dr1"], home / "fault"
    driver = DriverProcess(f"env {VARIABLE}={file} {DRIVER}", site, home)
    running.callback(driver.stop)
    here = SiteUnderTest(site=site, client=driver.client, started=driver)
    return Lane(stage=replace(stage, here=here), file=file)
