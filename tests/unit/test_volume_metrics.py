# SPDX-License-Identifier: Apache-2.0
"""A volume's series: the newest answer, for as long as it is worth showing."""

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from csi_addons_rbd.replication.calls import Health, ReplicationInfo
from csi_addons_rbd.volume_metrics import VolumeMetrics

MINUTE = 60
HOUR = 60 * MINUTE
SYNCED = ReplicationInfo(
    last_sync=1_700_000_000,
    last_sync_seconds=3,
    last_sync_bytes=4096,
    entries_behind=None,
    interval=5 * MINUTE,
    schedule_in_place=False,
    daemon_here=True,
    daemon_there=False,
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
    """Return what a scrape gets: name without prefix, and labels → value."""
    registry = CollectorRegistry()
    registry.register(volumes)
    return {
        (
            sample.name.removeprefix("csi_addons_rbd_volume_"),
            *(
                sample.labels[each]
                for each in ("volume", "status", "site")
                if each in sample.labels
            ),
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
    assert seen["interval_seconds", "a"] == 300
    assert seen["schedule_in_place", "a"] == 0
    assert seen["mirror_daemon_up", "a", "here"] == 1
    assert seen["mirror_daemon_up", "a", "peer"] == 0
    statuses = {key[2]: value for key, value in seen.items() if key[0] == "status"}
    assert statuses == {"healthy": 0, "degraded": 1, "error": 0, "unknown": 0, "never_synced": 0}


def test_what_an_answer_does_not_know_does_not_show() -> None:
    """Journal mode has no schedule, snapshot mode no entries."""
    volumes = VolumeMetrics()
    volumes.note("snapshot", SYNCED)
    volumes.note(
        "journal", replace(SYNCED, entries_behind=7, interval=None, schedule_in_place=None)
    )
    seen = scrape(volumes)
    assert seen["journal_entries_behind", "journal"] == 7
    assert ("journal_entries_behind", "snapshot") not in seen
    assert ("interval_seconds", "journal") not in seen
    assert ("schedule_in_place", "journal") not in seen


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
    clock.now = 15 * MINUTE + 1
    assert not scrape(volumes)


@pytest.mark.parametrize(
    ("info", "every"),
    [
        (replace(SYNCED, interval=10), 10),
        (SYNCED, 2.5 * MINUTE),
        (replace(SYNCED, interval=24 * HOUR), 12 * HOUR),
        (replace(SYNCED, interval=None), HOUR),
        (None, HOUR),
    ],
)
def test_the_series_last_from_one_round_of_the_controller_to_the_next(
    info: ReplicationInfo | None, every: float
) -> None:
    """Two rounds may be missed: the controller asks each half interval, or each hour."""
    clock = Clock()
    volumes = VolumeMetrics(clock=clock)
    volumes.note("a", info)
    clock.now = 2.9 * every
    assert scrape(volumes)
    clock.now = max(3 * every, 15 * MINUTE) + 1
    assert not scrape(volumes)


def test_there_are_never_too_many() -> None:
    """The one that was asked of the longest ago makes way."""
    volumes = VolumeMetrics(most=2)
    for name in ("a", "b", "a", "c"):
        volumes.note(name, SYNCED)
    assert {key[1] for key in scrape(volumes)} == {"a", "c"}
