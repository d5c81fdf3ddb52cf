# SPDX-License-Identifier: Apache-2.0
"""The schemas of config.json and cluster-mapping.json."""

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_addons_rbd.cluster_files import (
    Cluster,
    Destination,
    SitePairs,
    parse_config,
    parse_mapping,
)
from csi_addons_rbd.json_values import MalformedFileError, decode


def test_config_as_operators_write_it() -> None:
    """Known keys are read in any case, unknown ones and nulls ignored."""
    content = [
        {
            "ClusterID": "rook",
            "monitors": ["10.0.0.1:6789", " ", "10.0.0.2:6789 "],
            "namespace": "rook-ceph",
            "cephFS": {"subvolumeGroup": "x"},
            "RBD": {"RadosNamespace": "tenant", "netNamespaceFilePath": ""},
            "readAffinity": None,
        },
        {"clusterID": "empty", "monitors": None, "rbd": None, "replicationDestination": None},
    ]
    found = parse_config(content)
    assert found.clusters == {
        "rook": Cluster(
            monitors=("v1:10.0.0.1:6789", "v1:10.0.0.2:6789"),
            namespace="tenant",
            destination=None,
        ),
        "empty": Cluster(
            monitors=(),
            namespace="",
            destination=None,
            doubt="config.json, entry 2 (empty) has no monitors yet",
        ),
    }
    # as Rook writes it at first
    assert not found.faults


def test_first_entry_wins() -> None:
    """Of two entries with one id the first counts, as in ceph-csi."""
    content = [{"clusterID": "a", "monitors": ["v1:one"]}, {"clusterID": "a", "monitors": ["two"]}]
    found = parse_config([content[0], *content])
    assert found.clusters["a"].monitors == ("v1:one:6789",)
    assert found.faults == (
        "config.json, entry 3 (a): an earlier entry has this clusterID, and counts",
    )


def test_first_usable_entry_wins() -> None:
    """What is wrong with one before it stays a doubt."""
    content = [
        {"clusterID": "a", "monitors": ["x:y"]},
        {"clusterID": "a", "monitors": ["v1:two"], "rbd": {"radosNamespace": "n"}},
    ]
    found = parse_config(content)
    assert found.clusters["a"].monitors == ("v1:two:6789",)
    assert found.clusters["a"].namespace == "n"
    assert found.clusters["a"].doubt == found.faults[0]
    assert "entry 1 (a): monitors" in found.faults[0]


def test_destination() -> None:
    """Pool names are data and keep their case; pool ids are decimal digits or numbers."""
    content = [
        {
            "clusterID": "a",
            "monitors": ["m"],
            "replicationDestination": {
                "remoteClusterID": "b",
                "rbd": {"remotePoolMapping": {"Pool": {"poolID": "12"}, "pool": {"POOLID": 3}}},
            },
        }
    ]
    assert parse_config(content).clusters["a"].destination == Destination(
        cluster="b", pools={"Pool": 12, "pool": 3}
    )


def test_mapping_as_rook_writes_it() -> None:
    """Rook's capitalised keys are the same keys."""
    content = [
        {"ClusterIDMapping": {"a": "b"}, "RBDPoolIDMapping": [{"1": "2", "11": "12"}, {"3": "4"}]},
        {"clusterIDMapping": None, "RBDPoolIDMapping": None, "CephFSFscIDMapping": [{"1": "2"}]},
    ]
    assert parse_mapping(content).entries == (
        SitePairs(clusters=(("a", "b"),), pools=((1, 2), (11, 12), (3, 4))),
        SitePairs(clusters=(), pools=()),
    )


