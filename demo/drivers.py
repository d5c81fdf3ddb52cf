# SPDX-License-Identifier: Apache-2.0
"""One driver process per site, and calls on its socket as the controller makes them."""

import sys
import time
import urllib.request
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from csi_addons_rbd._proto import identity_pb2, identity_pb2_grpc
from csi_addons_rbd._proto import replication_pb2 as pb
from csi_addons_rbd._proto import replication_pb2_grpc as services
from demo import processes
from lab import CHECK_INTERVAL, Site
from lab.site import free_port

NAME: Final = "rbd.csi.ceph.com"
DEADLINE: Final = 180
"""Seconds that the controller gives each call."""
RETRIED: Final = ("ABORTED", "UNAVAILABLE")
"""Codes after which the controller makes the same call again."""
_ENDS: Final = ("DemoteVolume", "DisableVolumeReplication")
"""Methods after whose OK a volume is primary no more."""
_PAUSE: Final = 1.5
_READY_BOUND: Final = 20
_LOG_LINES: Final = 10

_T = TypeVar("_T")


class Stuck(Exception):
    """The story cannot go on; the text says at what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a caller got: ``OK`` and a response, or another code with reason and message."""

    code: str
    reason: str = ""
    message: str = ""
    response: Any = None
    seconds: float

    @property
    def short(self) -> str:
        """Code and reason token: what tools read."""
        return f"{self.code} {self.reason}".rstrip()


@dataclass(frozen=True, slots=True)
class Ask:
    """A call that can be made, once or again."""

    title: str
    call: Callable[[], Answer]


class Driver:
    """The driver of one site, as a process of its own."""

    def __init__(self, site: Site, directory: Path) -> None:
        self.site = site
        self.name = site.name.upper()
        self.socket = directory / f"{site.name}.sock"
        self.log = directory / f"{site.name}-driver.log"
        self.texts: list[str] = []
        """Every error text that a caller was shown."""
        self.primaries: set[str] = set()
        """Handles of the volumes that were made primary here, by what was answered."""
        self.port = free_port()
        """Where it serves its metrics."""
        self._process = processes.start(
            [
                *(sys.executable, "-m", "csi_addons_rbd", "serve"),
                *("--endpoint", f"unix://{self.socket}"),
                *("--driver-name", NAME),
                *("--config-dir", str(site.config_dir)),
                *("--metrics-address", f"127.0.0.1:{self.port}"),
                *("--state-check-interval", str(CHECK_INTERVAL)),
                # an audience waits less patiently than a controller
                *("--promote-wait", "20"),
                *("--log-level", "debug", "--log-format", "json"),
            ],
            self.log,
        )
        self._channel = grpc.insecure_channel(f"unix://{self.socket}")
        self._controller = services.ControllerStub(self._channel)
        self._identity = identity_pb2_grpc.IdentityStub(self._channel)

    def wait_ready(self) -> str:
        """Wait until the driver is ready; return its name and version."""
        try:
            poll(self.probe, _READY_BOUND, f"the driver of {self.name} is ready")
        except Stuck as exc:
            raise Stuck(f"{exc}\n{self._log_end()}") from exc
        identity = self._identity.GetIdentity(identity_pb2.GetIdentityRequest(), timeout=5)
        return f"{identity.name} {identity.vendor_version}"

    def probe(self) -> bool:
        """Ask Identity.Probe, as the sidecar does."""
        self.require_running()
        try:
            return bool(self._identity.Probe(identity_pb2.ProbeRequest(), timeout=2).ready.value)
        except grpc.RpcError:
            return False

    def ask(self, method: str, handle: str, **fields: Any) -> Ask:
        """Prepare a call about a volume, with this site's least-privilege secrets."""
        source = pb.ReplicationSource(
            volume=pb.ReplicationSource.VolumeSource(volume_id=handle),
        )
        request = getattr(pb, f"{method}Request")(
            replication_source=source, secrets=self.site.secrets, **fields
        )
        how = " (force)" if fields.get("force") else ""
        return Ask(f"{self.name}  {method}{how}", lambda: self._call(method, handle, request))

    def _call(self, method: str, handle: str, request: Message) -> Answer:
        began = time.monotonic()
        try:
            response = getattr(self._controller, method)(request, timeout=DEADLINE)
        except grpc.RpcError as error:
            seconds, message = time.monotonic() - began, error.details() or ""
            self.require_running()
            self.texts.append(message)
            return Answer(
                code=error.code().name, reason=_reason(error), message=message, seconds=seconds
            )
        if method == "PromoteVolume":
            self.primaries.add(handle)
        elif method in _ENDS:
            self.primaries.discard(handle)
        return Answer(code="OK", response=response, seconds=time.monotonic() - began)

    def metrics(self) -> str:
        """Return what a scrape of /metrics gets."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as page:
            return str(page.read().decode())

    def require_running(self) -> None:
        """Raise when the process has ended by itself, with the end of its log."""
        if self._process.poll() is not None:
            code = self._process.returncode
            raise Stuck(f"the driver of {self.name} ended with {code}\n{self._log_end()}")

    def stop(self) -> int:
        """End the process; return its exit code."""
        self._channel.close()
        return processes.end(self._process)

    def _log_end(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_LOG_LINES:])

    def gone(self) -> bool:
        """Tell whether the driver and its worker processes have ended."""
        return processes.gone(self._process)


def repeat(
    call: Callable[[], Answer],
    *,
    done: Callable[[Answer], bool],
    retried: Collection[str],
    seconds: float,
) -> Iterator[Answer]:
    """Repeat a call, as the controller does, until its answer is as it should be.

    Yields every answer as it comes, the right one last.

    Raises:
        Stuck: an answer came after which the call is not made again, or time is over.
    """
    deadline = time.monotonic() + seconds
    while True:
        answer = call()
        yield answer
        if done(answer):
            return
        if answer.code not in retried:
            raise Stuck(f"the answer is {answer.short}: {answer.message}")
        if time.monotonic() > deadline:
            raise Stuck(f"still {answer.short} after {seconds:.0f} s: {answer.message}")
        time.sleep(_PAUSE)


def poll(probe: Callable[[], _T], seconds: float, what: str, every: float = 0.5) -> _T:
    """Look until something is truthy, and return it."""
    deadline = time.monotonic() + seconds
    while not (seen := probe()):
        if time.monotonic() > deadline:
            raise Stuck(f"not so within {seconds:.0f} s: {what}")
        time.sleep(every)
    return seen


def _reason(error: Any) -> str:
    """Return the reason token that google.rpc.ErrorInfo carries beside the status."""
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status else ():
        if detail.Unpack(info):
            return str(info.reason)
    return ""
