# SPDX-License-Identifier: Apache-2.0
"""A whole driver as a process, on a real socket, with workers that only lack Ceph."""

import contextlib
import ctypes
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import stand_in
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from stand_in import Pool

from csi_addons_rbd._proto import (
    identity_pb2,
    identity_pb2_grpc,
    replication_pb2,
    replication_pb2_grpc,
)
from csi_addons_rbd.replication.volume_id import VolumeId


class Driver:
    """One driver process and a client of it."""

    def __init__(
        self,
        directory: Path,
        *flags: str,
        umask: int = 0o022,
        group: int | None = None,
        **environ: str,
    ) -> None:
        self.directory = directory
        self.socket = directory / "csi.sock"
        self.log = directory / "log"
        command = (sys.executable, stand_in.__file__, "serve")
        common = ("--endpoint", f"unix://{self.socket}", "--driver-name", "rbd.test")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                (*command, *common, "--config-dir", str(directory), "--log-level", "debug", *flags),
                stderr=log,
                umask=umask,
                group=group,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environ},
            )
        # grpc would wait a second before it tries again to connect
        options = (("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 50))
        self.channel = grpc.insecure_channel(f"unix://{self.socket}", options)
        self.identity = identity_pb2_grpc.IdentityStub(self.channel)
        self.controller = replication_pb2_grpc.ControllerStub(self.channel)
        self.health = health_pb2_grpc.HealthStub(self.channel)

    def started(self) -> "Driver":
        """Wait until it is ready."""
        eventually(self.ready)
        return self

    def ready(self) -> bool:
        """Ask whether it is ready."""
        assert self.process.poll() is None, self.log.read_text()
        try:
            response = self.identity.Probe(identity_pb2.ProbeRequest(), timeout=2)
        except grpc.RpcError:
            return False
        return bool(response.ready.value)

    def events(self) -> list[dict[str, Any]]:
        """Return what it logged."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def workers(self) -> list[int]:
        """Return its worker processes."""
        return stand_in.workers_of(self.process.pid)

    def end(self) -> None:
        """End it, whatever state it is in."""
        self.channel.close()
        self.process.kill()
        self.process.wait()


def configure(directory: Path) -> None:
    """Write a config.json with one cluster."""
    config = [{"clusterID": "here", "monitors": ["here:6789"]}]
    (directory / "config.json").write_text(json.dumps(config))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Driver]]:
    """Start drivers on one socket; all end with the test."""
    drivers: list[Driver] = []
    configure(tmp_path)

    def begin(*flags: str, **more: Any) -> Driver:
        drivers.append(Driver(tmp_path, *flags, **more))
        return drivers[-1]

    yield begin
    for driver in drivers:
        driver.end()


@pytest.fixture
def driver(start: Callable[..., Driver]) -> Driver:
    """Run one driver that is ready."""
    return start().started()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """Run one driver for all tests that leave it as it was."""
    directory = tmp_path_factory.mktemp("driver")
    configure(directory)
    driver = Driver(directory).started()
    yield driver
    driver.end()


def source(pool: int = Pool.ANSWER, cluster: str = "here") -> replication_pb2.ReplicationSource:
    """Return a volume in a pool that says what the worker does."""
    handle = str(VolumeId(cluster=cluster, pool=pool, uuid=stand_in.UUID))
    volume = replication_pb2.ReplicationSource.VolumeSource(volume_id=handle)
    return replication_pb2.ReplicationSource(volume=volume)


def fields(pool: int = Pool.ANSWER, cluster: str = "here") -> dict[str, Any]:
    """Return what every request needs."""
    secrets = {"userID": "csi", "userKey": stand_in.KEY}
    return {"replication_source": source(pool, cluster), "secrets": secrets}


# --- the services -------------------------------------------------------------------------


def test_identity(shared: Driver) -> None:
    """Name, version, Ceph's libraries, and exactly the capabilities that the driver has."""
    identity = shared.identity.GetIdentity(identity_pb2.GetIdentityRequest(), timeout=5)
    assert identity.name == "rbd.test"
    assert identity.vendor_version
    assert identity.manifest["ceph_client"] == "librados 0.0, librbd 0.0"
    answer = shared.identity.GetCapabilities(identity_pb2.GetCapabilitiesRequest(), timeout=5)
    assert [str(each).split() for each in answer.capabilities] == [
        ["service", "{", "type:", "CONTROLLER_SERVICE", "}"],
        ["volume_replication", "{", "type:", "VOLUME_REPLICATION", "}"],
        ["volume_replication", "{", "type:", "GET_REPLICATION_DESTINATION_INFO", "}"],
    ]


def test_all_calls(shared: Driver) -> None:
    """Each replication call goes to the worker and comes back as its response."""
    pb, stub = replication_pb2, shared.controller
    for call, request in (
        (stub.EnableVolumeReplication, pb.EnableVolumeReplicationRequest(**fields())),
        (stub.DisableVolumeReplication, pb.DisableVolumeReplicationRequest(**fields())),
        (stub.PromoteVolume, pb.PromoteVolumeRequest(**fields())),
        (stub.DemoteVolume, pb.DemoteVolumeRequest(**fields())),
    ):
        call(request, timeout=10)
    assert stub.ResyncVolume(pb.ResyncVolumeRequest(**fields()), timeout=10).ready
    info = stub.GetVolumeReplicationInfo(pb.GetVolumeReplicationInfoRequest(**fields()), timeout=10)
    assert info.last_sync_time.seconds == 1_700_000_000
    assert (info.last_sync_duration.seconds, info.last_sync_bytes) == (3, 4096)
    assert info.status == pb.GetVolumeReplicationInfoResponse.DEGRADED
    assert info.status_message == "the copy is 3 minutes old"
    there = stub.GetReplicationDestinationInfo(
        pb.GetReplicationDestinationInfoRequest(**fields()), timeout=10
    )
    assert there.replication_destination.volume.volume_id == source().volume.volume_id


@pytest.mark.parametrize(
    ("pool", "cluster", "code"),
    [
        (Pool.ABSENT, "here", grpc.StatusCode.NOT_FOUND),
        (Pool.SPLIT, "here", grpc.StatusCode.FAILED_PRECONDITION),
        (Pool.CRASH, "here", grpc.StatusCode.UNAVAILABLE),
        (Pool.WRONG, "here", grpc.StatusCode.INTERNAL),
        (Pool.ANSWER, "elsewhere", grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_codes(driver: Driver, pool: Pool, cluster: str, code: grpc.StatusCode) -> None:
    """Errors of the worker, of its process and of the configuration reach the caller."""
    request = replication_pb2.GetVolumeReplicationInfoRequest(**fields(pool, cluster))
    with pytest.raises(grpc.RpcError) as caught:
        driver.controller.GetVolumeReplicationInfo(request, timeout=10)
    assert caught.value.code() is code  # type: ignore[attr-defined]


def test_bounds(start: Callable[..., Driver]) -> None:
    """A silent cluster is answered for at our bound, or just before the caller's deadline."""
    driver = start("--call-timeout", "1").started()
    request = replication_pb2.DemoteVolumeRequest(**fields(Pool.SILENT))
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        driver.controller.DemoteVolume(request)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
    assert 0.9 < time.monotonic() - began < 15
    with pytest.raises(grpc.RpcError) as caught:
        driver.controller.DemoteVolume(request, timeout=0.8)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[attr-defined]
    assert "the next call joins it" in caught.value.details()  # type: ignore[attr-defined]


def test_probe_is_answered_under_load(start: Callable[..., Driver]) -> None:
    """With every place taken by a silent cluster, Identity and health answer at once."""
    limits = ("--max-calls", "6", "--max-calls-per-cluster", "5", "--call-timeout", "3")
    driver = start(*limits).started()
    request = replication_pb2.DemoteVolumeRequest(**fields(Pool.SILENT))
    calls = [driver.controller.DemoteVolume.future(request) for _ in range(30)]
    began = time.monotonic()
    while time.monotonic() - began < 1:
        assert driver.ready()
        driver.health.Check(health_pb2.HealthCheckRequest(), timeout=5)
    codes = [call.code() for call in calls]
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 25
    assert codes.count(grpc.StatusCode.UNAVAILABLE) == 5


def test_health_and_reflection(shared: Driver) -> None:
    """Standard health for each service, and reflection that names them all."""
    serving = health_pb2.HealthCheckResponse.SERVING
    for name in ("", "identity.Identity", "replication.Controller"):
        request = health_pb2.HealthCheckRequest(service=name)
        assert shared.health.Check(request, timeout=5).status == serving
    with pytest.raises(grpc.RpcError) as unknown:
        shared.health.Check(health_pb2.HealthCheckRequest(service="x"), timeout=5)
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]
    assert unknown.value.details().endswith(" [UNKNOWN_SERVICE]")  # type: ignore[attr-defined]
    reflect = reflection_pb2_grpc.ServerReflectionStub(shared.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = reflect.ServerReflectionInfo(iter((request,)), timeout=5)
    assert {each.name for each in answer.list_services_response.service} == {
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "identity.Identity",
        "replication.Controller",
    }


def test_many_watchers_take_no_threads(start: Callable[..., Driver]) -> None:
    """Streams that watch health do not use up the threads that answer calls."""
    driver = start("--max-calls", "2", "--max-calls-per-cluster", "1").started()
    watches = [driver.health.Watch(health_pb2.HealthCheckRequest()) for _ in range(12)]
    for watch in watches:
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    assert driver.ready()


def test_idle_streams_are_in_nobodys_way(start: Callable[..., Driver]) -> None:
    """Of too many streams the oldest end; Probe, health and a new stream are answered at once."""
    driver = start().started()
    reflect = reflection_pb2_grpc.ServerReflectionStub(driver.channel).ServerReflectionInfo
    never = threading.Event()
    idle = [reflect(_nothing_until(never)) for _ in range(280)]
    watches = [driver.health.Watch(health_pb2.HealthCheckRequest()) for _ in range(280)]
    began = time.monotonic()
    while time.monotonic() - began < 1:
        assert driver.ready()
        driver.health.Check(health_pb2.HealthCheckRequest(), timeout=2)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = reflect(iter((request,)), timeout=5)
    assert answer.list_services_response.service
    assert next(watches[-1]).status == health_pb2.HealthCheckResponse.SERVING
    never.set()
    for stream in (*idle, *watches):
        stream.cancel()


def test_watchers_that_come_and_go_stop_nothing(shared: Driver) -> None:
    """One that comes while another one leaves: grpc's own health service stood still for good."""

    def come_and_go(_: int) -> None:
        for _ in range(50):
            watch = shared.health.Watch(health_pb2.HealthCheckRequest(), timeout=20)
            assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
            watch.cancel()

    with ThreadPoolExecutor(8) as clients:
        list(clients.map(come_and_go, range(8)))
    assert shared.ready()
    shared.health.Check(health_pb2.HealthCheckRequest(), timeout=5)


def _nothing_until(event: threading.Event) -> Iterator[reflection_pb2.ServerReflectionRequest]:
    event.wait(60)
    yield from ()


@pytest.mark.parametrize(
    "method",
    [
        "/replication.Controller/DemoteVolume",
        "/identity.Identity/Probe",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
    ],
)
def test_calls_without_a_message_hold_up_nothing(start: Callable[..., Driver], method: str) -> None:
    """A client that begins calls and never sends what it asks for keeps threads waiting."""
    driver = start("--max-calls", "2", "--max-calls-per-cluster", "1").started()
    # the same method as one of streams: its headers go out, its message never does
    with grpc.insecure_channel(f"unix://{driver.socket}") as channel:
        never = threading.Event()
        begin = channel.stream_stream(method)
        begun = [begin(_nothing_until(never)) for _ in range(120)]
        time.sleep(0.5)  # let them arrive
        assert driver.ready()
        driver.health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        watch = driver.health.Watch(health_pb2.HealthCheckRequest(), timeout=5)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        call = driver.controller.DemoteVolume
        with pytest.raises(grpc.RpcError) as refused:
            call(replication_pb2.DemoteVolumeRequest(), timeout=15)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        watch.cancel()
        never.set()
        for each in begun:
            each.cancel()


def test_a_call_that_sends_nothing(shared: Driver) -> None:
    """A client that ends its side before any message is told so; it is not left to wait."""
    probe = shared.channel.stream_unary("/identity.Identity/Probe")
    with pytest.raises(grpc.RpcError) as refused:
        probe(iter(()), timeout=5)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert refused.value.details().endswith(" [UNSUPPORTED]")


def test_an_unknown_method(shared: Driver) -> None:
    """Of whatever kind the caller takes it for, it is told so."""
    name = "/replication.Controller/NoSuchCall"
    for call in (
        lambda: shared.channel.unary_unary(name)(b"", timeout=5),
        lambda: shared.channel.stream_unary(name)(iter(()), timeout=5),
        lambda: list(shared.channel.unary_stream(name)(b"", timeout=5)),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            call()
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert refused.value.details().endswith(" [UNSUPPORTED]")


def test_metrics(start: Callable[..., Driver]) -> None:
    """The endpoint stands where it was asked for, with every method at zero."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = start("--metrics-address", f"127.0.0.1:{port}").started()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        text = response.read().decode()
    promote = 'method="/replication.Controller/PromoteVolume"'
    assert f'csi_addons_rbd_calls_total{{code="ABORTED",{promote}}} 0.0' in text
    assert 'csi_addons_rbd_worker_starts_total{cluster="here"} 0.0' in text
    assert 'csi_addons_rbd_config_reload_failures_total{file="cluster-mapping.json"} 0.0' in text
    assert driver.process.poll() is None


def test_no_secret_anywhere(shared: Driver) -> None:
    """At debug level neither log nor command lines show the key."""
    request = replication_pb2.PromoteVolumeRequest(**fields())
    shared.controller.PromoteVolume(request, timeout=10)
    for pid in (shared.process.pid, *shared.workers()):
        assert stand_in.KEY.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        if os.getuid() == 0:  # nobody else may look into what is not dumpable
            assert stand_in.KEY.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    assert stand_in.KEY not in shared.log.read_text()
    *_, shown = (
        each
        for each in shared.events()
        if each["event"] == "request" and "PromoteVolume" in each["method"]
    )
    assert list(shown["fields"]) == ["replication_source"]


def test_no_core_dump_of_what_holds_keys(start: Callable[..., Driver]) -> None:
    """Neither server nor worker is dumpable, also where dumps are piped to a program."""
    # root cannot tell by the user whose files in /proc they are: by a group that is not root's
    driver = start(group=65534 if os.getuid() == 0 else None).started()
    request = replication_pb2.PromoteVolumeRequest(**fields())
    driver.controller.PromoteVolume(request, timeout=10)
    (worker,) = driver.workers()
    for pid in (driver.process.pid, worker):
        # the kernel gives them to root for as long as a process is not dumpable, see proc(5)
        owner = Path(f"/proc/{pid}/environ").stat()
        assert (owner.st_uid, owner.st_gid) == (0, 0)
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        (core,) = (line for line in limits if line.startswith("Max core file size"))
        assert core.split()[4:6] == ["0", "0"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root may look into what is not dumpable")
def test_no_rbd_in_the_serving_process(shared: Driver) -> None:
    """The serving process has not mapped librbd, nor librados."""
    replication = replication_pb2.PromoteVolumeRequest(**fields())
    shared.controller.PromoteVolume(replication, timeout=10)
    maps = Path(f"/proc/{shared.process.pid}/maps").read_text()
    assert "librbd" not in maps
    assert "librados" not in maps


# --- the socket ---------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0, 0o077])
def test_mode(start: Callable[..., Driver], umask: int) -> None:
    """The socket has mode 0660, whatever the umask."""
    driver = start(umask=umask).started()
    assert stat.S_IMODE(driver.socket.stat().st_mode) == 0o660


def test_second_driver_is_refused(driver: Driver, start: Callable[..., Driver]) -> None:
    """A second driver on the same socket ends with 1 and a sentence; the first one goes on."""
    second = start()
    assert second.process.wait(30) == 1
    assert "belongs to another driver" in second.events()[-1]["reason"]
    assert driver.ready()


def test_live_server_is_not_replaced(start: Callable[..., Driver], tmp_path: Path) -> None:
    """A server of another program on the socket is left alone."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "csi.sock"))
        other.listen()
        driver = start()
        assert driver.process.wait(30) == 1
        assert "a server answers on it" in driver.events()[-1]["reason"]
        assert driver.socket.exists()


def test_stale_socket_is_replaced(start: Callable[..., Driver]) -> None:
    """After a kill -9 the next driver takes the socket over; no worker was left behind."""
    first = start().started()
    first.controller.DemoteVolume(replication_pb2.DemoteVolumeRequest(**fields()), timeout=10)
    (worker,) = first.workers()
    first.process.kill()
    first.process.wait()
    assert first.socket.exists()
    eventually(lambda: not Path(f"/proc/{worker}").exists())
    start().started()


@pytest.mark.parametrize(
    ("prepare", "sentence"),
    [
        (lambda path: path.write_text("precious"), "is not a socket"),
        (lambda path: path.mkdir(), "is not a socket"),
        (lambda path: path.symlink_to("/dev/null"), "is not a socket"),
    ],
)
def test_path_that_is_no_socket(
    start: Callable[..., Driver], tmp_path: Path, prepare: Callable[[Path], None], sentence: str
) -> None:
    """Whatever else stands at the path is neither removed nor written to."""
    prepare(tmp_path / "csi.sock")
    driver = start()
    assert driver.process.wait(30) == 1
    assert sentence in driver.events()[-1]["reason"]
    assert (tmp_path / "csi.sock").exists()


def test_directory_is_missing(start: Callable[..., Driver], tmp_path: Path) -> None:
    """A missing directory is named."""
    driver = start("--endpoint", f"unix://{tmp_path}/none/csi.sock")
    assert driver.process.wait(30) == 1
    assert f"{tmp_path}/none does not exist" in driver.events()[-1]["reason"]


def test_metrics_port_is_taken(start: Callable[..., Driver]) -> None:
    """A metrics address in use is a reason not to start."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        driver = start("--metrics-address", f"127.0.0.1:{taken.getsockname()[1]}")
        assert driver.process.wait(30) == 1
    assert "--metrics-address 127.0.0.1:" in driver.events()[-1]["reason"]


# --- the process --------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stops_when_idle(driver: Driver, number: signal.Signals) -> None:
    """An idle driver ends at once, with 0, and takes its socket and workers along."""
    driver.controller.DemoteVolume(replication_pb2.DemoteVolumeRequest(**fields()), timeout=10)
    workers = driver.workers()
    assert workers
    driver.process.send_signal(number)
    assert driver.process.wait(30) == 0
    assert not driver.socket.exists()
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert driver.events()[-1]["event"] == "stopped"


@pytest.mark.parametrize("everybody", [False, True], ids=["to the driver", "to the group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_within_a_second_of_the_start(
    tmp_path: Path,
    number: signal.Signals,
    everybody: bool,  # noqa: FBT001 - a table's column
) -> None:
    """No traceback, and no word of libraries that would not load, at whatever moment it comes."""
    configure(tmp_path)
    command = (sys.executable, "-m", "csi_addons_rbd", "serve", "--config-dir", str(tmp_path))
    flags = ("--endpoint", f"unix://{tmp_path}/s", "--driver-name", "rbd.test")
    for tenth in range(2, 11):
        log = tmp_path / f"log.{tenth}"
        with log.open("wb") as stderr:
            driver = subprocess.Popen((*command, *flags), stderr=stderr, start_new_session=True)
            time.sleep(tenth / 10)
            (os.killpg if everybody else os.kill)(driver.pid, number)
            assert driver.wait(30) in (0, -number)
        eventually(lambda group=driver.pid: not members_of(group))
        assert "Traceback" not in log.read_text()
        assert "do not load" not in log.read_text()


def members_of(group: int) -> list[int]:
    """Return the processes of a group."""
    members = []
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(int(each.name)) == group:
                members.append(int(each.name))
    return members


def test_stop_lets_calls_end(start: Callable[..., Driver]) -> None:
    """A call that ends within the grace period is answered; a watcher sees NOT_SERVING."""
    driver = start("--grace", "5").started()
    watch = driver.health.Watch(health_pb2.HealthCheckRequest())
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
    request = replication_pb2.ResyncVolumeRequest(**fields(Pool.LATE))
    call = driver.controller.ResyncVolume.future(request, timeout=10)
    eventually(lambda: bool(driver.workers()))
    driver.process.terminate()
    assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
    watch.cancel()
    assert call.result(10).ready is False
    assert driver.process.wait(30) == 0


def test_stop_by_a_signal_that_another_thread_received(start: Callable[..., Driver]) -> None:
    """The kernel may give a signal to any thread; the one that waits for it must wake up."""
    driver = start().started()
    pid = driver.process.pid
    threads = [int(each.name) for each in Path(f"/proc/{pid}/task").iterdir()]
    other = next(thread for thread in sorted(threads) if thread != pid)
    assert ctypes.CDLL(None).tgkill(pid, other, signal.SIGTERM) == 0
    assert driver.process.wait(10) == 0


def test_stop_of_the_whole_group(start: Callable[..., Driver]) -> None:
    """Some supervisors end the group: a call that still runs has its grace all the same."""
    driver = start("--grace", "5").started()
    request = replication_pb2.ResyncVolumeRequest(**fields(Pool.LATE))
    call = driver.controller.ResyncVolume.future(request, timeout=10)
    eventually(lambda: bool(driver.workers()))
    for pid in (driver.process.pid, *driver.workers()):
        os.kill(pid, signal.SIGTERM)
    assert call.result(10).ready is False
    assert driver.process.wait(30) == 0
    assert not [each for each in driver.events() if each["event"] == "a worker was lost"]


def test_stop_says_why_a_call_is_given_up(start: Callable[..., Driver]) -> None:
    """Its caller is told what happened, and who goes on, before the server cancels it."""
    driver = start("--grace", "2").started()
    request = replication_pb2.DemoteVolumeRequest(**fields(Pool.SILENT))
    call = driver.controller.DemoteVolume.future(request, timeout=30)
    eventually(lambda: bool(driver.workers()))
    driver.process.terminate()
    error = call.exception(30)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert "shutting down" in error.details()
    assert error.details().endswith("the controller retries; nothing to do [UNAVAILABLE]")
    assert driver.process.wait(30) == 0


@pytest.mark.parametrize("environ", [{}, {"STUBBORN": "1"}])
def test_stop_with_a_hung_call(start: Callable[..., Driver], environ: dict[str, str]) -> None:
    """A call that hangs keeps neither the process nor a worker beyond grace plus 2 s."""
    driver = start("--grace", "1", **environ).started()
    request = replication_pb2.DemoteVolumeRequest(**fields(Pool.SILENT))
    with ThreadPoolExecutor(1) as client:
        call = client.submit(driver.controller.DemoteVolume, request, timeout=30)
        eventually(lambda: bool(driver.workers()))
        (worker,) = driver.workers()
        began = time.monotonic()
        driver.process.terminate()
        assert driver.process.wait(30) == 0
        assert time.monotonic() - began < 15
        assert isinstance(call.exception(5), grpc.RpcError)
    assert not driver.socket.exists()
    assert not Path(f"/proc/{worker}").exists()


@pytest.mark.parametrize(
    ("config", "mapping", "named"),
    [
        ([{"clusterID": "a", "monitors": ["v3:x"]}], [{"a": "here"}, {"1": "2"}], "entry 2 (a)"),
        ([{"clusterID": "a", "monitors": []}], [{"a": "here"}, {"1": "2"}], "no monitors yet"),
        ([7], [{"a": "here"}, {"1": "2"}], "entry 2 must be an object"),
        ([], [{"a": "here"}, {"1": "2", "2": "N/A"}], "'N/A'"),
        ([], None, "cluster-mapping.json"),
    ],
)
def test_a_part_that_cannot_be_read_forbids_to_say_absent(
    start: Callable[..., Driver], tmp_path: Path, config: list[Any], mapping: Any, named: str
) -> None:
    """NOT_FOUND on Disable would have the controller drop the finalizers of a living image."""
    here = {"clusterID": "here", "monitors": ["here:6789"]}
    (tmp_path / "config.json").write_text(json.dumps([here, *config]))
    files = {"cluster-mapping.json": "[{"}
    if mapping is not None:
        clusters, pools = mapping
        entry = {"clusterIDMapping": clusters, "RBDPoolIDMapping": [pools]}
        files["cluster-mapping.json"] = json.dumps([entry])
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    driver = start().started()
    volume = ("a", 1) if config else ("here", 2)
    request = replication_pb2.DisableVolumeReplicationRequest(**fields(volume[1], volume[0]))
    with pytest.raises(grpc.RpcError) as caught:
        driver.controller.DisableVolumeReplication(request, timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert named in caught.value.details()
    # where the cluster that cannot be asked may be this site's, the other one is not written to
    asked = "CLUSTER_AMBIGUOUS" if config not in ([], [7]) else "nothing on cluster here"
    assert asked in caught.value.details()
    reading = replication_pb2.GetVolumeReplicationInfoRequest(**fields(volume[1], volume[0]))
    with pytest.raises(grpc.RpcError) as caught:
        driver.controller.GetVolumeReplicationInfo(reading, timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert "nothing on cluster here" in caught.value.details()
    assert named in caught.value.details()
    # what is there is served
    answered = replication_pb2.DisableVolumeReplicationRequest(**fields(Pool.ANSWER))
    driver.controller.DisableVolumeReplication(answered, timeout=10)


def test_an_entry_that_somebody_must_mend(start: Callable[..., Driver], tmp_path: Path) -> None:
    """It is no reason to force a promotion, to which FAILED_PRECONDITION would lead."""
    bad = [{"clusterID": "here", "monitors": ["v3:x"]}]
    (tmp_path / "config.json").write_text(json.dumps(bad))
    stub = start().started().controller
    promote = replication_pb2.PromoteVolumeRequest(**fields())
    demote = replication_pb2.DemoteVolumeRequest(**fields())
    for call, request, code in (
        (stub.PromoteVolume, promote, grpc.StatusCode.UNAVAILABLE),
        (stub.DemoteVolume, demote, grpc.StatusCode.FAILED_PRECONDITION),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call(request, timeout=10)
        assert caught.value.code() is code
        assert "config.json, entry 1 (here): monitors" in caught.value.details()
        assert "'v3:x'" in caught.value.details()


def test_probe_command(start: Callable[..., Driver], tmp_path: Path) -> None:
    """``probe`` says 0 when ready, else 1 and why, on one line."""
    command = (sys.executable, "-m", "csi_addons_rbd", "probe", "--timeout", "3", "--endpoint")

    def probe() -> subprocess.CompletedProcess[str]:
        line = (*command, f"unix://{tmp_path}/csi.sock")
        return subprocess.run(line, capture_output=True, text=True, check=False)

    absent = probe()
    assert (absent.returncode, absent.stderr.count("\n")) == (1, 1)
    (tmp_path / "config.json").rename(tmp_path / "later.json")
    driver = start()
    eventually(lambda: driver.socket.exists() and "not ready" in probe().stderr)
    assert probe().returncode == 1
    (tmp_path / "later.json").rename(tmp_path / "config.json")
    eventually(driver.ready)
    assert (probe().returncode, probe().stderr) == (0, "")


def eventually(check: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until a check holds."""
    until = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < until, "did not come true in time"
        time.sleep(0.02)
