# SPDX-License-Identifier: Apache-2.0
"""``python -m demo``: two sites and their drivers up, the story in each mode, all down again."""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Final

import rados
import rbd

from demo.controller import Controller
from demo.drivers import Driver, Stuck, poll
from demo.picture import Run, draw
from demo.prometheus import Prometheus
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
        _act(directory, modes, report, arguments.picture)
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
    parser.add_argument(
        "--picture",
        type=Path,
        default=Path("demo.png"),
        metavar="FILE",
        help="where to draw what Prometheus saw (%(default)s)",
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


def _act(directory: Path, modes: Sequence[str], report: Report, picture: Path) -> None:
    """Raise the curtain, tell the story in each mode, and end whatever was started."""
    lab: Lab | None = None
    drivers: dict[str, Driver] = {}
    watchers: list[Controller | Prometheus] = []
    report.part("the stage")
    try:
        with report.chapter("Two Ceph sites, a driver on each, and Prometheus"):
            with report.step("two sites, each mirroring the other") as step:
                lab = Lab.up(directory / "lab", say=step.waiting)
                step.result = ", ".join(f"{s.name} (pool {s.pool_id})" for s in lab.sites.values())
            for site in lab.sites.values():
                with report.step(f"a driver beside {site.name}") as step:
                    drivers[site.name] = Driver(site, directory)
                    step.result = drivers[site.name].wait_ready()
            with report.step("a Prometheus that scrapes both") as step:
                watchers += [prometheus := Prometheus(drivers.values(), directory)]
                step.result = prometheus.wait_ready()
            watchers += [Controller(drivers.values())]
        secrecy = Secrecy(drivers.values())
        for mode in modes:
            report.part(f"{mode} mode")
            story = Story(lab, drivers, prometheus, report, mode)
            _tell(story, report, secrecy, briefly=mode != modes[0])
        report.part("what was seen")
        with report.chapter("Metrics end with their volumes, and the rest is drawn"):
            _look_back(prometheus, report, picture, all_modes=len(modes) == len(_MODES))
        with report.chapter("No key shows anywhere"):
            secrecy.check(report)
    except (LabError, Stuck) as exc:
        report.check("the stage", "stands", str(exc))
    finally:
        _ignore_signals()
        report.part("the end")
        with report.chapter("Everything stops"):
            with report.step("drivers, Prometheus and sites end"):
                for each in (*watchers, *drivers.values()):
                    each.stop()
                if lab is not None:
                    lab.down()
            left = _left(lab, (*watchers, *drivers.values()))
            report.check("processes left behind", "none", left)


def _tell(story: Story, report: Report, secrecy: Secrecy, *, briefly: bool) -> None:
    """Tell the story in one mode; where it gets stuck, the next mode still has its turn."""
    try:
        story.tell(between=secrecy.look_at_processes, briefly=briefly)
    except (Stuck, LabError, rados.Error, rbd.Error) as exc:
        report.check("the story", "told to its end", f"{type(exc).__name__}: {exc}")
        story.restore()


def _look_back(prometheus: Prometheus, report: Report, picture: Path, *, all_modes: bool) -> None:
    """Check what Prometheus has at the end, and draw what it saw."""
    shown = "count(csi_addons_rbd_volume_status) or vector(0)"
    with report.step("the volumes' series are gone"), suppress(Stuck):
        poll(lambda: not prometheus.query(shown)[0].points[0][1], 30, "no series of a volume")
    report.check("series of volumes", 0, int(prometheus.query(shown)[0].points[0][1]))
    with report.step("the dashboard is drawn") as step:
        # from the first story to the last; this chapter is neither
        chapters = report.chapters_began[1:-1]
        run = Run(prometheus=prometheus, chapters=chapters, end=time.time())
        empty = draw(run, picture)
        step.result = str(picture)
    if all_modes:  # each has panels of its own
        report.check("panels without data", "none", ", ".join(empty) or "none")


def _left(lab: Lab | None, others: Collection[Driver | Controller | Prometheus]) -> str:
    left = [each.name for each in others if not each.gone()]
    for site in lab.sites.values() if lab else ():
        left += [f"{daemon} of {site.name}" for daemon, pid in site.pids().items() if pid]
    return ", ".join(left) or "none"


if __name__ == "__main__":
    sys.exit(main())
