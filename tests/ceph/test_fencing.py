# SPDX-License-Identifier: Apache-2.0
"""A worker that makes way fences its own clients: nobody waits for what they hold to run out."""

import rbd
from csi_addons_conformance.case import poll
from csi_addons_conformance.stage import Stage

from csi_addons_rbd.ceph.connections import Connections, Purpose
from csi_addons_rbd.ceph.pulse import Use
from csi_addons_rbd.replication.calls import Credentials, Place
from lab import Volume


def test_a_hanging_client_is_forgotten_at_once(stage: Stage, volume: Volume) -> None:
    """Its watch and its lock would stand for another 30 s; now the next one has the image."""
    site = stage.here.site
    place = Place(cluster=site.cluster_id, monitors=site.monitors, pool=site.pool_id, namespace="")
    secrets = site.secrets
    credentials = Credentials(user=secrets["userID"], key=secrets["userKey"])
    connections = Connections(connect_timeout=5, read_timeout=10)
    with connections.use(place, credentials, Purpose.WRITE) as cluster:
        ioctx = cluster.open_ioctx2(place.pool)
        image = rbd.Image(ioctx, volume.image)
        image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)
        (holder,) = _watchers(stage, volume)
        connections.fence([Use(place=place, credentials=credentials, leash=20, began=0)])
        poll(lambda: not _watchers(stage, volume), seconds=10, what="no watcher", every=0.1)
        assert holder.split("/")[-1] in site.ceph("osd", "blocklist", "ls")
        stage.here.write(volume, b"of the next one")
        assert stage.here.read(volume, 15) == b"of the next one"


def _watchers(stage: Stage, volume: Volume) -> list[str]:
    with stage.here.image(volume) as image:
        return [each["addr"] for each in image.watchers_list()]
