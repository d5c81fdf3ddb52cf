# SPDX-License-Identifier: Apache-2.0
"""Bad input of every kind, and what must hold whatever was sent.

``python -m csi_addons_conformance.load.fuzz --driver COMMAND --calls 20000``. Several processes
draw requests with hypothesis and send them to the drivers of both sites, while the drivers'
configuration files are spoilt and their sockets are spoken to in riddles. Each answer is judged;
so are the drivers at the end: the same processes, ready, no bigger, no fault in their logs.
"""

import argparse
import itertools
import multiprocessing
import queue
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from csi_addons_conformance.client import METHODS, Client
from csi_addons_conformance.driver_process import DriverProcess, driver_per_site
from csi_addons_conformance.load.afterwards import wrong_with
from csi_addons_conformance.load.callers import Caller, Report
from csi_addons_conformance.load.growth import grown, resting
from csi_addons_conformance.load.inputs import Attempt, Known
from csi_addons_conformance.load.oracle import Oracle, channels, send
from csi_addons_conformance.load.spoiling import Trouble, copied
from csi_addons_conformance.staging import add_arguments, lab_for
from lab import Lab, LabError

_VOLUMES: Final = 4
"""Made on each site."""
_SIZE: Final = 1 << 20
_WARM_UP: Final = 0.25
"""Share of the calls before the first look at the processes."""
_ASTRAY: Final = 1.0
_RECOVERY: Final = 30
"""Seconds within which a good call must be answered OK again when the trouble is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The drivers, and volumes for them to be asked about."""

    lab: Lab
    drivers: Mapping[str, DriverProcess]
    own: Mapping[str, Sequence[str]]
    """The volumes that were made on each site."""
    known: Known
    oracle: Oracle

    @property
    def endpoints(self) -> dict[str, str]:
        """Each site's socket."""
        return {name: each.endpoint for name, each in self.drivers.items()}

    @property
    def pids(self) -> dict[str, int]:
        """Each site's serving process."""
        return {name: each.pid for name, each in self.drivers.items()}


def main() -> None:
    """Fuzz, or repeat one call; exit code 1 when something did not hold."""
    options = _parser().parse_args()
    # an orderly end: what was started is ended, too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"seed {options.seed}", flush=True)
    try:
        with ExitStack() as running:
            target = _target(options, running)
            if options.repeat:
                sys.exit(_repeat(Attempt.parse(options.repeat), target))
            sys.exit(bool(_fuzz(target, options)))
    except LabError as exc:
        sys.exit(f"fuzz: {exc}")


def _target(options: argparse.Namespace, running: ExitStack) -> Target:
    """Start a lab if need be, and drivers with configuration files of their own."""
    if not options.driver:
        raise LabError("--driver is missing: its processes and files are part of the test")
    lab = running.enter_context(lab_for(options))
    directory = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="fuzz-")))
    private = {
        name: replace(site, config_dir=copied(site.config_dir, directory / f"{name}-config"))
        for name, site in lab.sites.items()
    }
    lab = Lab(lab.directory, private)
    drivers = running.enter_context(driver_per_site(options.driver, lab, directory))
    own = {
        name: [lab.make_volume(name, _SIZE).handle for _ in range(_VOLUMES)] for name in lab.sites
    }
    every = tuple(itertools.chain.from_iterable(own.values()))
    secrets = {name: site.secrets for name, site in private.items()}
    return Target(
        lab=lab,
        drivers=drivers,
        own=own,
        known=Known(handles=dict.fromkeys(own, every), secrets=secrets),
        oracle=Oracle(
            bound=options.bound, keys=tuple(each["userKey"] for each in secrets.values())
        ),
    )


def _fuzz(target: Target, options: argparse.Namespace) -> list[str]:
    """Run the whole; return what did not hold."""
    began, pids = time.monotonic(), target.pids
    trouble = Trouble(
        [site.config_dir for site in target.lab.sites.values()],
        [endpoint.removeprefix("unix://") for endpoint in target.endpoints.values()],
        options.seed,
    )
    deadline = began + options.minutes * 60
    _warm_up(target, trouble, options)
    warm_up = int(options.calls * _WARM_UP)
    total, looks = Report(), []
    for number, calls in enumerate((warm_up, options.calls - warm_up)):
        with trouble.around():
            total += _storm(target, options, calls=calls, deadline=deadline, number=number)
        looks.append(resting(pids))
    made = sum(total.tally.values())
    few = f"only {made} of {options.calls} calls were made in time"
    findings = [
        *((few,) if made < options.calls else ()),
        *total.findings,
        *grown(*looks),
        *_wrong_at_the_end(target, pids),
    ]
    _print(total, trouble.counts, findings, options, seconds=time.monotonic() - began)
    return findings


