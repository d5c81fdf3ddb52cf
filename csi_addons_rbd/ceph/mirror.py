# SPDX-License-Identifier: Apache-2.0
"""The mirror calls on one image: fulfils ``image.MirroredImage`` with librbd."""

import errno
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Final

import rados
import rbd

from csi_addons_rbd.ceph.connections import Connections, Purpose
from csi_addons_rbd.ceph.fault_points import step
from csi_addons_rbd.ceph.histories import resync_requested
from csi_addons_rbd.ceph.image_notes import read_notes, remove_note, write_note
from csi_addons_rbd.ceph.leases import CephLease, lease
from csi_addons_rbd.ceph.parents import flatten, read_parents
from csi_addons_rbd.ceph.pulse import LEASH, LONG_LEASH
from csi_addons_rbd.ceph.schedules import keep_schedule
from csi_addons_rbd.ceph.translate import translating
from csi_addons_rbd.ceph.views import MODES, read_view
from csi_addons_rbd.replication.calls import Credentials, MirroringMode, Place, Schedule
from csi_addons_rbd.replication.errors import FeaturesMissing, ImageHasDependents
from csi_addons_rbd.replication.image import (
    ImageSpec,
    Lease,
    MirrorView,
    Parent,
    PoolMirroring,
    ResyncRecord,
)

_JOURNAL_FEATURES: Final = {
    rbd.RBD_FEATURE_EXCLUSIVE_LOCK: "exclusive-lock",
    rbd.RBD_FEATURE_JOURNALING: "journaling",
}
_SWITCHED_ON: Final = "features"


