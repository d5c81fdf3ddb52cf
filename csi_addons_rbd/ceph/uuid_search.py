# SPDX-License-Identifier: Apache-2.0
"""Images whose names end in a volume's uuid: looked for before a volume is said to be absent.

ceph-csi names an image ``<prefix><uuid>``, and keeps the prefix (``volumeNamePrefix``) in its
journal alone. On the secondary site that journal may be missing, and it may stand in a pool of its
own. So an image that is not found by name is looked for by the end of its name, in use and in the
trash.

Names are read as bytes, since librbd takes names that are no UTF-8. Keys of omaps are not: the
names of images stand in values, too, and those are read.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import rados
import rbd

from csi_addons_rbd.ceph.connections import Connections, Purpose
from csi_addons_rbd.ceph.encoding import Encoded, decoding
from csi_addons_rbd.ceph.omaps import omap_pages
from csi_addons_rbd.ceph.sightings import read_name
from csi_addons_rbd.ceph.translate import translating
from csi_addons_rbd.replication.calls import Credentials, Place
from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.errors import (
    CephFailure,
    ClusterUnreachable,
    ImageVanished,
    PermissionDenied,
)

_DIRECTORY: Final = "rbd_directory"
_TRASH: Final = "rbd_trash"
_BY_ID: Final = "id_"
"""Begins the keys of both objects that are ids of images, and whose values hold the names."""
_SOURCES: Final = ("USER", "MIRRORING", "MIGRATION", "REMOVING", "USER_PARENT")
"""``cls::rbd::TrashImageSource``: what moved an image to the trash."""
_OF_IMAGES: Final = "rbd"
"""The application of pools that hold images."""
_FATES: Final = {
    "MIRRORING": "rbd-mirror is deleting it",
    "MIGRATION": "it is the source of a live migration, which 'rbd migration commit' or "
    "'rbd migration abort' ends",
    "REMOVING": "its removal was begun",
}
_FORBIDDEN: Final = (rbd.PermissionError, rados.PermissionError)
_OF_A_USER: Final = "bring it back with 'rbd trash restore', or purge it"


class TimeOverError(Exception):
    """The time for the search is over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One image whose name ends in the uuid."""

    raw: bytes
    """Its name."""
    source: str = ""
    """What moved it to the trash, such as ``USER``; empty while it is in use."""

    @property
    def name(self) -> str:
        """Its name as far as it is text; other bytes are written with backslashes."""
        return self.raw.decode(errors="backslashreplace")

    @property
    def is_text(self) -> bool:
        """Whether its name is UTF-8: the bindings open no other image."""
        return self.raw == self.name.encode()

    @property
    def fate(self) -> str:
        """What becomes of it in the trash, or who decides that."""
        return _FATES.get(self.source, _OF_A_USER)

    @property
    def of_mirroring(self) -> bool:
        """Whether rbd-mirror moved it to the trash, which is about to delete it."""
        return self.source == "MIRRORING"

    def at(self, where: str) -> str:
        """Return the words that error texts use for it, in a pool or namespace."""
        trashed = f" (in the trash; {self.fate})" if self.source else ""
        return f"{where}/{self.name}{trashed}"


def ends_in(name: bytes, uuid: str) -> bool:
    """Tell whether a name ends in a uuid, which is compared without regard to case."""
    return name.lower().endswith(uuid.lower().encode())


def decode_entry(value: bytes) -> bytes:
    """Read the name in an entry of ``rbd_directory``.

    Raises:
        CephFailure: these bytes are none.
    """
    with decoding(f"an entry of {_DIRECTORY}"):
        return Encoded(value).raw()


def decode_trashed(value: bytes) -> Trace:
    """Read ``TrashImageSpec``, an entry of ``rbd_trash``.

    Raises:
        CephFailure: these bytes are none.
    """
    with decoding(f"an entry of {_TRASH}"):
        entry = Encoded(value).structure(2)
        number = entry.number("B")
        source = _SOURCES[number] if number < len(_SOURCES) else f"source {number}"
        return Trace(raw=entry.raw(), source=source)


def traces(ioctx: rados.Ioctx, uuid: str, until: Deadline, name: str = "") -> tuple[Trace, ...]:
    """Look for images in one pool and namespace, in use and in the trash, also of that name.

    Raises:
        TimeOverError: not all could be looked at.
    """
    in_use = (Trace(raw=decode_entry(value)) for value in _values(ioctx, _DIRECTORY, until))
    trashed = (decode_trashed(value) for value in _values(ioctx, _TRASH, until))
    return tuple(
        each
        for some in (in_use, trashed)
        for each in some
        if ends_in(each.raw, uuid) or each.raw == name.encode()
    )


def is_listed(ioctx: rados.Ioctx, name: str) -> bool:
    """Tell whether there is an image of that name, beside whatever other names."""
    try:
        pages = omap_pages(ioctx, _DIRECTORY, _BY_ID)
        return any(
            decode_entry(value) == name.encode() for page in pages for value in page.values()
        )
    except rados.ObjectNotFound:
        return False


def trashed(ioctx: rados.Ioctx) -> dict[str, Trace]:
    """Return what is in the trash, by the id of the image.

    The binding of Ceph 16 fails where a live migration put an image there.
    """
    try:
        pages = omap_pages(ioctx, _TRASH, _BY_ID)
        return {
            key.removeprefix(_BY_ID): decode_trashed(value)
            for page in pages
            for key, value in page.items()
        }
    except rados.ObjectNotFound:
        return {}


class Elsewhere:
    """A search of all that is mirrored of a cluster, other than the places searched before.

    What rbd-mirror moved to the trash is no volume: it is about to be deleted.
    """

    def __init__(
        self, connections: Connections, credentials: Credentials, uuid: str, until: Deadline
    ) -> None:
        self._connections = connections
        self._credentials = credentials
        self._uuid = uuid
        self._until = until
        self.found: list[str] = []
        """Images, as error texts name them."""
        self.unfinished: list[str] = []
        """Where it could not look, and why."""

    def run(self, places: tuple[Place, ...]) -> None:
        """Search the cluster of these places, which were searched already.

        Raises:
            ClusterUnreachable: no monitor tells which pools there are.
        """
        # a pool made a moment ago may be newer than the client's map
        self._connections.learn_map(places[0], self._credentials, Purpose.READ)
        searched = frozenset((place.pool, place.namespace) for place in places)
        for pool, name in self._pools(places[0]):
            place = replace(places[0], pool=pool, namespace="")
            try:
                self._require_time()
                self._pool(place, name, searched)
            except ImageVanished:
                continue  # a pool that was just removed
            except TimeOverError:
                self.unfinished.append(f"the time of the call ended at pool {name}")
                return
            except UnicodeDecodeError:
                self.unfinished.append(f"pool {name} has a namespace whose name is no UTF-8")
            except (PermissionDenied, ClusterUnreachable, CephFailure) as exc:
                self.unfinished.append(f"pool {name} ({exc.message})")

    def journal_names(self, place: Place, image: str) -> bool:
        """Tell whether a CSI journal in another pool of the place's cluster names this image."""
        for pool, name in self._pools(place):
            doing = f"looking for the journal of {self._uuid} in pool {name} of {place.cluster}"
            other = replace(place, pool=pool)
            with (
                suppress(PermissionDenied, ClusterUnreachable, CephFailure, ImageVanished),
                self._connections.use(other, self._credentials, Purpose.READ) as cluster,
                translating(doing),
                cluster.open_ioctx2(pool) as ioctx,
                suppress(*_FORBIDDEN),
            ):
                for namespace in dict.fromkeys((place.namespace, "")):
                    ioctx.set_namespace(namespace)
                    if self._until.remaining and read_name(ioctx, self._uuid) == image:
                        return True
        return False

    def _pools(self, place: Place) -> tuple[tuple[int, str], ...]:
        with (
            self._connections.use(place, self._credentials, Purpose.READ) as cluster,
            translating(f"listing the pools of cluster {place.cluster}"),
        ):
            named = [(cluster.pool_lookup(name), name) for name in cluster.list_pools()]
        return tuple((pool, name) for pool, name in named if pool is not None)

    def _pool(self, place: Place, name: str, searched: frozenset[tuple[int, str]]) -> None:
        doing = f"looking for images of {self._uuid} in pool {name} of cluster {place.cluster}"
        with (
            self._connections.use(place, self._credentials, Purpose.READ) as cluster,
            translating(doing),
            cluster.open_ioctx2(place.pool) as ioctx,
        ):
            try:
                namespaces = ("", *rbd.RBD().namespace_list(ioctx))
            except _FORBIDDEN:
                self._may_not_read(ioctx, name)
                return
            for namespace in namespaces:
                if (place.pool, namespace) not in searched:
                    where = f"{name}/{namespace}" if namespace else name
                    self._namespace(ioctx, namespace, where, f"pool id {place.pool}")

    def _namespace(self, ioctx: rados.Ioctx, namespace: str, where: str, pool: str) -> None:
        ioctx.set_namespace(namespace)
        try:
            if rbd.RBD().mirror_mode_get(ioctx) == rbd.RBD_MIRROR_MODE_DISABLED:
                return
            seen = traces(ioctx, self._uuid, self._until)
        except _FORBIDDEN:
            self._may_not_read(ioctx, where)
            return
        self.found += [f"{each.at(where)} ({pool})" for each in seen if not each.of_mirroring]

    def _require_time(self) -> None:
        if not self._until.remaining:
            raise TimeOverError

    def _may_not_read(self, ioctx: rados.Ioctx, where: str) -> None:
        """Note it, unless no image can be there."""
        if _may_hold_images(ioctx):
            self.unfinished.append(f"client.{self._credentials.user} may not read pool {where}")


def _may_hold_images(ioctx: rados.Ioctx) -> bool:
    """Tell whether images may be in a pool that the key may not read.

    What the monitors tell of it needs no right to it: pools of file systems or of objects alone
    hold none, and a pool in which something is mirrored has at least one object.
    """
    applications = ioctx.application_list()
    if applications and _OF_IMAGES not in applications:
        return False
    try:
        return ioctx.get_stats()["num_objects"] > 0
    except rados.Error:
        return True


def _values(ioctx: rados.Ioctx, name: str, until: Deadline) -> Iterator[bytes]:
    try:
        for page in omap_pages(ioctx, name, _BY_ID):
            yield from page.values()
            if not until.remaining:
                raise TimeOverError
    except rados.ObjectNotFound:
        return