_GOOD = {"clusterID": "good", "monitors": ["v1:10.0.0.1"]}


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ("a", "entry 1 must be an object"),
        (None, "entry 1 must be an object"),
        ({"monitors": []}, "entry 1: clusterID"),
        ({"clusterID": None}, "entry 1: clusterID"),
        ({"clusterID": 7}, "entry 1: clusterID"),
        ({"clusterID": "half a pair \ud800"}, "entry 1: clusterID"),
        ({"clusterID": "a", "monitors": "v3:m"}, "entry 1 (a): monitors"),
        ({"clusterID": "a", "monitors": "\ud800"}, "entry 1 (a): monitors"),
        ({"clusterID": "a", "monitors": 7}, "entry 1 (a): monitors"),
        ({"clusterID": "a", "monitors": {}}, "entry 1 (a): monitors"),
        ({"clusterID": "a", "monitors": [1]}, "entry 1 (a): monitors"),
        ({"clusterID": "a", "monitors": ["\udfff"]}, "entry 1 (a): monitors"),
        ({"clusterID": "a", "monitors": ["v3:x"]}, "entry 1 (a): monitors"),
        ({"clusterID": "a", "monitors": ["v1:m"], "rbd": []}, "entry 1 (a): rbd"),
        (
            {"clusterID": "a", "monitors": ["v1:m"], "rbd": {"radosNamespace": 1}},
            "entry 1 (a), rbd: radosNamespace",
        ),
        ({"clusterID": "a", "rbd": {"radosNamespace": "x\0"}}, "rbd: radosNamespace"),
    ],
)
def test_a_bad_entry_costs_itself(bad: dict[str, object], named: str) -> None:
    """It is named, by entry and key; the others are in use."""
    for content in ([bad, _GOOD], [bad, _GOOD, bad]):
        found = parse_config(content)
        assert named in found.faults[0]
        assert found.clusters["good"].monitors == ("v1:10.0.0.1:6789",)
        assert not found.clusters["good"].doubt
        assert bool(found.nameless) is ("a" not in found.clusters)
        if "a" in found.clusters:
            assert not found.clusters["a"].monitors
            assert found.clusters["a"].broken
            assert named in found.clusters["a"].doubt


def test_monitors_in_one_text() -> None:
    """In place of a list they are read as well; an empty text is not filled in yet."""
    found = parse_config([{"clusterID": "a", "monitors": "v1:10.0.0.1,v1:10.0.0.2"}])
    assert found.clusters["a"].monitors == ("v1:10.0.0.1:6789", "v1:10.0.0.2:6789")
    assert not found.faults
    found = parse_config([{"clusterID": "a", "monitors": " "}])
    assert not found.clusters["a"].broken


def test_a_bad_monitor_costs_itself() -> None:
    """The entry is used with the others, and leaves no doubt."""
    found = parse_config([{"clusterID": "a", "monitors": [7, "v1:m", "v3:x", None]}])
    assert found.clusters["a"].monitors == ("v1:m:6789",)
    assert not found.clusters["a"].doubt
    assert len(found.faults) == 3


@pytest.mark.parametrize(
    "destination",
    [
        7,
        [],
        {"remoteClusterID": 1},
        {"remoteClusterID": "b", "rbd": "x"},
        {"remoteClusterID": "b", "rbd": {"remotePoolMapping": [1]}},
    ],
)
def test_a_bad_destination_costs_itself(destination: object) -> None:
    """The cluster is in use without any doubt."""
    found = parse_config([_GOOD | {"replicationDestination": destination}])
    cluster = found.clusters["good"]
    assert cluster.monitors
    assert not cluster.doubt
    assert cluster.destination is not None
    assert (cluster.destination.fault,) == found.faults


def test_a_bad_pool_of_a_destination_costs_itself() -> None:
    """The others are in use."""
    pools = {"p": {"poolID": "N/A"}, "q": {"poolID": "3"}, "r": 7}
    remote = {"remoteClusterID": "b", "rbd": {"remotePoolMapping": pools}}
    found = parse_config([_GOOD | {"replicationDestination": remote}])
    destination = found.clusters["good"].destination
    assert destination is not None
    assert (destination.pools, destination.fault) == ({"q": 3}, "")
    assert list(destination.unreadable) == ["p", "r"]
    assert tuple(destination.unreadable.values()) == found.faults


