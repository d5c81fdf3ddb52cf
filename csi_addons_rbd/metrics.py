# SPDX-License-Identifier: Apache-2.0
"""The metric objects and their endpoint.

Series exist at zero from the start, so that a rate over the first failure is not lost. Volumes
show in ``volume_metrics.py`` alone; no label ever holds a key.
"""

from collections.abc import Iterable
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)

from csi_addons_rbd.config import Address
from csi_addons_rbd.replication.calls import OPERATIONS, Beat, RunningOperations
from csi_addons_rbd.volume_metrics import VolumeMetrics

_SECONDS: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 45, 60, 120, 180)
"""From a pooled read (tens of milliseconds) to the controller's own deadline."""


class Metrics:
    """One registry, and the metrics of this process in it."""

    def __init__(self, *, version: str, driver_name: str) -> None:
        # a time of creation beside each of some hundred series says nothing here
        disable_created_metrics()  # type: ignore[no-untyped-call] # the library's own gap
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.calls = Counter(
            "csi_addons_rbd_calls",
            "Calls answered, by method and gRPC code.",
            ("method", "code"),
            registry=self.registry,
        )
        self.call_seconds = Histogram(
            "csi_addons_rbd_call_seconds",
            "Time until a call was answered, by method and gRPC code.",
            ("method", "code"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.calls_in_flight = Gauge(
            "csi_addons_rbd_calls_in_flight",
            "Calls being answered.",
            ("method",),
            registry=self.registry,
        )
        self.worker_starts = Counter(
            "csi_addons_rbd_worker_starts",
            "Worker processes started, by the cluster id they were started for.",
            ("cluster",),
            registry=self.registry,
        )
        self.worker_losses = Counter(
            "csi_addons_rbd_worker_losses",
            "Worker processes that ended by themselves.",
            ("cluster",),
            registry=self.registry,
        )
        self.cluster_silent = Gauge(
            "csi_addons_rbd_cluster_silent",
            "1 while a part of the cluster does not answer and calls are refused at once.",
            ("cluster",),
            registry=self.registry,
        )
        self.cluster_answered = Gauge(
            "csi_addons_rbd_cluster_last_answer_timestamp_seconds",
            "When the cluster answered last, in Unix seconds; 0 when it was never asked.",
            ("cluster",),
            registry=self.registry,
        )
        self.cluster_connections = Gauge(
            "csi_addons_rbd_cluster_connections",
            "Connections to the cluster that are open; calls share them.",
            ("cluster",),
            registry=self.registry,
        )
        self.operations_running = Gauge(
            "csi_addons_rbd_operations_running",
            "Operations that hold an image, whether or not a caller still waits.",
            ("cluster", "operation"),
            registry=self.registry,
        )
        self.operation_oldest_seconds = Gauge(
            "csi_addons_rbd_operation_oldest_seconds",
            "Age of the oldest of them.",
            ("cluster", "operation"),
            registry=self.registry,
        )
        self.config_reload_failures = Counter(
            "csi_addons_rbd_config_reload_failures",
            "Changes of a configuration file that could not be used.",
            ("file",),
            registry=self.registry,
        )
        self.config_entries_ignored = Gauge(
            "csi_addons_rbd_config_entries_ignored",
            "Parts of a configuration file that cannot be read and are left out.",
            ("file",),
            registry=self.registry,
        )
        self.volumes = VolumeMetrics()
        self.registry.register(self.volumes)
        Info("csi_addons_rbd_build", "What is running.", registry=self.registry).info(
            {"version": version, "driver_name": driver_name}
        )

    def expect_calls(self, methods: Iterable[str], codes: Iterable[str]) -> None:
        """Create the series of these methods at zero."""
        codes = tuple(codes)
        for method in methods:
            # those of other codes come with their first call: seventeen series each
            self.call_seconds.labels(method, "OK")
            self.calls_in_flight.labels(method)
            for code in codes:
                self.calls.labels(method, code)

    def expect_clusters(self, clusters: Iterable[str]) -> None:
        """Create the series of these clusters' workers at zero."""
        for cluster in clusters:
            self.worker_starts.labels(cluster)
            self.worker_losses.labels(cluster)
            self.cluster_answered.labels(cluster)
            self.show(cluster, None)

    def show(self, cluster: str, beat: Beat | None) -> None:
        """Show what a cluster's worker told last; nothing runs where there is no worker."""
        self.cluster_silent.labels(cluster).set(beat.silent if beat else 0)
        self.cluster_connections.labels(cluster).set(beat.connections if beat else 0)
        if beat and beat.answered:
            self.cluster_answered.labels(cluster).set(beat.answered)
        self._show_operations(cluster, beat.operations if beat else ())

    def _show_operations(self, cluster: str, running: Iterable[RunningOperations]) -> None:
        by_name = {each.name: each for each in running}
        for name in OPERATIONS:
            each = by_name.get(name)
            labels = (cluster, name)
            self.operations_running.labels(*labels).set(each.count if each else 0)
            self.operation_oldest_seconds.labels(*labels).set(each.oldest if each else 0)

    def expect_files(self, files: Iterable[str]) -> None:
        """Create the series of these configuration files at zero."""
        for file in files:
            self.config_reload_failures.labels(file)
            self.config_entries_ignored.labels(file)

    def serve(self, address: Address) -> int:
        """Serve the metrics over HTTP from a thread, and return the port.

        Raises:
            OSError: the address cannot be bound.
        """
        server, _ = start_http_server(address.port, address.host, registry=self.registry)
        return server.server_port
