# SPDX-License-Identifier: Apache-2.0
"""Whose lock is not broken: that of this driver itself, and of nobody else."""

from typing import TYPE_CHECKING, cast

import pytest
from test_promotion_rules import SPEC

from csi_addons_rbd.ceph.connections import Connections
from csi_addons_rbd.ceph.mirror import LeasedCephImage
from csi_addons_rbd.ceph.rbd_mirroring import SILENCE
from csi_addons_rbd.ceph.sightings import Sighting
from csi_addons_rbd.replication.calls import Credentials, Place
from csi_addons_rbd.replication.errors import ClusterUnreachable, DriverError
from csi_addons_rbd.replication.image import Grip, Holder

if TYPE_CHECKING:
    from csi_addons_rbd.ceph.leases import CephLease


def test_a_client_that_a_dead_worker_left_behind_is_fenced() -> None:
    """It is not this driver itself; here no monitor answers, so that it is only tried."""
    address = "192.0.2.1:0/1"
    image = LeasedCephImage(
        spec=SPEC,
        uuid="",
        place=Place(cluster="a", monitors=("127.0.0.1:1",), pool=1, namespace=""),
        credentials=Credentials(user="nobody", key="AQAAAAAAAAAAABAAAAAAAAAAAAAAAAAAAAAAAA=="),
        connections=Connections(connect_timeout=1, read_timeout=1, left_behind=(address,)),
        found=Sighting(name="", image_id=None, mirroring=None, statuses=SILENCE),
        held=cast("CephLease", None),
    )
    with pytest.raises(DriverError) as caught:
        image.evict(Holder(client="client.1", address=address, grip=Grip.SILENT))
    assert isinstance(caught.value, ClusterUnreachable)