@pytest.mark.parametrize(
    "text",
    [
        '[{"clusterID": "a", "clusterid": null, "monitors": ["v1:m"], "Monitors": null}]',
        '[{"clusterID": "a", "clusterID": null, "monitors": ["v1:m"], "monitors": null}]',
        '[{"CLUSTERID": null, "clusterID": "a", "MONITORS": null, "monitors": ["v1:m"]}]',
    ],
)
def test_a_null_never_stands_for_a_value(text: str) -> None:
    """Whichever comes first, and whether or not the keys differ in case."""
    found = parse_config(decode(text.encode()))
    assert found.clusters["a"].monitors == ("v1:m:6789",)
    assert not found.faults


@pytest.mark.parametrize("depth", [70, 2000, 100_000])
def test_deep_nesting_costs_its_entry(depth: int) -> None:
    """And nothing at all under a key that nobody reads."""
    deep = "[" * depth + "]" * depth
    text = (
        f'[{deep}, {{"clusterID": "a", "monitors": ["v1:m", {deep}], "x": {{"]": {deep}}}}}, '
        f'{{"clusterID": "b", "monitors": ["v1:m"], "rbd": {{"radosNamespace": {deep}}}}}]'
    )
    found = parse_config(decode(text.encode()))
    assert found.clusters["a"].monitors == ("v1:m:6789",)
    assert found.clusters["b"].broken
    assert len(found.faults) == 3


@pytest.mark.parametrize(
    "text",
    [
        b'["' + rb"\"" * 200_000,
        b'["' + b"\\" * 400_001,
        b'"' * 400_001,
        b'["a", ' * 100_000,
        b'{"a":' * 100_000,
        b"]" * 400_000,
    ],
)
def test_what_is_no_json_takes_no_time(text: bytes) -> None:
    """A text without an end is read once, however many quotes are in it."""
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"\d"):
        decode(text)
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("bad", [7, {"a": 7}, "two"])
def test_many_pairs_take_no_time(bad: object) -> None:
    """Time grows with their number alone, for good ones and for bad ones."""
    many = {f"cluster-{each}": bad if each % 2 else "x" for each in range(20_000)}
    began = time.monotonic()
    found = parse_mapping([{"clusterIDMapping": many, "RBDPoolIDMapping": [{"1": "2"}]}])
    assert len(found.entries[0].clusters) + len(found.gaps) == 20_000
    assert time.monotonic() - began < 3


def test_a_number_that_is_too_long_costs_its_entry() -> None:
    """Python refuses to read more than 4,300 digits."""
    found = parse_mapping(decode(b'[{"RBDPoolIDMapping": [{"1": %s, "2": 3}]}]' % (b"7" * 5000)))
    assert found.entries[0].pools == ((2, 3),)
    assert len(found.faults) == 1


_PAIRS = {"clusterIDMapping": {"a": "b"}, "RBDPoolIDMapping": [{"1": "2"}]}


@pytest.mark.parametrize("bad", [7, "x", None, [], {"clusterIDMapping": ["a"]}])
def test_a_bad_entry_of_the_mapping_costs_itself(bad: object) -> None:
    """It may have been about any cluster."""
    found = parse_mapping([_PAIRS, bad, _PAIRS])
    assert [each.pools for each in found.entries] == [((1, 2),), (), ((1, 2),)]
    assert [each.clusters for each in found.gaps] == [None]
    assert "cluster-mapping.json, entry 2" in found.faults[0]


@pytest.mark.parametrize(
    "bad",
    [
        {"c": 1},
        {"c": "half a pair \ud800"},
        {"\udfff": "c"},
        {"c": None},
        {"c": ""},
        {"c": " "},
        {"": "c"},
    ],
)
def test_a_bad_pair_of_clusters_costs_itself(bad: dict[str, object]) -> None:
    """The other pairs of its entry are in use."""
    found = parse_mapping([_PAIRS | {"clusterIDMapping": {"a": "b", **bad, "d": "e"}}])
    assert found.entries[0].clusters == (("a", "b"), ("d", "e"))
    assert [each.clusters for each in found.gaps] == [None]


