# SPDX-License-Identifier: Apache-2.0
"""Each call in peace: what it does, what it refuses, and that repeating it is right."""

import json

import pytest
import rbd
from driver import Driver, mirror_status, poll, settled
from workload import follow, image_id, read, write

from lab import Lab, Volume


def schedules(driver: Driver, volume: Volume) -> list[dict[str, str | None]]:
    """Return the image's own schedules, as an administrator sees them."""
    site = driver.site
    name = f"{site.pool}/{volume.image}"
    listed = site.rbd(
        *("mirror", "snapshot", "schedule", "ls", "--pool", site.pool, "--recursive"),
        *("--format", "json"),
    )
    return [
        {"interval": term["interval"], "start_time": term["start_time"] or None}
        for each in json.loads(listed)
        if f"{each['pool']}/{each['image']}" == name
        for term in each["items"]
    ]


def test_enable_mirrors_in_the_mode_asked_for(dr1: Driver, volume: Volume, mode: str) -> None:
    """Enable switches mirroring on; repeating it changes nothing; the other mode is refused."""
    assert dr1.enable(volume.handle, mirroringMode=mode).code == "OK"
    with dr1.site.ioctx() as ioctx, rbd.Image(ioctx, volume.image, read_only=True) as image:
        expected = {"snapshot": rbd.RBD_MIRROR_IMAGE_MODE_SNAPSHOT}
        assert image.mirror_image_get_mode() == expected.get(
            mode, rbd.RBD_MIRROR_IMAGE_MODE_JOURNAL
        )
        assert image.mirror_image_get_info()["primary"]
    assert dr1.enable(volume.handle, mirroringMode=mode).code == "OK"
    other = {"snapshot": "journal", "journal": "snapshot"}[mode]
    refused = dr1.enable(volume.handle, mirroringMode=other)
    assert refused.short == ("FAILED_PRECONDITION", "MODE_MISMATCH")
    assert mode in refused.message
    assert other in refused.message


def test_enable_refuses_a_pool_that_is_not_mirrored(lab: Lab, dr2: Driver) -> None:
    """A pool whose mirroring is off, or covers whole pools, is named with the way out."""
    site = lab.sites["dr2"]
    site.rbd("pool", "init", "other")
    pools = json.loads(site.ceph("osd", "lspools", "--format", "json"))
    pool_id = next(each["poolnum"] for each in pools if each["poolname"] == "other")
    volume = lab.make_volume("dr2", 8 << 20)
    site.rbd("mv", f"{site.pool}/{volume.image}", f"{site.pool}/{volume.image}-moved")
    site.rbd("create", f"other/{volume.image}", "--size", "8M")
    handle = volume.handle.replace(f"{site.pool_id:016x}", f"{pool_id:016x}")
    refused = dr2.enable(handle)
    assert refused.short == ("FAILED_PRECONDITION", "POOL_NOT_MIRRORED")
    assert "rbd mirror pool enable other image" in refused.message


def test_enable_of_a_clone(lab: Lab, dr1: Driver, volume: Volume) -> None:
    """A clone is refused with its parent's name, unless it may be flattened first."""
    site = dr1.site
    clone = lab.make_volume("dr1", 8 << 20)
    site.rbd("rm", f"{site.pool}/{clone.image}")
    site.rbd("snap", "create", f"{site.pool}/{volume.image}@base")
    site.rbd(
        *("clone", "--rbd-default-clone-format", "2"),
        *(f"{site.pool}/{volume.image}@base", f"{site.pool}/{clone.image}"),
    )
    refused = dr1.enable(clone.handle)
    assert refused.short == ("FAILED_PRECONDITION", "PARENT_NOT_MIRRORED")
    assert volume.image in refused.message
    flattening = dr1.enable(clone.handle, flattenMode="force")
    assert flattening.short == ("ABORTED", "FLATTENING")
    settled(lambda: dr1.enable(clone.handle, flattenMode="force"))
    with site.ioctx() as ioctx, rbd.Image(ioctx, clone.image, read_only=True) as image:
        assert image.mirror_image_get_info()["state"] == rbd.RBD_MIRROR_IMAGE_ENABLED
        with pytest.raises(rbd.ImageNotFound):
            image.parent_id()


