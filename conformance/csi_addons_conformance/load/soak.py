# SPDX-License-Identifier: Apache-2.0
"""Very many calls, and what must not grow meanwhile.

``python -m csi_addons_conformance.load.soak --driver COMMAND --calls 100000``. Callers ask the
drivers of both sites about some forty volumes, a fifth of the calls made to fail. All the while
the drivers' processes are looked at: memory, threads, descriptors, connections, and the images
that they have open. Exit code 1 when an answer was wrong, or when something grew.
"""

import argparse
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

from csi_addons_conformance.load.afterwards import wrong_with
from csi_addons_conformance.load.mix import Caller, Props, StuckError, Subject
from csi_addons_conformance.load.sampling import Sampler
from csi_addons_conformance.load.summary import Summary
from csi_addons_conformance.load.tally import Tally
from csi_addons_conformance.load.watchers import Watchers
from csi_addons_conformance.stage import Stage
from csi_addons_conformance.staging import add_arguments, staged
from lab import LabError, Volume

_SIZE: Final = 1 << 20
_HELD: Final = 2
_PARAMETERS: Final = (
    {"mirroringMode": "snapshot"},
    {"mirroringMode": "journal"},
    {"mirroringMode": "snapshot", "schedulingInterval": "1m"},
    {"mirroringMode": "snapshot", "schedulingInterval": "30s"},
)
"""Of the classes; each volume has one of them."""
_TELLING: Final = 60
_TURNS: Final = 5
_CLOSING: Final = 20
"""Seconds after the last call within which drivers must have closed every image."""


def main() -> None:
    """Soak; exit code 1 when something was found wrong."""
    options = _parser().parse_args()
    # an orderly end: what was started is ended, too
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(f"seed {options.seed}", flush=True)
    try:
        with staged(options) as stage:
            summary, sampler = _soak(stage, options)
    except LabError as exc:
        sys.exit(f"soak: {exc}")
    print(summary.markdown)
    if options.markdown:
        options.markdown.write_text(summary.markdown)
    if options.plot:
        from csi_addons_conformance.load.plots import draw  # noqa: PLC0415 - needs matplotlib

        draw(sampler.series, summary.headline, options.plot)
    sys.exit(bool(summary.findings))


def _soak(stage: Stage, options: argparse.Namespace) -> tuple[Summary, Sampler]:
    """Make the calls, and look at the drivers while they are made."""
    sites = (stage.here, stage.there)
    if any(site.started is None for site in sites):
        raise LabError("--driver is missing: its processes are what is looked at")
    pids = {site.name: site.driver.pid for site in sites}
    tally = Tally(options.calls, watched=lambda: sampler.enough, seconds=options.minutes * 60)
    with ExitStack() as running:
        watchers = {site.name: running.enter_context(Watchers.of(site.site)) for site in sites}
        volumes = _volumes(stage, options.volumes + _HELD + 1)
        callers = _callers(stage, volumes, options)
        running.enter_context(watchers[stage.here.name].writing(volumes[:_HELD]))
        counts = {name: partial(each.count, volumes) for name, each in watchers.items()}
        sampler = Sampler(
            pids, counts, lambda: tally.made, memory=options.memory, warm_up=options.warm_up
        )
        began = time.monotonic()
        with sampler.sampling(options.every), ThreadPoolExecutor(len(callers)) as executor:
            work = [executor.submit(_call, caller, tally) for caller in callers]
            try:
                _await(work, tally)
            finally:
                tally.stop()
        seconds = time.monotonic() - began
        left = [_left_open(name, each, volumes) for name, each in watchers.items()]
    few = f"only {tally.made} of {options.calls} calls were made in time"
    findings = [
        *((few,) if tally.made < options.calls else ()),
        *tally.findings,
        *sampler.findings,
        *(f"{each.name} grew by {each.growth:.1f}" for each in sampler.trends if not each.flat),
        *(words for words in left if words),
        *_wrong_at_the_end(stage, pids),
    ]
    summary = Summary(
        tally=tally,
        trends=sampler.trends,
        findings=findings,
        seconds=seconds,
        seed=options.seed,
        volumes=options.volumes,
        callers=len(callers),
    )
    return summary, sampler


