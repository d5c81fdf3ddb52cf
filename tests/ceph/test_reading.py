# SPDX-License-Identifier: Apache-2.0
"""Images are read without being opened: librbd, asked by another connection, says the same."""

import struct
from calendar import timegm
from dataclasses import replace

import pytest
import rados
import rbd
from csi_addons_conformance.case import expect, poll, settle
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage
from test_fencing import place_of

from csi_addons_rbd.ceph.connections import Connections, Purpose
from csi_addons_rbd.ceph.encoding import structure, text
from csi_addons_rbd.ceph.image_notes import notes_among
from csi_addons_rbd.ceph.omaps import read_omap
from csi_addons_rbd.ceph.rbd_header import (
    MirrorSnapshot,
    UserSnapshot,
    decode_snapshot,
    read_header,
    read_image_id,
)
from csi_addons_rbd.ceph.rbd_journal import read_clients
from csi_addons_rbd.ceph.rbd_mirroring import MODES, read_instances
from csi_addons_rbd.ceph.sightings import Sighting, look, look_again
from csi_addons_rbd.ceph.views import read_view
from csi_addons_rbd.replication.calls import MirroringMode
from csi_addons_rbd.replication.image import Epoch, MirrorState, MirrorView
from lab import Volume

# the bindings' own, on Python 3.12 and newer
pytestmark = pytest.mark.filterwarnings("ignore:.*utcfromtimestamp:DeprecationWarning")
EPOCHS = {
    rbd.RBD_SNAP_MIRROR_STATE_PRIMARY: Epoch.PRIMARY,
    rbd.RBD_SNAP_MIRROR_STATE_PRIMARY_DEMOTED: Epoch.PRIMARY_DEMOTED,
    rbd.RBD_SNAP_MIRROR_STATE_NON_PRIMARY: Epoch.NON_PRIMARY,
    rbd.RBD_SNAP_MIRROR_STATE_NON_PRIMARY_DEMOTED: Epoch.NON_PRIMARY_DEMOTED,
}
OWN = (Epoch.PRIMARY, Epoch.PRIMARY_DEMOTED)


@pytest.fixture(params=["snapshot", "journal"])
def either(request: pytest.FixtureRequest, stage: Stage) -> Stage:
    """Both sites, in one mode and in the other."""
    return replace(stage, mode=request.param)


def agreed(site: SiteUnderTest, volume: Volume) -> MirrorView:
    """Return the driver's view of an image, when librbd tells the same in every particular."""
    found: list[MirrorView] = []

    def agree() -> bool:
        # an rbd-mirror may change it between the two looks
        found[:] = [view(site, volume)]
        return found[0] == told(site, volume, found[0])

    poll(agree, seconds=20, what=f"the same view as librbd has of {volume.image}", every=0.2)
    return found[0]


def view(site: SiteUnderTest, volume: Volume) -> MirrorView:
    """Read as the driver does that was asked before."""
    with site.site.ioctx() as ioctx:
        seen = look(ioctx, volume.image)
        return read_view(ioctx, look_again(ioctx, volume.uuid, seen) or seen)


def told(site: SiteUnderTest, volume: Volume, seen: MirrorView) -> MirrorView:
    """Replace in a view all that librbd tells of by what it tells."""
    with site.image(volume) as image:
        info = image.mirror_image_get_info()
        state = MirrorState(info["state"])
        if state is MirrorState.DISABLED:
            return replace(seen, state=state, image_id=image.id(), primary=False)
        status = image.mirror_image_get_status()
        modes = {number: mode for mode, number in MODES.items()}
        return replace(
            seen,
            state=state,
            mode=modes[image.mirror_image_get_mode()],
            mirroring=info["global_id"],
            primary=info["primary"],
            image_id=image.id(),
            local=seen.local
            and replace(
                seen.local,
                up=status["up"],
                description=status["description"],
                last_update=timegm(status["last_update"].utctimetuple()),
            ),
            peers=tuple(
                replace(
                    peer,
                    site=told["mirror_uuid"],
                    up=told["up"],
                    description=told["description"],
                    last_update=timegm(told["last_update"].utctimetuple()),
                )
                for peer, told in zip(seen.peers, status["remote_statuses"], strict=True)
            ),
            notes=notes_among(dict(image.metadata_list())),
        )


