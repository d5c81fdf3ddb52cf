# SPDX-License-Identifier: Apache-2.0
"""Where a handle leads, and files that change underfoot."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
from prometheus_client import generate_latest

from csi_addons_rbd.clusters import ClusterMap
from csi_addons_rbd.metrics import Metrics
from csi_addons_rbd.replication.errors import ClusterEntryUnusable, ClusterNotConfigured
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

    def write(
        config: object = None, mapping: object = None, local: tuple[str, ...] = ()
    ) -> ClusterMap:
        if config is not None:
            (tmp_path / "config.json").write_text(json.dumps(config))
        if mapping is not None:
            (tmp_path / "cluster-mapping.json").write_text(json.dumps(mapping))
        return ClusterMap(tmp_path, metrics, local)

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
    return [(place.cluster, place.pool) for place in clusters.leads(volume).places]


def test_own_place_first(load: Load) -> None:
    """The handle's own pool comes first, with what config.json says about its cluster."""
    clusters = load(
        [entry("a", rbd={"radosNamespace": "ns"}), entry("b")], [pairs({"a": "b"}, {"1": "2"})]
    )
    own, mapped = clusters.leads(handle("a", 1)).places
    assert (own.cluster, own.pool, own.namespace, own.monitors) == ("a", 1, "ns", ("v1:a:6789",))
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
        clusters.leads(handle("zz", 1))
    for part in ("'zz'", "config.json", "cluster-mapping.json"):
        assert part in caught.value.message


def test_cluster_without_monitors(load: Load) -> None:
    """An entry whose monitors are not filled in yet is not configured yet; others are."""
    clusters = load([{"clusterID": "a", "monitors": []}, entry("b")])
    with pytest.raises(ClusterNotConfigured):
        clusters.leads(handle("a", 1))
    assert spots(clusters, handle("b", 1)) == [("b", 1)]


# --- the clusters of this site ------------------------------------------------------------


def test_only_this_sites_clusters_are_candidates(load: Load) -> None:
    """With ``--local-clusters`` neither the handle's own cluster nor a mapped one of the peer."""
    config, mapping = [entry("a"), entry("b")], [pairs({"a": "b"}, {"1": "2"})]
    assert spots(load(config, mapping), handle("a", 1)) == [("a", 1), ("b", 2)]
    for name, pool in (("a", 1), ("b", 2)):
        here = load(config, mapping, (name,))
        for volume in (handle("a", 1), handle("b", 2)):
            assert spots(here, volume) == [(name, pool)]
            assert here.leads(volume).named
            assert not here.leads(volume).doubt
        assert here.names == (name,)
    assert not load(config, mapping).leads(handle("a", 1)).named


def test_no_cluster_of_this_site_is_left(load: Load) -> None:
    """The error names the flag, what it says, the handle's cluster, and what that is mapped to."""
    clusters = load([entry("a"), entry("b")], [pairs({"a": "b"}, {"1": "2"})], ("c", "d"))
    with pytest.raises(ClusterNotConfigured) as caught:
        clusters.leads(handle("a", 1))
    for part in ("--local-clusters", "c, d", "'a', pool 1", "'b' (pool 2)"):
        assert part in caught.value.message


@pytest.mark.parametrize("config", [[entry("a")], [entry("a"), entry("b", monitors=[])]])
def test_a_cluster_of_this_site_that_is_not_configured_is_a_doubt(
    load: Load, config: list[object]
) -> None:
    """A name without an entry, or without monitors, leaves absence unproven; others go on."""
    clusters = load(config, [], ("a", "b"))
    leads = clusters.leads(handle("a", 1))
    assert [place.cluster for place in leads.places] == ["a"]
    assert "--local-clusters names b" in leads.doubt
    assert not load([entry("a"), entry("b")], [], ("a", "b")).leads(handle("a", 1)).doubt