def test_exactly_the_schedule_asked_for_stands(dr1: Driver, volume: Volume) -> None:
    """Enable and Promote replace whatever schedules the image had before."""
    assert dr1.enable(volume.handle, schedulingInterval="2h").code == "OK"
    assert schedules(dr1, volume) == [{"interval": "2h", "start_time": None}]
    stale = ("mirror", "snapshot", "schedule", "add", "--pool", dr1.site.pool)
    dr1.site.rbd(*stale, "--image", volume.image, "7m")
    promoted = dr1.promote(
        volume.handle, schedulingInterval="5m", schedulingStartTime="14:00:00-05:00"
    )
    assert promoted.code == "OK"
    assert schedules(dr1, volume) == [{"interval": "5m", "start_time": "14:00:00-05:00"}]
    assert dr1.promote(volume.handle, schedulingInterval="5m").code == "OK"
    assert schedules(dr1, volume) == [{"interval": "5m", "start_time": None}]


def test_demote_and_disable_take_the_schedule_away(dr1: Driver, volume: Volume) -> None:
    """A secondary has no schedule of ours, nor has an image that is no longer mirrored."""
    assert dr1.enable(volume.handle, schedulingInterval="5m").code == "OK"
    assert settled(lambda: dr1.demote(volume.handle)).code == "OK"
    assert schedules(dr1, volume) == []
    assert dr1.promote(volume.handle, force=True, schedulingInterval="5m").code == "OK"
    assert len(schedules(dr1, volume)) == 1
    assert dr1.disable(volume.handle).code == "OK"
    assert schedules(dr1, volume) == []
    with dr1.site.ioctx() as ioctx, rbd.Image(ioctx, volume.image, read_only=True) as image:
        assert [key for key, _ in image.metadata_list() if "csi-addons-rbd" in key] == []


def test_calls_on_an_image_that_is_not_mirrored(dr1: Driver, volume: Volume) -> None:
    """Without mirroring there is nothing to promote, demote, resync or tell of."""
    for outcome in (
        dr1.promote(volume.handle),
        dr1.promote(volume.handle, force=True),
        dr1.demote(volume.handle),
        dr1.resync(volume.handle, force=True),
        dr1.info(volume.handle),
        dr1.destination(volume.handle),
    ):
        assert outcome.short == ("FAILED_PRECONDITION", "NOT_ENABLED")
    assert dr1.disable(volume.handle).code == "OK"


def test_disable_on_the_primary_ends_it_on_both_sites(
    dr1: Driver, dr2: Driver, mirrored: Volume
) -> None:
    """The secondary is left alone, and goes when the primary is disabled; then it is gone."""
    poll(lambda: dr2.disable(mirrored.handle).code == "OK", 90)
    assert mirrored.image in dr2.site.rbd("ls", dr2.site.pool).split()
    assert dr1.disable(mirrored.handle).code == "OK"
    poll(lambda: mirrored.image not in dr2.site.rbd("ls", dr2.site.pool).split(), 60)
    assert dr1.disable(mirrored.handle).code == "OK"
    gone = settled(lambda: dr2.disable(mirrored.handle), codes=("NOT_FOUND",))
    assert gone.reason == "VOLUME_NOT_FOUND"
    with dr1.site.ioctx() as ioctx, rbd.Image(ioctx, mirrored.image, read_only=True) as image:
        assert not image.features() & rbd.RBD_FEATURE_JOURNALING


def test_info_tells_when_the_copy_was_last_whole(dr1: Driver, dr2: Driver, steady: Volume) -> None:
    """The primary's site tells the last sync; the secondary's says that it cannot."""
    info = poll(lambda: dr1.info(steady.handle).response, 90)
    assert info.last_sync_time.seconds > 0
    assert info.status == info.HEALTHY
    assert "every peer follows" in info.status_message
    assert dr2.info(steady.handle).short == ("FAILED_PRECONDITION", "NOT_PRIMARY")


