# SPDX-License-Identifier: Apache-2.0
"""Images whose names end in a volume's uuid: looked for before a volume is said to be absent.

ceph-csi names an image ``<prefix><uuid>``, and keeps the prefix (``volumeNamePrefix``) in its
journal alone. On the secondary site that journal may be missing, and it may stand in a pool of its
own. So an image that is not found by name is looked for by the end of its name, in use and in the
trash.

Names are read as bytes, since librbd takes names that are no UTF-8. Keys of omaps are not: the
names of images stand in values, too, and those are read.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

import rados
import rbd

from csi_addons_rbd.ceph.connections import Connections, Purpose
from csi_addons_rbd.ceph.encoding import Encoded, decoding
from csi_addons_rbd.ceph.omaps import omap_pages
from csi_addons_rbd.ceph.resync_records import read_unfinished, recorded_names
from csi_addons_rbd.ceph.sightings import read_journal
from csi_addons_rbd.ceph.translate import translating
from csi_addons_rbd.replication.calls import Credentials, Place
from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.errors import (
    CephFailure,
    ClusterUnreachable,
    DriverError,
    ImageVanished,
    PermissionDenied,
)
from csi_addons_rbd.replication.image import ImageSpec

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
_NAMED: Final = (
    "if that is the volume, map the handle to that pool in cluster-mapping.json (a namespace: in "
    "config.json)"
)
_PASSING: Final = "what rbd-mirror is deleting or copying passes by itself"
_GRANT: Final = "let {user} read these pools ('profile rbd-read-only' for osd)"
_REVIVE: Final = "bring back the pools that do not answer"
_TIME: Final = "allow calls more time with --call-timeout"


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
        """Return the words that error texts use for it, in a pool or namespace.

        It may be one of several, so nothing in them advises to remove it.
        """
        trashed = f" (in the trash; {_FATES.get(self.source, 'it can be brought back')})"
        return f"{where}/{self.name}{trashed if self.source else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """An image in another pool whose name ends in the uuid, or one that is to come there."""

    text: str
    """How error texts name it."""
    trace: Trace | None
    """``None`` for one that a resync is about to bring back."""

    @property
    def advice(self) -> str:
        """What to do if it is the volume, and if it is not."""
        if self.trace is None:
            return f"{_NAMED}; {_PASSING}"
        if self.trace.of_mirroring:
            return _PASSING
        if self.trace.source in _FATES:
            return f"{_NAMED}; what is in the trash has to come to its end first"
        if self.trace.source:
            return (
                f"{_NAMED}, and bring it back with 'rbd trash restore'; if it is not, give what is "
                "in the trash another name with 'rbd trash restore --image'"
            )
        return f"{_NAMED}; if it is not, rename what is in use"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Where a search could not look."""

    what: str
    """Where, and why."""
    remedy: str
    """What helps, with ``{user}`` for the client; empty when ``what`` says so."""


