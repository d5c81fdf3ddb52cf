# SPDX-License-Identifier: Apache-2.0
"""The schemas of config.json and cluster-mapping.json. Pure: decoded JSON in, values out.

Key names are matched without regard to case, as Go does and as Rook relies on
(``ClusterIDMapping``); unknown keys and nulls are ignored. Keys that are data, such as cluster
ids and pool names, keep their case.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

from csi_addons_rbd.config import CONFIG_FILE, MAPPING_FILE

_POOL_MAX: Final = 2**63 - 1


class MalformedFileError(Exception):
    """A file is not what it should be; the text names the entry and the key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """Where a cluster's volumes are mirrored to: ``replicationDestination``."""

    cluster: str
    """``remoteClusterID``; empty when it is missing."""
    pools: Mapping[str, int]
    """Pool id over there, by the pool's name here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """One entry of config.json."""

    monitors: tuple[str, ...]
    """As librados takes them; empty while the operator has not filled them in yet."""
    namespace: str
    """RADOS namespace; empty for the default one."""
    destination: Destination | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePairs:
    """One entry of cluster-mapping.json: what is the same on two sites."""

    clusters: tuple[tuple[str, str], ...]
    pools: tuple[tuple[int, int], ...]


def parse_config(content: object) -> Mapping[str, Cluster]:
    """Read config.json; of two entries with one id the first counts, as in ceph-csi.

    Raises:
        MalformedFileError: naming entry and key.
    """
    clusters: dict[str, Cluster] = {}
    for number, item in enumerate(_list(content, CONFIG_FILE), 1):
        where = f"{CONFIG_FILE}, entry {number}"
        entry = _folded(item, where)
        name = _text(entry, "clusterID", where)
        if not name:
            raise _malformed(where, "clusterID", "a text that is not empty", name)
        where = f"{where} ({name})"
        rbd = _table(entry, "rbd", where)
        cluster = Cluster(
            monitors=_texts(entry, "monitors", where),
            namespace=_text(rbd, "radosNamespace", f"{where}, rbd"),
            destination=_destination(entry, where),
        )
        clusters.setdefault(name, cluster)
    return clusters


def parse_mapping(content: object) -> tuple[SitePairs, ...]:
    """Read cluster-mapping.json.

    Raises:
        MalformedFileError: naming entry and key.
    """
    return tuple(
        _site_pairs(item, f"{MAPPING_FILE}, entry {number}")
        for number, item in enumerate(_list(content, MAPPING_FILE), 1)
    )


def _destination(entry: Mapping[str, Any], where: str) -> Destination | None:
    if entry.get("replicationdestination") is None:
        return None
    found = _table(entry, "replicationDestination", where)
    where = f"{where}, replicationDestination"
    pools = _raw_table(_table(found, "rbd", where), "remotePoolMapping", where)
    return Destination(
        cluster=_text(found, "remoteClusterID", where),
        pools={
            pool: _pool(
                _folded(value, f"{where}, {pool}").get("poolid"), f"{where}, {pool}", "poolID"
            )
            for pool, value in pools.items()
        },
    )


def _site_pairs(item: object, where: str) -> SitePairs:
    entry = _folded(item, where)
    clusters = _raw_table(entry, "clusterIDMapping", where)
    for name in (*clusters, *clusters.values()):
        if not _is_text(name):
            raise _malformed(where, "clusterIDMapping", "texts", name)
    key = "RBDPoolIDMapping"
    return SitePairs(
        clusters=tuple(clusters.items()),
        pools=tuple(
            (_pool(one, where, key), _pool(other, where, key))
            for pairs in _list(entry.get(key.lower()), f"{where}: {key}")
            for one, other in _object(pairs, f"{where}, {key}").items()
        ),
    )


# --- readers of one JSON value ------------------------------------------------------------


def _malformed(where: str, key: str, accepted: str, found: object) -> MalformedFileError:
    return MalformedFileError(f"{where}: {key} must be {accepted}, not {_short(found)}")


def _short(found: object) -> str:
    text = repr(found)
    return text if len(text) <= 60 else f"{text[:60]}…"  # noqa: PLR2004 - what fits a line


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MalformedFileError(f"{where} must be an object, not {_short(value)}")
    return value


def _folded(value: object, where: str) -> dict[str, Any]:
    return {key.lower(): each for key, each in _object(value, where).items()}


def _raw_table(entry: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    value = entry.get(key.lower())
    return {} if value is None else _object(value, f"{where}: {key}")


def _table(entry: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    return _folded(_raw_table(entry, key, where), where)


def _list(value: object, where: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise MalformedFileError(f"{where} must be a list, not {_short(value)}")
    return value


def _text(entry: Mapping[str, Any], key: str, where: str) -> str:
    value = entry.get(key.lower())
    if value is None:
        return ""
    if not _is_text(value):
        raise _malformed(where, key, "a text", value)
    return value.strip()


def _texts(entry: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    values = _list(entry.get(key.lower()), f"{where}: {key}")
    for value in values:
        if not _is_text(value):
            raise _malformed(where, key, "a list of texts", value)
    return tuple(stripped for value in values if (stripped := value.strip()))


def _is_text(value: object) -> TypeGuard[str]:
    """Tell a text that handles and Ceph can hold; JSON also spells NUL and half surrogate pairs."""
    return isinstance(value, str) and "\0" not in value and _encodes(value)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _pool(value: object, where: str, key: str) -> int:
    text = str(value) if type(value) is int else value
    digits = isinstance(text, str) and text.isascii() and text.isdecimal()
    if not digits or len(str(text)) > len(str(_POOL_MAX)) or int(str(text)) > _POOL_MAX:
        raise _malformed(where, key, "pool ids in decimal digits", value)
    return int(str(text))
