# SPDX-License-Identifier: Apache-2.0
"""Around a call: statuses, reasons, admission, logs and metrics, over a real socket."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc.error_details_pb2 import ErrorInfo
from grpc_status import rpc_status
from prometheus_client import generate_latest
from structlog.contextvars import merge_contextvars
from structlog.testing import capture_logs

from csi_addons_rbd._proto import replication_pb2 as pb
from csi_addons_rbd._proto import replication_pb2_grpc
from csi_addons_rbd.api.interceptor import CODES, STATUSES, CallInterceptor, status_of
from csi_addons_rbd.metrics import Metrics
from csi_addons_rbd.replication import errors

_METHOD = "/replication.Controller/DemoteVolume"


def subclasses(root: type[errors.DriverError]) -> Iterator[type[errors.DriverError]]:
    """Walk the whole hierarchy below a class."""
    for each in root.__subclasses__():
        yield each
        yield from subclasses(each)


_ERRORS = tuple(dict.fromkeys(subclasses(errors.DriverError)))


class Scripted(replication_pb2_grpc.ControllerServicer):
    """Does what a test wants: what is asked over and over, and one of all the others."""

    def __init__(self) -> None:
        self.act: Callable[[], Any] = pb.DemoteVolumeResponse

    def DemoteVolume(  # noqa: N802 - gRPC's name
        self, request: pb.DemoteVolumeRequest, context: grpc.ServicerContext
    ) -> Any:
        """Act."""
        del request, context
        return self.act()

    def GetVolumeReplicationInfo(  # noqa: N802 - gRPC's name
        self, request: pb.GetVolumeReplicationInfoRequest, context: grpc.ServicerContext
    ) -> Any:
        """Act."""
        del request, context
        return self.act()


class Running:
    """A server with the interceptor, and a client of it."""

    def __init__(self, socket: Path, *, max_calls: int) -> None:
        self.metrics = Metrics(version="0", driver_name="rbd.test")
        self.service = Scripted()
        interceptor = CallInterceptor(domain="rbd.test", max_calls=max_calls, metrics=self.metrics)
        self.server = grpc.server(ThreadPoolExecutor(8), interceptors=[interceptor])
        replication_pb2_grpc.add_ControllerServicer_to_server(self.service, self.server)
        self.server.add_insecure_port(f"unix://{socket}")
        self.server.start()
        self.channel = grpc.insecure_channel(f"unix://{socket}")
        self.stub = replication_pb2_grpc.ControllerStub(self.channel)

    def demote(self) -> pb.DemoteVolumeResponse:
        """Call."""
        response: pb.DemoteVolumeResponse = self.stub.DemoteVolume(
            pb.DemoteVolumeRequest(secrets={"userKey": "verysecret"}), timeout=10
        )
        return response

    def fail(self, error: Exception) -> Any:
        """Call a handler that raises this, and return what the client catches."""

        def act() -> None:
            raise error

        self.service.act = act
        with pytest.raises(grpc.RpcError) as caught:
            self.demote()
        return caught.value

    def sample(self, series: str) -> float:
        """Return the value of one series."""
        lines = generate_latest(self.metrics.registry).decode().splitlines()
        return next(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(series))


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """Run the server for one test."""
    running = Running(tmp_path / "s", max_calls=2)
    yield running
    running.channel.close()
    running.server.stop(0).wait()


def of_volume(handle: str) -> pb.DemoteVolumeRequest:
    """Return a request about this volume."""
    volume = pb.ReplicationSource.VolumeSource(volume_id=handle)
    return pb.DemoteVolumeRequest(replication_source=pb.ReplicationSource(volume=volume))


def refusal() -> Any:
    """Expect an error of grpc."""
    return pytest.raises(grpc.RpcError)


def info_of(error: Any) -> ErrorInfo:
    """Return the machine-readable part of an error."""
    status = rpc_status.from_call(error)
    info = ErrorInfo()
    assert status.details[0].Unpack(info)
    return info


@pytest.mark.parametrize("error", _ERRORS)
def test_every_error_has_a_status(error: type[errors.DriverError]) -> None:
    """Each class has a row, its own or that of a parent other than the root."""
    rows = [each for each in error.__mro__ if each in STATUSES]
    assert rows
    assert rows[0] is not errors.DriverError
    assert status_of(error("x")) is STATUSES[rows[0]]


def test_no_unknown() -> None:
    """UNKNOWN is no code of ours, and no two rows are left unused."""
    assert grpc.StatusCode.UNKNOWN not in CODES
    assert set(STATUSES) <= set(_ERRORS)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidHandle, grpc.StatusCode.INVALID_ARGUMENT),
        (errors.VolumeNotFound, grpc.StatusCode.NOT_FOUND),
        (errors.SplitBrain, grpc.StatusCode.FAILED_PRECONDITION),
        (errors.OperationRunning, grpc.StatusCode.ABORTED),
        (errors.Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
        (errors.PermissionDenied, grpc.StatusCode.PERMISSION_DENIED),
        (errors.WorkerLost, grpc.StatusCode.UNAVAILABLE),
        (errors.DeadlineExceeded, grpc.StatusCode.DEADLINE_EXCEEDED),
        (errors.Exhausted, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (errors.Unsupported, grpc.StatusCode.UNIMPLEMENTED),
    ],
)
def test_error_on_the_wire(
    running: Running, error: type[errors.DriverError], code: grpc.StatusCode
) -> None:
    """The client gets the code, our text, and a reason that tools can read."""
    caught = running.fail(error("what was seen"))
    assert (caught.code(), caught.details()) == (code, f"what was seen [{error.reason}]")
    info = info_of(caught)
    assert (info.reason, info.domain) == (error.reason, "rbd.test")
    assert info.metadata["call_id"]


@pytest.mark.parametrize(
    "error",
    [ValueError("inner words"), errors.InternalError("inner words"), errors.DriverError("x")],
)
def test_faults_are_internal(running: Running, error: Exception) -> None:
    """A fault of ours is INTERNAL with a fixed text; the log has the rest, under the call id."""
    with capture_logs() as logs:
        caught = running.fail(error)
    assert caught.code() is grpc.StatusCode.INTERNAL
    assert "inner words" not in caught.details()
    assert info_of(caught).metadata["call_id"] in caught.details()
    assert [each["log_level"] for each in logs] == ["error"]
    if isinstance(error, ValueError):
        assert logs[0]["exc_info"] is error


def test_unserialisable_answer(running: Running) -> None:
    """An answer that cannot be sent is INTERNAL too, and counted as such."""
    running.service.act = object
    with pytest.raises(grpc.RpcError) as caught:
        running.demote()
    assert caught.value.code() is grpc.StatusCode.INTERNAL  # type: ignore[attr-defined]
    assert running.sample(f'csi_addons_rbd_calls_total{{code="INTERNAL",method="{_METHOD}"}}') == 1


@pytest.mark.parametrize("method", [f"{_METHOD}Twice", "/no.Service/Call", "/" + "x" * 5000])
def test_an_unknown_method(running: Running, method: str) -> None:
    """What a newer controller may call says so in the same way, also in the log."""
    with capture_logs() as logs, refusal() as caught:
        running.channel.unary_unary(method)(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED  # type: ignore[attr-defined]
    assert caught.value.details().endswith(" [UNSUPPORTED]")  # type: ignore[attr-defined]
    assert info_of(caught.value).reason == "UNSUPPORTED"
    assert [each["code"] for each in logs if each["event"] == "call"] == ["UNIMPLEMENTED"]


def test_bytes_that_are_no_request(running: Running) -> None:
    """Bytes that are not a request are the caller's mistake."""
    call = running.channel.unary_unary(_METHOD)
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\xff\xff\xff", timeout=10)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "text",
    [
        "\ud800 half a pair",
        "x" * 100_000,
        "ünïcödé " * 1000,
        "a\nb\0c",
        "\U0001f4a5" * 1400,
        "%" * 1400,
    ],
)
def test_odd_texts_arrive(running: Running, text: str) -> None:
    """Whatever a message holds, the status arrives, and its end says who acts, and its reason."""
    caught = running.fail(errors.SplitBrain(f"begins: {text}; make room"))
    assert caught.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert info_of(caught).reason == "SPLIT_BRAIN"
    assert caught.details().startswith("begins: ")
    assert caught.details().endswith("; make room [SPLIT_BRAIN]")


