# SPDX-License-Identifier: Apache-2.0
"""One driver for two clusters, one of them frozen under 200 calls at once.

``python -m csi_addons_conformance.faults.isolation``: neither Probe nor the other cluster may
feel it.
"""

import argparse
import itertools
import json
import multiprocessing
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from csi_addons_conformance.case import poll, settle
from csi_addons_conformance.client import Answer, Client
from csi_addons_conformance.driver_process import DriverProcess
from csi_addons_conformance.stage import Stage
from csi_addons_conformance.staging import add_arguments, staged
from lab import Lab, Volume

_CALLS: Final = 200
_BOUND: Final = 20
"""The driver's own bound of every call, in seconds."""
_AT_ONCE: Final = 1.0
"""Seconds within which a call beyond the limit is refused."""
_HEALS: Final = 30
_PROBE_MOST: Final = 0.1
_SLOWER_MOST: Final = 1.2
_SECONDS: Final = 9.0
"""How long each measurement takes: a little less than a read may wait for the frozen cluster."""
_CALLERS: Final = 2
_VOLUMES: Final = 30
_PAUSE: Final = 0.14
"""Seconds between two calls: a driver may keep an answer for two seconds, and each is to be new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Times of the calls that must not feel the outage, in seconds."""

    probe: list[float]
    info: list[float]

    @property
    def probe_p99(self) -> float:
        """The 99th percentile of Probe."""
        return statistics.quantiles(self.probe, n=100)[98]

    @property
    def info_p50(self) -> float:
        """The median of GetVolumeReplicationInfo."""
        return statistics.median(self.info)


def main() -> None:
    """Measure in peace and in the outage; exit code 1 when a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m csi_addons_conformance.faults.isolation")
    add_arguments(parser)
    options = parser.parse_args()
    with staged(options) as sites, TemporaryDirectory(prefix="isolation-") as directory:
        stage = replace(sites, mode="snapshot")
        here = stage.mirrored()
        with ThreadPoolExecutor(_VOLUMES) as executor:
            there = list(executor.map(lambda _: _primary_there(stage), range(_VOLUMES)))
        driver = _driver_of_both(options.driver, stage.lab, Path(directory))
        try:
            passed = _compare(stage, driver, here, there)
        finally:
            driver.stop()
    sys.exit(not passed)


def _primary_there(stage: Stage) -> Volume:
    volume = stage.lab.make_volume(stage.there.name, 2 << 20)
    settle(partial(stage.there.client.enable, volume.handle))
    poll(
        lambda: stage.there.client.info(volume.handle).code == "OK",
        seconds=90,
        what="dr2 knows of the copy on dr1",
    )
    return volume


def _driver_of_both(command: str, lab: Lab, directory: Path) -> DriverProcess:
    """Start a driver whose config.json has both clusters, and no mapping between them."""
    entries = [
        entry
        for site in lab.sites.values()
        for entry in json.loads((site.config_dir / "config.json").read_text())
    ]
    config = directory / "config"
    config.mkdir()
    (config / "config.json").write_text(json.dumps(entries))
    site = replace(lab.sites["dr1"], config_dir=config)
    return DriverProcess(f"{command} --call-timeout {_BOUND}", site, directory)


def _compare(stage: Stage, driver: DriverProcess, here: Volume, there: list[Volume]) -> bool:
    healthy = Client(driver.endpoint, stage.there.site.secrets)
    settle(partial(driver.client.info, here.handle))
    for volume in there:
        settle(partial(healthy.info, volume.handle))
    handles = [volume.handle for volume in there]
    measure = partial(_measure, driver.endpoint, stage.there.site.secrets, handles)
    pid, peace = driver.pid, measure()
    ask = partial(driver.client.call, "GetVolumeReplicationInfo", here.handle, timeout=2 * _BOUND)
    with ThreadPoolExecutor(_CALLS) as executor, stage.here.frozen("osd"):
        calls = [executor.submit(ask) for _ in range(_CALLS)]
        outage = measure()
        answers = [call.result() for call in calls]
    thawed = time.monotonic()
    settle(partial(driver.client.info, here.handle), seconds=60)
    healed = time.monotonic() - thawed
    same = driver.pid == pid and driver.alive
    print(f"healed {healed:.1f} s after the thaw, the same process: {same}")
    return _judge(peace, outage, answers) and same and healed <= _HEALS


def _judge(peace: Measured, outage: Measured, answers: list[Answer]) -> bool:
    codes = Counter(each.code for each in answers)
    slowest = max(each.seconds for each in answers)
    refused = [each.seconds for each in answers if each.code == "RESOURCE_EXHAUSTED"]
    slower = outage.info_p50 / peace.info_p50
    print(f"{_CALLS} calls to the frozen cluster: {dict(codes)}, slowest answer {slowest:.1f} s")
    print(f"refusals: slowest {max(refused, default=0):.2f} s")
    print(f"Probe: p99 {1000 * outage.probe_p99:.1f} ms, in peace {1000 * peace.probe_p99:.1f} ms")
    print(
        f"GetVolumeReplicationInfo of the other cluster: p50 {1000 * outage.info_p50:.1f} ms, "
        f"{slower:.2f} of its time in peace ({len(outage.info)} and {len(peace.info)} calls)"
    )
    return (
        bool(refused)
        and max(refused) < _AT_ONCE
        and set(codes) <= {"UNAVAILABLE", "RESOURCE_EXHAUSTED"}
        and all(each.reason for each in answers)  # of the driver, not of our own deadline
        and slowest <= _BOUND + 1
        and outage.probe_p99 < _PROBE_MOST
        and slower <= _SLOWER_MOST
    )


def _measure(endpoint: str, secrets: Mapping[str, str], handles: list[str]) -> Measured:
    """Measure from a process of its own: the one that makes 200 calls is busy enough."""
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=_call_on, args=(theirs, endpoint, dict(secrets), handles))
    process.start()
    theirs.close()  # so that the end of that process is seen here
    measured: Measured = ours.recv()
    process.join()
    return measured


def _call_on(
    result: Connection, endpoint: str, secrets: dict[str, str], handles: list[str]
) -> None:
    client, measured = Client(endpoint, secrets), Measured(probe=[], info=[])
    until = time.monotonic() + _SECONDS

    def one_caller(number: int) -> None:
        for handle in itertools.cycle(handles[number::_CALLERS]):
            if time.monotonic() > until:
                return
            measured.probe.append(_checked(client.probe()))
            measured.info.append(_checked(client.info(handle)))
            time.sleep(_PAUSE)

    with ThreadPoolExecutor(_CALLERS) as executor:
        list(executor.map(one_caller, range(_CALLERS)))
    result.send(measured)


def _checked(answer: Answer) -> float:
    if answer.code != "OK":
        raise RuntimeError(f"the healthy cluster answered {answer}")
    return answer.seconds


if __name__ == "__main__":
    # run under the importable name, by which the spawned process finds the functions above
    from csi_addons_conformance.faults.isolation import main as run

    run()