def _await(work: "Sequence[Future[None]]", tally: Tally) -> None:
    """Wait for the callers, and tell now and then how far they are."""
    running: set[Future[None]] = set(work)
    while running:
        done, running = wait_for(running, timeout=_TELLING, return_when=FIRST_EXCEPTION)
        for each in done:
            each.result()
        print(f"{tally.made} calls", flush=True)


def _volumes(stage: Stage, number: int) -> Sequence[Volume]:
    with ThreadPoolExecutor(4) as executor:
        return tuple(executor.map(lambda _: stage.volume(size=_SIZE), range(number)))


def _callers(
    stage: Stage, volumes: Sequence[Volume], options: argparse.Namespace
) -> Sequence[Caller]:
    """Enable all volumes but one, and share them among the callers."""
    held, (plain, *others) = volumes[:_HELD], volumes[_HELD:]
    subjects = [
        Subject(volume=volume, parameters=dict(_PARAMETERS[number % len(_PARAMETERS)]))
        for number, volume in enumerate(others)
    ]
    with ThreadPoolExecutor(options.callers) as executor:
        enable = stage.here.client.enable
        work = [executor.submit(enable, volume.handle) for volume in held]
        work += [executor.submit(enable, each.handle, **each.parameters) for each in subjects]
        for each in work:
            each.result()
        _fill_up(stage, executor, options.callers)
    props = Props(held=tuple(volume.handle for volume in held), plain=plain.handle)
    return [
        Caller(
            sites=(stage.here, stage.there),
            subjects=subjects[number :: options.callers],
            props=props,
            chance=random.Random(f"{options.seed} {number}"),  # noqa: S311 - repeatable
        )
        for number in range(min(options.callers, len(subjects)))
    ]


def _fill_up(stage: Stage, executor: ThreadPoolExecutor, callers: int) -> None:
    """Have the other driver hold from the start what the first one has by now.

    Every connection that it may ever need, also to the manager, and a thread for each caller.
    """
    client, handle = stage.there.client, stage.lab.make_volume("dr2", _SIZE).handle
    client.enable(handle, schedulingInterval="24h")
    wait_for([executor.submit(client.info, handle) for _ in range(_TURNS * callers)])


def _call(caller: Caller, tally: Tally) -> None:
    """Be one caller, until there are enough calls."""
    while not tally.enough:
        kind, answers = caller.turn()
        try:
            for answer in answers:
                tally.note(answer, kind=kind.name, codes=kind.codes, fails=kind.fails)
        except StuckError as exc:
            tally.find(f"{kind.name} did not come to its end: {exc}")
            return


def _left_open(name: str, watchers: Watchers, volumes: Sequence[Volume]) -> str:
    """Return how many images a driver never closed, in words."""
    deadline = time.monotonic() + _CLOSING
    while left := watchers.count(volumes):
        if time.monotonic() > deadline:
            return f"{name}: {left} watchers of the driver are left after the last call"
        time.sleep(1)
    return ""


def _wrong_at_the_end(stage: Stage, pids: dict[str, int]) -> Iterator[str]:
    for site in (stage.here, stage.there):
        keys = [site.client.secrets["userKey"]]
        for words in wrong_with(site.driver, pids[site.name], keys):
            yield f"{site.name}: {words}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m csi_addons_conformance.load.soak")
    add_arguments(parser)
    add = parser.add_argument
    add("--calls", type=int, default=100_000, help="calls in all (%(default)s)")
    add("--warm-up", type=int, default=0, help="of these, before the first look (%(default)s)")
    add("--minutes", type=float, default=60, help="end after this time (%(default)s)")
    add("--volumes", type=int, default=40, help="mirrored volumes (%(default)s)")
    add("--callers", type=int, default=8, help="calls at once (%(default)s)")
    add("--every", type=float, default=5, help="seconds between two looks (%(default)s)")
    add("--memory", type=float, default=8, help="MiB that a process may grow (%(default)s)")
    add("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    add("--plot", type=Path, metavar="FILE", help="draw what was seen, as PNG (needs matplotlib)")
    add("--markdown", type=Path, metavar="FILE", help="write what is printed at the end")
    return parser


if __name__ == "__main__":
    main()