def test_a_candidate_without_monitors_is_told(load: Load) -> None:
    """So that a write is not sent to another as though it were the only one."""
    clusters = load([entry("a", monitors=[]), entry("b")], [pairs({"a": "b"}, {"1": "2"})])
    assert clusters.leads(handle("a", 1)).dropped == ("a",)
    assert load([entry("a"), entry("b")]).leads(handle("a", 1)).dropped == ()


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


# --- parts that cannot be read ------------------------------------------------------------


def doubt(clusters: ClusterMap, volume: VolumeId) -> str:
    """Return why the absence of a volume would prove nothing."""
    return clusters.leads(volume).doubt


@pytest.mark.parametrize(
    "bad",
    [
        {"clusterID": "a", "monitors": ["v3:x"]},
        {"clusterID": "a", "monitors": "x y z??"},
        {"clusterID": "a", "monitors": ["10.0.0.1"], "rbd": {"radosNamespace": 7}},
    ],
)
def test_a_candidate_that_cannot_be_used(load: Load, bad: dict[str, object]) -> None:
    """The others are used, and it leaves a doubt; alone, it is named: somebody must mend it."""
    mapping = [pairs({"a": "b"}, {"1": "2"})]
    clusters = load([bad, entry("b"), entry("c")], mapping)
    for volume in (handle("a", 1), handle("b", 2)):
        assert spots(clusters, volume) == [("b", 2)]
        assert "config.json, entry 1 (a)" in doubt(clusters, volume)
    assert not doubt(clusters, handle("c", 1))
    assert not doubt(clusters, handle("b", 7))
    for clusters in (load([bad, entry("c")], mapping), load([bad], [])):
        with pytest.raises(ClusterEntryUnusable, match=r"config\.json, entry 1 \(a\)"):
            clusters.leads(handle("a", 1))


def test_a_candidate_without_monitors_yet(load: Load) -> None:
    """It leaves a doubt, too, but nobody must mend it."""
    config = [{"clusterID": "a", "monitors": []}, entry("b")]
    clusters = load(config, [pairs({"a": "b"}, {"1": "2"})])
    assert spots(clusters, handle("a", 1)) == [("b", 2)]
    assert "no monitors yet" in doubt(clusters, handle("a", 1))


def test_an_entry_that_nobody_can_name(load: Load) -> None:
    """It may be that of any cluster that is missing, and of none that is there."""
    clusters = load([7, entry("b")], [pairs({"a": "b"}, {"1": "2"}), pairs({"b": "b"}, {"3": "4"})])
    assert spots(clusters, handle("a", 1)) == [("b", 2)]
    assert "entry 1 must be an object" in doubt(clusters, handle("a", 1))
    assert not doubt(clusters, handle("b", 3))
    with pytest.raises(ClusterNotConfigured, match="entry 1 must be an object"):
        clusters.leads(handle("z", 1))


def test_a_part_of_the_mapping_that_cannot_be_read(load: Load) -> None:
    """Whom it may be about is told; nobody is failed."""
    clusters = load(
        [entry("a"), entry("b"), entry("c")], [pairs({"a": "b"}, {"1": "2", "3": "N/A"})]
    )
    assert spots(clusters, handle("a", 1)) == [("a", 1), ("b", 2)]
    assert spots(clusters, handle("a", 3)) == [("a", 3)]
    # crossed, that pair may be about any pool of either cluster
    assert "'N/A'" in doubt(clusters, handle("a", 1))
    assert "'N/A'" in doubt(clusters, handle("a", 3))
    assert "'N/A'" in doubt(clusters, handle("b", 9))
    assert not doubt(clusters, handle("c", 3))
    with pytest.raises(ClusterNotConfigured, match="N/A"):
        there(clusters, "a", 3)
    assert there(clusters, "a", 1) == ("b", 2)


