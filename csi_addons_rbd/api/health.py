# SPDX-License-Identifier: Apache-2.0
"""The standard health service.

grpc's own holds a lock while it sends to a watcher, and takes the same lock in the thread that
serves all calls when a watcher leaves: one that came while another one left stopped the whole
server for good (seen with grpcio-health-checking 1.85, Watch without blocking).
"""

import threading
from collections.abc import Iterable, Iterator

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from csi_addons_rbd.api.parameters import short
from csi_addons_rbd.replication.errors import UnknownService


class Health(health_pb2_grpc.HealthServicer):
    """Says of each service whether it is served; nothing is sent while a lock is held."""

    def __init__(self, services: Iterable[str]) -> None:
        self._changed = threading.Condition()
        self._status: dict[str, int] = dict.fromkeys(
            services, health_pb2.HealthCheckResponse.UNKNOWN
        )

    def set_all(self, status: int) -> None:
        """Set the status of every service, and tell who watches."""
        with self._changed:
            self._status = dict.fromkeys(self._status, status)
            self._changed.notify_all()

    def Check(  # noqa: N802 - the protocol's name
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        """Return the status of a service.

        Raises:
            UnknownService: the driver has no such service.
        """
        del context
        with self._changed:
            status = self._status.get(request.service)
        if status is None:
            raise UnknownService(
                f"service {short(request.service)} is not known; accepted are those that "
                "reflection lists, or none for the driver as a whole"
            )
        return health_pb2.HealthCheckResponse(status=status)

    def Watch(  # noqa: N802 - the protocol's name
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> Iterator[health_pb2.HealthCheckResponse]:
        """Yield the status of a service, and again whenever it changes."""
        context.add_callback(self._wake)
        told: int | None = None
        while context.is_active():
            told = self._await_news(request.service, told, context)
            yield health_pb2.HealthCheckResponse(status=told)

    def _await_news(self, service: str, told: int | None, context: grpc.ServicerContext) -> int:
        """Wait until the status is another than was told, or nobody is there to be told."""
        with self._changed:
            while (status := self._seen(service)) == told and context.is_active():
                self._changed.wait()
        return status

    def _seen(self, service: str) -> int:
        return self._status.get(service, health_pb2.HealthCheckResponse.SERVICE_UNKNOWN)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
