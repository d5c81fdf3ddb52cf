# SPDX-License-Identifier: Apache-2.0
"""The client of ``csi-addons-rbd probe``: asks a running driver whether it is ready."""

from pathlib import Path

import grpc

from csi_addons_rbd._proto import identity_pb2, identity_pb2_grpc


def trouble(endpoint: Path, timeout: float) -> str:
    """Return why the driver on this socket is not ready; nothing when it is."""
    with grpc.insecure_channel(f"unix://{endpoint}") as channel:
        stub = identity_pb2_grpc.IdentityStub(channel)
        try:
            response = stub.Probe(identity_pb2.ProbeRequest(), timeout=timeout)
        except grpc.RpcError as exc:
            return f"the driver on {endpoint} does not answer: {exc.details()}"
    if not response.ready.value:
        return f"the driver on {endpoint} is not ready; its log says why"
    return ""
