# SPDX-License-Identifier: Apache-2.0
"""Where a handle leads, and files that change underfoot."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import generate_latest

from csi_addons_rbd.clusters import ClusterMap
from csi_addons_rbd.metrics import Metrics
from csi_addons_rbd.replication.errors import ClusterNotConfigured
from csi_addons_rbd.replication.volume_id import VolumeId

UUID = "11111111-2222-3333-4444-555555555555"
Load = Callable[..., ClusterMap]


@pytest.fixture
def metrics() -> Metrics:
    """Where failures are counted."""
    return Metrics(version="0", driver_name="rbd.test")


@pytest.fixture
def load(tmp_path: Path, metrics: Metrics) -> Load:
    """Write the files and read them."""

    def write(config: object = None, mapping: object = None) -> ClusterMap:
        if config is not None:
            (tmp_path / "config.json").write_text(json.dumps(config))
        if mapping is not None:
            (tmp_path / "cluster-mapping.json").write_text(json.dumps(mapping))
        return ClusterMap(tmp_path, metrics)

    return write


def entry(name: str, **more: object) -> dict[str, object]:
    """Return one entry of config.json."""
    return {"clusterID": name, "monitors": [f"{name}:6789"], **more}


def pairs(clusters: dict[str, str], *pools: dict[str, str]) -> dict[str, object]:
    """Return one entry of cluster-mapping.json."""
    return {"clusterIDMapping": clusters, "RBDPoolIDMapping": list(pools)}


def handle(cluster: str, pool: int) -> VolumeId:
    """Return the handle of the one volume of these tests."""
    return VolumeId(cluster=cluster, pool=pool, uuid=UUID)


def spots(clusters: ClusterMap, volume: VolumeId) -> list[tuple[str, int]]:
    """Return the places of a volume, shortened."""
    return [(place.cluster, place.pool) for place in clusters.places(volume)]


def test_own_place_first(load: Load) -> None:
    """The handle's own pool comes first, with what config.json says about its cluster."""
    clusters = load(
        [entry("a", rbd={"radosNamespace": "ns"}), entry("b")], [pairs({"a": "b"}, {"1": "2"})]
    )
    own, mapped = clusters.places(handle("a", 1))
    assert (own.cluster, own.pool, own.namespace, own.monitors) == ("a", 1, "ns", ("a:6789",))
    assert (mapped.cluster, mapped.pool, mapped.namespace) == ("b", 2, "")


@pytest.mark.parametrize("mapping", [{"a": "b"}, {"b": "a"}])
def test_both_directions(load: Load, mapping: dict[str, str]) -> None:
    """A pair is read both ways, also when the handle's own cluster is not configured here."""
    pools = {"1": "2"} if mapping == {"a": "b"} else {"2": "1"}
    assert spots(load([entry("b")], [pairs(mapping, pools)]), handle("a", 1)) == [("b", 2)]


def test_order_of_the_file(load: Load) -> None:
    """Several pairs are tried in the order of the file, each place once."""
    mapping = [
        pairs({"a": "c"}, {"1": "7"}),
        pairs({"a": "b", "x": "a"}, {"1": "2"}, {"1": "2"}),
        pairs({"a": "missing"}, {"1": "9"}),
    ]
    clusters = load([entry("b"), entry("c"), entry("a")], mapping)
    assert spots(clusters, handle("a", 1)) == [("a", 1), ("c", 7), ("b", 2)]


def test_same_cluster_id_on_both_sites(load: Load) -> None:
    """A cluster id may map to itself, with another pool id (Rook does so)."""
    clusters = load([entry("rook")], [pairs({"rook": "rook"}, {"1": "2"})])
    assert spots(clusters, handle("rook", 1)) == [("rook", 1), ("rook", 2)]
    assert spots(clusters, handle("rook", 2)) == [("rook", 2), ("rook", 1)]


def test_sides_are_kept_apart(load: Load) -> None:
    """Pool 2 of the left cluster is not pool 2 of the right one; crossed pairs come last."""
    clusters = load([entry("b")], [pairs({"a": "b"}, {"1": "2"}, {"2": "3"})])
    assert spots(clusters, handle("a", 2)) == [("b", 3), ("b", 1)]


def test_not_configured(load: Load) -> None:
    """The error names the cluster and both files."""
    clusters = load([entry("a")])
    with pytest.raises(ClusterNotConfigured) as caught:
        clusters.places(handle("zz", 1))
    for part in ("'zz'", "config.json", "cluster-mapping.json"):
        assert part in caught.value.message


def test_cluster_without_monitors(load: Load) -> None:
    """An entry whose monitors are not filled in yet is not configured yet; others are."""
    clusters = load([{"clusterID": "a", "monitors": []}, entry("b")])
    with pytest.raises(ClusterNotConfigured):
        clusters.places(handle("a", 1))
    assert spots(clusters, handle("b", 1)) == [("b", 1)]


# --- destination --------------------------------------------------------------------------


def there(clusters: ClusterMap, cluster: str, pool: int) -> tuple[str, int]:
    """Return the peer's name of a pool."""
    volume = clusters.destination(
        cluster=cluster, pool=pool, pool_name="replicapool", volume=handle(cluster, pool)
    )
    assert volume.uuid == UUID
    return volume.cluster, volume.pool


