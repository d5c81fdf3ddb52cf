# SPDX-License-Identifier: Apache-2.0
"""Streams, which stay open for as long as a client likes and hold a thread each: few, and apart.

Each kind has threads of its own, and the newest streams win: who opens one gets it, as ``grpcurl``
does for each of its calls, and who left many open loses the oldest.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final, TypeAlias

import grpc

from csi_addons_rbd.api.threads import Threads

_REFLECTION: Final = "/grpc.reflection."
_MOST: Final = 16
"""Open streams of one kind."""
_Handler: TypeAlias = Any
"""A ``grpc.RpcMethodHandler``; its stubs make the functions of every kind optional."""


class OpenStreams:
    """The open streams of one kind, and their threads.

    Nothing is done to a stream while the lock is held: the thread that serves all calls takes it.
    """

    def __init__(self, name: str) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[grpc.ServicerContext, None] = OrderedDict()
        # one more, for the stream that comes while the oldest is being ended
        self._threads = Threads(_MOST + 1, name)

    def limited(self, behavior: _Handler) -> _Handler:
        """Wrap a method of streams."""

        def count(request: object, context: grpc.ServicerContext) -> object:
            self._opened(context)
            return behavior(request, context)

        limited: _Handler = count
        limited.experimental_thread_pool = self._threads
        return limited

    def _opened(self, context: grpc.ServicerContext) -> None:
        """Count one until it ends, and end the oldest if there are too many."""
        with self._lock:
            self._open[context] = None
            oldest = next(iter(self._open)) if len(self._open) > _MOST else None
            if oldest is not None:
                del self._open[oldest]
        if not context.add_callback(lambda: self._ended(context)):
            self._ended(context)
        if oldest is not None:
            oldest.cancel()

    def _ended(self, context: grpc.ServicerContext) -> None:
        with self._lock:
            self._open.pop(context, None)


def _of_one(
    behavior: _Handler, messages: Iterator[object], context: grpc.ServicerContext
) -> Iterable[object]:
    """Serve a method that takes one message; nothing is the answer to none."""
    message = next(messages, None)
    return () if message is None else behavior(message, context)


class StreamInterceptor(grpc.ServerInterceptor):
    """Limits the streams of reflection and those that watch health, each by itself."""

    def __init__(self) -> None:
        self._reflection = OpenStreams("reflection")
        self._watches = OpenStreams("watch")

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "grpc.RpcMethodHandler[Any, Any] | None"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Return the method's handler; one of streams is limited."""
        handler: _Handler = continuation(handler_call_details)
        if handler is not None and handler.response_streaming:
            coders = handler.request_deserializer, handler.response_serializer
            if handler_call_details.method.startswith(_REFLECTION):
                reflect = self._reflection.limited(handler.stream_stream)
                handler = grpc.stream_stream_rpc_method_handler(reflect, *coders)
            else:
                watch = self._watches.limited(partial(_of_one, handler.unary_stream))
                # as a stream of one, so that it counts before its message has come
                handler = grpc.stream_stream_rpc_method_handler(watch, *coders)
        return handler  # type: ignore[no-any-return] # the stubs' own gap
