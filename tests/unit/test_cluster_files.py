# SPDX-License-Identifier: Apache-2.0
"""The schemas of config.json and cluster-mapping.json."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_addons_rbd.cluster_files import (
    Cluster,
    Destination,
    MalformedFileError,
    SitePairs,
    parse_config,
    parse_mapping,
)


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
    assert parse_config(content) == {
        "rook": Cluster(
            monitors=("10.0.0.1:6789", "10.0.0.2:6789"), namespace="tenant", destination=None
        ),
        "empty": Cluster(monitors=(), namespace="", destination=None),
    }


def test_first_entry_wins() -> None:
    """Of two entries with one id the first counts, as in ceph-csi."""
    content = [{"clusterID": "a", "monitors": ["one"]}, {"clusterID": "a", "monitors": ["two"]}]
    assert parse_config(content)["a"].monitors == ("one",)


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
    assert parse_config(content)["a"].destination == Destination(
        cluster="b", pools={"Pool": 12, "pool": 3}
    )


def test_mapping_as_rook_writes_it() -> None:
    """Rook's capitalised keys are the same keys."""
    content = [
        {"ClusterIDMapping": {"a": "b"}, "RBDPoolIDMapping": [{"1": "2", "11": "12"}, {"3": "4"}]},
        {"clusterIDMapping": None, "RBDPoolIDMapping": None, "CephFSFscIDMapping": [{"1": "2"}]},
    ]
    assert parse_mapping(content) == (
        SitePairs(clusters=(("a", "b"),), pools=((1, 2), (11, 12), (3, 4))),
        SitePairs(clusters=(), pools=()),
    )


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"clusterID": "a"}, "config.json must be a list"),
        (["a"], "config.json, entry 1 must be an object"),
        ([{"clusterID": "a"}, {"monitors": []}], "entry 2: clusterID"),
        ([{"clusterID": 7}], "entry 1: clusterID"),
        ([{"clusterID": "a", "monitors": "m"}], "entry 1 (a): monitors"),
        ([{"clusterID": "a", "monitors": [1]}], "entry 1 (a): monitors"),
        ([{"clusterID": "a", "rbd": []}], "entry 1 (a): rbd"),
        ([{"clusterID": "a", "rbd": {"radosNamespace": 1}}], "entry 1 (a), rbd: radosNamespace"),
        (
            [
                {
                    "clusterID": "a",
                    "replicationDestination": {
                        "rbd": {"remotePoolMapping": {"p": {"poolID": "x"}}}
                    },
                }
            ],
            "entry 1 (a), replicationDestination, p: poolID",
        ),
        ([{"clusterID": "half a pair \ud800"}], "entry 1: clusterID"),
        ([{"clusterID": "a", "monitors": ["\udfff"]}], "entry 1 (a): monitors"),
        ([{"clusterID": "a", "rbd": {"radosNamespace": "x\0"}}], "rbd: radosNamespace"),
    ],
)
def test_malformed_config(content: object, named: str) -> None:
    """An error names file, entry and key."""
    with pytest.raises(MalformedFileError) as caught:
        parse_config(content)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({}, "cluster-mapping.json must be a list"),
        ([{"clusterIDMapping": ["a"]}], "entry 1: clusterIDMapping"),
        ([{"clusterIDMapping": {"a": 1}}], "entry 1: clusterIDMapping"),
        ([{"clusterIDMapping": {"a": "half a pair \ud800"}}], "entry 1: clusterIDMapping"),
        ([{"clusterIDMapping": {"\udfff": "a"}}], "entry 1: clusterIDMapping"),
        ([{"RBDPoolIDMapping": {"1": "2"}}], "entry 1: RBDPoolIDMapping"),
        ([{"RBDPoolIDMapping": [{"1": "two"}]}], "entry 1: RBDPoolIDMapping"),
        ([{"RBDPoolIDMapping": [{"1": "-2"}]}], "entry 1: RBDPoolIDMapping"),
        ([{"RBDPoolIDMapping": [{"1": "9" * 30}]}], "entry 1: RBDPoolIDMapping"),
        ([{"RBDPoolIDMapping": [{"1": True}]}], "entry 1: RBDPoolIDMapping"),
    ],
)
def test_malformed_mapping(content: object, named: str) -> None:
    """An error names file, entry and key."""
    with pytest.raises(MalformedFileError) as caught:
        parse_mapping(content)
    assert named in str(caught.value)


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
            parse(content)