@pytest.mark.parametrize("bad", ["two", "N/A", "-2", "", "9" * 30, True, None, 1.5, [], -1, 10**19])
def test_a_bad_pair_of_pools_costs_itself(bad: object) -> None:
    """The other pairs of its object and of its entry are in use."""
    pools = [{"1": "2", "3": bad, "5": 6}, {"7": "8"}]
    found = parse_mapping([_PAIRS | {"RBDPoolIDMapping": pools}])
    assert found.entries[0].pools == ((1, 2), (5, 6), (7, 8))
    assert [each.clusters for each in found.gaps] == [frozenset("ab")]


@pytest.mark.parametrize("bad", [{"1": "2"}, "x", 7])
def test_bad_pools_leave_a_gap_for_their_clusters(bad: object) -> None:
    """An object in place of a list is not guessed at."""
    found = parse_mapping([_PAIRS | {"RBDPoolIDMapping": bad}, _PAIRS])
    assert [each.pools for each in found.entries] == [(), ((1, 2),)]
    assert [each.clusters for each in found.gaps] == [frozenset("ab")]


def test_what_a_gap_concerns() -> None:
    """All pools of its clusters, and of no others."""
    (gap,) = parse_mapping([_PAIRS | {"RBDPoolIDMapping": [{"3": "N/A"}]}]).gaps
    assert [each for each in "abc" if gap.concerns(each)] == ["a", "b"]
    (gap,) = parse_mapping([_PAIRS, 7]).gaps
    assert [each for each in "abc" if gap.concerns(each)] == ["a", "b", "c"]


@pytest.mark.parametrize("content", [None, {}])
def test_an_empty_file(content: object) -> None:
    """What was read before does not go without a word."""
    for parse in (parse_config, parse_mapping):
        with pytest.raises(MalformedFileError, match="must be a list"):
            parse(content)


@pytest.mark.parametrize(
    "bad",
    [
        b'{"clusterID": "b\xff", "monitors": ["10.0.0.2"]}',
        b'{"clusterID": "\xfcber", "monitors": ["10.0.0.2"]}',
        b'{"clusterID": "b\nc", "monitors": ["10.0.0.2"]}',
        b'{"clusterID": "b\x07", "monitors": ["10.0.0.2"]}',
        b'{"clusterID": "b\\u0007", "monitors": ["10.0.0.2"]}',
        b'{"clusterID": "b", "rbd": {"radosNamespace": "n\xe9"}, "monitors": ["10.0.0.2"]}',
        b'{"clusterID": "b", "rbd": {"radosNamespace": "n\tm"}, "monitors": ["10.0.0.2"]}',
        b'{"clusterID": "b", "monitors": ["10.0.0.2\xff"]}',
        b'{"clusterID": "b", "monitors": ["\xed\xa0\x80"]}',
    ],
)
def test_bytes_that_are_no_text_cost_one_value(bad: bytes) -> None:
    """The other entries are in use, and keys that nobody reads may hold anything."""
    for content in (
        b'[%s, {"clusterID": "a", "monitors": ["10.0.0.1"], "x\xff": "\n\xff"}]',
        b'\xef\xbb\xbf[{"clusterID": "a", "monitors": ["10.0.0.1"]}, %s]',
    ):
        found = parse_config(decode(content % bad))
        assert found.clusters["a"].monitors
        assert len(found.faults) == 1
        assert found.faults[0].isprintable()
        assert not any(each.monitors for name, each in found.clusters.items() if name != "a")


def test_line_breaks_within_texts() -> None:
    """Around a name they are none of it, and between monitors they are blanks."""
    text = b'[{"clusterID": "a\n", "monitors": ["v1:10.0.0.1\n\tv1:10.0.0.2\n"]}]'
    assert parse_config(decode(text)).clusters["a"].monitors == (
        "v1:10.0.0.1:6789",
        "v1:10.0.0.2:6789",
    )


def test_bytes_that_are_no_text_cost_one_pair() -> None:
    """In the mapping, too."""
    text = (
        b'[{"clusterIDMapping": {"a": "b", "c": "d\xff", "\xffe": "f", "g": "h\ni"}, '
        b'"RBDPoolIDMapping": [{"1": "2", "3": "4\xff", "\xb2": "5"}]}]'
    )
    found = parse_mapping(decode(text))
    assert found.entries == (SitePairs(clusters=(("a", "b"),), pools=((1, 2),)),)
    assert len(found.gaps) == 5