@pytest.mark.parametrize("error", _ERRORS)
def test_every_message_ends_with_its_reason_once(
    running: Running, error: type[errors.DriverError]
) -> None:
    """The controller copies nothing else into the conditions that an operator reads."""
    told = running.fail(error("what was seen")).details()
    assert told.endswith(f" [{error.reason}]")
    assert told.count(f"[{error.reason}]") == 1


def test_admission(running: Running) -> None:
    """Over the limit a call is refused at once, and a place is free again after each call."""
    inside, leave = threading.Semaphore(0), threading.Event()

    def hold() -> pb.DemoteVolumeResponse:
        inside.release()
        leave.wait(10)
        return pb.DemoteVolumeResponse()

    running.service.act = hold
    with ThreadPoolExecutor(2) as pool:
        held = [pool.submit(running.demote) for _ in range(2)]
        for _ in held:
            assert inside.acquire(timeout=10)
        with capture_logs(processors=[merge_contextvars]) as logs, refusal() as caught:
            running.stub.DemoteVolume(of_volume("refused"), timeout=10)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]
        assert caught.value.details().endswith(" [TOO_MANY_CALLS]")  # type: ignore[attr-defined]
        assert [each["volume"] for each in logs] == ["refused"]
        assert running.sample(f'csi_addons_rbd_calls_in_flight{{method="{_METHOD}"}}') == 2
        leave.set()
        for each in held:
            each.result(10)
    for _ in range(5):
        running.fail(errors.SplitBrain("x"))
    running.service.act = pb.DemoteVolumeResponse
    running.demote()
    assert running.sample(f'csi_addons_rbd_calls_in_flight{{method="{_METHOD}"}}') == 0