def gap_of(where: str, exc: DriverError) -> Gap:
    """Return the gap that an error leaves."""
    remedy = ""
    if isinstance(exc, PermissionDenied):
        remedy = _GRANT
    elif isinstance(exc, ClusterUnreachable):
        remedy = _REVIVE
    return Gap(what=f"{where} ({exc.message})", remedy=remedy)


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
    """A search of all that is mirrored of a cluster, other than the places searched before."""

    def __init__(
        self, connections: Connections, credentials: Credentials, uuid: str, until: Deadline
    ) -> None:
        self._connections = connections
        self._credentials = credentials
        self._uuid = uuid
        self._until = until
        self._silence = 0.0
        """Seconds that a pool took which did not answer: the next may take as long."""
        self.cluster = ""
        """What was searched."""
        self.found: list[Finding] = []
        self.unfinished: list[Gap] = []

    def run(self, places: tuple[Place, ...]) -> None:
        """Search the cluster of these places, which were searched already; the first answers.

        Raises:
            ClusterUnreachable: no monitor tells which pools there are.
        """
        self.cluster = places[0].cluster
        if not self._until.remaining:
            self.end_before("the other pools")
            return
        # a pool made a moment ago may be newer than the client's map
        self._connections.learn_map(places[0], self._credentials, Purpose.READ)
        searched = frozenset((place.pool, place.namespace) for place in places)
        for pool, name in self._pools(places[0], of_images=True):
            place = replace(places[0], pool=pool, namespace="")
            try:
                self._require_time()
                self._pool(place, name, searched)
            except ImageVanished:
                continue  # a pool that was just removed
            except TimeOverError:
                self.end_before(f"pool {name}")
                return
            except UnicodeDecodeError:
                what = f"pool {name} has a namespace whose name is no UTF-8"
                self.unfinished.append(Gap(what=what, remedy=""))
            except (PermissionDenied, ClusterUnreachable, CephFailure) as exc:
                self.unfinished.append(gap_of(f"pool {name}", exc))

    def end_before(self, where: str) -> None:
        """Note that there was no time to look there."""
        self.unfinished.append(Gap(what=f"the time of the call ended at {where}", remedy=_TIME))

    def journal_names(self, place: Place, image: str) -> bool:
        """Tell whether a CSI journal in another pool of the place's cluster names this image."""
        for pool, name in self._pools(place, of_images=False):
            if not self._until.remaining:
                break
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
                    # an entry that stands: the default name proves nothing
                    if self._until.remaining and read_journal(ioctx, self._uuid) == image:
                        return True
        return False

    def _pools(self, place: Place, *, of_images: bool) -> tuple[tuple[int, str], ...]:
        with (
            self._connections.use(place, self._credentials, Purpose.READ) as cluster,
            translating(f"listing the pools of cluster {place.cluster}"),
        ):
            named = [(cluster.pool_lookup(name), name) for name in cluster.list_pools()]
            return tuple(
                (pool, name)
                for pool, name in named
                if pool is not None and not (of_images and _is_of_others(cluster, pool))
            )

    def _pool(self, place: Place, name: str, searched: frozenset[tuple[int, str]]) -> None:
        doing = f"looking for images of {self._uuid} in pool {name} of cluster {place.cluster}"
        began = time.monotonic()
        try:
            with (
                self._connections.use(place, self._credentials, Purpose.READ) as cluster,
                translating(doing),
                cluster.open_ioctx2(place.pool) as ioctx,
            ):
                self._namespaces(ioctx, place, name, searched)
        except ClusterUnreachable:
            self._silence = max(self._silence, time.monotonic() - began)
            raise

    def _namespaces(
        self, ioctx: rados.Ioctx, place: Place, name: str, searched: frozenset[tuple[int, str]]
    ) -> None:
        try:
            namespaces = ("", *rbd.RBD().namespace_list(ioctx))
        except _FORBIDDEN:
            self._may_not_read(ioctx, name)
            return
        for namespace in namespaces:
            if (place.pool, namespace) not in searched:
                self._namespace(
                    ioctx,
                    ImageSpec(
                        cluster=place.cluster,
                        pool=name,
                        pool_id=place.pool,
                        namespace=namespace,
                        image="",
                    ),
                )

    def _namespace(self, ioctx: rados.Ioctx, spec: ImageSpec) -> None:
        where = f"{spec.pool}/{spec.namespace}" if spec.namespace else spec.pool
        ioctx.set_namespace(spec.namespace)
        try:
            if rbd.RBD().mirror_mode_get(ioctx) == rbd.RBD_MIRROR_MODE_DISABLED:
                return
            seen = traces(ioctx, self._uuid, self._until)
            coming: tuple[str, ...] = ()
            try:
                # last: what is gone by now was recorded before
                coming = self._coming(ioctx, spec)
            finally:
                self.found += findings(seen, coming, where, spec.pool_id)
        except _FORBIDDEN:
            self._may_not_read(ioctx, where)

    def _coming(self, ioctx: rados.Ioctx, spec: ImageSpec) -> tuple[str, ...]:
        """Name the images that resyncs under way bring back."""
        names = (each for each in recorded_names(ioctx) if ends_in(each.encode(), self._uuid))
        specs = (replace(spec, image=name) for name in names)
        return tuple(each.image for each, _ in read_unfinished(ioctx, specs))

    def _require_time(self) -> None:
        if self._until.remaining <= self._silence:
            raise TimeOverError

    def _may_not_read(self, ioctx: rados.Ioctx, where: str) -> None:
        """Note it, unless no image can be there."""
        if _may_hold_images(ioctx):
            what = f"client.{self._credentials.user} may not read pool {where}"
            self.unfinished.append(Gap(what=what, remedy=_GRANT))


def findings(
    seen: Iterable[Trace], coming: Iterable[str], where: str, pool_id: int
) -> tuple[Finding, ...]:
    """Return what was found in a pool or namespace.

    Args:
        seen: The images whose names end in the uuid.
        coming: Those among such names that a resync under way brings back.
        where: The pool or namespace.
        pool_id: What cluster-mapping.json calls the pool by.
    """
    recorded = dict.fromkeys(coming)
    found = {
        trace: Finding(text=f"{trace.at(where)} (pool id {pool_id})", trace=trace)
        for trace in seen
        if not (trace.of_mirroring and trace.name in recorded)
    }
    return (
        *found.values(),
        *(
            Finding(
                text=f"{where}/{name} (pool id {pool_id}; it is being copied anew by a resync)",
                trace=None,
            )
            for name in recorded
            if Trace(raw=name.encode()) not in found
        ),
    )


def _is_of_others(cluster: rados.Rados, pool: int) -> bool:
    """Tell whether a pool is one of file systems or of objects alone.

    The map tells that, whether the pool answers or not.
    """
    try:
        with cluster.open_ioctx2(pool) as ioctx:
            applications = ioctx.application_list()
    except rados.ObjectNotFound:
        return False  # it was just removed
    return bool(applications) and _OF_IMAGES not in applications


def _may_hold_images(ioctx: rados.Ioctx) -> bool:
    """Tell whether images may be in a pool that the key may not read.

    What the monitors tell of it needs no right to it: a pool in which something is mirrored has at
    least one object.
    """
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
