# SPDX-License-Identifier: Apache-2.0
"""What somebody else wrote where this driver reads its own: no call may end in a fault for it."""

import json

import pytest
import rbd

from csi_addons_rbd.ceph.mirror import _switched_on
from csi_addons_rbd.ceph.rbd_header import Header
from csi_addons_rbd.ceph.sightings import name_among
from csi_addons_rbd.replication.errors import CephFailure
from csi_addons_rbd.replication.notes import (
    ENDED,
    SCHEDULE,
    ended,
    unreadable_schedule,
    wanted_schedule,
)


@pytest.mark.parametrize(
    ("note", "features"),
    [
        ("4", rbd.RBD_FEATURE_EXCLUSIVE_LOCK),
        ("68", rbd.RBD_FEATURE_EXCLUSIVE_LOCK | rbd.RBD_FEATURE_JOURNALING),
        ("65", rbd.RBD_FEATURE_JOURNALING),
        ("-1", 0),
        ("", 0),
        ("exclusive-lock", 0),
        ("1e9", 0),
        ("4" * 5000, 0),
    ],
)
def test_only_what_enable_switches_on_is_switched_off(note: str, features: int) -> None:
    """Whatever else the note of it says."""
    header = Header(
        features=0,
        has_parent=False,
        metadata={".rbd.csi-addons-rbd.features": note},
        snapshots=(),
        user_snapshots=(),
        room=None,
    )
    assert _switched_on(header) == features


@pytest.mark.parametrize("seconds", [0, -1, 1 << 40, 10**400, "60", None, 1.5])
def test_an_interval_that_nobody_asks_for_is_none(seconds: object) -> None:
    """One that a float cannot hold failed each turn, and each scrape of the metrics."""
    note = {"seconds": seconds, "by_driver": True, "start_time": None, "placed": True}
    assert wanted_schedule({SCHEDULE: json.dumps(note)}) is None


@pytest.mark.parametrize(
    "note", ["", "{", "[]", "1", "null", '"ended"', '["ended"]', '{"every": "5m"}', "[" * 100_000]
)
def test_a_schedule_that_cannot_be_read_has_not_ended(note: str) -> None:
    """A newer version may have written it; but whatever is ended has ended."""
    assert wanted_schedule({SCHEDULE: note}) is None
    assert unreadable_schedule({SCHEDULE: note})
    assert not unreadable_schedule({SCHEDULE: ended(note)})
    assert not unreadable_schedule({SCHEDULE: ENDED})
    assert not unreadable_schedule({})


def test_the_name_of_an_image_in_the_journal() -> None:
    """An empty one is none; one that is no text is said to be damaged."""
    assert name_among([("csi.imagename", b"pvc-1")], "abc") == "pvc-1"
    assert name_among([("csi.imagename", b""), ("csi.volname", b"x")], "abc") == ""
    with pytest.raises(CephFailure, match=r"csi\.imagename of csi\.volume\.abc"):
        name_among([("csi.imagename", b"\xff")], "abc")
