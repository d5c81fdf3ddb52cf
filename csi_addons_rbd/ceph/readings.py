# SPDX-License-Identifier: Apache-2.0
"""What one image shows: the reading half of ``image.MirroredImage``."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import rados
import rbd

from csi_addons_rbd.ceph.announcements import announce_history, announce_mirroring
from csi_addons_rbd.ceph.connections import Connections, Purpose
from csi_addons_rbd.ceph.image_notes import notes_among
from csi_addons_rbd.ceph.lockers import (
    holding_mirror_daemon,
    is_locked,
    read_holders,
    read_watchers,
)
from csi_addons_rbd.ceph.parents import read_parents
from csi_addons_rbd.ceph.pulse import LEASH
from csi_addons_rbd.ceph.rbd_header import header_object, id_object, read_header, read_image_id
from csi_addons_rbd.ceph.rbd_journal import journal_object
from csi_addons_rbd.ceph.rbd_mirroring import (
    SILENCE,
    read_mirrored_image,
    read_mirroring,
    read_statuses,
)
from csi_addons_rbd.ceph.resync_records import read_record, read_text
from csi_addons_rbd.ceph.schedules import is_recorded
from csi_addons_rbd.ceph.sightings import Sighting, look
from csi_addons_rbd.ceph.translate import translating
from csi_addons_rbd.ceph.uuid_search import is_listed, trashed
from csi_addons_rbd.ceph.views import read_resync_wish, read_view
from csi_addons_rbd.replication.calls import Credentials, Place, Schedule
from csi_addons_rbd.replication.image import (
    Holder,
    ImageSpec,
    MirrorState,
    MirrorView,
    Parent,
    PoolMirroring,
    ResyncRecord,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadImage:
    """One image, named but not kept open: an open image is a watcher, and those block deletion."""

    spec: ImageSpec
    uuid: str
    place: Place
    credentials: Credentials
    connections: Connections
    found: Sighting
    """What was seen when the call came."""

    def as_found(self) -> MirrorView:
        """Read the history of just that image."""
        with self._pool(Purpose.READ, "reading") as ioctx:
            view = read_view(ioctx, self.found)
        # one that is gone by now reads as if it were not mirrored
        return self.view() if view.state is MirrorState.DISABLED else view

    def view(self) -> MirrorView:
        """Read the mirroring of the image that bears the name by now."""
        with self._pool(Purpose.READ, "reading") as ioctx:
            return read_view(ioctx, look(ioctx, self.spec.image))

    def pool_mirroring(self) -> PoolMirroring:
        """Read the mirroring mode of the image's pool or namespace."""
        with self._pool(Purpose.READ, "reading the mirroring mode of the pool of") as ioctx:
            return PoolMirroring(rbd.RBD().mirror_mode_get(ioctx))

    def parents(self) -> tuple[Parent, ...]:
        """Name the images that a clone hangs on."""
        with (
            self.connections.use(self.place, self.credentials, Purpose.READ) as cluster,
            self._pool(Purpose.READ, "reading the parents of") as ioctx,
        ):
            image_id = read_image_id(ioctx, self.spec.image)
            if image_id is not None and not read_header(ioctx, image_id).has_parent:
                return ()
            with self._read(ioctx) as image:
                return read_parents(cluster, image)

    def snapshot_room(self) -> int | None:
        """Return how many more snapshots the image may have."""
        with self._pool(Purpose.READ, "reading the snapshot limit of") as ioctx:
            image_id = read_image_id(ioctx, self.spec.image)
            return None if image_id is None else read_header(ioctx, image_id).room

    def migrating(self) -> bool:
        """Tell whether a live migration of the image was prepared and has not ended."""
        with self._pool(Purpose.READ, "reading the features of") as ioctx:
            image_id = read_image_id(ioctx, self.spec.image)
            return image_id is not None and bool(
                read_header(ioctx, image_id).features & rbd.RBD_FEATURE_MIGRATING
            )

    def watchers(self) -> frozenset[str]:
        """Name the clients, other than rbd-mirror, that have the image open, be it idly."""
        with self._pool(Purpose.READ, "reading who has open") as ioctx:
            return read_watchers(ioctx, self.spec.image)

    def holders(self) -> tuple[Holder, ...]:
        """Name the clients, other than rbd-mirror, that hold the image."""
        with self._connected(Purpose.READ, "reading who holds") as (cluster, ioctx):
            return read_holders(cluster, ioctx, self.spec.image)

    def held_by_mirror_daemon(self) -> str | None:
        """Name this site's rbd-mirror if it holds a lock on the image."""
        with self._locked() as image:
            return holding_mirror_daemon(image) if image else None

    def announce(self, view: MirrorView) -> None:
        """Notify rbd-mirror of what was read."""
        with self._pool(Purpose.READ, "notifying rbd-mirror of") as ioctx:
            announce_history(ioctx, view)
            if not view.peers:  # they may not know yet that the image is mirrored
                announce_mirroring(ioctx, view.image_id)

    def resync_requested(self) -> bool:
        """Tell whether librbd's own request for a resync of this image stands."""
        with self._pool(Purpose.READ, "looking for a request of a resync of") as ioctx:
            return read_resync_wish(ioctx, self.spec.image)

    def notes(self) -> Mapping[str, str]:
        """Read this driver's own metadata of the image."""
        with self._pool(Purpose.READ, "reading the notes on") as ioctx:
            image_id = read_image_id(ioctx, self.spec.image)
            return {} if image_id is None else notes_among(read_header(ioctx, image_id).metadata)

    def schedule_stands(self, image_id: str, schedule: Schedule) -> bool:
        """Tell whether the manager keeps just this schedule of the image."""
        with self._pool(Purpose.READ, "reading the manager's schedule of") as ioctx:
            return is_recorded(ioctx, self.spec, image_id, schedule)

    def resync_record(self) -> ResyncRecord | None:
        """Read the resync record."""
        with self._pool(Purpose.READ, "reading the resync record of") as ioctx:
            return read_record(ioctx, self.spec)

    def resync_text(self) -> str | None:
        """Read what stands in the place of the resync record, be it one or not."""
        with self._pool(Purpose.READ, "reading the resync record of") as ioctx:
            return read_text(ioctx, self.spec)

    def is_trashed(self, image_id: str) -> bool:
        """Tell whether the trash has an entry of that image."""
        with self._pool(Purpose.READ, "looking in the trash for") as ioctx:
            return image_id in trashed(ioctx)

    def traces(self, record: ResyncRecord) -> tuple[str, ...]:
        """Name what is left of an image that a resync deleted, or has come of it again."""
        name, image_id, global_id = self.spec.image, record.image_id, record.mirroring
        with self._pool(Purpose.READ, "looking for traces of") as ioctx:
            trash = trashed(ioctx)
            found = {
                "an image of that name": is_listed(ioctx, name),
                "an entry in the trash": any(
                    key == image_id or each.raw == name.encode() for key, each in trash.items()
                ),
                "the old image's mirroring": read_mirroring(ioctx, image_id) is not None,
                "a mirroring of its global id": bool(global_id)
                and read_mirrored_image(ioctx, global_id) is not None,
                "a status of it": bool(global_id) and read_statuses(ioctx, global_id) != SILENCE,
            }
        return tuple(words for words, so in found.items() if so)

    def mirror_daemon_lives(self) -> bool:
        """Tell whether this site's rbd-mirror is up, by its status of any image of the pool."""
        with self._pool(Purpose.READ, "looking for rbd-mirror of the pool of") as ioctx:
            return any(each["up"] for each in rbd.RBD().mirror_image_status_list(ioctx))

    @property
    def _objects(self) -> tuple[str, ...]:
        """Name the objects that whatever is done to the image works on; not all need exist."""
        image_id = self.found.image_id
        if image_id is None:
            return (id_object(self.spec.image),)
        return (id_object(self.spec.image), header_object(image_id), journal_object(image_id))

    @contextmanager
    def _locked(self) -> Iterator[rbd.Image | None]:
        """Lend the image opened if anybody locks it: mostly nobody does, and opening takes long."""
        with self._pool(Purpose.READ, "reading the locks of") as ioctx:
            image_id = read_image_id(ioctx, self.spec.image)
            if image_id is not None and not is_locked(ioctx, image_id):
                yield None
                return
            with self._read(ioctx) as image:
                yield image

    @contextmanager
    def _connected(
        self, purpose: Purpose, doing: str, *, leash: float = LEASH
    ) -> Iterator[tuple[rados.Rados, rados.Ioctx]]:
        """Lend a client and its image's pool; Ceph's errors inside the block become ours."""
        with (
            self.connections.use(
                self.place, self.credentials, purpose, leash=leash, objects=self._objects
            ) as cluster,
            translating(f"{doing} {self.spec}"),
            cluster.open_ioctx2(self.spec.pool_id) as ioctx,
        ):
            ioctx.set_namespace(self.spec.namespace)
            yield cluster, ioctx

    @contextmanager
    def _pool(self, purpose: Purpose, doing: str) -> Iterator[rados.Ioctx]:
        with self._connected(purpose, doing) as (_, ioctx):
            yield ioctx

    def _read(self, ioctx: rados.Ioctx) -> rbd.Image:
        return rbd.Image(ioctx, self.spec.image, read_only=True)
