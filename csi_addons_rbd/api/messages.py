# SPDX-License-Identifier: Apache-2.0
"""Waits for the one message of a unary call, for which grpc has no limit of time.

A client that begins calls and never sends their message would use up every thread. While too
many wait, the oldest of those whose message is overdue are ended.
"""

import threading
import time
from collections.abc import Iterator
from typing import Final

import grpc
import structlog

_DUE: Final = 1.0
"""Seconds from a call's arrival to that of its message; clients send both at once."""
_log = structlog.get_logger()


class AwaitedMessages:
    """The calls whose message has not come.

    Args:
        most: How many may wait without a limit of time.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._since: dict[grpc.ServicerContext, float] = {}
        self._timer: threading.Timer | None = None

    def receive(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes | None:
        """Return a call's message; nothing when its client sends none.

        Raises:
            grpc.RpcError: the call has ended; grpc wants it to pass.
        """
        with self._lock:
            self._since[context] = time.monotonic()
            self._sweep_later()
        try:
            return next(messages, None)
        finally:
            with self._lock:
                del self._since[context]

    def _sweep_later(self) -> None:
        if self._timer is not None or len(self._since) <= self._most:
            return
        timer = threading.Timer(_DUE, self._sweep)
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError:  # no thread to be had: the next that comes tries again
            return
        self._timer = timer

    def _sweep(self) -> None:
        """End what is overdue; not under the lock, which those that end take."""
        now = time.monotonic()
        with self._lock:
            self._timer = None
            too_many = list(self._since.items())[: max(0, len(self._since) - self._most)]
            overdue = [each for each, since in too_many if now - since >= _DUE]
            if len(overdue) < len(too_many):
                self._sweep_later()
        if overdue:
            _log.warning("calls were ended whose message never came", calls=len(overdue))
        for context in overdue:
            context.cancel()
