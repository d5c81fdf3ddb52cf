# SPDX-License-Identifier: Apache-2.0
"""Lets one fault strike while every call is made, and measures what comes and how it heals."""

import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from csi_addons_conformance.case import UnmetError
from csi_addons_conformance.client import Answer, Client
from csi_addons_conformance.driver_process import DriverProcess
from csi_addons_conformance.faults.cells import MOMENTS, Cell, make_cells, remove
from csi_addons_conformance.faults.weather import Fault, await_answers
from csi_addons_conformance.stage import Stage

CALL_TIMEOUT: Final = 20
"""What the drivers under test get as their own bound of every call, in seconds."""
CALLERS_DEADLINE: Final = 8
"""Deadline of the calls that begin last; the others bring none."""
_SLACK: Final = 1.0
_LOST: Final = 10
"""Seconds beyond its bound after which a call is given up."""
_FORBIDDEN: Final = ("UNKNOWN", "INTERNAL", "NOT_FOUND")
_WRONG_KEY: Final = "AQAAAAAAAAAAABAAc29tZSBzZWNyZXQgc2FsdA=="
_AGAIN: Final = 0.5
_HOPELESS: Final = 120
"""Seconds after which a cell counts as one that does not heal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came in one cell."""

    fault: str
    call: str
    mode: str
    moment: float
    code: str
    reason: str
    message: str
    seconds: float
    healed: float
    """Seconds from when the cluster answered again until the same call worked."""
    faults: tuple[str, ...]
    """What is not as it must be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """One fault, over."""

    fault: Fault
    outcomes: list[Outcome]
    silent: float
    """Seconds after the fault was lifted until the cluster answered a client of our own."""
    probe: float
    """The slowest Probe while it lasted, in seconds."""
    prepared: float
    """Seconds that its volumes took to be made."""
    pid_kept: bool
    losses: int
    """Workers that ended."""


def strike(stage: Stage, fault: Fault, modes: tuple[str, ...]) -> Storm:
    """Prepare volumes, let the fault strike and lift it, and watch until everything works."""
    with ThreadPoolExecutor(160) as executor:
        began = time.monotonic()
        cells = make_cells(stage, modes, executor)
        prepared = time.monotonic() - began
        driver = stage.here.driver
        pid, losses = driver.pid, _losses(driver)
        answers, probe = _meet(stage, fault, cells, executor)
        lifted = time.monotonic()
        await_answers(stage.here, 60)
        answered = time.monotonic()
        undone = [_undone(stage, cell, answer) for cell, answer in zip(cells, answers, strict=True)]
        healing = [executor.submit(_heal, stage.here.client, cell, answered) for cell in cells]
        outcomes = [
            _judge(fault, cell, answer, each.result(), early or cell.stray(stage.here))
            for cell, answer, each, early in zip(cells, answers, healing, undone, strict=True)
        ]
        storm = Storm(
            fault=fault,
            outcomes=outcomes,
            silent=answered - lifted,
            probe=probe,
            prepared=prepared,
            pid_kept=driver.pid == pid and driver.alive,
            losses=_losses(driver) - losses,
        )
        remove(stage, cells)
    return storm


def _meet(
    stage: Stage, fault: Fault, cells: list[Cell], executor: ThreadPoolExecutor
) -> tuple[list[Answer], float]:
    """Make the calls around the moment in which the fault strikes; return what came."""
    client = _client(stage, fault)
    calls: dict[int, Future[Answer]] = {}

    def begin(moment: float) -> None:
        # a call that is lost must not keep the runner: it ends late, and the cell fails
        timeout = CALLERS_DEADLINE if moment == MOMENTS[-1] else CALL_TIMEOUT + _LOST
        for number, cell in enumerate(cells):
            if cell.moment == moment:
                calls[number] = executor.submit(cell.make, client, timeout)

    early = [moment for moment in MOMENTS if moment < 0]
    strikes_at = time.monotonic() - early[0]
    for moment in early:
        time.sleep(max(0.0, strikes_at + moment - time.monotonic()))
        begin(moment)
    time.sleep(max(0.0, strikes_at - time.monotonic()))
    with fault.strike(stage.here, cells):
        struck = time.monotonic()
        for moment in MOMENTS[len(early) :]:
            time.sleep(max(0.0, struck + moment - time.monotonic()))
            begin(moment)
        probe = max(_probes(stage, calls))
        return [calls[number].result() for number in range(len(cells))], probe


def _client(stage: Stage, fault: Fault) -> Client:
    secrets = dict(stage.here.client.secrets)
    if fault.wrong_key:
        secrets["userKey"] = _WRONG_KEY
    return Client(stage.here.client.endpoint, secrets)


def _probes(stage: Stage, calls: dict[int, Future[Answer]]) -> Iterator[float]:
    """Probe until every call has its answer."""
    while True:
        answer = stage.here.client.probe()
        if answer.code != "OK":
            raise UnmetError(f"expected OK from Probe in any outage; came {answer}")
        yield answer.seconds
        if all(call.done() for call in calls.values()):
            return
        time.sleep(0.2)


def _undone(stage: Stage, cell: Cell, answer: Answer) -> str:
    """Say what an answer claimed although it is not so; empty when all is."""
    stray = cell.stray(stage.here) if answer.code == "OK" else ""
    return f"answered OK, but {stray}" if stray else ""


def _heal(client: Client, cell: Cell, since: float) -> tuple[Answer, float]:
    """Repeat the call as the controller does, until it works; return the end, and when it came."""
    while True:
        answer = cell.make(client, CALL_TIMEOUT)
        seconds = time.monotonic() - since
        if answer.code == "OK" or seconds > _HOPELESS:
            return answer, seconds
        time.sleep(_AGAIN)


def _losses(driver: DriverProcess) -> int:
    """Count the workers that ended, as the driver itself does; 0 for one that has none."""
    with urllib.request.urlopen(f"http://127.0.0.1:{driver.port}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    counted = (each for each in lines if each.startswith("csi_addons_rbd_worker_losses_total"))
    return sum(int(float(each.rsplit(" ", 1)[1])) for each in counted)


def _judge(
    fault: Fault, cell: Cell, answer: Answer, last: tuple[Answer, float], stray: str
) -> Outcome:
    bound = CALL_TIMEOUT if cell.moment != MOMENTS[-1] else CALLERS_DEADLINE
    found = [stray] if stray else []
    end, healed = last
    if answer.seconds > bound + _SLACK:
        found.append(f"answered after {answer.seconds:.1f} s")
    if answer.code != "OK" and not answer.reason:
        found.append("the driver itself did not answer")
    allowed = {*fault.codes, *(("OK",) if cell.moment < 0 and not fault.wrong_key else ())}
    if cell.call == fault.refuses:
        allowed.add("FAILED_PRECONDITION")
    if answer.code in _FORBIDDEN or answer.code not in allowed:
        found.append(f"answered {answer.code}")
    if end.code != "OK":
        found.append(f"does not heal: {end}")
    elif healed > fault.heals_in:
        found.append(f"healed after {healed:.0f} s")
    return Outcome(
        fault=fault.name,
        call=cell.call,
        mode=cell.mode,
        moment=cell.moment,
        code=answer.code,
        reason=answer.reason,
        message=answer.message,
        seconds=answer.seconds,
        healed=healed,
        faults=tuple(found),
    )
