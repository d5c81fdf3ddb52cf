# SPDX-License-Identifier: Apache-2.0
"""Two drivers on one cluster: one at a time changes an image, and a dead one delays nobody long."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import rados
from csi_addons_conformance.case import expect, poll, settle
from csi_addons_conformance.client import Client
from csi_addons_conformance.driver_process import DriverProcess
from csi_addons_conformance.stage import Stage

from lab import Volume

LEASE = 30
"""Seconds after which a lease runs out."""


def lease_object(stage: Stage, volume: Volume) -> str:
    """Name the object that bears the lease."""
    return f"csi-addons-rbd.lock.{stage.here.image_id(volume)}"


def test_a_lease_of_another_driver_is_respected_until_it_runs_out(
    stage: Stage, volume: Volume
) -> None:
    """Disable waits a moment, then says ABORTED; nothing changes; later it works."""
    client = stage.here.client
    expect(client.enable(volume.handle), "OK")
    name = lease_object(stage, volume)
    with stage.here.site.ioctx() as ioctx:
        ioctx.lock_exclusive(name, "csi-addons-rbd", "somebody else", duration=LEASE)
        refused = client.disable(volume.handle)
        expect(refused, "ABORTED", saying=("another driver",))
        assert refused.reason == "LEASE_HELD"
        assert stage.here.mirrored(volume)
        settle(lambda: client.disable(volume.handle), seconds=LEASE + 30)
        assert not stage.here.mirrored(volume)
        with pytest.raises(rados.ObjectNotFound):
            ioctx.stat(name)


def test_two_drivers_move_one_image_once(stage: Stage, second: DriverProcess) -> None:
    """Both asked at once to demote and promote, they end in one state and leave no lease."""
    volume = stage.mirrored()
    clients: tuple[Client, Client] = (stage.here.client, second.client)

    def at_once(call: str) -> None:
        with ThreadPoolExecutor() as executor:
            for answer in executor.map(
                lambda each: settle(lambda: getattr(each, call)(volume.handle)), clients
            ):
                assert answer.code == "OK"

    at_once("demote")
    assert not stage.here.primary(volume)
    at_once("promote")
    assert stage.here.primary(volume)
    with stage.here.site.ioctx() as ioctx:
        left = [each.key for each in ioctx.list_objects() if "csi-addons-rbd.lock" in each.key]
    assert left == []


def test_two_drivers_keep_one_schedule(stage: Stage, second: DriverProcess) -> None:
    """An interval in seconds is kept once, whoever of those asked takes the snapshots."""
    volume = stage.mirrored(schedulingInterval="10s")
    expect(second.client.info(volume.handle), "OK")
    first, *rest = _sync_times(second.client, volume, 5)
    gaps = [later - earlier for earlier, later in pairwise(rest)]
    # later only while the peer still lacks the one before
    assert all(9 <= gap <= 45 for gap in gaps), (first, rest)


def _sync_times(client: Client, volume: Volume, count: int) -> list[int]:
    """Wait for so many different last sync times, in Unix seconds."""
    seen: list[int] = []

    def look() -> bool:
        newest = int(client.info(volume.handle).response.last_sync_time.seconds)
        if newest not in seen:
            seen.append(newest)
        return len(seen) >= count

    poll(look, seconds=110, what=f"{count} copies")
    return seen
