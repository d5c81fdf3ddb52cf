# SPDX-License-Identifier: Apache-2.0
"""A volume's series: the newest answer, for as long as it is worth showing."""

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from csi_addons_rbd.replication.calls import Health, ReplicationInfo
from csi_addons_rbd.volume_metrics import KEEP_SECONDS, VolumeMetrics

SYNCED = ReplicationInfo(
    last_sync=1_700_000_000,
    last_sync_seconds=3,
    last_sync_bytes=4096,
    schedule_in_place=False,
    health=Health.DEGRADED,
    message="the copy is 3 minutes old",
)


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


def scrape(volumes: VolumeMetrics) -> dict[tuple[str, ...], float]:
    """Return what a scrape gets: name without prefix, volume and, if any, status → value."""
    registry = CollectorRegistry()
    registry.register(volumes)
    return {
        (
            sample.name.removeprefix("csi_addons_rbd_volume_"),
            *(sample.labels[label] for label in ("volume", "status") if label in sample.labels),
        ): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }


def test_an_answer_shows() -> None:
    """Every fact, and one status of five."""
    volumes = VolumeMetrics()
    volumes.note("a", SYNCED)
    seen = scrape(volumes)
    assert seen["last_sync_timestamp_seconds", "a"] == 1_700_000_000
    assert seen["last_sync_duration_seconds", "a"] == 3
    assert seen["last_sync_bytes", "a"] == 4096
    assert seen["schedule_in_place", "a"] == 0
    statuses = {key[2]: value for key, value in seen.items() if key[0] == "status"}
    assert statuses == {"healthy": 0, "degraded": 1, "error": 0, "unknown": 0, "never_synced": 0}


def test_a_volume_without_a_copy_shows_its_status_alone() -> None:
    """No zero that would read as a time."""
    volumes = VolumeMetrics()
    volumes.note("a", None)
    seen = scrape(volumes)
    assert seen["status", "a", "never_synced"] == 1
    assert {key[0] for key in seen} == {"status"}


def test_the_series_go_with_the_volume() -> None:
    """And when nobody asks any more."""
    clock = Clock()
    volumes = VolumeMetrics(clock=clock)
    volumes.note("disabled", SYNCED)
    volumes.note("left alone", SYNCED)
    volumes.forget("disabled")
    volumes.forget("never seen")
    assert {key[1] for key in scrape(volumes)} == {"left alone"}
    clock.now = KEEP_SECONDS + 1
    assert not scrape(volumes)


def test_there_are_never_too_many() -> None:
    """The one that was asked of the longest ago makes way."""
    volumes = VolumeMetrics(most=2)
    for name in ("a", "b", "a", "c"):
        volumes.note(name, SYNCED)
    assert {key[1] for key in scrape(volumes)} == {"a", "c"}