@dataclass(frozen=True, slots=True, kw_only=True)
class CephImage:
    """One image, named but not kept open: an open image is a watcher, and those block deletion."""

    spec: ImageSpec
    uuid: str
    place: Place
    credentials: Credentials
    connections: Connections

    def view(self) -> MirrorView:
        """Read the image's mirroring."""
        with self._pool(Purpose.READ, "reading") as ioctx, self._read(ioctx) as image:
            return read_view(ioctx, image)

    def pool_mirroring(self) -> PoolMirroring:
        """Read the mirroring mode of the image's pool or namespace."""
        with self._pool(Purpose.READ, "reading the mirroring mode of the pool of") as ioctx:
            return PoolMirroring(rbd.RBD().mirror_mode_get(ioctx))

    @contextmanager
    def lease(self) -> Iterator[CephLease]:
        """Be the only driver that changes the image."""
        with self._pool(Purpose.READ, "leasing") as ioctx:
            with self._read(ioctx) as image:
                image_id = image.id()
            with lease(ioctx, image=str(self.spec), image_id=image_id) as held:
                yield held

    def parents(self) -> tuple[Parent, ...]:
        """Name the images that a clone hangs on."""
        with (
            self.connections.use(self.place, self.credentials, Purpose.READ) as cluster,
            self._pool(Purpose.READ, "reading the parents of") as ioctx,
            self._read(ioctx) as image,
        ):
            return read_parents(cluster, image)

    def flatten(self) -> str:
        """Have the manager copy everything that the parents hold."""
        with self.connections.use(self.place, self.credentials, Purpose.MANAGER) as cluster:
            return flatten(cluster, self.spec)

    def holders(self) -> tuple[str, ...]:
        """Name the clients that hold a lock; the exclusive lock shows among them, too."""
        with self._pool(Purpose.READ, "reading the locks of") as ioctx, self._read(ioctx) as image:
            return tuple(
                _name(locker) for locker in _lockers(image) if locker[0] != _mirror_daemon(image)
            )

    def held_by_mirror_daemon(self) -> str | None:
        """Name this site's rbd-mirror if it holds a lock on the image."""
        with self._pool(Purpose.READ, "reading the locks of") as ioctx, self._read(ioctx) as image:
            lockers = _lockers(image)
            daemon = _mirror_daemon(image) if lockers else None
            return next((_name(locker) for locker in lockers if locker[0] == daemon), None)

    def enable(self, mode: MirroringMode) -> None:
        """Switch mirroring on, and first the features that journal mode needs."""
        with self._change("enabling mirroring of") as image:
            if mode is MirroringMode.JOURNAL:
                self._switch_on(image)
            image.mirror_image_enable(MODES[mode])

    def disable(self, lease: Lease, *, force: bool) -> None:
        """Switch mirroring off."""
        with self._change("disabling mirroring of") as image:
            lease.require()
            try:
                image.mirror_image_disable(force)
            except rbd.ImageBusy as exc:
                clones = ", ".join(
                    f"{clone['pool']}/{clone['image']}" for clone in image.list_descendants()
                )
                raise ImageHasDependents(
                    f"{self.spec} stays mirrored: a mirrored clone depends on it "
                    f"({clones or 'none is listed'}); disable replication of its clones first"
                ) from exc

    def restore_features(self) -> None:
        """Switch off the features that ``enable`` had to switch on."""
        switched_on = int(self.notes().get(_SWITCHED_ON, 0))
        if not switched_on:
            return
        with self._change("switching off the features for journal mode of") as image:
            standing = switched_on & image.features()
            if standing:
                image.update_features(standing, enabled=False)
        self.note(_SWITCHED_ON, None)

    def promote(self, lease: Lease, *, force: bool, rolls_back: bool = False) -> bool:
        """Promote; ``False`` when librbd refuses for the time being."""
        with self._change("promoting", leash=LONG_LEASH if rolls_back else LEASH) as image:
            lease.require()
            try:
                image.mirror_image_promote(force)
            except (rbd.ImageBusy, rbd.ReadOnlyImage):
                return False
        return True

    def demote(self, lease: Lease) -> None:
        """Demote."""
        with self._change("demoting") as image:
            lease.require()
            image.mirror_image_demote()

    def resync(self, lease: Lease, image_id: str) -> None:
        """Flag just that image for deletion and a fresh copy."""
        doing = "requesting a resync of"
        with (
            self._pool(Purpose.WRITE, doing) as ioctx,
            step(doing),
            rbd.Image(ioctx, image_id=image_id) as image,
        ):
            lease.require()
            image.mirror_image_resync()

    def resync_requested(self) -> bool:
        """Tell whether librbd's own request for a resync of this image stands."""
        with (
            self._pool(Purpose.READ, "looking for a request of a resync of") as ioctx,
            self._read(ioctx) as image,
        ):
            return resync_requested(ioctx, image)

    def take_snapshot(self, lease: Lease) -> int:
        """Take a mirror snapshot and return its id."""
        with self._change("taking a mirror snapshot of") as image:
            lease.require()
            return image.mirror_image_create_snapshot()

    def notes(self) -> Mapping[str, str]:
        """Read this driver's own metadata of the image."""
        with self._pool(Purpose.READ, "reading the notes on") as ioctx, self._read(ioctx) as image:
            return read_notes(image)

    def note(self, key: str, value: str | None) -> None:
        """Write or remove one entry, without taking the image's lock from anybody."""
        with self._pool(Purpose.READ, "writing the notes on") as ioctx:
            with self._read(ioctx) as image:
                # whoever switches mirroring on notes that first
                if value is not None and image.old_format():
                    raise FeaturesMissing(
                        f"{self.spec} is of format 1, which has no exclusive-lock and cannot be "
                        "mirrored; copy it to an image of format 2"
                    )
                image_id, standing = image.id(), read_notes(image).get(key)
            if value is not None and value != standing:
                with step(f"noting {key} on"):
                    write_note(ioctx, image_id, key, value)
            elif value is None and standing is not None:
                with step(f"taking the note {key} off"):
                    remove_note(ioctx, image_id, key)

    def keep_schedule(self, wanted: Schedule | None) -> None:
        """Leave exactly the wanted schedule on the image, or none."""
        with self.connections.use(self.place, self.credentials, Purpose.MANAGER) as cluster:
            keep_schedule(cluster, self.spec, wanted)

    def record_resync(self, record: ResyncRecord | None) -> None:
        """Write or remove the resync record in the pool's metadata."""
        with self._pool(Purpose.WRITE, "writing the resync record of") as ioctx:
            if record is not None:
                with step("writing the resync record of"):
                    rbd.RBD().pool_metadata_set(ioctx, _record_key(self.spec), _dump(record))
            elif read_record(ioctx, self.spec) is not None:
                with step("removing the resync record of"):
                    rbd.RBD().pool_metadata_remove(ioctx, _record_key(self.spec))

    def resync_record(self) -> ResyncRecord | None:
        """Read the resync record."""
        with self._pool(Purpose.READ, "reading the resync record of") as ioctx:
            return read_record(ioctx, self.spec)

    def correct_journal(self, image_id: str) -> None:
        """Set ``csi.imageid`` where ``csi.volname`` stands; never create the object."""
        name = f"csi.volume.{self.uuid}"
        with self._pool(Purpose.WRITE, f"correcting {name} of") as ioctx:
            with rados.ReadOpCtx() as operation:
                entries, _ = ioctx.get_omap_vals_by_keys(operation, ("csi.volname", "csi.imageid"))
                try:
                    ioctx.operate_read_op(operation, name)
                except rados.ObjectNotFound:
                    return
                standing = dict(entries)
            if "csi.volname" in standing and standing.get("csi.imageid") != image_id.encode():
                with step(f"correcting {name} of"), rados.WriteOpCtx() as change:
                    ioctx.set_omap(change, ("csi.imageid",), (image_id,))
                    ioctx.operate_write_op(change, name)

    @contextmanager
    def _pool(self, purpose: Purpose, doing: str, *, leash: float = LEASH) -> Iterator[rados.Ioctx]:
        """Lend the image's pool; Ceph's errors inside the block become ours."""
        with (
            self.connections.use(self.place, self.credentials, purpose, leash=leash) as cluster,
            translating(f"{doing} {self.spec}"),
            cluster.open_ioctx2(self.spec.pool_id) as ioctx,
        ):
            ioctx.set_namespace(self.spec.namespace)
            yield ioctx

    def _read(self, ioctx: rados.Ioctx) -> rbd.Image:
        return rbd.Image(ioctx, self.spec.image, read_only=True)

    @contextmanager
    def _change(self, doing: str, *, leash: float = LEASH) -> Iterator[rbd.Image]:
        """Lend the image opened for writing, on a handle without a timeout for OSDs."""
        with (
            self._pool(Purpose.WRITE, doing, leash=leash) as ioctx,
            step(doing),
            rbd.Image(ioctx, self.spec.image) as image,
        ):
            yield image

    def _switch_on(self, image: rbd.Image) -> None:
        for feature, name in _JOURNAL_FEATURES.items():
            if image.features() & feature:
                continue
            noted = int(self.notes().get(_SWITCHED_ON, 0))
            # noted first: a crash leaves no feature on that nobody would switch off
            self.note(_SWITCHED_ON, str(noted | feature))
            try:
                image.update_features(feature, enabled=True)
            except (rbd.InvalidArgument, rbd.OperationNotSupported) as exc:
                self.note(_SWITCHED_ON, str(noted))
                raise FeaturesMissing(
                    f"{self.spec} lacks the feature {name}, which journal mode needs, and it "
                    "cannot be switched on"
                ) from exc