def test_the_same_as_librbd_in_every_state(either: Stage) -> None:
    """Not mirrored, primary, followed, demoted, secondary, and off again."""
    here, there = either.here, either.there
    volume = either.volume()
    assert agreed(here, volume).state is MirrorState.DISABLED
    expect(here.client.enable(volume.handle, mirroringMode=either.mode), "OK")
    with here.image(volume, writing=True) as image:
        image.metadata_set("somebody's", "")
    primary = agreed(here, volume)
    assert primary.primary
    assert primary.mode is MirroringMode(either.mode)
    poll(lambda: there.state(volume) == "up+replaying", seconds=90, what="a copy")
    assert agreed(here, volume).peers
    secondary = agreed(there, volume)
    assert secondary.local is not None
    assert not secondary.primary
    expect(here.client.demote(volume.handle), "OK")
    assert agreed(here, volume).history.epoch is Epoch.PRIMARY_DEMOTED
    expect(here.client.promote(volume.handle, force=True), "OK")
    assert agreed(here, volume).primary
    expect(here.client.disable(volume.handle), "OK")
    assert agreed(here, volume).state is MirrorState.DISABLED


def test_looking_again_finds_the_same_way_or_none(stage: Stage) -> None:
    """What leads elsewhere since: mirroring begun anew, another name or image, or none at all."""
    volume, other = stage.enabled(), stage.enabled()
    with stage.here.site.ioctx() as ioctx:

        def again(before: Sighting) -> Sighting | None:
            return look_again(ioctx, volume.uuid, before)

        first = look(ioctx, volume.image)
        seen = again(first)
        assert seen is not None
        assert replace(seen, statuses=first.statuses) == first
        expect(stage.here.client.disable(volume.handle), "OK")
        assert again(first) is None
        assert again(look(ioctx, volume.image)) is None
        expect(stage.here.client.enable(volume.handle), "OK")
        assert again(first) is None
        second = look(ioctx, volume.image)
        assert again(second) is not None
        assert again(replace(second, image_id=look(ioctx, other.image).image_id)) is None
        with rados.WriteOpCtx() as operation:
            ioctx.set_omap(operation, ("csi.imagename",), ("of-another-name",))
            ioctx.operate_write_op(operation, f"csi.volume.{volume.uuid}")
        assert again(second) is None
        with rados.WriteOpCtx() as operation:
            ioctx.set_omap(operation, ("csi.imagename",), (volume.image,))
            ioctx.operate_write_op(operation, f"csi.volume.{volume.uuid}")
        assert again(second) is not None
        ioctx.remove_object(f"rbd_header.{second.image_id}")
        assert again(second) is None


def test_what_was_found_by_the_end_of_its_name_is_looked_at_again(stage: Stage) -> None:
    """As long as the way leads to a name that no image has."""
    volume = stage.enabled()
    with stage.here.site.ioctx() as ioctx:
        ioctx.remove_object(f"csi.volume.{volume.uuid}")
        renamed = f"team-a-{volume.uuid}"
        rbd.RBD().rename(ioctx, volume.image, renamed)
        seen = replace(look(ioctx, renamed), instead=volume.image)
        again = look_again(ioctx, volume.uuid, seen)
        assert again is not None
        assert replace(again, statuses=seen.statuses) == seen
        assert look_again(ioctx, volume.uuid, replace(seen, instead="")) is None
        assert look_again(ioctx, volume.uuid, replace(seen, instead="csi-vol-other")) is None
        rbd.RBD().create(ioctx, volume.image, 1 << 20, old_format=False)
        assert look_again(ioctx, volume.uuid, seen) is None


@pytest.mark.parametrize("namespace", ["", "tenant"])
def test_rbd_mirror_is_known_before_it_speaks(stage: Stage, namespace: str) -> None:
    """By what it is registered as: it may lock an image before its first status of it."""
    volume = stage.mirrored()
    with stage.there.image(volume) as image:
        following = f"client.{image.mirror_image_get_instance_id()}"
    with stage.there.site.ioctx(namespace) as ioctx:
        assert following in read_instances(ioctx)
        assert ioctx.get_namespace() == namespace


def test_the_same_mirror_snapshots_as_librbd_lists(stage: Stage) -> None:
    """With what peers still need of each, beside a user's snapshots, and on a clone."""
    parent, clone = stage.volume(), stage.volume()
    with stage.here.site.ioctx() as ioctx:
        with rbd.Image(ioctx, parent.image) as image:
            image.create_snap("users")
            image.protect_snap("users")
        rbd.RBD().remove(ioctx, clone.image)
        rbd.RBD().clone(ioctx, parent.image, "users", ioctx, clone.image)
        for volume in (parent, clone):
            expect(stage.here.client.enable(volume.handle, mirroringMode="snapshot"), "OK")
            with rbd.Image(ioctx, volume.image) as image:
                image.create_snap("another")
                image.mirror_image_create_snapshot()
    for site in (stage.here, stage.there):
        for volume in (parent, clone):
            poll(lambda site=site, volume=volume: same(site, volume), seconds=90, what="the same")