def test_info_of_what_was_never_copied(dr1: Driver, volume: Volume) -> None:
    """Before the first copy the answer is NOT_FOUND, which keeps what the caller had."""
    assert dr1.enable(volume.handle).code == "OK"
    assert dr1.info(volume.handle).short == ("NOT_FOUND", "NEVER_SYNCED")


def test_destination_is_symmetric(dr1: Driver, dr2: Driver, steady: Volume) -> None:
    """What dr2 is said to know the volume by leads back from there, by either handle."""

    def ask(driver: Driver, handle: str) -> str:
        answer = driver.destination(handle).response
        return str(answer.replication_destination.volume.volume_id)

    there = ask(dr1, steady.handle)
    assert there != steady.handle
    assert f"{dr2.site.pool_id:016x}" in there
    assert ask(dr2, there) == steady.handle
    assert ask(dr2, steady.handle) == steady.handle
    assert dr2.demote(there).code == "OK"


def test_a_secondary_is_demoted_already_and_not_ready(
    dr1: Driver, dr2: Driver, steady: Volume
) -> None:
    """Demote repeats quickly; a healthy secondary of a live primary is never ready."""
    demoted = dr2.demote(steady.handle)
    assert demoted.code == "OK"
    assert demoted.seconds < 5
    before = image_id(dr2.site, steady)
    assert dr2.resync(steady.handle).response.ready is False
    assert dr2.resync(steady.handle, force=True).response.ready is False
    assert image_id(dr2.site, steady) == before
    assert dr1.resync(steady.handle, force=True).short == ("FAILED_PRECONDITION", "IS_PRIMARY")


def test_promote_while_the_peer_is_primary_needs_force(dr2: Driver, steady: Volume) -> None:
    """A live primary elsewhere is the one case in which waiting is in vain."""
    refused = settled(lambda: dr2.promote(steady.handle), codes=("FAILED_PRECONDITION",))
    assert refused.reason == "PEER_IS_PRIMARY"
    assert not mirror_status(dr2.site, steady.image)["description"].startswith("local image is")


def test_resync_mode_always_resyncs_a_healthy_secondary_once(
    dr1: Driver, dr2: Driver, volume: Volume
) -> None:
    """With ``resyncMode=always`` force deletes and copies anew, once, while the primary lives."""
    write(dr1.site, volume, b"kept")
    follow(dr1, dr2, volume, "snapshot")
    before = image_id(dr2.site, volume)

    def ask() -> bool:
        outcome = dr2.resync(volume.handle, force=True, resyncMode="always")
        assert outcome.code in ("OK", "UNAVAILABLE", "ABORTED"), outcome
        assert outcome.code != "OK" or outcome.response.ready is False
        listed = volume.image in dr2.site.rbd("ls", dr2.site.pool).split()
        return listed and image_id(dr2.site, volume) != before

    poll(ask, 90, every=1)
    after = image_id(dr2.site, volume)
    poll(lambda: mirror_status(dr2.site, volume.image).get("state") == "up+replaying", 90)
    for _ in range(5):
        ask()
    assert image_id(dr2.site, volume) == after
    assert read(dr2.site, volume, 4) == b"kept"


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        ("schedulingInterval", "5s", "INVALID_ARGUMENT"),
        ("schedulingInterval", "0m", "INVALID_ARGUMENT"),
        ("mirroringMode", "both", "INVALID_ARGUMENT"),
        ("flattenMode", "", "INVALID_ARGUMENT"),
    ],
)
def test_bad_parameters_change_nothing(
    dr1: Driver, volume: Volume, key: str, value: str, code: str
) -> None:
    """What is not accepted is named, and the image is left as it was."""
    outcome = dr1.enable(volume.handle, **{key: value})
    assert outcome.code == code
    assert key in outcome.message
    assert dr1.info(volume.handle).reason == "NOT_ENABLED"
