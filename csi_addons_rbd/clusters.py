# SPDX-License-Identifier: Apache-2.0
"""config.json and cluster-mapping.json: where a volume handle may lead.

Both files are the ones that ceph-csi, Rook and ceph-csi-operator mount already. They are read
at each use and parsed when their content changed; one that is broken or half written leaves
the last good version in use, which is logged and counted once per change.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Generic, TypeAlias, TypeVar

import structlog

from csi_addons_rbd.cluster_files import (
    Cluster,
    MalformedFileError,
    SitePairs,
    parse_config,
    parse_mapping,
)
from csi_addons_rbd.config import CONFIG_FILE, MAPPING_FILE
from csi_addons_rbd.metrics import Metrics
from csi_addons_rbd.replication.calls import Place
from csi_addons_rbd.replication.errors import ClusterNotConfigured
from csi_addons_rbd.replication.volume_id import VolumeId

_log = structlog.get_logger(__name__)
_T = TypeVar("_T")
_Spot: TypeAlias = tuple[str, int]
"""A cluster id and a pool id in it."""


class ClusterMap:
    """Both files, always as they are now. Every method may be called from any thread."""

    def __init__(self, directory: Path, metrics: Metrics) -> None:
        self._config = _Watched(directory / CONFIG_FILE, parse_config, metrics, absent=None)
        self._mapping = _Watched[tuple[SitePairs, ...]](
            directory / MAPPING_FILE, parse_mapping, metrics, absent=()
        )

    @property
    def loaded(self) -> bool:
        """Whether config.json was read at least once."""
        return self._config.current() is not None

    @property
    def names(self) -> tuple[str, ...]:
        """The cluster ids of config.json."""
        return tuple(self._config.current() or ())

    def places(self, volume: VolumeId) -> tuple[Place, ...]:
        """Return where the volume may lie: the handle's own pool, then the mapped ones.

        Raises:
            ClusterNotConfigured: none of them is configured here.
        """
        clusters = self._clusters()
        spots = ((volume.cluster, volume.pool), *self._mapped(volume.cluster, volume.pool))
        places = tuple(
            Place(
                cluster=cluster,
                monitors=clusters[cluster].monitors,
                pool=pool,
                namespace=clusters[cluster].namespace,
            )
            for cluster, pool in spots
            if cluster in clusters and clusters[cluster].monitors
        )
        if not places:
            raise ClusterNotConfigured(
                f"cluster {volume.cluster!r}, pool {volume.pool} of volume {volume} is neither in "
                f"{self._config.path} (with monitors) nor mapped by {self._mapping.path} to one "
                "that is; add it to either file"
            )
        return places

    def destination(self, *, cluster: str, pool: int, pool_name: str, volume: VolumeId) -> VolumeId:
        """Return the handle by which the peer site knows a volume found in this pool.

        Raises:
            ClusterNotConfigured: ``replicationDestination`` names no cluster.
        """
        mapped = self._mapped(cluster, pool)
        entry = self._clusters().get(cluster)
        if entry is None or entry.destination is None:
            there, pool_there = mapped[0] if mapped else (cluster, pool)
            return volume.at(cluster=there, pool=pool_there)
        there = entry.destination.cluster
        if not there:
            raise ClusterNotConfigured(
                f"{self._config.path}: replicationDestination of cluster {cluster!r} has no "
                "remoteClusterID; add the peer's clusterID"
            )
        fallback = next((pool_ for cluster_, pool_ in mapped if cluster_ == there), pool)
        return volume.at(cluster=there, pool=entry.destination.pools.get(pool_name, fallback))

    def _clusters(self) -> Mapping[str, Cluster]:
        clusters = self._config.current()
        if clusters is None:
            raise ClusterNotConfigured(f"the clusters are not known yet: {self._config.trouble}")
        return clusters

    def _mapped(self, cluster: str, pool: int) -> tuple[_Spot, ...]:
        """Return the other names of a pool, nearest first, in the order of the file.

        An entry pairs left with left and right with right. Files written by hand sometimes
        cross the two, and ceph-csi reads those as well: crossed pairs come last.
        """
        mapping = self._mapping.current()
        if mapping is None:
            raise ClusterNotConfigured(
                f"where volumes are mapped to is not known: {self._mapping.trouble}"
            )
        straight: list[_Spot] = []
        crossed: list[_Spot] = []
        for left, right, p, q in _pairs(mapping):
            straight += _other((cluster, pool), (left, p), (right, q))
            crossed += _other((cluster, pool), (left, q), (right, p))
        return tuple(spot for spot in dict.fromkeys(straight + crossed) if spot != (cluster, pool))


def _pairs(mapping: tuple[SitePairs, ...]) -> Iterator[tuple[str, str, int, int]]:
    for entry in mapping:
        for left, right in entry.clusters:
            for p, q in entry.pools:
                yield left, right, p, q


def _other(spot: _Spot, one: _Spot, two: _Spot) -> list[_Spot]:
    """Return the other end of a pair, in both directions."""
    return [there for here, there in ((one, two), (two, one)) if here == spot]


class _Watched(Generic[_T]):
    """One file: its last good content, parsed.

    The content is compared, not the file's times: a ConfigMap swaps symlinks, and two writes
    within one tick of the clock look alike to ``stat``. Both files are a few kilobytes.
    """

    def __init__(
        self, path: Path, parse: Callable[[object], _T], metrics: Metrics, *, absent: _T | None
    ) -> None:
        self.path = path
        self.trouble = ""
        """What is wrong with the file now; empty when nothing is."""
        self._parse = parse
        self._absent = absent
        self._failures = metrics.config_reload_failures.labels(path.name)
        self._lock = threading.Lock()
        self._seen: bytes | OSError | None = None
        self._good: _T | None = None
        self.current()

    def current(self) -> _T | None:
        """Return the last good version; ``None`` when there never was one."""
        with self._lock:
            found = self._read()
            if not _same(found, self._seen):
                self._seen = found
                self._load(found)
            return self._good

    def _read(self) -> bytes | OSError:
        try:
            return self.path.read_bytes()
        except OSError as exc:
            return exc

    def _load(self, found: bytes | OSError) -> None:
        try:
            self._good = self._understand(found)
        except (MalformedFileError, ValueError, RecursionError, OSError) as exc:
            self.trouble = f"{self.path}: {_reason(exc)}"
            self._failures.inc()
            _log.error(
                "a configuration file cannot be used",
                file=str(self.path),
                error=_reason(exc),
                in_use="nothing" if self._good is None else "the last good version",
            )
        else:
            self.trouble = ""
            _log.info("a configuration file was read", file=str(self.path))

    def _understand(self, found: bytes | OSError) -> _T:
        # one that vanishes is being rewritten, or taken away by mistake
        if isinstance(found, FileNotFoundError) and self._absent is not None and not self._good:
            return self._absent
        if isinstance(found, OSError):
            raise found
        return self._parse(json.loads(found))


def _same(one: bytes | OSError | None, other: bytes | OSError | None) -> bool:
    if isinstance(one, OSError) and isinstance(other, OSError):
        return one.errno == other.errno
    return one == other


def _reason(exc: Exception) -> str:
    return (exc.strerror or "cannot be read") if isinstance(exc, OSError) else str(exc)
