# SPDX-License-Identifier: Apache-2.0
"""From the start of the process to the first Probe that says ready."""

import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Final

from csi_addons_conformance.client import Client
from csi_addons_conformance.driver_process import DriverProcess

from benchmarks.bench import Bench, case
from benchmarks.rows import Row, milliseconds

_STARTS: Final = 5
_LOOK: Final = 0.002


@case("start")
def start(bench: Bench) -> Iterator[Row]:
    """A driver beside the others, on a socket of its own, started again and again."""
    if not bench.command:
        bench.say("skipped: needs --driver")
        return
    with TemporaryDirectory(prefix="start-") as directory:
        driver = DriverProcess(bench.command, bench.here.site, Path(directory))
        driver.stop()
        taken = []
        for _ in range(_STARTS):
            taken.append(_seconds(driver))
            driver.stop()
    yield Row(
        name="start to first ready Probe",
        ours=milliseconds(median(taken)),
        figure=median(taken),
        unit="s",
        at_most=1.0,
        note=f"median of {_STARTS} starts",
        samples=taken,
    )


def _seconds(driver: DriverProcess) -> float:
    began = time.monotonic()
    driver.spawn()
    while not _accepts(driver.endpoint.removeprefix("unix://")):
        time.sleep(_LOOK)
    # a channel that was there before would wait before it tries again
    client = Client(driver.endpoint, {})
    while not ((answer := client.probe()).code == "OK" and answer.response.ready.value):
        time.sleep(_LOOK)
    taken = time.monotonic() - began
    client.channel.close()
    return taken


def _accepts(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
        probe.connect(path)
        return True
    return False