@pytest.mark.parametrize(
    "clusters", [{"a": "b "}, {" a": "b"}, {"a\n": "\tb"}, {"a": "b", "a ": "b"}]
)
@pytest.mark.parametrize("pools", [{"1 ": "2"}, {"1": " 2"}, {"1\n": 2}])
def test_blanks_around_names_of_the_mapping(
    clusters: dict[str, str], pools: dict[str, object]
) -> None:
    """They are no part of a name, as in config.json."""
    found = parse_mapping([{"clusterIDMapping": clusters, "RBDPoolIDMapping": [pools]}])
    assert set(found.entries[0].clusters) == {("a", "b")}
    assert found.entries[0].pools == ((1, 2),)
    assert not found.gaps


@pytest.mark.parametrize(
    "text",
    [
        '"clusterIDMapping": {"a": "b"}, "ClusterIDMapping": {"c": "d"}, %s',
        '"clusterIDMapping": {"a": "b"}, "clusterIDMapping": {"c": "d"}, %s',
        '"clusterIDMapping": {"a": "b"}, "x": null, "clusterIdMapping": {"c": "d"}, %s',
        '%s, "CLUSTERIDMAPPING": {"a": "b", "c": "d"}, "clusterIDMapping": {}',
    ],
)
def test_one_key_in_two_cases(text: str) -> None:
    """What stands under either counts."""
    for pools in (
        '"RBDPoolIDMapping": [{"1": "2"}], "rbdPoolIDMapping": [{"3": "4"}]',
        '"rbdpoolidmapping": [{"1": "2"}, {"3": "4"}], "RBDPoolIDMapping": []',
    ):
        found = parse_mapping(decode(f"[{{{text % pools}}}]".encode()))
        (entry,) = found.entries
        assert entry == SitePairs(clusters=(("a", "b"), ("c", "d")), pools=((1, 2), (3, 4)))
        assert not found.gaps


def test_one_key_in_two_cases_of_which_one_is_bad() -> None:
    """The other one is in use."""
    entry = {
        "clusterIDMapping": {"a": "b"},
        "ClusterIDMapping": ["c"],
        "RBDPoolIDMapping": 7,
        "rbdPoolIDMapping": [{"1": "2"}],
    }
    found = parse_mapping([entry])
    assert found.entries == (SitePairs(clusters=(("a", "b"),), pools=((1, 2),)),)
    assert [each.clusters for each in found.gaps] == [None, frozenset("ab")]


def test_objects_of_one_key_in_two_cases_are_one() -> None:
    """As Go reads them; what was given is left as it was."""
    entry = _GOOD | {"rbd": {"radosNamespace": "n"}, "RBD": {"x": 1}, "Rbd": {"y": 1}}
    for _ in range(2):
        assert parse_config([entry]).clusters["good"].namespace == "n"
    assert entry["rbd"] == {"radosNamespace": "n"}


def test_many_objects_under_one_key_take_no_time() -> None:
    """Each is looked at once."""
    text = ", ".join(f'"rbd": {{"{each}": 1}}' for each in range(50_000))
    began = time.monotonic()
    found = decode(f"{{{text}}}".encode())
    assert isinstance(found, dict)
    assert len(found["rbd"]) == 50_000
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("content", ["x", 7, {"clusterID": "a"}])
def test_a_file_that_is_no_list(content: object) -> None:
    """Is refused as a whole: the last good version stays in use."""
    for parse, file in ((parse_config, "config.json"), (parse_mapping, "cluster-mapping.json")):
        with pytest.raises(MalformedFileError, match=f"{file} must be a list"):
            parse(content)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["clusterID", "monitors", "rbd", "clusterIDMapping", "RBDPoolIDMapping", "1", "x"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(_json)
def test_any_json_is_read_or_refused(content: object) -> None:
    """Whatever stands in a file, the only error is the one that names what is wrong."""
    for parse in (parse_config, parse_mapping):
        with contextlib.suppress(MalformedFileError):
            found = parse(content)
            assert all(found.faults)