def test_destination_is_its_own_inverse(load: Load) -> None:
    """X → Y on one site is Y → X on the other, by the mapping both sites share."""
    clusters = load([entry("a")], [pairs({"a": "b"}, {"1": "2"}, {"2": "3"})])
    for mine, theirs in ((("a", 1), ("b", 2)), (("a", 2), ("b", 3))):
        assert there(clusters, *mine) == theirs
        assert there(clusters, *theirs) == mine


def test_destination_by_config(load: Load) -> None:
    """``replicationDestination`` goes before the mapping."""
    remote = {
        "remoteClusterID": "c",
        "rbd": {"remotePoolMapping": {"replicapool": {"poolID": "8"}}},
    }
    clusters = load([entry("a", replicationDestination=remote)], [pairs({"a": "b"}, {"1": "2"})])
    assert there(clusters, "a", 1) == ("c", 8)


def test_destination_pool_not_named(load: Load) -> None:
    """Without the pool's name there, the mapping to that cluster, else the same pool id."""
    config = [entry("a", replicationDestination={"remoteClusterID": "b"})]
    clusters = load(config, [pairs({"a": "c"}, {"1": "9"}), pairs({"a": "b"}, {"1": "2"})])
    assert there(clusters, "a", 1) == ("b", 2)
    assert there(clusters, "a", 5) == ("b", 5)


def test_destination_unmapped(load: Load) -> None:
    """Without either, the handle of the place where the volume was found."""
    assert there(load([entry("a")]), "a", 1) == ("a", 1)


def test_destination_without_cluster(load: Load) -> None:
    """A ``replicationDestination`` that names no cluster is not guessed."""
    clusters = load([entry("a", replicationDestination={"remoteClusterID": ""})])
    with pytest.raises(ClusterNotConfigured, match="remoteClusterID"):
        there(clusters, "a", 1)


# --- files that change --------------------------------------------------------------------


def failures(metrics: Metrics, file: str) -> float:
    """Return how often a change of this file could not be used."""
    name = f'csi_addons_rbd_config_reload_failures_total{{file="{file}"}}'
    text = generate_latest(metrics.registry).decode()
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(name))


def test_change_is_seen(load: Load, tmp_path: Path) -> None:
    """A new cluster works at the next call, even after two writes of one size in one instant."""
    clusters = load([entry("a")])
    assert spots(clusters, handle("a", 1)) == [("a", 1)]
    stamp = (tmp_path / "config.json").stat()
    (tmp_path / "config.json").write_text(json.dumps([entry("b")]))
    os.utime(tmp_path / "config.json", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert spots(clusters, handle("b", 1)) == [("b", 1)]


def test_configmap_swap(tmp_path: Path, metrics: Metrics) -> None:
    """A ConfigMap changes by swapping the symlink of a directory."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps([entry(name)]))
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "config.json").symlink_to("..data/config.json")
    clusters = ClusterMap(tmp_path, metrics)
    assert clusters.names == ("one",)
    (tmp_path / "..new").symlink_to("two")
    (tmp_path / "..new").rename(tmp_path / "..data")
    assert clusters.names == ("two",)


@pytest.mark.parametrize("broken", ["", "[{", '[{"clusterID": 1}]', "\udcff", "[" * 100_000])
def test_broken_file_keeps_the_last_good_version(
    load: Load, tmp_path: Path, metrics: Metrics, broken: str
) -> None:
    """A half-written file changes nothing, and is counted once per change."""
    clusters = load([entry("a")])
    whole = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(broken, errors="surrogateescape")
    for _ in range(3):
        assert spots(clusters, handle("a", 1)) == [("a", 1)]
    assert failures(metrics, "config.json") == 1
    (tmp_path / "config.json").write_text(whole.replace('"a"', '"b"'))
    assert spots(clusters, handle("b", 1)) == [("b", 1)]
    assert failures(metrics, "config.json") == 1


def test_vanished_config_keeps_the_last_good_version(load: Load, tmp_path: Path) -> None:
    """config.json going away does not make clusters go away."""
    clusters = load([entry("a")])
    (tmp_path / "config.json").unlink()
    assert spots(clusters, handle("a", 1)) == [("a", 1)]


def test_config_that_comes_later(load: Load, tmp_path: Path) -> None:
    """Without config.json nothing is loaded, and the error says why; it may come later."""
    clusters = load()
    assert not clusters.loaded
    with pytest.raises(ClusterNotConfigured, match="No such file"):
        clusters.places(handle("a", 1))
    (tmp_path / "config.json").write_text(json.dumps([entry("a")]))
    assert clusters.loaded
    assert spots(clusters, handle("a", 1)) == [("a", 1)]


def test_mapping_that_was_never_readable(load: Load, tmp_path: Path) -> None:
    """With an unreadable mapping, absence in one cluster proves nothing: no place is given."""
    (tmp_path / "cluster-mapping.json").write_text("[{")
    clusters = load([entry("a")])
    assert clusters.loaded
    with pytest.raises(ClusterNotConfigured, match=r"cluster-mapping\.json"):
        clusters.places(handle("a", 1))


def test_mapping_may_go(load: Load, tmp_path: Path) -> None:
    """One that vanishes is being rewritten: the last version stays in use, until one is empty."""
    content = [pairs({"a": "b"}, {"1": "2"})]
    clusters = load([entry("a"), entry("b")], content)
    (tmp_path / "cluster-mapping.json").unlink()
    assert spots(clusters, handle("a", 1)) == [("a", 1), ("b", 2)]
    (tmp_path / "cluster-mapping.json").write_text("[]")
    assert spots(clusters, handle("a", 1)) == [("a", 1)]
