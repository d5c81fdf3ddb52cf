# SPDX-License-Identifier: Apache-2.0
"""The metrics and their endpoint."""

import urllib.request

import pytest
from prometheus_client import generate_latest

from csi_addons_rbd.config import Address
from csi_addons_rbd.metrics import Metrics


@pytest.fixture
def metrics() -> Metrics:
    """Metrics of a driver that has seen nothing."""
    return Metrics(version="1.2.3", driver_name="rbd.test")


def test_series_begin_at_zero(metrics: Metrics) -> None:
    """Every expected series exists before anything happened."""
    metrics.expect_calls(("/x/Y",), ("OK", "ABORTED"))
    metrics.expect_clusters(("here",))
    text = generate_latest(metrics.registry).decode()
    for series in (
        'csi_addons_rbd_calls_total{code="OK",method="/x/Y"} 0.0',
        'csi_addons_rbd_calls_total{code="ABORTED",method="/x/Y"} 0.0',
        'csi_addons_rbd_call_seconds_count{code="OK",method="/x/Y"} 0.0',
        'csi_addons_rbd_calls_in_flight{method="/x/Y"} 0.0',
        'csi_addons_rbd_worker_starts_total{cluster="here"} 0.0',
        'csi_addons_rbd_worker_losses_total{cluster="here"} 0.0',
        'csi_addons_rbd_cluster_silent{cluster="here"} 0.0',
        'csi_addons_rbd_cluster_connections{cluster="here"} 0.0',
        'csi_addons_rbd_cluster_last_answer_timestamp_seconds{cluster="here"} 0.0',
        'csi_addons_rbd_operations_running{cluster="here",operation="promote"} 0.0',
        'csi_addons_rbd_build_info{driver_name="rbd.test",version="1.2.3"} 1.0',
    ):
        assert series in text
    assert "_created" not in text


def test_endpoint(metrics: Metrics) -> None:
    """The endpoint serves them, and those of the process, on the port that it names."""
    port = metrics.serve(Address(host="127.0.0.1", port=0))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as response:
        text = response.read().decode()
    assert "csi_addons_rbd_build_info" in text
    assert "process_resident_memory_bytes" in text


def test_taken_port(metrics: Metrics) -> None:
    """A port that is in use is an error of the system."""
    port = metrics.serve(Address(host="127.0.0.1", port=0))
    with pytest.raises(OSError, match="in use"):
        metrics.serve(Address(host="127.0.0.1", port=port))
