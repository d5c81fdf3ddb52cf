# SPDX-License-Identifier: Apache-2.0
"""An operation held still at each of its points, on a volume each."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from csi_addons_conformance.case import PASSING, UnmetError, poll, require
from csi_addons_conformance.client import Answer  # noqa: TC002
from csi_addons_conformance.stage import Stage

from lab import Volume
from tests.kills.lanes import Lane
from tests.kills.operations import MOST, Operation

_AHEAD: Final = 5
"""Volumes that are made at once."""
_AGAIN: Final = 1
"""Seconds until a call is repeated: the manager flattens a clone meanwhile, and once is enough."""
_REACHED: Final = 120
"""Seconds in which an operation comes to the next point, or to its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One volume, and where its operation was held."""

    volume: Volume
    image_id: str
    """That of before."""
    point: str
    """Empty when there was no point left, so that all was done."""
    answer: "Future[Answer]"


def hold(
    lane: Lane, other: Stage, operation: Operation, callers: ThreadPoolExecutor, *, after: int
) -> Iterator[Held]:
    """Hold an operation at one point after the other, those after a number; the last finds none.

    The volumes are made ready through another driver, which comes to no points.
    """
    stage = replace(lane.stage, mode=other.mode)
    numbers = range(after + 1, min(after + operation.at_once, MOST) + 1)
    for number, volume in zip(numbers, _volumes(other, operation), strict=False):
        image_id = stage.here.image_id(volume)
        lane.arm(number)
        call = partial(callers.submit, operation.act.call, stage, volume)
        answer = _approach(lane, call)
        lane.disarm()
        yield Held(volume=volume, image_id=image_id, point=lane.reached, answer=answer)
        if not lane.reached:
            return
    require(numbers[-1] < MOST, f"fewer points of {operation.name} than {MOST}", numbers[-1])


def _approach(lane: Lane, call: Callable[[], "Future[Answer]"]) -> "Future[Answer]":
    """Call, and call again as the controller does, until it is held or done."""
    deadline = time.monotonic() + _REACHED
    while True:
        answer = call()
        poll(
            lambda answer=answer: lane.reached or answer.done(),
            seconds=_REACHED,
            what="a point, or an answer",
            every=0.02,
        )
        if lane.reached or answer.result().code == "OK":
            return answer
        again = answer.result().code in PASSING and time.monotonic() < deadline
        require(again, f"a point or OK within {_REACHED} s", answer.result())
        time.sleep(_AGAIN)


def _volumes(stage: Stage, operation: Operation) -> Iterator[Volume]:
    """Make volumes ready for an operation, some ahead of their use."""
    executor = ThreadPoolExecutor(_AHEAD)
    ready = deque(executor.submit(operation.prepare, stage) for _ in range(_AHEAD))
    try:
        while True:
            ready.append(executor.submit(operation.prepare, stage))
            yield ready.popleft().result()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def for_each(held: list[Held], look: Callable[[Held], list[str]]) -> Iterator[tuple[Held, str]]:
    """Look at all of them at once, and yield the faults found."""
    with ThreadPoolExecutor(MOST) as executor:
        found = executor.map(lambda one: _faults(look, one), held)
        yield from (
            (one, fault) for one, faults in zip(held, found, strict=True) for fault in faults
        )


def _faults(look: Callable[[Held], list[str]], one: Held) -> list[str]:
    try:
        return look(one)
    except UnmetError as exc:
        return [str(exc)]
