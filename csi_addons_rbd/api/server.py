# SPDX-License-Identifier: Apache-2.0
"""Bind the Unix socket, register the services, serve until told to stop, drain.

A synchronous server on a pool of threads: librbd has no asynchronous form of the calls that
matter here, so one plain function a call says best what happens.
"""

from typing import Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from csi_addons_rbd._proto import (
    identity_pb2,
    identity_pb2_grpc,
    replication_pb2,
    replication_pb2_grpc,
)
from csi_addons_rbd.api.controller import Controller
from csi_addons_rbd.api.health import Health
from csi_addons_rbd.api.identity import Identity
from csi_addons_rbd.api.interceptor import CODES, CallInterceptor
from csi_addons_rbd.api.socket_file import SocketFile
from csi_addons_rbd.api.streams import StreamInterceptor
from csi_addons_rbd.api.threads import Threads
from csi_addons_rbd.config import Config
from csi_addons_rbd.metrics import Metrics

_BURST: Final = 8
_SPARE_THREADS: Final = 16
"""For calls that are refused, as too many run; Identity, health and reflection have their own."""

_SERVICES: Final = (
    identity_pb2.DESCRIPTOR.services_by_name["Identity"],
    replication_pb2.DESCRIPTOR.services_by_name["Controller"],
)
_NAMES: Final = tuple(service.full_name for service in _SERVICES)


class Server:
    """The gRPC server on its socket.

    Raises:
        CannotStartError: the socket cannot be had.
    """

    def __init__(
        self, config: Config, *, identity: Identity, controller: Controller, metrics: Metrics
    ) -> None:
        self._socket = SocketFile(config.endpoint)
        threads = config.max_calls + _SPARE_THREADS
        self._server = grpc.server(
            Threads(threads, "call"),
            interceptors=[
                StreamInterceptor(),
                CallInterceptor(
                    domain=config.driver_name, max_calls=config.max_calls, metrics=metrics
                ),
            ],
            # a second server must not share the address silently
            options=[("grpc.so_reuseport", 0)],
            # far above the interceptor's own limit: what it refuses frees its thread at once, and
            # a burst of such calls must not get Probe refused, at which the sidecar would exit
            maximum_concurrent_rpcs=_BURST * threads,
        )
        self._health = Health(("", *_NAMES))
        identity_pb2_grpc.add_IdentityServicer_to_server(identity, self._server)
        replication_pb2_grpc.add_ControllerServicer_to_server(controller, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (*_NAMES, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )
        metrics.expect_calls(
            (
                f"/{service.full_name}/{method.name}"
                for service in _SERVICES
                for method in service.methods
            ),
            (code.name for code in CODES),
        )

    def start(self) -> None:
        """Bind and serve.

        Raises:
            CannotStartError: the socket cannot be bound.
        """
        with self._socket.binding() as address:
            self._server.add_insecure_port(address)
        self._health.set_all(health_pb2.HealthCheckResponse.SERVING)
        self._server.start()

    def stop(self, grace: float) -> None:
        """Say NOT_SERVING, refuse new calls, give running ones ``grace`` seconds; then return.

        Handlers that still hang are left behind: only the end of the process ends those.
        """
        self._health.set_all(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._server.stop(grace).wait(grace + 0.5)
        self._socket.remove()