@pytest.mark.parametrize(
    "bad",
    [
        [{"N/A": "7"}],
        [{"7": "N/A"}],
        [{"3": "4", "N/A": "7"}],
        [{"1": ""}],
        [{"1": None}],
        ["junk"],
        [None],
        {"1": "7"},
        "1:7",
        7,
    ],
)
def test_a_pool_that_is_mapped_may_be_mapped_elsewhere_too(load: Load, bad: object) -> None:
    """One place that can be read says nothing of another one that cannot: a volume may lie there.

    Where it may lie for certain is used all the same, and its destination is known.
    """
    config = [entry("a"), entry("b"), entry("c"), entry("d")]
    unread = {"clusterIDMapping": {"a": "c"}, "RBDPoolIDMapping": bad}
    good = pairs({"a": "b"}, {"1": "2"})
    for mapping in ([good, unread], [unread, good]):
        clusters = load(config, mapping)
        assert spots(clusters, handle("a", 1)) == [("a", 1), ("b", 2)]
        for volume in (handle("a", 1), handle("c", 7), handle("c", 1)):
            assert "RBDPoolIDMapping" in doubt(clusters, volume)
        for volume in (handle("b", 2), handle("d", 1)):
            assert not doubt(clusters, volume)
        assert there(clusters, "a", 1) == ("b", 2)


def test_many_parts_that_cannot_be_read(load: Load, tmp_path: Path) -> None:
    """A message names some of them, and how many more there are."""
    clusters = load([entry("a")], [pairs({"a": "b"}, *({"1": f"x{each}"} for each in range(50)))])
    assert doubt(clusters, handle("a", 1)).endswith("; and 47 more, see the log")
    assert len(doubt(clusters, handle("a", 1))) < 500
    # what a whole file does not say comes first
    for name in ("config.json", "cluster-mapping.json"):
        (tmp_path / name).write_text("[{")
    found = doubt(clusters, handle("a", 1))
    assert "config.json: " in found
    assert "cluster-mapping.json: " in found


def test_a_destination_that_cannot_be_read(load: Load) -> None:
    """It is not guessed, and nothing else is the worse for it."""
    remote = {
        "remoteClusterID": "b",
        "rbd": {"remotePoolMapping": {"replicapool": {"poolID": "N/A"}}},
    }
    for found in (remote, 7):
        clusters = load([entry("a", replicationDestination=found)], [pairs({"a": "b"}, {"1": "2"})])
        assert spots(clusters, handle("a", 1)) == [("a", 1)]
        assert not doubt(clusters, handle("a", 1))
        with pytest.raises(ClusterEntryUnusable, match="replicationDestination"):
            there(clusters, "a", 1)


def test_what_is_left_out_is_counted_and_logged_once(
    load: Load, tmp_path: Path, metrics: Metrics
) -> None:
    """Until the file is whole again."""
    with structlog.testing.capture_logs() as logged:
        clusters = load([7, entry("a"), 8], [pairs({"a": "b"}, {"1": "N/A"})])
        for _ in range(3):
            clusters.leads(handle("a", 1))
    told = [each["why"] for each in logged if each["log_level"] == "error"]
    assert len(told) == 3
    assert "config.json, entry 3 must be an object, not 8" in told
    assert ignored(metrics, "config.json") == 2
    assert ignored(metrics, "cluster-mapping.json") == 1
    assert failures(metrics, "config.json") == 0
    (tmp_path / "config.json").write_text(json.dumps([entry("a")]))
    clusters.leads(handle("a", 1))
    assert ignored(metrics, "config.json") == 0


# --- files that change --------------------------------------------------------------------


def failures(metrics: Metrics, file: str) -> float:
    """Return how often a change of this file could not be used."""
    return sample(metrics, f'csi_addons_rbd_config_reload_failures_total{{file="{file}"}}')


def ignored(metrics: Metrics, file: str) -> float:
    """Return how many parts of this file are left out."""
    return sample(metrics, f'csi_addons_rbd_config_entries_ignored{{file="{file}"}}')


def sample(metrics: Metrics, name: str) -> float:
    """Return a value of a scrape."""
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


