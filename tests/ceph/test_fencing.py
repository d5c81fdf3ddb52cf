# SPDX-License-Identifier: Apache-2.0
"""Fencing: of one's own clients when a worker makes way, of others' when their lease ran out."""

import pytest
import rados
import rbd
from csi_addons_conformance.case import poll
from csi_addons_conformance.stage import Stage

from csi_addons_rbd.ceph.connections import Connections, Purpose
from csi_addons_rbd.ceph.pulse import Use
from csi_addons_rbd.replication.calls import Credentials, Place
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
