# SPDX-License-Identifier: Apache-2.0
"""The schemas of config.json and cluster-mapping.json. Pure: decoded JSON in, values out.

Key names are matched without regard to case, as Go does and as Rook relies on
(``ClusterIDMapping``); unknown keys and nulls are ignored. Keys that are data, such as cluster
ids and pool names, keep their case.

A part that cannot be read is left out and named; everything beside it stays in use. What it may
have said is kept as a doubt: where a volume may lie there, its absence elsewhere proves nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from csi_addons_rbd.config import CONFIG_FILE, MAPPING_FILE
from csi_addons_rbd.json_values import (
    MalformedFileError,
    as_list,
    as_object,
    folded,
    is_text,
    malformed,
    name_in,
    pool_id,
    pool_of,
    raw_table,
    short,
    table,
    text_of,
    whole_list,
)
from csi_addons_rbd.monitors import ACCEPTED, parse_monitors

_TOLD: Final = 3
"""Faults that one message tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where a cluster's volumes are mirrored to: ``replicationDestination``."""

    cluster: str = ""
    """``remoteClusterID``; empty when it is missing."""
    pools: Mapping[str, int] = field(default_factory=dict)
    """Pool id over there, by the pool's name here."""
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """What is wrong with the ids of other pools, by the pool's name here."""
    fault: str = ""
    """Why none of it can be used; empty when it can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """One entry of config.json."""

    monitors: tuple[str, ...]
    """As librados takes them; empty while the entry cannot be used."""
    namespace: str
    """RADOS namespace; empty for the default one."""
    destination: Destination | None
    doubt: str = ""
    """Why this entry, or one before it with the same id, cannot be used; empty when they can."""
    broken: bool = False
    """Whether somebody must mend that entry; false for one that is not filled in yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFile:
    """config.json."""

    clusters: Mapping[str, Cluster]
    """By their ids."""
    faults: tuple[str, ...]
    """Everything that was left out."""
    nameless: tuple[str, ...]
    """Those of them whose cluster id cannot be read: it may be any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePairs:
    """One entry of cluster-mapping.json: what is the same on two sites."""

    clusters: tuple[tuple[str, str], ...]
    pools: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A part of cluster-mapping.json that was left out."""

    fault: str
    clusters: frozenset[str] | None = None
    """The clusters that it is about; ``None`` when that cannot be read."""

    def concerns(self, cluster: str) -> bool:
        """Tell whether it may have said where the pools of a cluster are mapped to.

        It may name any of them: of a pair of pools one id at least cannot be read, and pairs are
        read crossed, too. That another part maps the pool already excludes nothing.
        """
        return self.clusters is None or cluster in self.clusters


@dataclass(frozen=True, slots=True, kw_only=True)
class MappingFile:
    """cluster-mapping.json."""

    entries: tuple[SitePairs, ...] = ()
    gaps: tuple[Gap, ...] = ()

    @property
    def faults(self) -> tuple[str, ...]:
        """Everything that was left out."""
        return tuple(each.fault for each in self.gaps)


def parse_config(content: object) -> ConfigFile:
    """Read config.json; of two usable entries with one id the first counts, as in ceph-csi.

    Null is an empty list, as for ceph-csi.

    Raises:
        MalformedFileError: it is no list, or none of its entries can be read.
    """
    clusters: dict[str, Cluster] = {}
    faults: list[str] = []
    nameless: list[str] = []
    for number, item in enumerate(whole_list(content, CONFIG_FILE), 1):
        where = f"{CONFIG_FILE}, entry {number}"
        try:
            entry = folded(item, where)
            name = _name(entry, where)
        except MalformedFileError as exc:
            nameless.append(str(exc))
            continue
        where = f"{where} ({name})"
        cluster = _cluster(entry, where, faults)
        earlier = clusters.get(name)
        if earlier is None:
            clusters[name] = cluster
        elif cluster.monitors and not earlier.monitors:
            clusters[name] = replace(cluster, doubt=earlier.doubt, broken=earlier.broken)
        elif cluster != earlier:
            faults.append(f"{where}: an earlier entry has this clusterID, and counts")
    if nameless and not clusters:
        raise _nothing_readable(nameless)
    return ConfigFile(clusters=clusters, faults=(*nameless, *faults), nameless=tuple(nameless))


def parse_mapping(content: object) -> MappingFile:
    """Read cluster-mapping.json.

    Raises:
        MalformedFileError: it is no list, or none of its entries can be read.
    """
    gaps: list[Gap] = []
    entries = tuple(
        _site_pairs(item, f"{MAPPING_FILE}, entry {number}", gaps)
        for number, item in enumerate(whole_list(content, MAPPING_FILE), 1)
    )
    if gaps and not any(entry.clusters or entry.pools for entry in entries):
        raise _nothing_readable([gap.fault for gap in gaps])
    return MappingFile(entries=entries, gaps=tuple(gaps))


def _nothing_readable(faults: list[str]) -> MalformedFileError:
    more = f"; {len(faults) - _TOLD} faults more" if len(faults) > _TOLD else ""
    return MalformedFileError(f"no entry can be read: {'; '.join(faults[:_TOLD])}{more}")


# --- one entry of config.json -------------------------------------------------------------


def _name(entry: Mapping[str, Any], where: str) -> str:
    name = text_of(entry, "clusterID", where)
    if not name:
        raise malformed(where, "clusterID", "a text that is not empty", name)
    return name