def test_one_line_a_call(running: Running) -> None:
    """Each change is one line at info, with code, reason and seconds; no secret at any level."""
    with capture_logs() as logs:
        running.demote()
        running.fail(errors.SplitBrain("seen"))
    lines = [each for each in logs if each["event"] == "call"]
    assert [(each["log_level"], each["code"]) for each in lines] == [
        ("info", "OK"),
        ("info", "FAILED_PRECONDITION"),
    ]
    assert (lines[1]["reason"], lines[1]["message"]) == ("SPLIT_BRAIN", "seen")
    assert all(each["seconds"] >= 0 for each in lines)
    assert "verysecret" not in str(logs)


@pytest.mark.parametrize("old", [False, True])
def test_a_line_names_the_volume_as_it_came(running: Running, old: bool) -> None:  # noqa: FBT001 - a table's column
    """Well-formed or not, in either field, and no longer than a line."""
    for handle, shown in (("no handle\x1b[2J", "no handle\x1b[2J"), ("x" * 5000, "x" * 200)):
        request = pb.DemoteVolumeRequest(volume_id=handle) if old else of_volume(handle)
        with capture_logs(processors=[merge_contextvars]) as logs:
            running.stub.DemoteVolume(request, timeout=10)
        assert [each["volume"] for each in logs if each["event"] == "call"] == [shown]


def test_a_line_names_the_group(running: Running) -> None:
    """Groups are refused, and whoever named one finds the call."""
    group = pb.ReplicationSource.VolumeGroupSource(volume_group_id="several")
    request = pb.DemoteVolumeRequest(replication_source=pb.ReplicationSource(volumegroup=group))
    with capture_logs(processors=[merge_contextvars]) as logs:
        running.stub.DemoteVolume(request, timeout=10)
    assert [each["volume_group"] for each in logs if each["event"] == "call"] == ["several"]


def test_what_is_asked_over_and_over_is_a_line_when_it_fails(running: Running) -> None:
    """At info the log would hold little else: one line for each volume and half interval."""
    ask = running.stub.GetVolumeReplicationInfo
    with capture_logs() as logs:
        running.service.act = pb.GetVolumeReplicationInfoResponse
        ask(pb.GetVolumeReplicationInfoRequest(), timeout=10)
        running.service.act = fail_as_secondary
        with pytest.raises(grpc.RpcError):
            ask(pb.GetVolumeReplicationInfoRequest(), timeout=10)
    assert [(each["log_level"], each["code"]) for each in logs if each["event"] == "call"] == [
        ("debug", "OK"),
        ("info", "FAILED_PRECONDITION"),
    ]


def fail_as_secondary() -> None:
    """Refuse."""
    raise errors.NotPrimary("it is secondary")


def test_calls_are_counted_and_timed(running: Running) -> None:
    """Counter and histogram carry the final code and method."""
    running.demote()
    running.fail(errors.SplitBrain("x"))
    counted = "csi_addons_rbd_calls_total"
    assert running.sample(f'{counted}{{code="OK",method="{_METHOD}"}}') == 1
    assert running.sample(f'{counted}{{code="FAILED_PRECONDITION",method="{_METHOD}"}}') == 1
    timed = "csi_addons_rbd_call_seconds_count"
    assert running.sample(f'{timed}{{code="OK",method="{_METHOD}"}}') == 1
    assert running.sample(f'{timed}{{code="FAILED_PRECONDITION",method="{_METHOD}"}}') == 1
