# SPDX-License-Identifier: Apache-2.0
"""From a volume handle to its image: pool, RADOS namespace, CSI journal, image."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Final

import rados

from csi_addons_rbd.ceph.absence import (
    Namesake,
    choose,
    find_recreated,
    find_traces,
    look_at_those_in_use,
    not_absent,
    require_none_going,
    told,
)
from csi_addons_rbd.ceph.connections import Connections, Purpose
from csi_addons_rbd.ceph.looked import Looked
from csi_addons_rbd.ceph.mirror import CephImage
from csi_addons_rbd.ceph.sightings import NOT_FOUND, Sighting, look_again, look_at, read_name
from csi_addons_rbd.ceph.translate import translating
from csi_addons_rbd.ceph.uuid_search import Elsewhere, Trace
from csi_addons_rbd.replication.calls import Call, DestinationCall, InfoCall, Place
from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.errors import ImageInTrash, VolumeNotFound
from csi_addons_rbd.replication.image import Absent, Found, ImageSpec

_READING: Final = (InfoCall, DestinationCall)
_MARGIN: Final = 0.25
"""Seconds that a search ends before its call."""
_REMEMBERED: Final = 10_000
"""Volumes to which the way is remembered."""


class Volumes:
    """Finds volumes through shared connections."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._remembering = threading.Lock()
        self._seen: dict[tuple[Place, str], Sighting] = {}

    def resolve(self, call: Call, places: Iterable[Place], until: Deadline) -> Found | Absent:
        """Return the first image that the call's handle leads to.

        Raises:
            VolumeNotFound: every place answered and holds no such image, nor is there one whose
                name ends in the volume's uuid elsewhere in what is mirrored of the cluster.
            VolumeElsewhere: there is, or it could not be looked for everywhere.
            PermissionDenied: a place may not be read, and no other holds the image.
            ClusterUnreachable: a place does not answer, and no other holds the image.
            ImageInTrash: the image was moved to the trash.
        """
        places = tuple(places)
        until = until.earlier(_MARGIN)
        looked = Looked()
        for place in places:
            if not looked.may_go_on(until):
                break
            found = looked.at(place, until, partial(self._look, place, call, until, looked))
            if found is not None:
                return found
        return self._conclude(call, places, looked, until)

    def _conclude(
        self, call: Call, places: tuple[Place, ...], looked: Looked, until: Deadline
    ) -> Found:
        """Tell what it means that no place holds what is proven to be the volume.

        Disable has nothing to do where an unmirrored namesake is all that there is.
        """
        looked.require_search()
        searched = ", ".join(f"pool {each.pool} of cluster {each.cluster}" for each in places)
        obstacle, namesakes = looked.obstacle, looked.namesakes
        rest = self._search(call, until)
        # those that answered first: the way to the cluster is theirs
        rest.run(tuple(sorted(places, key=lambda place: place in looked.silent)))
        if obstacle is not None and not rest.found and not namesakes:
            raise obstacle
        obstacles = looked.obstacles
        fail = partial(not_absent, call, rest, searched, obstacles=obstacles, namesakes=namesakes)
        if rest.found or rest.unfinished:
            raise fail()
        if namesakes and (obstacles or len(namesakes) > 1):
            raise fail()
        if namesakes:
            return Found(image=namesakes[0].image)
        raise VolumeNotFound(
            f"volume {call.volume} exists nowhere it may lie: searched {searched}, images and "
            "trash, and what else is mirrored there for its uuid; where it should be, compare the "
            "pool ids of both sites with cluster-mapping.json"
        )

    def _search(self, call: Call, until: Deadline) -> Elsewhere:
        return Elsewhere(self._connections, call.credentials, call.volume.uuid, until)

    def _look(
        self, place: Place, call: Call, until: Deadline, looked: Looked
    ) -> Found | Absent | Namesake | None:
        lend = partial(self._connections.use, place, call.credentials, Purpose.READ)
        with lend() as cluster, _opened(cluster, place) as ioctx:
            if ioctx is not None:
                looked.reached.add(place)
                return self._inspect(ioctx, place, call, until)
        # a pool made a moment ago may be newer than the client's map
        self._connections.learn_map(place, call.credentials, Purpose.READ)
        with lend() as cluster, _opened(cluster, place) as ioctx:
            if ioctx is None:
                return None
            looked.reached.add(place)
            return self._inspect(ioctx, place, call, until)

    def _inspect(
        self, ioctx: rados.Ioctx, place: Place, call: Call, until: Deadline
    ) -> Found | Absent | Namesake | None:
        uuid = call.volume.uuid
        with translating(
            f"reading the way to volume {uuid} in pool {place.pool} of {place.cluster}"
        ):
            before = self._seen.get((place, uuid))
            if before and before.instead and not isinstance(call, _READING):
                before = None  # whoever changes an image must know that it is the only one
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
                seen = seen or look_at(ioctx, name)
            except rados.ObjectNotFound:
                return self._absence(ioctx, image, call, until)
        self._remember((place, uuid), seen)
        return Found(image=replace(image, found=seen))

    def _absence(
        self, ioctx: rados.Ioctx, image: CephImage, call: Call, until: Deadline
    ) -> Found | Absent | Namesake | None:
        """Tell what is there by another name, in the trash or coming back from what is gone."""
        with translating(f"looking for traces of {image.spec}"):
            recreated = find_recreated(ioctx, image)
            if isinstance(recreated, Absent):
                return recreated
            traces = find_traces(ioctx, image, until)
            in_use = look_at_those_in_use(ioctx, traces, recreated)
        if in_use:
            search = self._search(call, until)

            def named(trace: Trace) -> bool:
                return trace in recreated or search.journal_names(image.place, trace.name)

            chosen = choose(image, in_use, traces, call, named)
            if isinstance(chosen, Namesake):
                return chosen
            seen = replace(chosen.found, instead=image.spec.image)
            self._remember((image.place, image.uuid), seen)
            return Found(image=chosen)
        trashed = [each for each in traces if each.source]
        require_none_going(image.spec, trashed)
        if trashed:
            raise ImageInTrash(f"{image.spec} is not in use: {told(image.spec, trashed)}")
        return None

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
