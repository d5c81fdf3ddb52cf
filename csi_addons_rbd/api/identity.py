# SPDX-License-Identifier: Apache-2.0
"""The Identity service: who this is, what it can do, whether it is ready.

Nothing here asks a cluster, so that no dead cluster ever makes the driver look dead.
"""

from collections.abc import Callable
from typing import Final

import grpc
from google.protobuf.wrappers_pb2 import BoolValue

from csi_addons_rbd._proto import identity_pb2 as pb
from csi_addons_rbd._proto import identity_pb2_grpc

_Service: Final = pb.Capability.Service
_VolumeReplication: Final = pb.Capability.VolumeReplication


class Identity(identity_pb2_grpc.IdentityServicer):
    """The three calls of ``identity.Identity``.

    Args:
        name: The driver's name.
        version: The driver's version.
        ceph_client: Tells the versions of the Ceph libraries; empty until they are known.
        ready: Tells whether replication calls can be served.
    """

    def __init__(
        self, *, name: str, version: str, ceph_client: Callable[[], str], ready: Callable[[], bool]
    ) -> None:
        self._name = name
        self._version = version
        self._ceph_client = ceph_client
        self._ready = ready

    def GetIdentity(  # noqa: N802 - gRPC's name
        self, request: pb.GetIdentityRequest, context: grpc.ServicerContext
    ) -> pb.GetIdentityResponse:
        """Name the driver, its version, and what it is built on."""
        del request, context
        manifest = {"build": self._version, "ceph_client": self._ceph_client() or "unknown"}
        return pb.GetIdentityResponse(
            name=self._name, vendor_version=self._version, manifest=manifest
        )

    def GetCapabilities(  # noqa: N802 - gRPC's name
        self, request: pb.GetCapabilitiesRequest, context: grpc.ServicerContext
    ) -> pb.GetCapabilitiesResponse:
        """List what the controller may ask of this driver."""
        del request, context
        return pb.GetCapabilitiesResponse(
            capabilities=(
                pb.Capability(service=_Service(type=_Service.CONTROLLER_SERVICE)),
                pb.Capability(
                    volume_replication=_VolumeReplication(
                        type=_VolumeReplication.VOLUME_REPLICATION
                    )
                ),
                pb.Capability(
                    volume_replication=_VolumeReplication(
                        type=_VolumeReplication.GET_REPLICATION_DESTINATION_INFO
                    )
                ),
            )
        )

    def Probe(  # noqa: N802 - gRPC's name
        self, request: pb.ProbeRequest, context: grpc.ServicerContext
    ) -> pb.ProbeResponse:
        """Tell whether the driver is ready; never an error, at which the sidecar would exit."""
        del request, context
        return pb.ProbeResponse(ready=BoolValue(value=self._ready()))
