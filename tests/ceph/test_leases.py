# SPDX-License-Identifier: Apache-2.0
"""Two drivers on one cluster: one at a time changes an image, and a dead one delays nobody long."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import rados
from driver import Driver, poll, settled
from workload import image_id

from lab import Lab, Volume

LEASE = 30
"""Seconds after which a lease runs out."""


@pytest.fixture(scope="module")
def second(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    """Another driver on dr1."""
    driver = Driver(lab.sites["dr1"], tmp_path_factory.mktemp("second"))
    yield driver
    driver.stop()


def lease_object(driver: Driver, volume: Volume) -> str:
    """Name the object that bears the lease."""
    return f"csi-addons-rbd.lock.{image_id(driver.site, volume)}"


def objects(driver: Driver) -> set[str]:
    """List the leases that stand, and those left behind."""
    with driver.site.ioctx() as ioctx:
        return {each.key for each in ioctx.list_objects() if "csi-addons-rbd.lock" in each.key}


def test_a_lease_of_another_driver_is_respected_until_it_runs_out(
    dr1: Driver, volume: Volume
) -> None:
    """Demote and Disable wait a moment, then say ABORTED; nothing changes; later they work."""
    assert dr1.enable(volume.handle).code == "OK"
    with dr1.site.ioctx() as ioctx:
        ioctx.lock_exclusive(
            lease_object(dr1, volume), "csi-addons-rbd", "somebody else", duration=LEASE
        )
        refused = dr1.disable(volume.handle)
        assert refused.short == ("ABORTED", "LEASE_HELD")
        assert "another driver" in refused.message
        assert dr1.info(volume.handle).reason == "NEVER_SYNCED"
        settled(lambda: dr1.disable(volume.handle), seconds=LEASE + 30)
        assert dr1.info(volume.handle).reason == "NOT_ENABLED"
        with pytest.raises(rados.ObjectNotFound):
            ioctx.stat(lease_object(dr1, volume))


def test_two_drivers_move_one_image_once(
    dr1: Driver, dr2: Driver, second: Driver, mirrored: Volume
) -> None:
    """Both asked at once to demote and promote, they end in one state and leave no lease."""

    def at_once(call: str) -> None:
        with ThreadPoolExecutor() as executor:
            for outcome in executor.map(
                lambda each: settled(lambda: getattr(each, call)(mirrored.handle)), (dr1, second)
            ):
                assert outcome.code == "OK"

    poll(lambda: dr1.info(mirrored.handle).code == "OK", 90)
    at_once("demote")
    assert dr1.info(mirrored.handle).reason == "NOT_PRIMARY"
    at_once("promote")
    assert second.info(mirrored.handle).code in ("OK", "NOT_FOUND")
    assert dr2.demote(mirrored.handle).code == "OK"
    assert objects(dr1) == set()


def test_two_drivers_keep_one_schedule(
    dr1: Driver, dr2: Driver, second: Driver, volume: Volume
) -> None:
    """An interval in seconds is kept once, whoever of those asked takes the snapshots."""
    assert dr1.enable(volume.handle, schedulingInterval="10s").code == "OK"
    poll(lambda: dr1.info(volume.handle).code == "OK", 90)
    assert second.info(volume.handle).code == "OK"
    first, *rest = _sync_times(second, volume, 5)
    gaps = [later - earlier for earlier, later in pairwise(rest)]
    # later only while the peer still lacks the one before
    assert all(9 <= gap <= 45 for gap in gaps), (first, rest)
    assert dr2.info(volume.handle).reason == "NOT_PRIMARY"


def _sync_times(driver: Driver, volume: Volume, count: int) -> list[int]:
    """Wait for so many different last sync times, in Unix seconds."""
    seen: list[int] = []

    def look() -> bool:
        newest = int(driver.info(volume.handle).response.last_sync_time.seconds)
        if newest not in seen:
            seen.append(newest)
        return len(seen) >= count

    poll(look, 100)
    return seen