def _lockers(image: rbd.Image) -> list[tuple[str, str, str]]:
    lockers = image.list_lockers()
    return lockers["lockers"] if lockers else []


def _name(locker: tuple[str, str, str]) -> str:
    client, _, address = locker
    return f"{client} at {address}"


def _mirror_daemon(image: rbd.Image) -> str | None:
    """Return the client that this site's rbd-mirror handles the image with, if there is one."""
    try:
        return f"client.{image.mirror_image_get_instance_id()}"
    except (rbd.ObjectNotFound, rbd.ImageNotFound, rbd.InvalidArgument):
        return None
    except rbd.OSError as exc:
        # as for an rbd-mirror that died while it handled the image
        if exc.errno is not None and abs(exc.errno) == errno.ESTALE:
            return None
        raise


def read_record(ioctx: rados.Ioctx, spec: ImageSpec) -> ResyncRecord | None:
    """Read the resync record of an image that may be absent."""
    try:
        text = rbd.RBD().pool_metadata_get(ioctx, _record_key(spec))
    except KeyError:
        return None
    return ResyncRecord(**json.loads(text))


def _record_key(spec: ImageSpec) -> str:
    return f"csi-addons-rbd/resync/{spec.image}"


def _dump(record: ResyncRecord) -> str:
    return json.dumps(asdict(record))
