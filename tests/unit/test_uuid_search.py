# SPDX-License-Identifier: Apache-2.0
"""Names that end in a uuid, as they stand in Ceph's omaps. Bytes as Ceph 16.2 writes them."""

import pytest

from csi_addons_rbd.ceph.uuid_search import Trace, decode_entry, decode_trashed, ends_in
from csi_addons_rbd.replication.errors import CephFailure

UUID = "0a1b2c3d-2222-3333-4444-55555555aaff"


def string(text: bytes) -> bytes:
    """Encode a ``std::string``."""
    return len(text).to_bytes(4, "little") + text


def trashed(source: int, name: bytes, version: int = 2) -> bytes:
    """Encode a ``TrashImageSpec``."""
    body = bytes([source]) + string(name) + bytes(16) + (b"\0" if version > 1 else b"")
    return bytes([version, 1]) + len(body).to_bytes(4, "little") + body


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        (f"csi-vol-{UUID}", True),
        (f"team-a-{UUID.upper()}", True),
        (UUID, True),
        (f"\xff\xfe-{UUID}", True),
        (f"csi-vol-{UUID}-temp", False),
        (f"csi-vol-{UUID[:-1]}0", False),
        (UUID[1:], False),
        ("", False),
    ],
)
def test_names_end_in_the_uuid_in_whatever_case(name: str, ends: bool) -> None:  # noqa: FBT001
    """Whatever stands before it, text or not; what stands behind it makes another image of it."""
    raw = name.encode("latin-1")
    assert ends_in(raw, UUID) is ends
    assert ends_in(raw, UUID.upper()) is ends


def test_entries_of_the_directory_are_bytes() -> None:
    """librbd takes names that are no text."""
    assert decode_entry(string(b"\xff-image")) == b"\xff-image"
    with pytest.raises(CephFailure, match="rbd_directory"):
        decode_entry(b"\xff\xff")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("number", "source", "fate"),
    [
        (0, "USER", "rbd trash restore"),
        (1, "MIRRORING", "rbd-mirror is deleting it"),
        (2, "MIGRATION", "rbd migration commit"),
        (3, "REMOVING", "begun"),
        (4, "USER_PARENT", "rbd trash restore"),
        (9, "source 9", "rbd trash restore"),
    ],
)
def test_entries_of_the_trash(version: int, number: int, source: str, fate: str) -> None:
    """Who moved it there decides what becomes of it; a migration's source is not to be removed."""
    trace = decode_trashed(trashed(number, b"csi-vol-1", version))
    assert trace == Trace(raw=b"csi-vol-1", source=source)
    assert fate in trace.fate
    assert trace.of_mirroring is (source == "MIRRORING")
    assert ("purge" in trace.fate) is (number in {0, 4, 9})
    with pytest.raises(CephFailure, match="rbd_trash"):
        decode_trashed(trashed(number, b"csi-vol-1", version)[:-20])


def test_names_that_are_no_text_are_written_with_backslashes() -> None:
    """They are told of, and not opened."""
    trace = Trace(raw=b"\xff-image")
    assert trace.name == "\\xff-image"
    assert not trace.is_text
    assert Trace(raw="ä".encode()).is_text
    assert trace.at("pool/ns") == "pool/ns/\\xff-image"
    assert Trace(raw=b"a", source="USER").at("pool").startswith("pool/a (in the trash; ")
