# SPDX-License-Identifier: Apache-2.0
"""What happens around every unary call: admission, log context, timing, error to status.

The only place that aborts a call. ``abort`` raises a bare ``Exception``, so it stands outside
of any ``try``. UNKNOWN never leaves: whatever is not a ``DriverError`` becomes INTERNAL with a
fixed text, and its traceback goes to the log alone.
"""

import itertools
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, takewhile
from typing import Any, Final, TypeAlias

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import ErrorInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from csi_addons_rbd.api.messages import AwaitedMessages
from csi_addons_rbd.api.render import render
from csi_addons_rbd.api.requests import named_in
from csi_addons_rbd.api.threads import Threads
from csi_addons_rbd.metrics import Metrics
from csi_addons_rbd.replication import errors

_log = structlog.get_logger(__name__)
_Handler: TypeAlias = Any
"""A ``grpc.RpcMethodHandler``; its stubs make the functions of every kind optional."""

STATUSES: Final[Mapping[type[errors.DriverError], grpc.StatusCode]] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.PreconditionFailed: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Busy: grpc.StatusCode.ABORTED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Exhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    errors.InternalError: grpc.StatusCode.INTERNAL,
}
"""The status of each error; the nearest class along the MRO counts."""

CODES: Final = (grpc.StatusCode.OK, *STATUSES.values())
"""Every code with which a call may end."""

_GATED: Final = "/replication.Controller/"
_ASIDE: Final = 256
"""Threads for what is not gated, at most: each is busy for a moment, unless it awaits a message."""
_AWAITED: Final = 8
"""Calls, gated or not, whose message may be overdue: half of what is spare for the gated."""
_QUIET: Final = ("/identity.Identity/Probe", "/grpc.health.", "/grpc.reflection.")
_QUIET_WHEN_OK: Final = "/replication.Controller/GetVolumeReplicationInfo"
"""Asked about every volume over and over; what it says is in the metrics."""
_MESSAGE_MOST: Final = 1500
"""Bytes of an error text: it travels twice, in metadata that clients limit to 8 KiB."""
_MESSAGE_END: Final = 400
"""Bytes that a shortened text keeps of its end, which says what to do."""
_METHOD_MOST: Final = 100
"""Characters of an unknown method's name in the log."""


def status_of(error: errors.DriverError) -> grpc.StatusCode:
    """Look an error's status up in the table."""
    return next(
        (STATUSES[each] for each in type(error).__mro__ if each in STATUSES),
        grpc.StatusCode.INTERNAL,
    )


@dataclass(slots=True, kw_only=True)
class _Outcome:
    """How one call ended."""

    code: grpc.StatusCode = grpc.StatusCode.INTERNAL
    reason: str = errors.InternalError.reason
    temporary: bool = False
    message: str = ""
    response: bytes = b""
    fault: Exception | None = None
    """What was raised, when it was not one of our errors."""


