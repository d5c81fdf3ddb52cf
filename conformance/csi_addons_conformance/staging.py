# SPDX-License-Identifier: Apache-2.0
"""Starts what a run needs and is not there yet: the lab, and a driver on each site."""

import argparse
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from csi_addons_conformance.client import Client
from csi_addons_conformance.driver_process import PLACES, DriverProcess, driver_per_site
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage
from lab import Lab, LabError

_SITES: Final = ("dr1", "dr2")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what is under test."""
    add = parser.add_argument
    add("--site", action="append", default=[], metavar="NAME=ENDPOINT", help="a driver's socket")
    add("--driver", metavar="COMMAND", help=f"start one on each site; may hold {PLACES}")
    add("--lab", type=Path, metavar="FILE", help="lab.json of a lab; by default one is started")
    add("--logs", type=Path, metavar="DIR", help="keep the logs of the drivers that are started")


@contextmanager
def lab_for(arguments: argparse.Namespace) -> Iterator[Lab]:
    """Lend the lab that was named, or one that lasts as long as the block."""
    if arguments.lab:
        yield Lab.load(arguments.lab.parent)
        return
    with TemporaryDirectory(prefix="conformance-") as directory:
        lab = Lab.up(Path(directory))
        try:
            yield lab
        finally:
            lab.down()


@contextmanager
def staged(arguments: argparse.Namespace) -> Iterator[Stage]:
    """Start what has to be started, and end it again."""
    with ExitStack() as running:
        lab = running.enter_context(lab_for(arguments))
        drivers: Mapping[str, DriverProcess] = {}
        if arguments.driver:
            directory = Path(running.enter_context(TemporaryDirectory(prefix="drivers-")))
            if arguments.logs:
                running.callback(_keep_logs, directory, arguments.logs / directory.name)
            drivers = running.enter_context(driver_per_site(arguments.driver, lab, directory))
        endpoints = {name: each.endpoint for name, each in drivers.items()}
        here, there = (
            _site(lab, name, endpoints | _endpoints(arguments.site), drivers) for name in _SITES
        )
        yield Stage(lab=lab, here=here, there=there, mode="")


def _keep_logs(directory: Path, kept: Path) -> None:
    kept.mkdir(parents=True, exist_ok=True)
    for log in directory.glob("*.log"):
        shutil.copy(log, kept)


def _site(
    lab: Lab, name: str, endpoints: Mapping[str, str], drivers: Mapping[str, DriverProcess]
) -> SiteUnderTest:
    if name not in endpoints:
        raise LabError(f"--site {name}=unix:///PATH is missing, and --driver, too")
    site = lab.sites[name]
    client = Client(endpoints[name], site.secrets)
    answer = client.probe()
    if answer.code != "OK":
        raise LabError(f"no driver on {client.endpoint}: {answer}")
    return SiteUnderTest(site=site, client=client, started=drivers.get(name))


def _endpoints(texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, equals, endpoint = text.partition("=")
        if not equals or name not in _SITES or not endpoint.startswith("unix://"):
            raise LabError(
                f"--site is {text!r}; accepted is NAME=unix:///PATH, NAME one of "
                f"{' and '.join(_SITES)}"
            )
        pairs[name] = endpoint
    return pairs
