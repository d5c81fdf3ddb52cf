# SPDX-License-Identifier: Apache-2.0
"""What is known of each volume, as metrics: how old its copy is, and whether it can be relied on.

The controller asks GetVolumeReplicationInfo of every primary volume every few minutes or oftener;
its answers are shown here until the next one. No volume is read for the sake of a scrape. A
volume's series go with it: when it is disabled, demoted or gone, when nobody asked for a while,
and, oldest first, when there are too many.
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

KEEP_SECONDS: Final = 15 * 60
"""How long an answer is shown: three of the controller's rounds at their longest."""
MOST: Final = 10_000
"""Volumes that are shown at once."""
_NEVER_SYNCED: Final = "never_synced"
_STATUSES: Final = (*(each.name.lower() for each in Health), _NEVER_SYNCED)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    at: float
    info: ReplicationInfo | None
    """``None`` when no copy was ever completed."""

    @property
    def status(self) -> str:
        return self.info.health.name.lower() if self.info else _NEVER_SYNCED


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
            oldest = self._clock() - KEEP_SECONDS
            self._seen = {name: each for name, each in self._seen.items() if each.at >= oldest}
            seen = dict(self._seen)
        infos = {name: each.info for name, each in seen.items() if each.info is not None}
        yield _status(seen)
        yield _family(
            "last_sync_timestamp_seconds",
            "Until when the peer has everything, in Unix seconds.",
            {name: info.last_sync for name, info in infos.items()},
        )
        yield _family(
            "last_sync_duration_seconds",
            "How long the last snapshot took to be copied.",
            {name: info.last_sync_seconds for name, info in infos.items()},
        )
        yield _family(
            "last_sync_bytes",
            "Bytes of the last snapshot that was copied.",
            {name: info.last_sync_bytes for name, info in infos.items()},
        )
        yield _family(
            "schedule_in_place",
            "1 when the snapshot schedule asked for stands, 0 when it does not yet.",
            {name: info.schedule_in_place for name, info in infos.items()},
        )


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


def _family(name: str, text: str, values: dict[str, int | bool | None]) -> Metric:
    family = GaugeMetricFamily(f"csi_addons_rbd_volume_{name}", text, labels=("volume",))
    for volume, value in values.items():
        if value is not None:
            family.add_metric((volume,), value)
    return family
