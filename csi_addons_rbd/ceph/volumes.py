# SPDX-License-Identifier: Apache-2.0
"""From a volume handle to its image: pool, RADOS namespace, CSI journal, image.

The CSI journal is the omap object ``csi.volume.<uuid>`` that ceph-csi keeps beside the images.
It is only read here: creating it would keep ceph-csi from ever making its own.
"""

from collections.abc import Iterable
from typing import Final

import rados
import rbd

from csi_addons_rbd.ceph.connections import Connections, Purpose
from csi_addons_rbd.ceph.mirror import CephImage, read_record
from csi_addons_rbd.ceph.translate import translated, translating
from csi_addons_rbd.replication.calls import Call, Place
from csi_addons_rbd.replication.errors import (
    DriverError,
    ImageBeingDeleted,
    ImageInTrash,
    PermissionDenied,
    VolumeNotFound,
)
from csi_addons_rbd.replication.image import Absent, Found, ImageSpec

IMAGE_NAME: Final = "csi.imagename"


class Volumes:
    """Finds volumes through shared connections."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    def resolve(self, call: Call, places: Iterable[Place]) -> Found | Absent:
        """Return the first image that the call's handle leads to.

        Raises:
            VolumeNotFound: every place answered and holds no such image.
            PermissionDenied: a place may not be read, and no other holds the image.
            ImageInTrash: the image was moved to the trash.
        """
        obstacle: DriverError | None = None
        searched: list[str] = []
        for place in places:
            try:
                found = self._look(place, call)
            except (PermissionDenied, ImageInTrash, ImageBeingDeleted) as exc:
                # another place may still hold the image itself
                obstacle = obstacle or exc
                continue
            if found is not None:
                return found
            searched.append(f"pool {place.pool} of cluster {place.cluster}")
        if obstacle is not None:
            raise obstacle
        raise VolumeNotFound(
            f"volume {call.volume} exists nowhere it may lie: searched {', '.join(searched)}, "
            "images and trash"
        )

    def _look(self, place: Place, call: Call) -> Found | Absent | None:
        with self._connections.use(place, call.credentials, Purpose.READ) as cluster:
            ioctx = _open_pool(cluster, place)
            if ioctx is None:
                return None
            with ioctx:
                ioctx.set_namespace(place.namespace)
                return self._inspect(ioctx, place, call)

    def _inspect(self, ioctx: rados.Ioctx, place: Place, call: Call) -> Found | Absent | None:
        uuid = call.volume.uuid
        with translating(f"reading csi.volume.{uuid} in pool {place.pool} of {place.cluster}"):
            spec = ImageSpec(
                cluster=place.cluster,
                pool=ioctx.get_pool_name(),
                pool_id=place.pool,
                namespace=place.namespace,
                image=_image_name(ioctx, uuid),
            )
        try:
            rbd.Image(ioctx, spec.image, read_only=True).close()
        except rbd.ImageNotFound:
            return _absence(ioctx, spec)
        except rbd.Error as exc:
            raise translated(exc, f"opening {spec}") from exc
        return Found(
            image=CephImage(
                spec=spec,
                uuid=uuid,
                place=place,
                credentials=call.credentials,
                connections=self._connections,
            )
        )


def _open_pool(cluster: rados.Rados, place: Place) -> rados.Ioctx | None:
    with translating(f"opening pool {place.pool} on cluster {place.cluster}"):
        try:
            return cluster.open_ioctx2(place.pool)
        except rados.ObjectNotFound:
            # a pool made a moment ago may be newer than this client's map
            cluster.wait_for_latest_osdmap()
        try:
            return cluster.open_ioctx2(place.pool)
        except rados.ObjectNotFound:
            return None


def _image_name(ioctx: rados.Ioctx, uuid: str) -> str:
    """Read the image's name from the CSI journal; ceph-csi's default without an entry."""
    with rados.ReadOpCtx() as operation:
        entries, _ = ioctx.get_omap_vals_by_keys(operation, (IMAGE_NAME,))
        try:
            ioctx.operate_read_op(operation, f"csi.volume.{uuid}")
        except rados.ObjectNotFound:
            return f"csi-vol-{uuid}"
        names = dict(entries)
    return names[IMAGE_NAME].decode() if IMAGE_NAME in names else f"csi-vol-{uuid}"


def _absence(ioctx: rados.Ioctx, spec: ImageSpec) -> Absent | None:
    """Tell an image that a resync will bring back from one in the trash and one that is gone."""
    with translating(f"looking for traces of {spec}"):
        record = read_record(ioctx, spec)
        if record is not None and not record.done:
            return Absent(spec=spec, record=record)
        trashed = {
            entry["source"] for entry in rbd.RBD().trash_list(ioctx) if entry["name"] == spec.image
        }
    if "MIRRORING" in trashed:
        raise ImageBeingDeleted(
            f"{spec} is being deleted by rbd-mirror, since its primary is mirrored no longer; "
            "ask again"
        )
    if trashed:
        raise ImageInTrash(
            f"{spec} is in the trash; bring it back with 'rbd trash restore', or purge it"
        )
    return None