def same(site: SiteUnderTest, volume: Volume) -> bool:
    """Tell whether an image that has two snapshots or more has those that librbd lists."""
    if not site.exists(volume):
        return False
    with site.site.ioctx() as ioctx:
        image_id = read_image_id(ioctx, volume.image)
        assert image_id
        header = read_header(ioctx, image_id)
        with rbd.Image(ioctx, volume.image, read_only=True) as image:
            if read_header(ioctx, image_id) != header:
                return False  # rbd-mirror changed it between the two looks
            assert header.features == image.features()
            assert header.has_parent == has_parent(image)
            listed = tuple(
                MirrorSnapshot(
                    number=snap["id"],
                    taken_at=timegm(image.get_snap_timestamp(snap["id"]).utctimetuple()),
                    epoch=EPOCHS[snap["mirror"]["state"]],
                    claimed=bool(snap["mirror"]["mirror_peer_uuids"]),
                    complete=snap["mirror"]["complete"] or EPOCHS[snap["mirror"]["state"]] in OWN,
                    torn=EPOCHS[snap["mirror"]["state"]] is Epoch.PRIMARY
                    and not snap["mirror"]["complete"],
                    unfinished=EPOCHS[snap["mirror"]["state"]] is Epoch.PRIMARY_DEMOTED
                    and not snap["mirror"]["complete"],
                    copied=snap["mirror"]["last_copied_object_number"],
                    orphan=False,
                )
                for snap in image.list_snaps()
                if "mirror" in snap
            )
    return bool(listed) and header.snapshots == listed


def has_parent(image: rbd.Image) -> bool:
    """Tell whether an image is a clone, as librbd does."""
    try:
        image.parent_info()
    except rbd.ImageNotFound:
        return False
    return True


def test_a_snapshot_of_before_there_were_kinds_is_a_users() -> None:
    """As Ceph 10 left it, with a parent; an upgrade rewrites none."""
    parent = structure(struct.pack("<q", -1), text(""), bytes(16))
    body = struct.pack("<Q", 4) + text("old") + struct.pack("<QQ", 1 << 30, 1)
    old = structure(body, parent, bytes(9))
    assert decode_snapshot(b"\x04" + old[1:]) == UserSnapshot(number=4, name="old")


def test_a_name_that_outlived_its_image_is_no_image(stage: Stage) -> None:
    """A deletion that was cut short leaves it: there is nothing to replicate any more."""
    volume = stage.volume()
    with stage.here.site.ioctx() as ioctx:
        name = ioctx.read(f"rbd_id.{volume.image}")
        rbd.RBD().remove(ioctx, volume.image)
        ioctx.write_full(f"rbd_id.{volume.image}", name)
        for answer in (stage.here.client.info, stage.here.client.disable):
            expect(answer(volume.handle), "NOT_FOUND")
        ioctx.remove_object(f"rbd_id.{volume.image}")


def test_a_user_with_the_smallest_caps_may_read_so(stage: Stage) -> None:
    """What reads past librbd needs no more rights than librbd does."""
    volume = stage.mirrored()
    place, credentials = place_of(stage)
    connections = Connections(connect_timeout=5, read_timeout=10)
    with (
        connections.use(place, credentials, Purpose.READ) as cluster,
        cluster.open_ioctx2(place.pool) as ioctx,
    ):
        assert read_view(ioctx, look(ioctx, volume.image)).primary


@pytest.mark.timeout(300)
def test_a_reader_of_a_site_that_is_gone_is_not_waited_for(stage: Stage) -> None:
    """A site that was built anew has another mirror uuid; its old one stays in the journal."""
    stage = replace(stage, mode="journal")
    volume, client = stage.mirrored(), stage.here.client
    name = f"journal.{stage.here.image_id(volume)}"
    with stage.here.site.ioctx() as ioctx:
        clients = read_omap(ioctx, name, "client_")
        (peer,) = (key for key in clients if key != "client_")
        gone = peer[:-4] + "gone"
        written = clients[peer].replace(peer.removeprefix("client_").encode(), gone[7:].encode())
        with rados.WriteOpCtx() as operation:
            ioctx.set_omap(operation, (gone,), (written,))
            ioctx.operate_write_op(operation, name)
        assert len(read_clients(ioctx, stage.here.image_id(volume))) == len(clients) + 1
    stage.here.write(volume, b"since then")
    settle(lambda: client.demote(volume.handle), seconds=120)
    settle(lambda: client.promote(volume.handle), seconds=120)
    assert stage.here.primary(volume)
