# SPDX-License-Identifier: Apache-2.0
"""A mirror snapshot that a crash tore does not end the driver's own schedule."""

import struct
from typing import Final

import pytest
import rados
import rbd
from csi_addons_conformance.case import expect, poll
from csi_addons_conformance.stage import Stage

from lab import Volume

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