class CallInterceptor(grpc.ServerInterceptor):
    """Wraps every unary-unary method; streams (reflection, health's Watch) pass through.

    Identity and health have threads of their own: however many calls run, these are answered.

    Args:
        domain: The driver's name, as the domain of error reasons.
        max_calls: Replication calls at once; more are refused rather than queued, so that
            Identity and health always find a free thread.
        metrics: Counts and times the calls.
    """

    def __init__(self, *, domain: str, max_calls: int, metrics: Metrics) -> None:
        self._domain = domain
        self._max_calls = max_calls
        self._free = threading.BoundedSemaphore(max_calls)
        self._metrics = metrics
        self._aside = Threads(_ASIDE, "identity")
        self._awaited_aside, self._awaited = AwaitedMessages(_AWAITED), AwaitedMessages(_AWAITED)
        self._run = secrets.token_hex(3)
        self._numbers = itertools.count(1)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], "grpc.RpcMethodHandler[Any, Any] | None"],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Return the method's handler, wrapped."""
        handler = continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None:
            return self._unknown(method)
        if handler.request_streaming or handler.response_streaming:
            return handler
        gated = method.startswith(_GATED)
        awaited = self._awaited if gated else self._awaited_aside

        def call(messages: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
            raw = awaited.receive(messages, context)
            outcome = self._carry_out(method, handler, raw, context)
            if outcome.code is not grpc.StatusCode.OK:
                self._abort(outcome, context)
            return outcome.response

        behavior: _Handler = call
        if not gated:
            behavior.experimental_thread_pool = self._aside
        # a call of one message to its client; served as a stream of one, so that its wait for
        # the message can be ended, and (de)serialised in here, where what is wrong is named
        return grpc.stream_unary_rpc_method_handler(behavior)

    def _unknown(self, method: str) -> "grpc.RpcMethodHandler[Any, Any]":
        """Return what answers a call of a method that is not served, or not by this version."""

        def refuse(_: Iterator[bytes], context: grpc.ServicerContext) -> None:
            shown = method[:_METHOD_MOST]
            self._begin(shown)
            outcome = _Outcome(
                code=grpc.StatusCode.UNIMPLEMENTED,
                reason=errors.Unsupported.reason,
                message=f"method {shown!r} is not known; see 'grpcurl … list' for those that are",
            )
            _log_outcome(shown, outcome, 0)
            self._abort(outcome, context)

        behavior: _Handler = refuse
        behavior.experimental_thread_pool = self._aside
        return grpc.stream_unary_rpc_method_handler(behavior)

    def _begin(self, method: str) -> None:
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(
            call_id=f"{self._run}-{next(self._numbers)}", method=method
        )

    def _carry_out(
        self,
        method: str,
        handler: _Handler,
        raw: bytes | None,
        context: grpc.ServicerContext,
    ) -> _Outcome:
        self._begin(method)
        outcome = _Outcome()
        began = time.perf_counter()
        self._metrics.calls_in_flight.labels(method).inc()
        try:
            request = _read(method, handler, raw)
            with self._admitted(method):
                outcome.response = _run(handler, request, context)
            outcome.code = grpc.StatusCode.OK
        except errors.DriverError as exc:
            outcome.code, outcome.reason = status_of(exc), exc.reason
            outcome.message, outcome.temporary = exc.message, exc.temporary
        except Exception as exc:  # noqa: BLE001 - the caller gets INTERNAL, the log the rest
            outcome.fault = exc
        finally:
            seconds = time.perf_counter() - began
            self._metrics.calls_in_flight.labels(method).dec()
            self._metrics.call_seconds.labels(method, outcome.code.name).observe(seconds)
            self._metrics.calls.labels(method, outcome.code.name).inc()
        _log_outcome(method, outcome, seconds)
        return outcome

    @contextmanager
    def _admitted(self, method: str) -> Iterator[None]:
        if not method.startswith(_GATED):
            yield
            return
        if not self._free.acquire(blocking=False):
            raise errors.Exhausted(
                f"{self._max_calls} calls are running, which is the limit; the controller retries; "
                "if it comes often, raise --max-calls"
            )
        try:
            yield
        finally:
            self._free.release()

    def _abort(self, outcome: _Outcome, context: grpc.ServicerContext) -> None:
        call_id = structlog.contextvars.get_contextvars()["call_id"]
        message = outcome.message
        if outcome.code is grpc.StatusCode.INTERNAL:
            message = (
                "an internal error of the driver; report it, with the lines of its log about call "
                f"{call_id}"
            )
        details = AnyMessage()
        details.Pack(
            ErrorInfo(
                reason=outcome.reason,
                domain=self._domain,
                metadata={"call_id": call_id, "temporary": str(outcome.temporary).lower()},
            )
        )
        status = Status(
            code=outcome.code.value[0],
            message=_told(message, outcome.reason),
            details=[details],
        )
        context.abort_with_status(rpc_status.to_status(status))


def _told(message: str, reason: str) -> str:
    """End a text with its reason: the controller copies nothing but the text into conditions.

    One that is too long loses its middle.
    """
    text, token = message.encode(errors="replace").decode(), f" [{reason}]"
    room = _MESSAGE_MOST - len(token)
    if _fitting(text, room) < len(text):
        begin = text[: _fitting(text, room - _MESSAGE_END)]
        end = text[-_fitting(reversed(text), _MESSAGE_END) :]
        text = f"{begin} … {end}"
    return text + token


def _fitting(text: Iterable[str], most: int) -> int:
    """Count the characters that take so many bytes at most, as grpc writes them."""
    sizes = (1 if " " <= each <= "~" and each != "%" else 3 * len(each.encode()) for each in text)
    return sum(1 for _ in takewhile(lambda size: size <= most, accumulate(sizes)))


def _read(method: str, handler: _Handler, raw: bytes | None) -> Message:
    """Return the request; from here on, every line of the log names its volume as it came."""
    if raw is None:
        raise errors.Unsupported(f"{method} takes one message, not none")
    try:
        request: Message = handler.request_deserializer(raw)
    except DecodeError as exc:
        raise errors.InvalidRequest(
            "the request is not a message of this method; see the csi-addons specification"
        ) from exc
    if names := named_in(request):
        structlog.contextvars.bind_contextvars(**names)
    return request


def _run(handler: _Handler, request: Message, context: grpc.ServicerContext) -> bytes:
    if logging.root.isEnabledFor(logging.DEBUG):
        _log.debug("request", fields=render(request))
    response: bytes = handler.response_serializer(handler.unary_unary(request, context))
    return response


def _log_outcome(method: str, outcome: _Outcome, seconds: float) -> None:
    fields: dict[str, object] = {"code": outcome.code.name, "seconds": round(seconds, 3)}
    if outcome.code is not grpc.StatusCode.OK:
        fields |= {"reason": outcome.reason, "message": outcome.message}
    if outcome.code is grpc.StatusCode.INTERNAL:
        _log.error("call", **fields, exc_info=outcome.fault)
    elif method.startswith(_QUIET) or (
        method == _QUIET_WHEN_OK and outcome.code is grpc.StatusCode.OK
    ):
        _log.debug("call", **fields)
    else:
        _log.info("call", **fields)
