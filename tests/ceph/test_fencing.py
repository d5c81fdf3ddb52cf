# SPDX-License-Identifier: Apache-2.0
"""Fencing: of one's own clients when a worker makes way, of others' when their lease ran out."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import rados
import rbd
from csi_addons_conformance.case import poll, settle
from csi_addons_conformance.stage import Stage

from csi_addons_rbd.ceph import fault_points, mirror
from csi_addons_rbd.ceph.connections import Connections, Purpose
from csi_addons_rbd.ceph.fault_points import FaultPoints
from csi_addons_rbd.ceph.pulse import LEASH, Use
from csi_addons_rbd.ceph.rollback import Rollback
from csi_addons_rbd.ceph.volumes import Volumes
from csi_addons_rbd.replication.calls import Credentials, InfoCall, Place
from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.errors import LeaseLost
from csi_addons_rbd.replication.image import Found, MirroredImage
from csi_addons_rbd.replication.volume_id import VolumeId
from lab import Volume

pytestmark = pytest.mark.safety


def place_of(stage: Stage) -> tuple[Place, Credentials]:
    """Return what a worker is told of dr1's pool."""
    site, secrets = stage.here.site, stage.here.site.secrets
    return (
        Place(cluster=site.cluster_id, monitors=site.monitors, pool=site.pool_id, namespace=""),
        Credentials(user=secrets["userID"], key=secrets["userKey"]),
    )


def test_a_hanging_client_is_forgotten_at_once(stage: Stage, volume: Volume) -> None:
    """Its watch and its lock would stand for another 30 s; now the next one has the image."""
    place, credentials = place_of(stage)
    connections = Connections(connect_timeout=5, read_timeout=10)
    with connections.use(place, credentials, Purpose.WRITE) as cluster:
        ioctx = cluster.open_ioctx2(place.pool)
        image = rbd.Image(ioctx, volume.image)
        image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)
        (holder,) = _watchers(stage, volume)
        connections.fence([Use(place=place, credentials=credentials, leash=20, began=0)])
        poll(lambda: not _watchers(stage, volume), seconds=10, what="no watcher", every=0.1)
        assert holder.split("/")[-1] in stage.here.site.ceph("osd", "blocklist", "ls")
        stage.here.write(volume, b"of the next one")
        assert stage.here.read(volume, 15) == b"of the next one"


def test_others_are_kept_out_and_never_oneself(stage: Stage) -> None:
    """An own client, whose lease ran out in an outage, may be in use for other images."""
    place, credentials = place_of(stage)
    own, other = (Connections(connect_timeout=5, read_timeout=10) for _ in range(2))
    with (
        own.use(place, credentials, Purpose.WRITE) as mine,
        other.use(place, credentials, Purpose.WRITE) as theirs,
        mine.open_ioctx2(place.pool) as mine_in_pool,
        theirs.open_ioctx2(place.pool) as theirs_in_pool,
    ):
        own.keep_out(place, credentials, [mine.get_addrs(), theirs.get_addrs()])
        mine_in_pool.write_full("mine", b"arrives")
        mine_in_pool.remove_object("mine")
        with pytest.raises(rados.ConnectionShutdown):
            theirs_in_pool.write_full("theirs", b"does not arrive")


def _watchers(stage: Stage, volume: Volume) -> list[str]:
    with stage.here.image(volume) as image:
        return [each["addr"] for each in image.watchers_list()]


@pytest.fixture
def fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have this process come to points; the file that arms one."""
    file = tmp_path / "fault"
    monkeypatch.setattr(fault_points, "_points", FaultPoints(file))
    return file


def test_a_roll_back_has_minutes_after_a_silence(
    stage: Stage, fault: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so has the lease around it; what may take no minutes hangs after 20 s."""
    monkeypatch.setitem(mirror._LEASHES, Rollback.NONE, mirror._LEASHES[Rollback.READY])
    volume, connections = stage.enabled(), Connections(connect_timeout=5, read_timeout=10)
    settle(lambda: stage.here.client.demote(volume.handle))
    place, credentials = place_of(stage)
    image = _found(stage, volume, connections)
    fault.write_text("before promoting")

    def roll_back() -> bool:
        with image.lease(Deadline.after(60)) as leased:
            leased.view()
            return leased.promote(force=True)

    def stuck() -> list[float]:
        return [use.leash for use in connections.pulse.look()]

    with ThreadPoolExecutor() as executor:
        promoted = executor.submit(roll_back)
        poll(fault.with_name("fault.reached").exists, seconds=30, what="it is about to promote")
        with connections.use(place, credentials, Purpose.WRITE):
            with stage.here.frozen("osd"):
                until = time.monotonic() + 12
                while time.monotonic() < until:
                    assert not stuck()
                    time.sleep(1)
            poll(stuck, seconds=45, what="what may take no minutes hangs", every=1)
            assert stuck() == [LEASH]
        fault.with_name("fault.go").touch()
        assert promoted.result(timeout=30), "the lease was kept all the time"
    assert stage.here.primary(volume)


def test_only_a_lease_that_is_still_held_is_given_back(stage: Stage, volume: Volume) -> None:
    """Another driver that took it over keeps it, and this one knows that it lost it."""
    image = _found(stage, volume, Connections(connect_timeout=5, read_timeout=10))
    name = f"csi-addons-rbd.lock.{stage.here.image_id(volume)}"
    with stage.here.site.ioctx() as ioctx:

        def lose() -> None:
            with image.lease(Deadline.after(60)):
                ioctx.remove_object(name)
                ioctx.lock_exclusive(name, "csi-addons-rbd", "another")

        with pytest.raises(LeaseLost):
            lose()
        with pytest.raises(rados.ObjectBusy):
            ioctx.lock_exclusive(name, "csi-addons-rbd", "a third")
        ioctx.unlock(name, "csi-addons-rbd", "another")


def _found(stage: Stage, volume: Volume, connections: Connections) -> MirroredImage:
    place, credentials = place_of(stage)
    call = InfoCall(
        volume=VolumeId(cluster=place.cluster, pool=place.pool, uuid=volume.uuid),
        credentials=credentials,
    )
    found = Volumes(connections).resolve(call, (place,), Deadline.after(30))
    assert isinstance(found, Found)
    return found.image
