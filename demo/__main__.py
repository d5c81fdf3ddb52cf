# SPDX-License-Identifier: Apache-2.0
"""``python -m demo``: two sites and their drivers up, the story in each mode, all down again."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from types import FrameType
from typing import Final

import rados
import rbd

from demo.drivers import Driver, Stuck
from demo.report import Report
from demo.secrecy import Secrecy
from demo.story import Story
from lab import Lab, LabError

_MODES: Final = ("snapshot", "journal")
_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """Act the story; 0 when every check was right."""
    arguments = _parser().parse_args()
    modes = _MODES if arguments.mode == "both" else (arguments.mode,)
    for number in _SIGNALS:
        signal.signal(number, _leave)
    # gRPC would remark on every process that is started beside its threads
    os.environ["GRPC_VERBOSITY"] = "NONE"
    report = Report()
    directory = Path(tempfile.mkdtemp(prefix="csi-addons-rbd-demo-"))
    try:
        _act(directory, modes, report)
    finally:
        if arguments.keep:
            report.say(f"logs are kept in {directory}")
        else:
            shutil.rmtree(directory, ignore_errors=True)
    report.summary()
    return 1 if report.failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description="Watch a volume replicate, fail over, fail back and survive the loss of a "
        "site, through the driver's gRPC calls, on two real Ceph sites.",
    )
    parser.add_argument(
        "--mode", choices=(*_MODES, "both"), default="both", help="how to mirror (%(default)s)"
    )
    parser.add_argument("--keep", action="store_true", help="keep the logs of drivers and daemons")
    return parser


def _leave(number: int, _: FrameType | None) -> None:
    """Leave by an exception, so that everything is stopped on the way out."""
    _ignore_signals()
    sys.exit(128 + number)


def _ignore_signals() -> None:
    """Let nothing disturb the way out."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _act(directory: Path, modes: Collection[str], report: Report) -> None:
    """Raise the curtain, tell the story in each mode, and end whatever was started."""
    lab: Lab | None = None
    drivers: dict[str, Driver] = {}
    report.part("the stage")
    try:
        with report.chapter("Two Ceph sites, and a driver on each"):
            with report.step("two sites, each mirroring the other") as step:
                lab = Lab.up(directory / "lab", say=step.waiting)
                step.result = ", ".join(f"{s.name} (pool {s.pool_id})" for s in lab.sites.values())
            for site in lab.sites.values():
                with report.step(f"a driver beside {site.name}") as step:
                    drivers[site.name] = Driver(site, directory)
                    step.result = drivers[site.name].wait_ready()
        secrecy = Secrecy(drivers.values())
        for mode in modes:
            report.part(f"{mode} mode")
            _tell(mode, lab, drivers, report, secrecy)
        report.part("secrecy")
        with report.chapter("No key shows anywhere"):
            secrecy.check(report)
    except (LabError, Stuck) as exc:
        report.check("the stage", "stands", str(exc))
    finally:
        _ignore_signals()
        report.part("the end")
        with report.chapter("Everything stops"):
            with report.step("drivers and sites end"):
                for driver in drivers.values():
                    driver.stop()
                if lab is not None:
                    lab.down()
            report.check("processes left behind", "none", _left(lab, drivers.values()))


def _tell(
    mode: str, lab: Lab, drivers: dict[str, Driver], report: Report, secrecy: Secrecy
) -> None:
    """Tell the story in one mode; where it gets stuck, the next mode still has its turn."""
    try:
        Story(lab, drivers, report, mode).tell(between=secrecy.look_at_processes)
    except (Stuck, LabError, rados.Error, rbd.Error) as exc:
        report.check("the story", "told to its end", f"{type(exc).__name__}: {exc}")
        for site in lab.sites.values():
            site.start()


def _left(lab: Lab | None, drivers: Collection[Driver]) -> str:
    left = [f"driver of {driver.name}" for driver in drivers if not driver.gone()]
    for site in lab.sites.values() if lab else ():
        left += [f"{daemon} of {site.name}" for daemon, pid in site.pids().items() if pid]
    return ", ".join(left) or "none"


if __name__ == "__main__":
    sys.exit(main())
