# SPDX-License-Identifier: Apache-2.0
"""config.json and cluster-mapping.json: where a volume handle may lead.

Both files are the ones that ceph-csi, Rook and ceph-csi-operator mount already. They are read
at each use and parsed when their content changed. One that is broken or half written leaves the
last good version in use; a part that cannot be read is left out. Either is logged once per change
and counted.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

import structlog

from csi_addons_rbd.cluster_files import (
    ConfigFile,
    MappingFile,
    SitePairs,
    parse_config,
    parse_mapping,
)
from csi_addons_rbd.config import CONFIG_FILE, MAPPING_FILE
from csi_addons_rbd.metrics import Metrics
from csi_addons_rbd.replication.calls import Place
from csi_addons_rbd.replication.errors import ClusterEntryUnusable, ClusterNotConfigured
from csi_addons_rbd.replication.volume_id import VolumeId
from csi_addons_rbd.watched_file import Reading, WatchedFile

_log = structlog.get_logger(__name__)
_Spot: TypeAlias = tuple[str, int]
"""A cluster id and a pool id in it."""
_TOLD: Final = 3
"""Faults that one message tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leads:
    """Where a handle leads, as the files said at one moment."""

    places: tuple[Place, ...]
    """Where the volume may lie, the likeliest first; one at least."""
    doubt: str = ""
    """Why it may lie elsewhere, too, so that its absence there proves nothing; empty when it
    cannot."""
    named: bool = False
    """Whether ``--local-clusters`` says that these clusters are this site's."""
    dropped: tuple[str, ...] = ()
    """Clusters that it leads to as well, but that config.json has no usable monitors of."""


class ClusterMap:
    """Both files, always as they are now. Every method may be called from any thread.

    Args:
        directory: Where the files are.
        metrics: Counts what cannot be used.
        local: The cluster ids that are this site's; without any, all of config.json may be.
    """

    def __init__(self, directory: Path, metrics: Metrics, local: tuple[str, ...] = ()) -> None:
        self._local = local
        self._missed: tuple[str, ...] = ()
        """Of these, the ones that were logged as missing."""
        self._config = WatchedFile[ConfigFile](
            directory / CONFIG_FILE, parse_config, metrics, absent=None
        )
        self._mapping = WatchedFile[MappingFile](
            directory / MAPPING_FILE, parse_mapping, metrics, absent=MappingFile()
        )

    @property
    def loaded(self) -> bool:
        """Whether config.json was read at least once."""
        return self._config.current().value is not None

    @property
    def names(self) -> tuple[str, ...]:
        """The cluster ids of config.json that may be this site's."""
        config = self._config.current().value
        return () if config is None else tuple(filter(self._is_local, config.clusters))

    def leads(self, volume: VolumeId) -> Leads:
        """Return where the volume may lie: the handle's own pool, then the mapped ones.

        Raises:
            ClusterNotConfigured: none of them is configured here.
            ClusterEntryUnusable: somebody must mend the entry of one of them first.
        """
        config, mapping = self._config.current(), self._mapping.current()
        known = _known(config)
        clusters = known.clusters
        spots = _spots(mapping, volume)
        candidates = [spot for spot in spots if self._is_local(spot[0])]
        usable = [
            (clusters[cluster], cluster, pool)
            for cluster, pool in candidates
            if cluster in clusters
        ]
        places = tuple(
            Place(
                cluster=cluster,
                monitors=entry.monitors,
                pool=pool,
                namespace=entry.namespace,
            )
            for entry, cluster, pool in usable
            if entry.monitors
        )
        doubt = _joined(
            [
                *_trouble(config),
                *_trouble(mapping),
                *_doubts(known, [cluster for cluster, _ in candidates]),
                *_gaps(mapping, volume),
                *self._missing(known),
            ]
        )
        if places:
            return Leads(
                places=places,
                doubt=doubt,
                named=bool(self._local),
                dropped=_dropped(known, [cluster for cluster, _ in candidates]),
            )
        if any(entry.broken for entry, *_ in usable):
            raise ClusterEntryUnusable(
                f"volume {volume} leads to no cluster that can be used: {doubt}; mend {CONFIG_FILE}"
            )
        if self._local:
            raise self._none_local(spots, doubt)
        raise ClusterNotConfigured(
            f"cluster {volume.cluster!r}, pool {volume.pool} of volume {volume} is neither in "
            f"{self._config.path} (with monitors) nor mapped by {self._mapping.path} to one "
            f"that is; add it to either file{doubt and f' ({doubt})'}"
        )

    def _is_local(self, cluster: str) -> bool:
        return not self._local or cluster in self._local

    def _missing(self, config: ConfigFile) -> Iterator[str]:
        """Yield which clusters of ``--local-clusters`` cannot be asked, if any."""
        usable = [name for name, entry in config.clusters.items() if entry.monitors]
        missing = tuple(name for name in self._local if name not in usable)
        text = (
            f"--local-clusters names {', '.join(missing)}, which {self._config.path} does not list "
            "with monitors"
        )
        if missing != self._missed:
            self._missed = missing
            if missing:
                _log.warning("a cluster of this site is not configured", error=text)
        if missing:
            yield text

    def _none_local(self, spots: tuple[_Spot, ...], doubt: str) -> ClusterNotConfigured:
        (own, pool), *mapped = spots
        others = ", ".join(f"{cluster!r} (pool {pool})" for cluster, pool in mapped) or "nothing"
        return ClusterNotConfigured(
            f"the volume leads to none of this site's clusters, which are {', '.join(self._local)} "
            f"by --local-clusters: its handle is of cluster {own!r}, pool {pool}, "
            f"which {self._mapping.path} maps to {others}; "
            f"{doubt or 'mend the mapping'}, or correct --local-clusters"
        )

    def destination(self, *, cluster: str, pool: int, pool_name: str, volume: VolumeId) -> VolumeId:
        """Return the handle by which the peer site knows a volume found in this pool.

        Raises:
            ClusterNotConfigured: ``replicationDestination`` names no cluster, or nothing tells
                the destination and the mapping cannot be read.
            ClusterEntryUnusable: ``replicationDestination`` cannot be read.
        """
        config, mapping = self._config.current(), self._mapping.current()
        here = volume.at(cluster=cluster, pool=pool)
        mapped = _spots(mapping, here)[1:]
        entry = _known(config).clusters.get(cluster)
        if entry is None or entry.destination is None:
            if not mapped:
                self._require_no_gaps(mapping, here)
            there, pool_there = mapped[0] if mapped else (cluster, pool)
            return volume.at(cluster=there, pool=pool_there)
        destination = entry.destination
        fault = destination.fault or destination.unreadable.get(pool_name, "")
        if fault:
            raise ClusterEntryUnusable(
                f"the destination of {volume} cannot be read: {fault}; mend it"
            )
        there = destination.cluster
        if not there:
            raise ClusterNotConfigured(
                f"{self._config.path}: replicationDestination of cluster {cluster!r} has no "
                "remoteClusterID; add the peer's clusterID"
            )
        if pool_name in destination.pools:
            return volume.at(cluster=there, pool=destination.pools[pool_name])
        on_peer = [pool_ for cluster_, pool_ in mapped if cluster_ == there]
        if not on_peer:
            self._require_no_gaps(mapping, here)
        return volume.at(cluster=there, pool=on_peer[0] if on_peer else pool)

    def _require_no_gaps(self, mapping: Reading[MappingFile], volume: VolumeId) -> None:
        """Guess no destination while a part of the mapping that may tell it cannot be read."""
        gaps = (*_trouble(mapping), *_gaps(mapping, volume))
        if gaps:
            raise ClusterNotConfigured(
                f"the destination of {volume} is not known: {_joined(gaps)}; mend the file"
            )


