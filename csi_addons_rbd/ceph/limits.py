# SPDX-License-Identifier: Apache-2.0
"""A time limit for what librados waits for without end."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from csi_addons_rbd.replication.errors import DriverError

_Result = TypeVar("_Result")


def within(seconds: float, work: Callable[[], _Result], late: DriverError) -> _Result:
    """Return what ``work`` does, on a thread that outlives the wait: no thread can be taken back.

    Raises:
        DriverError: ``late`` after so many seconds, or what ``work`` raises.
    """
    done: Future[_Result] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as exc:  # noqa: BLE001 - raised where it is waited for
            done.set_exception(exc)

    threading.Thread(target=run, daemon=True).start()
    try:
        return done.result(timeout=seconds)
    except TimeoutError:
        raise late from None
