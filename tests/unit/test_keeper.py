# SPDX-License-Identifier: Apache-2.0
"""How old the newest mirror snapshot is, whatever the clocks of cluster and driver say."""

import time
from dataclasses import replace
from typing import cast

import pytest
from test_promotion_rules import PRIMARY, status, view

from csi_addons_rbd.replication.image import Epoch, MirroredImage, MirrorView
from csi_addons_rbd.replication.keeper import _Kept


def seen(mark: int, taken: float) -> MirrorView:
    """Make a reading of a primary whose newest snapshot has this id and this time."""
    primary = view(status("", PRIMARY), epoch=Epoch.PRIMARY)
    return replace(primary, history=replace(primary.history, mark=mark, newest_at=int(taken)))


@pytest.fixture
def kept() -> _Kept:
    """An image whose interval is 30 s; nothing here talks to it."""
    return _Kept(cast("MirroredImage", None), 30)


@pytest.mark.parametrize(("ago", "age"), [(0, 0), (12, 12), (3600, 30), (-3600, 0)])
def test_the_clock_of_the_cluster_is_believed_within_the_interval(
    kept: _Kept, ago: int, age: int
) -> None:
    """At first sight the difference of the clocks counts, but never beyond the interval."""
    assert kept.age(seen(1, time.time() - ago)) == pytest.approx(age, abs=1.5)


def test_our_own_snapshots_are_timed_by_our_own_clock(kept: _Kept) -> None:
    """With the cluster's clock an hour behind, the next snapshot is still an interval away."""
    assert kept.age(seen(1, time.time() - 3600)) == pytest.approx(30, abs=1)
    kept.taken(2)
    assert kept.age(seen(2, time.time() - 3600)) == pytest.approx(0, abs=1)
    assert kept.age(seen(2, time.time() - 3600)) == pytest.approx(0, abs=1)


def test_a_snapshot_of_somebody_else_counts(kept: _Kept) -> None:
    """Whoever took the newest snapshot, an interval passes before the next."""
    kept.age(seen(1, time.time() - 30))
    assert kept.age(seen(2, time.time() - 5)) == pytest.approx(5, abs=1.5)
