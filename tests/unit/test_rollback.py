# SPDX-License-Identifier: Apache-2.0
"""Promotion by force: which images have to be taken back first."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from test_torn import snapshot

from csi_addons_rbd.ceph.rbd_header import Header, MirrorSnapshot, UserSnapshot
from csi_addons_rbd.ceph.rollback import is_needed, overwritten_by
from csi_addons_rbd.replication.image import Epoch

WHOLE = snapshot(1, Epoch.NON_PRIMARY)
HALF = snapshot(2, Epoch.NON_PRIMARY, complete=False)
HALF_DEMOTION = snapshot(2, Epoch.NON_PRIMARY_DEMOTED, complete=False)
ORPHAN = replace(snapshot(3, Epoch.NON_PRIMARY), orphan=True)
OURS = replace(ORPHAN, complete=False)


@pytest.mark.parametrize(
    "snapshots",
    [
        (),
        (WHOLE,),
        (WHOLE, ORPHAN),
        (snapshot(1, Epoch.NON_PRIMARY_DEMOTED),),
        (snapshot(1, Epoch.PRIMARY_DEMOTED),),
        (snapshot(1, Epoch.PRIMARY_DEMOTED), ORPHAN),
        (HALF, snapshot(3, Epoch.PRIMARY)),
    ],
)
def test_a_whole_copy_is_promoted_as_it_is(snapshots: Sequence[MirrorSnapshot]) -> None:
    """Nothing of a later copy is in it."""
    assert not is_needed(snapshots)


@pytest.mark.parametrize(
    "snapshots",
    [
        (WHOLE, HALF),
        (WHOLE, HALF_DEMOTION),
        (WHOLE, HALF, ORPHAN),
        (WHOLE, HALF, OURS),
        (WHOLE, replace(HALF, complete=True), OURS),
        (WHOLE, replace(HALF, complete=True), OURS, replace(ORPHAN, number=4)),
    ],
)
def test_a_half_made_copy_is_taken_back(snapshots: Sequence[MirrorSnapshot]) -> None:
    """Also after librbd, or this driver, was cut short in the middle of that."""
    assert is_needed(snapshots)


@pytest.mark.parametrize(
    ("snapshots", "names"),
    [
        ((snapshot(2, Epoch.NON_PRIMARY), snapshot(4, Epoch.NON_PRIMARY, complete=False)), ("3",)),
        (
            (
                snapshot(2, Epoch.PRIMARY_DEMOTED),
                snapshot(6, Epoch.NON_PRIMARY_DEMOTED, complete=False),
                replace(ORPHAN, number=8),
            ),
            ("3", "5"),
        ),
        ((snapshot(4, Epoch.NON_PRIMARY), snapshot(5, Epoch.NON_PRIMARY, complete=False)), ()),
        ((snapshot(2, Epoch.NON_PRIMARY), snapshot(4, Epoch.NON_PRIMARY)), ()),
        ((snapshot(2, Epoch.PRIMARY), snapshot(4, Epoch.PRIMARY)), ()),
        ((), ()),
    ],
)
def test_snapshots_of_users_are_written_over_the_last_whole_copy(
    snapshots: Sequence[MirrorSnapshot], names: Sequence[str]
) -> None:
    """Those that were taken since that copy, as long as the next one is half made."""
    numbers = {each.number for each in snapshots}
    users = tuple(
        UserSnapshot(number=number, name=str(number)) for number in sorted({1, 3, 5, 7} - numbers)
    )
    header = Header(
        features=0,
        has_parent=False,
        metadata={},
        snapshots=tuple(snapshots),
        user_snapshots=users,
        room=None,
    )
    assert overwritten_by(header) == tuple(names)
