# SPDX-License-Identifier: Apache-2.0
"""The caller's side of one driver's socket: calls as the csi-addons controller makes them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from csi_addons_conformance._proto import identity_pb2, identity_pb2_grpc
from csi_addons_conformance._proto import replication_pb2 as pb
from csi_addons_conformance._proto import replication_pb2_grpc as services

DEADLINE: Final = 180
"""Seconds that the controller gives each call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a caller got: ``OK`` and a response, or another code with its texts."""

    method: str
    code: str
    reason: str = ""
    """The token of ``google.rpc.ErrorInfo``; empty when none came."""
    domain: str = ""
    message: str = ""
    response: Any = None
    seconds: float

    def __str__(self) -> str:
        """Return the words that reports use."""
        words = f"{self.method} {self.code}"
        if self.reason:
            words += f" ({self.reason})"
        if self.message:
            words += f": {self.message}"
        return f"{words} after {self.seconds:.1f} s"

    @property
    def ready(self) -> bool:
        """Whether a resync answered ``ready=true``."""
        return self.code == "OK" and bool(self.response.ready)

    @property
    def destination(self) -> str:
        """The handle that GetReplicationDestinationInfo answered."""
        return str(self.response.replication_destination.volume.volume_id)


class Client:
    """Calls on one driver's socket, with the secrets of its site unless others are given."""

    def __init__(self, endpoint: str, secrets: Mapping[str, str]) -> None:
        self.endpoint = endpoint
        self.secrets = dict(secrets)
        self.channel = grpc.insecure_channel(
            endpoint,
            # a driver that was restarted is found again at once
            options=(
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
            ),
        )
        self._controller = services.ControllerStub(self.channel)
        self.identity = identity_pb2_grpc.IdentityStub(self.channel)

    def call(
        self, method: str, handle: str, *, timeout: float | None = DEADLINE, **fields: Any
    ) -> Answer:
        """Make one call about a volume; ``timeout`` in seconds."""
        fields.setdefault("secrets", self.secrets)
        fields.setdefault("replication_source", source(handle))
        return self.send(method, getattr(pb, f"{method}Request")(**fields), timeout=timeout)

    def send(self, method: str, request: Message, *, timeout: float | None = DEADLINE) -> Answer:
        """Send a request as it is."""
        return self._measure(method, getattr(self._controller, method), request, timeout)

    def probe(self, timeout: float = 5) -> Answer:
        """Ask Identity.Probe."""
        return self._measure("Probe", self.identity.Probe, identity_pb2.ProbeRequest(), timeout)

    def _measure(self, method: str, stub: Any, request: Message, timeout: float | None) -> Answer:
        began = time.monotonic()
        try:
            response = stub(request, timeout=timeout)
        except grpc.RpcError as error:
            reason, domain = _error_info(error)
            return Answer(
                method=method,
                code=error.code().name,
                reason=reason,
                domain=domain,
                message=error.details() or "",
                seconds=time.monotonic() - began,
            )
        return Answer(method=method, code="OK", response=response, seconds=time.monotonic() - began)

    # --- the calls, by what one says of them ---------------------------------------------------

    def enable(self, handle: str, **parameters: str) -> Answer:
        """EnableVolumeReplication."""
        return self.call("EnableVolumeReplication", handle, parameters=parameters)

    def disable(self, handle: str, **parameters: str) -> Answer:
        """DisableVolumeReplication."""
        return self.call("DisableVolumeReplication", handle, parameters=parameters)

    def promote(self, handle: str, *, force: bool = False, **parameters: str) -> Answer:
        """PromoteVolume."""
        return self.call("PromoteVolume", handle, force=force, parameters=parameters)

    def demote(self, handle: str, **parameters: str) -> Answer:
        """DemoteVolume."""
        return self.call("DemoteVolume", handle, parameters=parameters)

    def resync(self, handle: str, *, force: bool = False, **parameters: str) -> Answer:
        """ResyncVolume."""
        return self.call("ResyncVolume", handle, force=force, parameters=parameters)

    def info(self, handle: str) -> Answer:
        """GetVolumeReplicationInfo."""
        return self.call("GetVolumeReplicationInfo", handle)

    def destination(self, handle: str) -> Answer:
        """GetReplicationDestinationInfo."""
        return self.call("GetReplicationDestinationInfo", handle)


METHODS: Final = (
    "EnableVolumeReplication",
    "DisableVolumeReplication",
    "PromoteVolume",
    "DemoteVolume",
    "ResyncVolume",
    "GetVolumeReplicationInfo",
    "GetReplicationDestinationInfo",
)


def source(handle: str) -> pb.ReplicationSource:
    """Name a volume as callers since July 2026 do."""
    return pb.ReplicationSource(volume=pb.ReplicationSource.VolumeSource(volume_id=handle))


def _error_info(error: Any) -> tuple[str, str]:
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status else ():
        if detail.Unpack(info):
            return str(info.reason), str(info.domain)
    return "", ""
