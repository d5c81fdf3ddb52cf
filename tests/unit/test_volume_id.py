# SPDX-License-Identifier: Apache-2.0
"""The CSI volume handle."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_addons_rbd.replication.errors import InvalidHandle
from csi_addons_rbd.replication.volume_id import VolumeId

_UUID = "24a0bda8-4f3c-11ee-be56-0242ac120002"
_HANDLE = f"0001-0009-rook-ceph-0000000000000002-{_UUID}"

_uuids = st.uuids().map(str)
_pools = st.integers(min_value=0, max_value=2**63 - 1)
_clusters = st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(
    lambda text: len(text.encode()) <= 64
)


def test_as_ceph_csi_writes_it() -> None:
    """A handle of a real cluster, field by field."""
    assert VolumeId.parse(_HANDLE) == VolumeId(cluster="rook-ceph", pool=2, uuid=_UUID)


@given(cluster=_clusters, pool=_pools, uuid=_uuids)
def test_round_trip(cluster: str, pool: int, uuid: str) -> None:
    """What is formatted is parsed to the same, whatever the cluster id holds."""
    volume = VolumeId(cluster=cluster, pool=pool, uuid=uuid)
    assert VolumeId.parse(str(volume)) == volume


@given(cluster=_clusters, pool=_pools, uuid=_uuids)
def test_case_of_hex_digits(cluster: str, pool: int, uuid: str) -> None:
    """Hex digits and the uuid are the same volume's in upper case; a cluster id is not."""
    lower = str(VolumeId(cluster=cluster, pool=pool, uuid=uuid))
    head, tail = lower[:10], lower[-54:]
    volume = VolumeId.parse(f"{head.upper()}{lower[10:-54]}{tail.upper()}")
    assert volume == VolumeId(cluster=cluster, pool=pool, uuid=uuid)
    assert volume.uuid == uuid.lower()


@given(st.text(max_size=200) | st.text(string.hexdigits + "-", max_size=120))
def test_garbage(text: str) -> None:
    """Garbage is refused with our own error, and never anything else."""
    with pytest.raises(InvalidHandle, match="volume_id"):
        VolumeId.parse(text)


@given(st.integers(0, len(_HANDLE) - 1), st.characters(exclude_categories=("Cs",)))
def test_one_wrong_character(position: int, character: str) -> None:
    """A changed character is refused, or is part of another well-formed handle."""
    text = f"{_HANDLE[:position]}{character}{_HANDLE[position + 1 :]}"
    try:
        volume = VolumeId.parse(text)
    except InvalidHandle:
        return
    assert str(volume).lower() == text.lower()


@pytest.mark.parametrize(
    "handle",
    [
        "",
        _HANDLE[:-1],
        f"{_HANDLE}0",
        f"{_HANDLE}\n",
        _HANDLE.replace("0001-", "0002-", 1),
        _HANDLE.replace("0009", "0008"),
        _HANDLE.replace("0009", "000a"),
        _HANDLE.replace("0009-rook-ceph", "0000-"),
        f"0001-0041-{'c' * 65}-0000000000000002-{_UUID}",
        _HANDLE.replace("0000000000000002", "000000000000000g"),
        _HANDLE.replace("0000000000000002", "8000000000000000"),
        _HANDLE.replace(_UUID, _UUID.replace("-", "_")),
        "mig_mons-b7f67366bb43f32e07d8a261a7840da9_image-x_706f6f6c",
    ],
)
def test_malformed(handle: str) -> None:
    """Each field is checked, and the error says what is accepted."""
    with pytest.raises(InvalidHandle, match="accepted is 0001-"):
        VolumeId.parse(handle)
