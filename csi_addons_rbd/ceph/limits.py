# SPDX-License-Identifier: Apache-2.0
"""Limits: of time for what librados waits for without end, and of threads."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from csi_addons_rbd.replication.errors import DriverError, Exhausted

_Result = TypeVar("_Result")


def in_background(work: Callable[[], None]) -> threading.Thread:
    """Start a thread that the end of the process does not wait for.

    Raises:
        Exhausted: the process or its node may have no more of them.
    """
    thread = threading.Thread(target=work, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        raise Exhausted(
            "the worker of this cluster cannot start another thread; see the limits of its "
            "container and node (pids, memory); the controller retries by itself"
        ) from None
    return thread


def within(
    seconds: float,
    work: Callable[[], _Result],
    late: DriverError,
    *,
    most: threading.Semaphore | None = None,
) -> _Result:
    """Return what ``work`` does, on a thread that outlives the wait: no thread can be taken back.

    Args:
        seconds: How long to wait.
        work: What may take longer.
        late: Raised then.
        most: How many such threads there may be; ``late`` is raised at once when they all wait.

    Raises:
        DriverError: ``late``, or what ``work`` raises.
        Exhausted: no thread can be started.
    """
    done: Future[_Result] = Future()
    if most is not None and not most.acquire(blocking=False):
        raise late

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as exc:  # noqa: BLE001 - raised where it is waited for
            done.set_exception(exc)
        finally:
            if most is not None:
                most.release()

    try:
        in_background(run)
    except Exhausted:
        if most is not None:
            most.release()
        raise
    try:
        return done.result(timeout=seconds)
    except TimeoutError:
        raise late from None