@pytest.mark.parametrize(
    "broken", ["", " \n", "[{", "{}", "7", '[{"clusterID": 1}]', "[7]", "\udcff", "[" * 100_000]
)
def test_broken_file_keeps_the_last_good_version(
    load: Load, tmp_path: Path, metrics: Metrics, broken: str
) -> None:
    """A half-written file changes nothing, and is counted once per change."""
    clusters = load([entry("a")])
    whole = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(broken, errors="surrogateescape")
    for _ in range(3):
        assert spots(clusters, handle("a", 1)) == [("a", 1)]
    assert "config.json" in clusters.leads(handle("a", 1)).doubt
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
        clusters.leads(handle("a", 1))
    (tmp_path / "config.json").write_text(json.dumps([entry("a")]))
    assert clusters.loaded
    assert spots(clusters, handle("a", 1)) == [("a", 1)]


@pytest.mark.parametrize(
    "broken", ["", " \n", "[{", "7", "[7]", "{", '{"a": []}', '{"clusterIDMapping": {"a": "b"}}']
)
def test_mapping_that_was_never_readable(
    load: Load, tmp_path: Path, metrics: Metrics, broken: str
) -> None:
    """It fails no volume of a cluster that is right, but absence there proves nothing."""
    (tmp_path / "cluster-mapping.json").write_text(broken)
    clusters = load([entry("a")])
    assert clusters.loaded
    assert spots(clusters, handle("a", 1)) == [("a", 1)]
    doubt = clusters.leads(handle("a", 1)).doubt
    assert "cluster-mapping.json" in doubt
    assert "nothing is in use" in doubt
    assert failures(metrics, "cluster-mapping.json") == 1
    with pytest.raises(ClusterNotConfigured, match=r"cluster-mapping\.json"):
        there(clusters, "a", 1)
    (tmp_path / "cluster-mapping.json").write_text("[]")
    assert not clusters.leads(handle("a", 1)).doubt


@pytest.mark.parametrize("empty", ["{}", " {} ", "null", "[]", "[{}]"])
def test_mapping_that_is_empty(load: Load, tmp_path: Path, metrics: Metrics, empty: str) -> None:
    """It maps nothing, and leaves no doubt."""
    (tmp_path / "cluster-mapping.json").write_text(empty)
    clusters = load([entry("a")])
    assert not doubt(clusters, handle("a", 1))
    assert there(clusters, "a", 1) == ("a", 1)
    assert failures(metrics, "cluster-mapping.json") == 0


@pytest.mark.parametrize("empty", ["{}", "null", ""])
def test_mapping_that_becomes_empty(load: Load, tmp_path: Path, empty: str) -> None:
    """It is being written, or was taken away by mistake: what it said stays in use."""
    clusters = load([entry("a"), entry("b")], [pairs({"a": "b"}, {"1": "2"})])
    (tmp_path / "cluster-mapping.json").write_text(empty)
    assert spots(clusters, handle("a", 1)) == [("a", 1), ("b", 2)]
    assert "last good version" in doubt(clusters, handle("a", 1))


def test_config_that_is_null(load: Load, tmp_path: Path) -> None:
    """It is no list: what was read before stays in use."""
    clusters = load([entry("a")])
    (tmp_path / "config.json").write_text("null")
    assert clusters.names == ("a",)
    assert "last good version" in doubt(clusters, handle("a", 1))


def test_mapping_may_go(load: Load, tmp_path: Path) -> None:
    """One that vanishes is being rewritten: the last version stays in use, until one is empty."""
    content = [pairs({"a": "b"}, {"1": "2"})]
    clusters = load([entry("a"), entry("b")], content)
    (tmp_path / "cluster-mapping.json").unlink()
    assert spots(clusters, handle("a", 1)) == [("a", 1), ("b", 2)]
    assert "last good version" in clusters.leads(handle("a", 1)).doubt
    (tmp_path / "cluster-mapping.json").write_text("[]")
    assert spots(clusters, handle("a", 1)) == [("a", 1)]
