# SPDX-License-Identifier: Apache-2.0
"""One operation at a time per image, also when it outlives the call that began it.

The thread that begins an operation runs it to its end, whether or not somebody still waits
for the answer. A repeated identical call joins; a different one is told who holds the image.

Who joins waits for the end, and is then judged by its own arrival and its own rights: what was done
is read from the image anew. Only what passes by itself is shared, and that a client holds the image
(which takes up to 70 s to find out), and only with the same credentials.
"""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final, TypeGuard

from csi_addons_rbd.replication.calls import Answer, Call, RunningOperations
from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.errors import (
    NOTHING_TO_DO,
    DeadlineExceeded,
    DriverError,
    ImageInUse,
    OperationRunning,
)
from csi_addons_rbd.replication.image import ImageSpec

_GRACE: Final = 1.0
"""Seconds by which a joined wait ends later than its caller's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Running:
    call: Call
    began: float = field(default_factory=time.monotonic)
    answer: "Future[Answer]" = field(default_factory=Future)

    @property
    def age(self) -> int:
        return int(time.monotonic() - self.began)


class Operations:
    """The operations of one worker. Two handles of one image are one image here."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: dict[tuple[int, str, str], _Running] = {}

    def run(
        self,
        spec: ImageSpec,
        call: Call,
        work: Callable[[Call | None], Answer],
        deadline: Deadline,
    ) -> Answer:
        """Run ``work`` alone on the image, if need be after the same operation of others.

        Args:
            spec: The image.
            call: What is asked for.
            work: Does it; is told of a call that this one waited for, if there was any: rather of
                one with other credentials, whose rights tell nothing of this caller's.
            deadline: When nobody waits any more.

        Raises:
            OperationRunning: a different operation holds the image.
            DeadlineExceeded: the joined operation did not end by the deadline; it goes on.
        """
        key = _key(spec)
        mine = _Running(call=call)
        after: Call | None = None
        while (running := self._begin(key, mine)) is not mine:
            _await_end(running, spec, call, deadline)
            if after is None or after.credentials == call.credentials:
                after = running.call
        try:
            answer = work(after)
        except BaseException as exc:
            self._end(key)
            mine.answer.set_exception(exc)
            raise
        self._end(key)
        mine.answer.set_result(answer)
        return answer

    def busy(self, spec: ImageSpec) -> bool:
        """Tell whether an operation holds the image."""
        with self._lock:
            return _key(spec) in self._running

    def running(self) -> tuple[RunningOperations, ...]:
        """Count what runs, by kind."""
        with self._lock:
            ages: dict[str, list[float]] = {}
            for each in self._running.values():
                ages.setdefault(each.call.name, []).append(time.monotonic() - each.began)
        return tuple(
            RunningOperations(name=name, count=len(of_kind), oldest=max(of_kind))
            for name, of_kind in ages.items()
        )

    def _begin(self, key: tuple[int, str, str], mine: _Running) -> _Running:
        """Take the image, if nobody has it; return who has it now."""
        with self._lock:
            return self._running.setdefault(key, mine)

    def _end(self, key: tuple[int, str, str]) -> None:
        with self._lock:
            del self._running[key]


def _key(spec: ImageSpec) -> tuple[int, str, str]:
    return spec.pool_id, spec.namespace, spec.image


def _await_end(running: _Running, spec: ImageSpec, call: Call, deadline: Deadline) -> None:
    """Wait until the same operation has ended; return if its caller is to make its own."""
    if running.call.intent != call.intent:
        raise OperationRunning(
            f"{running.call.name} has been running on {spec} for {running.age} s; {NOTHING_TO_DO}"
        )
    try:
        # the serving process knows whose limit ends, so it is the one to say so
        failure = running.answer.exception(timeout=deadline.remaining + _GRACE)
    except TimeoutError as exc:
        raise DeadlineExceeded(
            f"{call.name} has been running on {spec} for {running.age} s and goes on; "
            f"the next call joins it; {NOTHING_TO_DO}"
        ) from exc
    if running.call.credentials == call.credentials and _is_shared(failure):
        raise failure


def _is_shared(failure: BaseException | None) -> TypeGuard[DriverError]:
    """Tell whether a failure counts for whoever joined, too: no next step is taken on it."""
    return isinstance(failure, DriverError) and (
        failure.temporary or isinstance(failure, ImageInUse)
    )
