# SPDX-License-Identifier: Apache-2.0
"""What a crash tore, where the suite cannot have it torn: in the middle of this driver's steps."""

import os
import signal
import struct
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import rados
import rbd
from csi_addons_conformance.case import expect, poll, settle
from csi_addons_conformance.cases.torn import cut_demotion_short
from csi_addons_conformance.stage import Stage
from test_process import BEFORE_DEMOTING, await_step

from lab import Volume
from tests.driver_insides import workers

_MIRROR: Final = 3
_PRIMARY: Final = 0


@pytest.mark.timeout(300)
def test_the_schedule_goes_on_after_a_torn_snapshot(stage: Stage) -> None:
    """The peer skips it and waits for the next one, so the driver must not wait for the peer."""
    volume = stage.mirrored()
    with stage.there.frozen("rbd-mirror"):
        torn = _tear(stage, volume)
    assert not stage.here.mirror_snapshots(volume)[-1]["mirror"]["complete"]
    expect(stage.here.client.enable(volume.handle, schedulingInterval="10s"), "OK")
    poll(lambda: _whole_after(stage, volume, torn), seconds=90, what="a newer snapshot, alone")
    expect(stage.here.client.disable(volume.handle), "OK")


@pytest.mark.timeout(400)
@pytest.mark.parametrize("taken_over", [False, True])
def test_a_demotion_made_anew_and_cut_short_proves_nothing(
    stage: Stage, fault: Path, *, taken_over: bool
) -> None:
    """The image was promoted for a moment, without a look at its peers; the driver dies then.

    No call takes it for a primary; Promote looks at the peers first.
    """
    stage = replace(stage, mode="journal")
    volume, client = stage.mirrored(), stage.here.client
    cut_demotion_short(stage, volume, early=False)
    fault.write_text(BEFORE_DEMOTING)
    with ThreadPoolExecutor() as executor:
        held = executor.submit(client.demote, volume.handle)
        await_step(fault)
        os.kill(workers(stage.here.driver)[0], signal.SIGKILL)
        expect(held.result(timeout=30), "UNAVAILABLE", saying=("Killed",))
    assert stage.here.primary(volume)
    expect(client.enable(volume.handle, mirroringMode="journal"), "FAILED_PRECONDITION")
    told = client.info(volume.handle)
    expect(told, "OK")
    assert told.response.status == told.response.ERROR
    if taken_over:
        settle(lambda: stage.there.client.promote(volume.handle, force=True))
        refused = settle(lambda: client.promote(volume.handle), "FAILED_PRECONDITION", seconds=120)
        expect(refused, "FAILED_PRECONDITION", saying=("peer is primary",))
    else:
        settle(lambda: client.promote(volume.handle), seconds=120)
        stage.here.write(volume, b"proven")
        poll(
            lambda: client.info(volume.handle).response.status != told.response.ERROR,
            seconds=60,
            what="info calls it a primary",
        )
    settle(lambda: client.demote(volume.handle), seconds=120)


def _tear(stage: Stage, volume: Volume) -> int:
    """Take a snapshot, and leave it as librbd does that dies before it has marked it complete."""
    with stage.here.site.ioctx() as ioctx:
        with rbd.Image(ioctx, volume.image) as image:
            number, image_id = image.mirror_image_create_snapshot(), image.id()
        header, key = f"rbd_header.{image_id}", f"snapshot_{number:016x}"
        with rados.ReadOpCtx() as read:
            entries, _ = ioctx.get_omap_vals_by_keys(read, (key,))
            ioctx.operate_read_op(read, header)
            snapshot = dict(entries)[key]
        namespace = struct.pack("<IB", _MIRROR, _PRIMARY)
        assert snapshot.count(namespace + b"\1") == 1
        with rados.WriteOpCtx() as write:
            torn = snapshot.replace(namespace + b"\1", namespace + b"\0")
            ioctx.set_omap(write, (key,), (torn,))
            ioctx.operate_write_op(write, header)
    return number


def _whole_after(stage: Stage, volume: Volume, torn: int) -> bool:
    """Tell whether newer ones were taken, and the torn one is gone."""
    snapshots = stage.here.mirror_snapshots(volume)
    return all(snap["id"] > torn and snap["mirror"]["complete"] for snap in snapshots)
