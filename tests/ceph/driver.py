# SPDX-License-Identifier: Apache-2.0
"""The driver as a process of its own on one site, and its callers."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from csi_addons_rbd._proto import identity_pb2, identity_pb2_grpc, replication_pb2
from csi_addons_rbd._proto import replication_pb2_grpc as services
from lab import CHECK_INTERVAL, LabError, Site

CONTROLLER_DEADLINE = 180
"""Seconds the controller gives each call."""


@dataclass(frozen=True)
class Outcome:
    """What a caller got: ``OK`` and a response, or another code with its reason token."""

    code: str
    reason: str
    message: str
    response: Any
    seconds: float

    @property
    def short(self) -> tuple[str, str]:
        """Code and reason: what a test asserts."""
        return self.code, self.reason


class Driver:
    """One driver process, serving one site."""

    def __init__(self, site: Site, directory: Path, *flags: str) -> None:
        self.site = site
        self.socket = directory / f"{site.name}.sock"
        self.log = directory / f"{site.name}.log"
        self.port = _free_port()
        self._flags = flags
        self.start()

    def start(self) -> None:
        """Start the process and wait until it is ready."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "csi_addons_rbd", "serve"),
                    *("--endpoint", f"unix://{self.socket}"),
                    *("--driver-name", "rbd.csi.ceph.com"),
                    *("--config-dir", str(self.site.config_dir)),
                    *("--metrics-address", f"127.0.0.1:{self.port}"),
                    *("--log-level", "debug", "--log-format", "json"),
                    *("--state-check-interval", str(CHECK_INTERVAL)),
                    *self._flags,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.channel = grpc.insecure_channel(f"unix://{self.socket}")
        self.stub = services.ControllerStub(self.channel)
        self.identity = identity_pb2_grpc.IdentityStub(self.channel)
        poll(self._ready, 20)

    def stop(self) -> int:
        """End the process by SIGTERM and return its exit code."""
        self.channel.close()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)

    def workers(self) -> list[int]:
        """Return the pids of the processes that talk to Ceph."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        lines = {int(each): Path(f"/proc/{each}/cmdline").read_bytes() for each in children}
        return [each for each, line in lines.items() if b"spawn_main" in line]

    def metrics(self) -> str:
        """Return what a scrape gets."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as page:
            return str(page.read().decode())

    def call(
        self, method: str, handle: str, *, timeout: float = CONTROLLER_DEADLINE, **fields: Any
    ) -> Outcome:
        """Make one call as the sidecar would, with this site's secrets unless others are given."""
        fields.setdefault("secrets", self.site.secrets)
        request = getattr(replication_pb2, f"{method}Request")(
            replication_source=replication_pb2.ReplicationSource(
                volume=replication_pb2.ReplicationSource.VolumeSource(volume_id=handle)
            ),
            **fields,
        )
        began = time.monotonic()
        try:
            response = getattr(self.stub, method)(request, timeout=timeout)
        except grpc.RpcError as error:
            seconds = time.monotonic() - began
            return Outcome(error.code().name, _reason(error), error.details(), None, seconds)
        return Outcome("OK", "", "", response, time.monotonic() - began)

    # --- the calls, by what one says of them -----------------------------------------------

    def enable(self, handle: str, **parameters: str) -> Outcome:
        """EnableVolumeReplication."""
        return self.call("EnableVolumeReplication", handle, parameters=parameters)

    def disable(self, handle: str, **parameters: str) -> Outcome:
        """DisableVolumeReplication."""
        return self.call("DisableVolumeReplication", handle, parameters=parameters)

    def promote(self, handle: str, *, force: bool = False, **parameters: str) -> Outcome:
        """PromoteVolume."""
        return self.call("PromoteVolume", handle, force=force, parameters=parameters)

    def demote(self, handle: str) -> Outcome:
        """DemoteVolume."""
        return self.call("DemoteVolume", handle)

    def resync(self, handle: str, *, force: bool = False, **parameters: str) -> Outcome:
        """ResyncVolume."""
        return self.call("ResyncVolume", handle, force=force, parameters=parameters)

    def info(self, handle: str) -> Outcome:
        """GetVolumeReplicationInfo."""
        return self.call("GetVolumeReplicationInfo", handle)

    def destination(self, handle: str) -> Outcome:
        """GetReplicationDestinationInfo."""
        return self.call("GetReplicationDestinationInfo", handle)

    def _ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-2000:]
        try:
            return bool(self.identity.Probe(identity_pb2.ProbeRequest(), timeout=2).ready.value)
        except grpc.RpcError:
            return False


def poll(done: Any, seconds: float, every: float = 0.3) -> Any:
    """Look until something is truthy, and return it; a deadline makes the test fail."""
    deadline = time.monotonic() + seconds
    while not (seen := done()):
        assert time.monotonic() < deadline, f"not so within {seconds} s; last seen: {seen!r}"
        time.sleep(every)
    return seen


def settled(call: Any, *, codes: tuple[str, ...] = ("OK",), seconds: float = 150) -> Outcome:
    """Repeat a call as the controller does, while its answer says that waiting is right."""
    deadline = time.monotonic() + seconds
    while (outcome := call()).code in ("ABORTED", "UNAVAILABLE") and outcome.code not in codes:
        assert time.monotonic() < deadline, outcome
        time.sleep(0.5)
    assert outcome.code in codes, outcome
    return outcome


def mirror_status(site: Site, image: str) -> dict[str, Any]:
    """Read an image's mirroring as an administrator sees it, or nothing before it is mirrored."""
    try:
        text = site.rbd("mirror", "image", "status", f"{site.pool}/{image}", "--format", "json")
    except LabError:
        return {}
    status: dict[str, Any] = json.loads(text)
    return status


def _reason(error: Any) -> str:
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status else ():
        if detail.Unpack(info):
            return str(info.reason)
    return ""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
