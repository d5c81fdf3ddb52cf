# SPDX-License-Identifier: Apache-2.0
"""What every answer must be, whatever was asked."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from csi_addons_conformance.load.inputs import PARAMETERS, Attempt

CODES: Final = frozenset(
    {
        "OK",
        "INVALID_ARGUMENT",
        "NOT_FOUND",
        "FAILED_PRECONDITION",
        "ABORTED",
        "UNAUTHENTICATED",
        "PERMISSION_DENIED",
        "UNAVAILABLE",
        "DEADLINE_EXCEEDED",
        "RESOURCE_EXHAUSTED",
        "UNIMPLEMENTED",
    }
)
"""Every code with which a call may end: those of the contract, INTERNAL not among them."""
LATE: Final = 3.0
"""Seconds by which an answer may be later than its bound: two cores serve callers, drivers and
two Ceph sites, and in a short run other loads beside them."""
_LOST: Final = 20
"""Seconds beyond its bound after which an answer is waited for no longer."""
_FIELDS: Final = ("volume_id", "replication_source", "secrets", "userID", "userKey", *PARAMETERS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came back."""

    code: str
    message: str = ""
    details: bytes = field(default=b"", repr=False)
    """The trailing metadata, where error details travel."""
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Oracle:
    """What is known before a call is made."""

    bound: float
    """Seconds within which a driver answers by itself."""
    keys: Sequence[str]
    """Secrets that no answer may hold."""

    def limit(self, attempt: Attempt) -> float:
        """Return the seconds within which the answer is due."""
        return self.bound if attempt.timeout is None else min(attempt.timeout, self.bound)

    def faults(self, attempt: Attempt, outcome: Outcome) -> Iterator[str]:
        """Yield what is wrong with an answer, in words."""
        if outcome.code not in CODES:
            yield f"the code is {outcome.code}"
        # gRPC's own health service has no words for a name that it does not know
        if outcome.code != "OK" and not outcome.message and attempt.request is not None:
            yield "an error without a text"
        # bytes that are no message have no fields that could be named
        refused = outcome.code == "INVALID_ARGUMENT" and attempt.decoded is not None
        if refused and not any(name in outcome.message for name in _FIELDS):
            yield "INVALID_ARGUMENT names no field"
        if "Traceback" in outcome.message:
            yield "a traceback was sent"
        for key in self.keys:
            if key in outcome.message or key.encode() in outcome.details:
                yield "the answer holds a secret key"
        limit = self.limit(attempt)
        if outcome.seconds > limit + LATE:
            yield f"answered after {outcome.seconds:.1f} s, due within {limit:g} s"


def send(channel: grpc.Channel, attempt: Attempt, limit: float) -> Outcome:
    """Make a call with the bytes as they are; ``limit`` is when its answer is due, in seconds."""
    stub: Any = channel.unary_unary(attempt.path)
    began = time.monotonic()
    call = stub.future(attempt.raw, timeout=attempt.timeout)
    try:
        call.result(timeout=limit + _LOST)
    except grpc.FutureTimeoutError:
        call.cancel()
        return Outcome(code="(none)", seconds=time.monotonic() - began)
    except grpc.RpcError as exc:
        error: Any = exc
        return Outcome(
            code=error.code().name,
            message=error.details() or "",
            details=_binary(error.trailing_metadata() or ()),
            seconds=time.monotonic() - began,
        )
    return Outcome(code="OK", seconds=time.monotonic() - began)


def _binary(metadata: Sequence[tuple[str, str | bytes]]) -> bytes:
    values = (value for _, value in metadata)
    return b"\n".join(each if isinstance(each, bytes) else each.encode() for each in values)


def channels(endpoints: Mapping[str, str]) -> Mapping[str, grpc.Channel]:
    """Open a channel to each site's driver."""
    return {site: grpc.insecure_channel(endpoint) for site, endpoint in endpoints.items()}
