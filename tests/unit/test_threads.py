# SPDX-License-Identifier: Apache-2.0
"""A server whose process may start no more threads goes on with those that it has."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import grpc
import pytest

from csi_addons_rbd.api.threads import Threads

METHOD: Final = "/service/Method"
START: Final = threading.Thread.start


@contextmanager
def serving(behavior: Callable[[bytes, grpc.ServicerContext], bytes]) -> Iterator[grpc.Channel]:
    """Serve one method with at most four threads."""
    server = grpc.server(Threads(4, "call"))
    handlers = {"Method": grpc.unary_unary_rpc_method_handler(behavior)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("service", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        server.stop(None).wait()


def test_a_call_for_which_no_thread_can_start_waits_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And is answered; so are all after it."""
    let_go = threading.Event()

    def behavior(request: bytes, _: grpc.ServicerContext) -> bytes:
        assert request == b"quick" or let_go.wait(5)
        return request

    refused = threading.Event()

    def refuse(thread: threading.Thread) -> None:
        if thread.name.startswith("call"):
            refused.set()
            raise RuntimeError("can't start new thread")
        START(thread)

    with serving(behavior) as channel:
        call = channel.unary_unary(METHOD)
        assert call(b"quick", timeout=5) == b"quick"
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            slow = call.future(b"slow", timeout=5)
            waiting = call.future(b"quick", timeout=5)
            assert refused.wait(5)
            let_go.set()
            assert (slow.result(), waiting.result()) == (b"slow", b"quick")
        assert call(b"quick", timeout=5) == b"quick"


def test_without_any_thread_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would never be done."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="new thread"):
        Threads(4, "call")