def _cluster(entry: Mapping[str, Any], where: str, faults: list[str]) -> Cluster:
    """Read an entry as far as it can be read, and note what cannot."""
    namespace = ""
    try:
        monitors = _monitors(entry, where, faults)
        namespace = text_of(table(entry, "rbd", where), "radosNamespace", f"{where}, rbd")
    except MalformedFileError as exc:
        # without its namespace an image would be looked for, or found, in the wrong one
        faults.append(str(exc))
        monitors, doubt, broken = (), str(exc), True
    else:
        doubt, broken = "" if monitors else f"{where} has no monitors yet", False
    return Cluster(
        monitors=monitors,
        namespace=namespace,
        destination=_destination(entry, where, faults),
        doubt=doubt,
        broken=broken,
    )


def _monitors(entry: Mapping[str, Any], where: str, faults: list[str]) -> tuple[str, ...]:
    """Return those that can be read; none when there are none.

    Raises:
        MalformedFileError: there are some, and none can be read.
    """
    where = f"{where}: monitors"
    value = entry.get("monitors")
    values = [value] if isinstance(value, str) else as_list(value, where)
    found = parse_monitors(value for value in values if is_text(value))
    wrong = [f"{short(value)} is no text" for value in values if not is_text(value)]
    wrong += found.faults
    if found.texts or not wrong:
        faults += (f"{where}: {fault}" for fault in wrong)
        return found.texts
    raise MalformedFileError(
        f"{where} cannot be read: {'; '.join(wrong[:_TOLD])}; accepted are {ACCEPTED}"
    )


def _destination(entry: Mapping[str, Any], where: str, faults: list[str]) -> Destination | None:
    """Read it as far as it can be read: nothing but the question for it depends on it."""
    if entry.get("replicationdestination") is None:
        return None
    unreadable: dict[str, str] = {}
    try:
        found = table(entry, "replicationDestination", where)
        where = f"{where}, replicationDestination"
        cluster = text_of(found, "remoteClusterID", where)
        named = raw_table(table(found, "rbd", where), "remotePoolMapping", where)
        pools = dict(_remote_pools(named, where, unreadable))
    except MalformedFileError as exc:
        faults.append(str(exc))
        return Destination(fault=str(exc))
    faults += unreadable.values()
    return Destination(cluster=cluster, pools=pools, unreadable=unreadable)


def _remote_pools(
    named: Mapping[str, Any], where: str, unreadable: dict[str, str]
) -> Iterator[tuple[str, int]]:
    for pool, value in named.items():
        try:
            inside = f"{where}, {short(pool)}"
            yield pool, pool_of(folded(value, inside).get("poolid"), inside, "poolID")
        except MalformedFileError as exc:
            unreadable[pool] = str(exc)


# --- one entry of cluster-mapping.json ----------------------------------------------------


def _site_pairs(item: object, where: str, gaps: list[Gap]) -> SitePairs:
    """Read an entry as far as it can be read, and note what cannot."""
    try:
        entry = as_object(item, where)
    except MalformedFileError as exc:
        gaps.append(Gap(fault=str(exc)))
        return SitePairs(clusters=(), pools=())
    clusters = tuple(_cluster_pairs(entry, where, gaps))
    about = frozenset(name for pair in clusters for name in pair)
    return SitePairs(clusters=clusters, pools=tuple(_pool_pairs(entry, where, about, gaps)))


def _spelt(entry: Mapping[str, Any], key: str) -> Iterator[Any]:
    """Yield what stands under a key in any case: all of it counts."""
    yield from (value for each, value in entry.items() if each.lower() == key.lower())


def _cluster_pairs(
    entry: Mapping[str, Any], where: str, gaps: list[Gap]
) -> Iterator[tuple[str, str]]:
    key = "clusterIDMapping"
    for value in _spelt(entry, key):
        try:
            named = {} if value is None else as_object(value, f"{where}: {key}")
        except MalformedFileError as exc:
            gaps.append(Gap(fault=str(exc)))
            continue
        for pair in named.items():
            here, there = map(name_in, pair)
            if here and there:
                yield here, there
                continue
            fault = str(malformed(where, key, "texts that are not empty", dict([pair])))
            gaps.append(Gap(fault=fault))


def _pool_pairs(
    entry: Mapping[str, Any], where: str, about: frozenset[str], gaps: list[Gap]
) -> Iterator[tuple[int, int]]:
    key = "RBDPoolIDMapping"
    for value in _spelt(entry, key):
        try:
            objects = as_list(value, f"{where}: {key}")
        except MalformedFileError as exc:
            gaps.append(Gap(fault=str(exc), clusters=about))
            continue
        for pairs in objects:
            yield from _pools_in(pairs, where, about, gaps)


def _pools_in(
    pairs: object, where: str, about: frozenset[str], gaps: list[Gap]
) -> Iterator[tuple[int, int]]:
    key = "RBDPoolIDMapping"
    if not isinstance(pairs, dict):
        fault = f"{where}, {key} must hold objects, not {short(pairs)}"
        gaps.append(Gap(fault=fault, clusters=about))
        return
    for pair in pairs.items():
        here, there = map(pool_id, pair)
        if here is not None and there is not None:
            yield here, there
            continue
        fault = str(malformed(where, key, "pool ids in decimal digits", dict([pair])))
        gaps.append(Gap(fault=fault, clusters=about))
