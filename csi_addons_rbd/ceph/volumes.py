# SPDX-License-Identifier: Apache-2.0
"""From a volume handle to its image: pool, RADOS namespace, CSI journal, image."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Final

import rados
import rbd

from csi_addons_rbd.ceph.connections import Connections, Purpose
from csi_addons_rbd.ceph.mirror import CephImage
from csi_addons_rbd.ceph.rbd_header import require_header
from csi_addons_rbd.ceph.resync_records import read_record
from csi_addons_rbd.ceph.sightings import NOT_FOUND, Sighting, look, look_again, read_name
from csi_addons_rbd.ceph.translate import translating
from csi_addons_rbd.replication.calls import Call, Place
from csi_addons_rbd.replication.errors import (
    NOTHING_TO_DO,
    DriverError,
    ImageBeingDeleted,
    ImageInTrash,
    PermissionDenied,
    VolumeNotFound,
)
from csi_addons_rbd.replication.image import Absent, Found, ImageSpec

_REMEMBERED: Final = 10_000
"""Volumes to which the way is remembered."""


class Volumes:
    """Finds volumes through shared connections."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._remembering = threading.Lock()
        self._seen: dict[tuple[Place, str], Sighting] = {}

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
        lend = partial(self._connections.use, place, call.credentials, Purpose.READ)
        with lend() as cluster, _opened(cluster, place) as ioctx:
            if ioctx is not None:
                return self._inspect(ioctx, place, call)
        # a pool made a moment ago may be newer than the client's map
        self._connections.learn_map(place, call.credentials, Purpose.READ)
        with lend() as cluster, _opened(cluster, place) as ioctx:
            return None if ioctx is None else self._inspect(ioctx, place, call)

    def _inspect(self, ioctx: rados.Ioctx, place: Place, call: Call) -> Found | Absent | None:
        uuid = call.volume.uuid
        with translating(
            f"reading the way to volume {uuid} in pool {place.pool} of {place.cluster}"
        ):
            before = self._seen.get((place, uuid))
            seen = before and look_again(ioctx, uuid, before)
            name = seen.name if seen else read_name(ioctx, uuid)
            spec = ImageSpec(
                cluster=place.cluster,
                pool=ioctx.get_pool_name(),
                pool_id=place.pool,
                namespace=place.namespace,
                image=name,
            )
        image = CephImage(
            spec=spec,
            uuid=uuid,
            place=place,
            credentials=call.credentials,
            connections=self._connections,
            found=seen or NOT_FOUND,
        )
        with translating(f"looking for {spec}"):
            try:
                seen = seen or _look(ioctx, name)
            except rados.ObjectNotFound:
                return _absence(ioctx, image)
        self._remember((place, uuid), seen)
        return Found(image=replace(image, found=seen))

    def _remember(self, volume: tuple[Place, str], seen: Sighting) -> None:
        with self._remembering:
            if volume not in self._seen and len(self._seen) >= _REMEMBERED:
                del self._seen[next(iter(self._seen))]
            self._seen[volume] = seen


@contextmanager
def _opened(cluster: rados.Rados, place: Place) -> Iterator[rados.Ioctx | None]:
    """Lend the pool, as far as the client knows of it."""
    with translating(f"opening pool {place.pool} on cluster {place.cluster}"):
        try:
            ioctx = cluster.open_ioctx2(place.pool)
        except rados.ObjectNotFound:
            ioctx = None
    if ioctx is None:
        yield None
        return
    with ioctx:
        ioctx.set_namespace(place.namespace)
        yield ioctx


def _look(ioctx: rados.Ioctx, name: str) -> Sighting:
    """Look at an image whose header is there: a name may outlive it, or come before it."""
    seen = look(ioctx, name)
    if seen.image_id is not None:
        require_header(ioctx, seen.image_id)
    return seen


def _absence(ioctx: rados.Ioctx, image: CephImage) -> Absent | None:
    """Tell an image that a resync will bring back from one in the trash and one that is gone."""
    spec = image.spec
    with translating(f"looking for traces of {spec}"):
        record = read_record(ioctx, spec)
        if record is not None and not record.done:
            return Absent(image=image, record=record)
        trashed = {
            entry["source"] for entry in rbd.RBD().trash_list(ioctx) if entry["name"] == spec.image
        }
    if "MIRRORING" in trashed:
        raise ImageBeingDeleted(
            f"{spec} is being deleted by rbd-mirror, since its primary is mirrored no longer; "
            f"{NOTHING_TO_DO}"
        )
    if trashed:
        raise ImageInTrash(
            f"{spec} is in the trash; bring it back with 'rbd trash restore', or purge it"
        )
    return None