def _joined(faults: Iterable[str]) -> str:
    """Return them as one text, which must leave room in a message."""
    different = list(dict.fromkeys(faults))
    more = len(different) - _TOLD
    return "; ".join(different[:_TOLD]) + (f"; and {more} more, see the log" if more > 0 else "")


def _dropped(config: ConfigFile, candidates: Iterable[str]) -> tuple[str, ...]:
    """Return those that config.json has, and that cannot be asked."""
    known = config.clusters
    return tuple(
        name for name in dict.fromkeys(candidates) if name in known and not known[name].monitors
    )


def _known(config: Reading[ConfigFile]) -> ConfigFile:
    if config.value is None:
        raise ClusterNotConfigured(f"the clusters are not known yet: {config.trouble}")
    return config.value


def _trouble(file: Reading[ConfigFile] | Reading[MappingFile]) -> Iterator[str]:
    """Yield why a file as a whole may say more than what is in use."""
    if file.trouble:
        in_use = "nothing" if file.value is None else "its last good version"
        yield f"{file.trouble}, so {in_use} is in use"


def _doubts(known: ConfigFile, candidates: list[str]) -> Iterator[str]:
    """Yield why other entries of config.json may say more of these clusters."""
    found = [known.clusters[name] for name in candidates if name in known.clusters]
    yield from (each.doubt for each in found if each.doubt)
    if len(found) < len(candidates):
        yield from known.nameless


def _gaps(mapping: Reading[MappingFile], volume: VolumeId) -> Iterator[str]:
    """Yield what of the mapping cannot be read, and may tell where a volume lies, too."""
    for gap in mapping.value.gaps if mapping.value else ():
        if gap.concerns(volume.cluster):
            yield gap.fault


def _spots(mapping: Reading[MappingFile], volume: VolumeId) -> tuple[_Spot, ...]:
    """Return a pool's own name and its others, nearest first, in the order of the file.

    An entry pairs left with left and right with right. Files written by hand sometimes cross the
    two, and ceph-csi reads those as well: crossed pairs come last.
    """
    own = (volume.cluster, volume.pool)
    straight: list[_Spot] = []
    crossed: list[_Spot] = []
    for left, right, p, q in _pairs(mapping.value.entries if mapping.value else ()):
        straight += _other(own, (left, p), (right, q))
        crossed += _other(own, (left, q), (right, p))
    return tuple(dict.fromkeys([own, *straight, *crossed]))


def _pairs(mapping: tuple[SitePairs, ...]) -> Iterator[tuple[str, str, int, int]]:
    for entry in mapping:
        for left, right in entry.clusters:
            for p, q in entry.pools:
                yield left, right, p, q


def _other(spot: _Spot, one: _Spot, two: _Spot) -> list[_Spot]:
    """Return the other end of a pair, in both directions."""
    return [there for here, there in ((one, two), (two, one)) if here == spot]