def _warm_up(target: Target, trouble: Trouble, options: argparse.Namespace) -> None:
    """Have every process started and every kind of connection made that chance may ask for."""
    for name, driver in target.drivers.items():
        scheduled, journaled, *_ = target.own[name]
        driver.client.enable(scheduled, schedulingInterval="1m")
        driver.client.enable(journaled, mirroringMode="journal")
    # nobody answers: so every caller's call lasts as long as it may, all of them side by side
    callers = options.processes * options.threads
    with trouble.astray(), ThreadPoolExecutor(callers * len(target.drivers)) as executor:
        for name, driver in target.drivers.items():
            for _ in range(callers):
                handle = target.own[name][0]
                executor.submit(driver.client.call, "DemoteVolume", handle, timeout=_ASTRAY)


def _storm(
    target: Target, options: argparse.Namespace, *, calls: int, deadline: float, number: int
) -> Report:
    """Let several processes draw and send; return what they report."""
    spawning = multiprocessing.get_context("spawn")
    results: Any = spawning.Queue()
    callers = [
        Caller(
            known=target.known,
            oracle=target.oracle,
            endpoints=target.endpoints,
            seed=options.seed + 1000 * number + each,
            calls=-(-calls // options.processes),
            threads=options.threads,
            deadline=deadline,
        )
        for each in range(options.processes)
    ]
    processes = [
        spawning.Process(target=each.run, args=(results,), daemon=True) for each in callers
    ]
    for process in processes:
        process.start()
    report = sum(_reports(processes, results), Report())
    for process in processes:
        process.join()
    return report


def _reports(processes: list[Any], results: Any) -> Iterator[Report]:
    """Yield what each process reports; one that ended without a word is a finding."""
    missing = len(processes)
    while missing:
        ended = sum(not process.is_alive() for process in processes)
        try:
            yield results.get(timeout=5)
        except queue.Empty:
            if ended == len(processes):
                yield Report(findings=(f"{missing} callers ended without a word",))
                return
            continue
        missing -= 1


def _wrong_at_the_end(target: Target, pids: Mapping[str, int]) -> Iterator[str]:
    """Yield what is wrong with the drivers themselves."""
    for name, driver in target.drivers.items():
        for words in wrong_with(driver, pids[name], target.oracle.keys):
            yield f"{name}: {words}"
        # of the others no one knows by now whether they still exist on this site
        untouched = target.lab.make_volume(name, _SIZE).handle
        if useless := _useless(driver.client, untouched):
            yield f"{name}: {useless}"


def _useless(client: Client, handle: str) -> str:
    """Return why a good call is not answered as it must be; empty when it is."""
    deadline = time.monotonic() + _RECOVERY
    while (answer := client.enable(handle)).code != "OK":
        if time.monotonic() > deadline:
            return f"a good volume is not enabled: {answer}"
        time.sleep(1)
    return ""


def _repeat(attempt: Attempt, target: Target) -> bool:
    """Make one call again, and tell what came; true when something is wrong with it."""
    print(f"{attempt!r}\n{attempt.decoded or attempt.raw!r}")
    channel, limit = channels(target.endpoints)[attempt.site], target.oracle.limit(attempt)
    outcome = send(channel, attempt, limit)
    faults = list(target.oracle.faults(attempt, outcome))
    print(f"{outcome}\n{faults or 'as it must be'}")
    return bool(faults)


def _print(
    total: Report,
    counts: Mapping[str, int],
    findings: list[str],
    options: argparse.Namespace,
    *,
    seconds: float,
) -> None:
    for (method, code), number in sorted(total.tally.items()):
        print(f"{number:7}  {method} {code}")
    for what, number in counts.items():
        print(f"{number:7}  {what}")
    for finding in findings:
        print(f"FINDING  {finding}")
    made, codes = sum(total.tally.values()), Counter(code for _, code in total.tally.elements())
    print(", ".join(f"{code} {number}" for code, number in codes.most_common()))
    print(
        f"{made} calls of {len(METHODS)} methods and others, {made / seconds:.0f} calls/s, latest "
        f"answer {total.latest:.2f} s after its bound, {len(findings)} findings, "
        f"seed {options.seed}, {seconds:.0f} s"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m csi_addons_conformance.load.fuzz")
    add_arguments(parser)
    add = parser.add_argument
    add("--calls", type=int, default=20_000, help="calls in all (%(default)s)")
    add("--minutes", type=float, default=30, help="end after this time (%(default)s)")
    add("--bound", type=float, default=60, help="seconds of the driver's own bound (%(default)s)")
    add("--processes", type=int, default=2, help="processes that draw and send (%(default)s)")
    add("--threads", type=int, default=16, help="calls at once of each of them (%(default)s)")
    add("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    add("--repeat", metavar="TEXT", help="make one call again, as a finding printed it")
    return parser


if __name__ == "__main__":
    main()
