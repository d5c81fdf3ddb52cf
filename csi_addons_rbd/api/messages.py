# SPDX-License-Identifier: Apache-2.0
"""The one message of a unary call, which grpc lets a thread wait for however long it takes.

A client that begins calls and never sends what it asks for would so use up every thread. While
too many wait, those whose message is overdue are ended.
"""

import threading
import time
from collections.abc import Iterator
from typing import Final

import grpc

_DUE: Final = 1.0
"""Seconds from a call's arrival to that of its message; clients send both at once."""


class AwaitedMessages:
    """The calls whose message has not come.

    Args:
        most: As many may wait for as long as they like.
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
            overdue = [each for each, since in self._since.items() if now - since >= _DUE]
            if len(overdue) < len(self._since):
                self._sweep_later()
        for context in overdue:
            context.cancel()
