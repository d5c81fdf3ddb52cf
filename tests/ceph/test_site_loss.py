# SPDX-License-Identifier: Apache-2.0
"""A site is lost and comes back: forced promotion, split-brain, resync, and home again.

Both modes go through the same outage side by side.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import rados
import rbd
from driver import Driver, mirror_status, poll, settled
from workload import checksum, follow, image_id, read, write

from lab import Lab, Site, Volume

MODES = ("snapshot", "journal")


@pytest.fixture(scope="module")
def volumes(lab: Lab, drivers: dict[str, Driver]) -> dict[str, Volume]:
    """One volume in each mode, each with a copy on dr2."""
    made = {mode: lab.make_volume("dr1", 16 << 20) for mode in MODES}
    for mode, volume in made.items():
        write(lab.sites["dr1"], volume, b"replicated")
        follow(drivers["dr1"], drivers["dr2"], volume, mode)
    for volume in made.values():
        poll(lambda volume=volume: drivers["dr1"].info(volume.handle).code == "OK", 90)
    return made


@pytest.fixture(scope="module")
def lost(lab: Lab, volumes: dict[str, Volume]) -> Iterator[dict[str, Volume]]:
    """The same volumes with all of dr1's daemons dead."""
    lab.sites["dr1"].kill()
    yield volumes
    lab.sites["dr1"].start()


@pytest.fixture(scope="module")
def forced(lost: dict[str, Volume], drivers: dict[str, Driver]) -> dict[str, Volume]:
    """The volumes promoted on dr2 by the controller's two steps, at the same time."""

    def fail_over(volume: Volume) -> None:
        dr2 = drivers["dr2"]
        refused = settled(lambda: dr2.promote(volume.handle), codes=("FAILED_PRECONDITION",))
        assert refused.reason == "PEER_UNREACHABLE"
        poll(lambda: _forced(dr2, volume), 150)

    with ThreadPoolExecutor() as executor:
        list(executor.map(fail_over, lost.values()))
    site = drivers["dr2"].site
    for volume in lost.values():
        poll(lambda volume=volume: _takes(site, volume, b"after loss", 4096), 90)
    # in snapshot mode only a mirror snapshot carries the write over; journal mode needs none
    site.rbd("mirror", "image", "snapshot", f"{site.pool}/{lost['snapshot'].image}")
    return lost


def _forced(driver: Driver, volume: Volume) -> bool:
    """Force, and restart the rbd-mirror that hangs on the lost peer where the answer says so."""
    outcome = driver.promote(volume.handle, force=True)
    if outcome.reason == "MIRROR_DAEMON_HOLDS_IMAGE":
        driver.site.kill("rbd-mirror")
        driver.site.start("rbd-mirror")
    return outcome.code == "OK"


def _takes(site: Site, volume: Volume, data: bytes, offset: int) -> bool:
    """Write, unless a dead rbd-mirror's lock still stands."""
    try:
        write(site, volume, data, offset)
    except rbd.ReadOnlyImage:
        return False
    return True


@pytest.mark.timeout(300)
def test_force_is_offered_and_brings_the_copy_up(
    forced: dict[str, Volume], dr1: Driver, dr2: Driver
) -> None:
    """With no peer up force is the next step; dr1's own driver answers within its bound."""
    for volume in forced.values():
        assert mirror_status(dr2.site, volume.image)["description"]
        assert read(dr2.site, volume, 10) == b"replicated"
        assert dr2.promote(volume.handle).code == "OK"
        gone = dr1.demote(volume.handle)
        assert gone.code == "UNAVAILABLE"
        assert gone.seconds < 60
        assert dr2.resync(volume.handle, force=True).reason == "IS_PRIMARY"


@pytest.mark.timeout(300)
def test_split_brain_is_resolved_towards_the_primary_only(
    lab: Lab, forced: dict[str, Volume], dr1: Driver, dr2: Driver
) -> None:
    """The old primary is demoted and resynced, once, by force, while the new one lives."""
    lab.sites["dr1"].start()
    for volume in forced.values():
        settled(lambda volume=volume: dr1.demote(volume.handle))
        seen = settled(
            lambda volume=volume: _until_split(dr1, volume), codes=("FAILED_PRECONDITION",)
        )
        assert seen.reason == "SPLIT_BRAIN"
        assert read(dr1.site, volume, 10, 4096) != b"after loss"
        _resync_once(dr1, volume)
        poll(lambda volume=volume: checksum(dr1.site, volume) == checksum(dr2.site, volume), 60)
        assert _csi_image_id(dr1, volume) != image_id(dr1.site, volume)


@pytest.mark.timeout(300)
def test_home_again_with_nothing_lost(forced: dict[str, Volume], dr1: Driver, dr2: Driver) -> None:
    """Both demoted and ready, the journal's image id is right again, and dr1 takes over."""
    for volume in forced.values():
        write(dr2.site, volume, b"last word", 8192)
        settled(lambda volume=volume: dr2.demote(volume.handle))
        poll(lambda volume=volume: _ready(dr1, volume), 120)
        assert read(dr1.site, volume, 9, 8192) == b"last word"
        assert _csi_image_id(dr1, volume) == image_id(dr1.site, volume)
        settled(lambda volume=volume: dr1.promote(volume.handle))
        with dr1.site.ioctx() as ioctx, pytest.raises(KeyError):
            rbd.RBD().pool_metadata_get(ioctx, f"csi-addons-rbd/resync/{volume.image}")


def _until_split(driver: Driver, volume: Volume) -> object:
    """Ask for a resync without force until rbd-mirror has found out: it answers OK before."""
    return poll(
        lambda: (outcome := driver.resync(volume.handle)).code != "OK" and outcome, 120, every=1
    )


def _resync_once(driver: Driver, volume: Volume) -> None:
    """Force the resync and repeat it as the controller does: the image changes just once."""
    ids = [image_id(driver.site, volume)]

    def whole() -> bool:
        outcome = driver.resync(volume.handle, force=True)
        assert outcome.code in ("OK", "ABORTED", "UNAVAILABLE"), outcome
        assert outcome.code != "OK" or outcome.response.ready is False
        if volume.image not in driver.site.rbd("ls", driver.site.pool).split():
            return False
        try:
            ids.append(image_id(driver.site, volume))
        except rbd.ImageNotFound:
            return False
        status = mirror_status(driver.site, volume.image)
        return ids[-1] != ids[0] and status.get("state") == "up+replaying"

    poll(whole, 120, every=1)
    assert len(set(ids)) == 2


def _ready(driver: Driver, volume: Volume) -> bool:
    outcome = driver.resync(volume.handle)
    assert outcome.code in ("OK", "ABORTED", "UNAVAILABLE"), outcome
    return outcome.code == "OK" and bool(outcome.response.ready)


def _csi_image_id(driver: Driver, volume: Volume) -> str:
    """Read what the CSI journal holds, as ceph-csi would."""
    with driver.site.ioctx() as ioctx, rados.ReadOpCtx() as operation:
        entries, _ = ioctx.get_omap_vals_by_keys(operation, ("csi.imageid",))
        ioctx.operate_read_op(operation, f"csi.volume.{volume.uuid}")
        return dict(entries)["csi.imageid"].decode()
