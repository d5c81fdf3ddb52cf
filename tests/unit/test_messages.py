# SPDX-License-Identifier: Apache-2.0
"""Which of the calls that wait for their message are ended."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, cast

import pytest

from csi_addons_rbd.api import messages
from csi_addons_rbd.api.messages import AwaitedMessages

if TYPE_CHECKING:
    import grpc


class Context:
    """One call, as its server sees it; its message comes when it is sent."""

    def __init__(self) -> None:
        self.sent = threading.Event()
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        """End the call."""
        self.cancelled.set()
        self.sent.set()

    def messages(self) -> Iterator[bytes]:
        """Wait for it."""
        self.sent.wait(10)
        yield b"message"


def test_only_the_oldest_that_are_too_many_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others may be late, and are not in the way."""
    monkeypatch.setattr(messages, "_DUE", 0.2)
    awaited, calls = AwaitedMessages(2), [Context() for _ in range(3)]
    with ThreadPoolExecutor(3) as executor:
        for each in calls:
            context = cast("grpc.ServicerContext", each)
            executor.submit(awaited.receive, each.messages(), context)
        assert any(each.cancelled.wait(0.5) for each in calls)
        ended = [each.cancelled.wait(0.5) for each in calls]
        for each in calls:
            each.sent.set()
    assert ended.count(True) == 1


def test_nobody_is_ended_once_they_are_not_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were too many for a moment have sent their messages."""
    monkeypatch.setattr(messages, "_DUE", 0.2)
    awaited, calls = AwaitedMessages(2), [Context() for _ in range(3)]
    with ThreadPoolExecutor(3) as executor:
        waits = [
            executor.submit(awaited.receive, each.messages(), cast("grpc.ServicerContext", each))
            for each in calls
        ]
        calls[2].sent.set()
        assert waits[2].result() == b"message"
        ended = [each.cancelled.wait(0.5) for each in calls]
        for each in calls:
            each.sent.set()
    assert not any(ended)
