# SPDX-License-Identifier: Apache-2.0
"""What is known of each volume, as metrics: how old its copy is, and whether it can be relied on.

The controller asks GetVolumeReplicationInfo of every primary volume again and again; its answers
are shown here until the next one. No volume is read for the sake of a scrape. A volume's series
go with it: when it is disabled, demoted or gone, when nobody asked for three of the controller's
rounds, and, oldest first, when there are too many.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from csi_addons_rbd.replication.calls import Health, ReplicationInfo

_HOUR: Final = 60 * 60
_ROUNDS: Final = 3
"""Rounds of the controller for which an answer is shown."""
_KEEP_AT_LEAST: Final = 15 * 60
MOST: Final = 10_000
"""Volumes that are shown at once."""
_NEVER_SYNCED: Final = "never_synced"
_STATUSES: Final = (*(each.name.lower() for each in Health), _NEVER_SYNCED)
_FACTS: Final[tuple[tuple[str, str, Callable[[ReplicationInfo], float | None]], ...]] = (
    (
        "last_sync_timestamp_seconds",
        "Until when the peer has everything, in Unix seconds.",
        lambda info: info.last_sync,
    ),
    (
        "last_sync_duration_seconds",
        "How long the last snapshot took to be copied.",
        lambda info: info.last_sync_seconds,
    ),
    (
        "last_sync_bytes",
        "Bytes of the last snapshot that was copied.",
        lambda info: info.last_sync_bytes,
    ),
    (
        "journal_entries_behind",
        "Journal mode: entries that the peer has still to replay.",
        lambda info: info.entries_behind,
    ),
    (
        "interval_seconds",
        "Seconds between two snapshots, as asked for.",
        lambda info: info.interval,
    ),
    (
        "schedule_in_place",
        "1 when the snapshot schedule asked for stands, 0 when it does not yet.",
        lambda info: info.schedule_in_place,
    ),
)
"""What is shown of an answer, each under its name, where it has a value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    at: float
    info: ReplicationInfo | None
    """``None`` when no copy was ever completed."""

    @property
    def status(self) -> str:
        return self.info.health.name.lower() if self.info else _NEVER_SYNCED

    @property
    def until(self) -> float:
        """When to show it no longer.

        The controller asks each half interval, and each hour where the class has none.
        """
        interval = self.info.interval if self.info else None
        return self.at + max(_KEEP_AT_LEAST, _ROUNDS * (interval / 2 if interval else _HOUR))


class VolumeMetrics(Collector):
    """The newest answer about each volume. Every method may be called from any thread."""

    def __init__(self, *, most: int = MOST, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}

    def note(self, volume: str, info: ReplicationInfo | None) -> None:
        """Show an answer about a primary; ``None`` when it was never synced."""
        with self._lock:
            self._seen.pop(volume, None)  # so that the newest stands last
            self._seen[volume] = _Seen(at=self._clock(), info=info)
            if len(self._seen) > self._most:
                del self._seen[next(iter(self._seen))]

    def forget(self, volume: str) -> None:
        """Show a volume no longer: it is not primary here, not mirrored, or gone."""
        with self._lock:
            self._seen.pop(volume, None)

    def collect(self) -> Iterable[Metric]:
        """Build the families of one scrape."""
        with self._lock:
            now = self._clock()
            self._seen = {name: each for name, each in self._seen.items() if each.until >= now}
            seen = dict(self._seen)
        infos = {name: each.info for name, each in seen.items() if each.info is not None}
        yield _status(seen)
        yield _daemons(infos)
        for fact, text, read in _FACTS:
            yield _family(fact, text, {name: read(info) for name, info in infos.items()})


def _status(seen: dict[str, _Seen]) -> Metric:
    family = GaugeMetricFamily(
        "csi_addons_rbd_volume_status",
        "1 for the status that GetVolumeReplicationInfo answered last, 0 for the others.",
        labels=("volume", "status"),
    )
    for name, each in seen.items():
        for status in _STATUSES:
            family.add_metric((name, status), float(status == each.status))
    return family


def _daemons(infos: dict[str, ReplicationInfo]) -> Metric:
    family = GaugeMetricFamily(
        "csi_addons_rbd_volume_mirror_daemon_up",
        "1 when rbd-mirror of the site (here or peer) reports on the volume, 0 when it is down or "
        "silent.",
        labels=("volume", "site"),
    )
    for name, info in infos.items():
        family.add_metric((name, "here"), info.daemon_here)
        family.add_metric((name, "peer"), info.daemon_there)
    return family


def _family(name: str, text: str, values: dict[str, float | None]) -> Metric:
    family = GaugeMetricFamily(f"csi_addons_rbd_volume_{name}", text, labels=("volume",))
    for volume, value in values.items():
        if value is not None:
            family.add_metric((volume,), value)
    return family
