# SPDX-License-Identifier: Apache-2.0
"""A half made copy that is being taken back: what rbd-mirror makes of it, and Disable."""

import pytest
from csi_addons_conformance.case import expect, poll, settle
from csi_addons_conformance.cases.promote import (
    BIG,
    MARK,
    await_half_a_copy,
    blocks,
    copied,
    cut_a_copy,
    fill,
    mark_blocks,
)
from csi_addons_conformance.stage import Stage

from csi_addons_rbd.ceph.rbd_header import read_header
from csi_addons_rbd.ceph.rollback import Rollback, prepare
from csi_addons_rbd.ceph.sightings import look
from lab import Volume

pytestmark = [pytest.mark.safety, pytest.mark.timeout(300)]


@pytest.fixture
def half_copied(stage: Stage) -> Volume:
    """A volume whose first copy on dr2 is whole, and whose second is half made."""
    volume = copied(stage)
    mark_blocks(stage.here, volume, b"2" * MARK)
    cut_a_copy(stage, volume, stage.here.take_mirror_snapshot)
    return volume


def test_rbd_mirror_leaves_alone_what_is_being_taken_back(
    stage: Stage, half_copied: Volume
) -> None:
    """It starts again after a driver was killed in the middle, and its peer is there.

    Otherwise it would go on from a copy that only reads whole.
    """
    there, volume = stage.there, half_copied
    with there.site.connect() as cluster, there.site.ioctx() as ioctx:
        seen = look(ioctx, volume.image)
        assert seen.image_id is not None
        assert seen.mirroring is not None

        def ready() -> bool:
            state = prepare(cluster, ioctx, str(seen.image_id), seen.mirroring.global_id)
            return state is Rollback.READY

        poll(ready, seconds=60, what="the watch of the dead rbd-mirror is over")
        before = read_header(ioctx, seen.image_id).snapshots
        there.site.start("rbd-mirror")
        poll(lambda: "orphan" in said(stage, volume), seconds=60, what="rbd-mirror sees the orphan")
        assert read_header(ioctx, seen.image_id).snapshots[-2:] == before[-2:]
    settle(lambda: there.client.promote(volume.handle, force=True), seconds=90)
    assert blocks(there, volume) == {b"1"}


def test_disable_by_force_leaves_the_last_whole_copy(stage: Stage, half_copied: Volume) -> None:
    """librbd promotes the image for it, and would take it back too far."""
    there, volume = stage.there, half_copied
    try:
        # until then it is the healthy secondary of a live primary, which is left alone
        poll(lambda: not there.state(volume).startswith("up"), seconds=60, what="dr2 reads down")
        settle(lambda: there.client.disable(volume.handle, force="true"), seconds=90)
        assert not there.mirrored(volume)
        assert blocks(there, volume) == {b"1"}
    finally:
        there.site.start("rbd-mirror")


def said(stage: Stage, volume: Volume) -> str:
    """Return what dr2's rbd-mirror says of the image."""
    return str(stage.there.mirror_status(volume).get("description", ""))


def test_a_first_copy_that_never_became_whole_is_let_go(stage: Stage) -> None:
    """Its source is lost; there is nothing to take it back to, and yet it can be disabled."""
    volume = stage.lab.make_volume("dr1", BIG)
    fill(stage.here, volume)
    expect(stage.here.client.enable(volume.handle), "OK")
    await_half_a_copy(stage.there, volume)
    with stage.there.without("rbd-mirror"):
        settle(lambda: stage.there.client.disable(volume.handle, force="true"), seconds=90)
        assert not stage.there.mirrored(volume)
