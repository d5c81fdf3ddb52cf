# SPDX-License-Identifier: Apache-2.0
"""The mirror calls on one image: fulfils ``MirroredImage`` and ``LeasedImage`` with librbd."""

import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import Final

import rados
import rbd
import structlog

from csi_addons_rbd.ceph.connections import Purpose
from csi_addons_rbd.ceph.fault_points import reach, step
from csi_addons_rbd.ceph.histories import unfinished_demotion
from csi_addons_rbd.ceph.image_notes import notes_among, replace_note
from csi_addons_rbd.ceph.last_look import FRESH, LastLook
from csi_addons_rbd.ceph.leases import CephLease
from csi_addons_rbd.ceph.limits import within
from csi_addons_rbd.ceph.lockers import break_lock, read_holders
from csi_addons_rbd.ceph.metadata import write_if_equal
from csi_addons_rbd.ceph.parents import flatten
from csi_addons_rbd.ceph.pulse import LEASH, LONG_LEASH
from csi_addons_rbd.ceph.rbd_header import (
    NON_PRIMARY,
    Header,
    header_object,
    read_header,
    read_image_id,
)
from csi_addons_rbd.ceph.rbd_mirroring import MODES
from csi_addons_rbd.ceph.readings import ReadImage
from csi_addons_rbd.ceph.resync_records import read_text, record_in, replace_record
from csi_addons_rbd.ceph.rollback import Rollback, is_needed, prepare
from csi_addons_rbd.ceph.schedules import keep_schedule
from csi_addons_rbd.ceph.sightings import look
from csi_addons_rbd.ceph.views import read_view
from csi_addons_rbd.replication.calls import MirroringMode, Schedule
from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.errors import (
    NOTHING_TO_DO,
    FeaturesMissing,
    ImageChanged,
    ImageHasDependents,
    ImageInUse,
    ManagerUnavailable,
    PermissionDenied,
    Unauthenticated,
)
from csi_addons_rbd.replication.image import (
    Grip,
    Holder,
    MirrorState,
    MirrorView,
    ResyncRecord,
)

_JOURNAL_FEATURES: Final = {
    rbd.RBD_FEATURE_EXCLUSIVE_LOCK: "exclusive-lock",
    rbd.RBD_FEATURE_JOURNALING: "journaling",
}
_SWITCHED_ON: Final = "features"
_DIGITS: Final = 20
"""Of the greatest number of 64 bits."""
_COMPLETE: Final = "mirror_image_snapshot_set_copy_progress"
_LEASHES: Final = {Rollback.NONE: LEASH, Rollback.READY: LONG_LEASH}
"""Seconds that librbd may take after a silence: taking an image back may last minutes."""
_MANAGER_BOUND: Final = 5
"""Seconds to wait for the manager, which may be away."""
_AT_THE_MANAGER: Final = threading.Semaphore(8)
"""Threads that wait for it, perhaps for as long as it is away."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class CephImage(ReadImage):
    """One image, and what may be written about it at any time."""

    @contextmanager
    def lease(self, until: Deadline) -> Iterator["LeasedCephImage"]:
        """Be the only driver that changes the image."""
        fence = partial(self.connections.keep_out, self.place, self.credentials)
        # the leash is that of what is done under the lease
        with self._connected(Purpose.READ, "leasing", leash=inf) as (cluster, ioctx):
            image_id = read_image_id(ioctx, self.spec.image)
            if image_id is None:
                raise FeaturesMissing(
                    f"{self.spec} is of format 1, which has no exclusive-lock and cannot be "
                    "mirrored; copy it to an image of format 2"
                )
            lease = CephLease(
                ioctx,
                str(self.spec),
                image_id,
                client=cluster.get_addrs(),
                dead=self.connections.fenced,
            )
            with lease.held(until, fence):
                yield LeasedCephImage(
                    spec=self.spec,
                    uuid=self.uuid,
                    place=self.place,
                    credentials=self.credentials,
                    connections=self.connections,
                    found=self.found,
                    held=lease,
                )

    def sign(self, client: rados.Rados) -> None:
        """Name who is about to write: nobody minds without a lease."""

    def flatten(self) -> str:
        """Have the manager copy everything that the parents hold."""

        def ask() -> str:
            with self.connections.use(self.place, self.credentials, Purpose.MANAGER) as cluster:
                return flatten(cluster, self.spec)

        late = ManagerUnavailable(
            f"the manager of cluster {self.spec.cluster}, which is to flatten {self.spec}, did not "
            f"answer within {_MANAGER_BOUND} s; the controller retries; if it comes again, see "
            "'ceph mgr stat'"
        )
        return within(_MANAGER_BOUND, ask, late, most=_AT_THE_MANAGER)

    def note(self, key: str, value: str | None, *, only: str | None = None) -> None:
        """Write or remove one entry, without taking the image's lock from anybody."""
        with self._connected(Purpose.READ, "writing the notes on") as (cluster, ioctx):
            image_id = read_image_id(ioctx, self.spec.image)
            if image_id is None:
                return  # of format 1: never leased, so nothing was ever noted on it
            standing = notes_among(read_header(ioctx, image_id).metadata).get(key)
            if value == standing or only not in (None, standing):
                return
            self.sign(cluster)
            with step(f"noting {key} on" if value is not None else f"taking the note {key} off"):
                replace_note(ioctx, image_id, key, standing, value)

    def keep_schedule(self, wanted: Schedule | None) -> None:
        """Leave exactly the wanted schedule on the image, or none."""
        with self.connections.use(self.place, self.credentials, Purpose.MANAGER) as cluster:
            keep_schedule(cluster, self.spec, wanted)

    def record_resync(self, record: ResyncRecord | None, *, standing: ResyncRecord | None) -> None:
        """Write or remove the resync record in the pool's metadata."""
        with self._connected(Purpose.WRITE, "writing the resync record of") as (cluster, ioctx):
            text = read_text(ioctx, self.spec)
            if record_in(text, self.spec) != standing:
                raise ImageChanged(
                    f"the resync record of {self.spec} was changed by another driver meanwhile; "
                    f"{NOTHING_TO_DO}"
                )
            self.sign(cluster)
            replace_record(ioctx, self.spec, text, record)

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
                    before = standing.get("csi.imageid", b"").decode(errors="replace")
                    change.omap_cmp("csi.imageid", before)  # or it undoes what is newer
                    ioctx.set_omap(change, ("csi.imageid",), (image_id,))
                    write_if_equal(ioctx, change, name)

    def restore_features(self, until: Deadline) -> None:
        """Switch off the features that ``enable`` had to switch on."""
        if _SWITCHED_ON not in self.notes():
            return
        with self.lease(until) as leased:
            # or else another driver enabled it again
            if leased.view().state is MirrorState.DISABLED:
                leased.switch_off()


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedCephImage(CephImage):
    """One image under a lease."""

    held: CephLease
    looks: LastLook = field(default_factory=LastLook)

    def view(self) -> MirrorView:
        """Read the image, on which the next change rests."""
        view = ReadImage.view(self)
        self.looks.saw(view)
        return view

    def sign(self, client: rados.Rados) -> None:
        """Name who is about to write, if the lease still holds."""
        self.held.sign(client.get_addrs())

    def enable(self, mode: MirroringMode) -> None:
        """Switch mirroring on, and first the features that journal mode needs."""
        if mode is MirroringMode.JOURNAL:
            self._switch_on()
        with self._change("enabling mirroring of") as image:
            image.mirror_image_enable(MODES[mode])
        if not self._header().features & rbd.RBD_FEATURE_EXCLUSIVE_LOCK:
            _log.warning(
                "the image lacks exclusive-lock: Demote tells writers by their watches alone, and "
                "waits up to 35 s for one to go; add exclusive-lock to imageFeatures",
                image=self.spec.path,
            )

    def disable(self, *, force: bool) -> bool:
        """Switch mirroring off; a secondary librbd promotes by force first, see ``rollback``."""
        rollback = self._prepare_rollback()
        if rollback is Rollback.HELD:
            return False
        with self._change("disabling mirroring of", leash=_LEASHES[rollback]) as image:
            self._require_no_new_copy(rollback)
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
        return True

    def promote(self, *, force: bool) -> bool:
        """Promote; ``False`` when librbd refuses for the time being."""
        rollback = self._prepare_rollback() if force else Rollback.NONE
        if rollback is Rollback.HELD:
            return False
        with self._change("promoting", leash=_LEASHES[rollback], peers=not force) as image:
            if force:
                self._require_no_new_copy(rollback)
            try:
                image.mirror_image_promote(force)
            except (rbd.ImageBusy, rbd.ReadOnlyImage):
                return False
        return True

    def _prepare_rollback(self) -> Rollback:
        doing = "preparing the rollback of"
        with self._connected(Purpose.WRITE, doing) as (cluster, ioctx):
            seen = look(ioctx, self.spec.image)
            if (
                seen.mirroring is None
                or seen.mirroring.mode is MirroringMode.JOURNAL
                or not is_needed(read_header(ioctx, self.held.image_id).snapshots)
            ):
                return Rollback.NONE
            self.looks.confirm(self.spec, read_view(ioctx, seen), peers=False)
            self.sign(cluster)
            return prepare(cluster, ioctx, self.held.image_id, seen.mirroring.global_id)

    def _require_no_new_copy(self, rollback: Rollback) -> None:
        """Look whether rbd-mirror has begun a copy since it was decided that there is none."""
        if rollback is not Rollback.NONE:
            return  # it leaves the image alone by now
        if is_needed(self._header().snapshots):
            raise ImageChanged(
                f"rbd-mirror began a copy of {self.spec} in this moment; nothing was done; "
                f"{NOTHING_TO_DO}"
            )

    def demote(self) -> None:
        """Demote."""
        with self._change("demoting") as image:
            image.mirror_image_demote()

    def finish_demotion(self) -> bool:
        """Mark the snapshot of this site's demotion complete, which librbd does last, if it is.

        Raises:
            ImageChanged: the newest snapshot is not that of a demotion that was cut short.
        """
        doing, image_id = "finishing the demotion of", self.held.image_id
        with self._connected(Purpose.WRITE, doing) as (cluster, ioctx):
            number = unfinished_demotion(read_header(ioctx, image_id).snapshots)
            if number is None:
                raise ImageChanged(
                    f"{self.spec} has a newer mirror snapshot than that of the demotion that was "
                    f"cut short; nothing was done; {NOTHING_TO_DO}"
                )
            try:
                # the image's state; of its objects, librbd writes this one last
                ioctx.stat(f"rbd_mirror_snapshot.{image_id}.{number}.0")
            except rados.ObjectNotFound:
                return False
            reach(f"before signing for {doing}")
            self.sign(cluster)
            self.looks.forget()
            with step(doing):
                method, request = _COMPLETE, struct.pack("<QBQ", number, 1, 0)
                ioctx.execute(header_object(image_id), "rbd", method, request)
        return True

    def make_writable(self) -> None:
        """Take the feature off as librbd's promotion does, for which it offers no call."""
        doing = "making writable"
        with self._connected(Purpose.WRITE, doing) as (cluster, ioctx):
            reach(f"before signing for {doing}")
            self.sign(cluster)
            self.looks.forget()
            with step(doing):
                request = struct.pack("<QQ", 0, NON_PRIMARY)
                ioctx.execute(header_object(self.held.image_id), "rbd", "set_features", request)

    def evict(self, holder: Holder) -> None:
        """Fence a client that is dead, then break its lock, as librbd does."""
        if holder.address in self.connections.own:
            raise ImageInUse(
                f"{self.spec} is locked by {holder}, this driver itself; {NOTHING_TO_DO}"
            )
        try:
            if holder.grip is not Grip.FENCED:
                self._fence(holder)
        except (PermissionDenied, Unauthenticated) as exc:
            # a monitor answers EACCES, too, where caps are missing
            raise ImageInUse(
                f"{self.spec} is locked by {holder}, which seems dead, and the user's caps do not "
                "allow to fence it (mon 'profile rbd' does); fence it with "
                f"'ceph osd blocklist add {holder.address}'; the controller retries by itself"
            ) from exc
        with self._connected(Purpose.WRITE, "breaking the lock on") as (cluster, ioctx):
            self.sign(cluster)
            with step("breaking the lock of a dead client on"):
                break_lock(ioctx, self.held.image_id, holder)
        _log.warning("broke the lock of a dead client", image=self.spec.path, client=str(holder))

    def _fence(self, holder: Holder) -> None:
        """Fence a client that still is as it was judged: no lease stops what monitors are told."""
        doing = "fencing the dead client that locks"
        with self._connected(Purpose.WRITE, doing) as (cluster, ioctx):
            reach(f"before signing for {doing}")
            looked = time.monotonic()
            if holder not in read_holders(cluster, ioctx, self.spec.image):
                raise ImageChanged(
                    f"{self.spec} is not locked by {holder} any more as it was a moment ago; "
                    f"nothing was done; {NOTHING_TO_DO}"
                )
            self.sign(cluster)
        with step(doing):
            self._require_recent(doing, time.monotonic() - looked)
            self.connections.keep_out(self.place, self.credentials, (holder.address,))

    def resync(self, image_id: str) -> None:
        """Flag just that image for deletion and a fresh copy."""
        with self._change("requesting a resync of", image_id=image_id, peers=True) as image:
            image.mirror_image_resync()

    def forget_resync(self, standing: str) -> None:
        """Remove the resync record from the pool's metadata, also one that cannot be read."""
        with self._connected(Purpose.WRITE, "removing the resync record of") as (cluster, ioctx):
            if read_text(ioctx, self.spec) == standing:
                self.sign(cluster)
                replace_record(ioctx, self.spec, standing, None)

    def take_snapshot(self) -> int:
        """Take a mirror snapshot and return its id."""
        with self._change("taking a mirror snapshot of") as image:
            return image.mirror_image_create_snapshot()

    def switch_off(self) -> None:
        """Switch off the features that ``enable`` had to switch on."""
        header = self._header()
        standing = _switched_on(header) & header.features
        if standing:
            with self._change("switching off features of") as image:
                image.update_features(standing, enabled=False)
        self.note(_SWITCHED_ON, None)

    def _switch_on(self) -> None:
        for feature, name in _JOURNAL_FEATURES.items():
            header = self._header()
            if header.features & feature:
                continue
            noted = _switched_on(header)
            # noted first: a crash leaves no feature on that nobody would switch off
            self.note(_SWITCHED_ON, str(noted | feature))
            with self._change(f"switching on {name} of") as image:
                try:
                    image.update_features(feature, enabled=True)
                except (rbd.InvalidArgument, rbd.OperationNotSupported) as exc:
                    self.note(_SWITCHED_ON, str(noted))
                    raise FeaturesMissing(
                        f"{self.spec} lacks the feature {name}, which journal mode needs, and it "
                        "cannot be switched on; use mirroringMode=snapshot"
                    ) from exc

    def _header(self) -> Header:
        with self._pool(Purpose.READ, "reading the header of") as ioctx:
            return read_header(ioctx, self.held.image_id)

    @contextmanager
    def _change(
        self,
        doing: str,
        *,
        image_id: str | None = None,
        leash: float = LEASH,
        peers: bool = False,
    ) -> Iterator[rbd.Image]:
        """Lend the image opened for writing, on a handle without a timeout for OSDs.

        Opening may take long. So what the change rests on is read again afterwards.

        Raises:
            ImageChanged: it is no longer so, or too old by now.
        """
        name = self.spec.image if image_id is None else None
        with (
            self._connected(Purpose.WRITE, doing, leash=leash) as (cluster, ioctx),
            rbd.Image(ioctx, name, image_id=image_id) as image,
        ):
            reach(f"before signing for {doing}")
            looked = time.monotonic()
            self.looks.confirm(self.spec, ReadImage.view(self), peers=peers)
            self.sign(cluster)  # last: what comes now cannot come too late
            self._require_recent(doing, time.monotonic() - looked)
            self.looks.forget()
            with step(doing):
                yield image

    def _require_recent(self, doing: str, seconds: float) -> None:
        if seconds > FRESH:
            raise ImageChanged(
                f"{doing} {self.spec}: a last look and the lease took {seconds:.0f} s, which is "
                "too long to rest a change on; nothing was done; the controller retries; if it "
                "comes again, see the health of the cluster"
            )


def _switched_on(header: Header) -> int:
    """Read which features Enable switched on; none where the note is not one of this driver's."""
    noted = notes_among(header.metadata).get(_SWITCHED_ON, "")
    number = int(noted) if noted.isdecimal() and len(noted) <= _DIGITS else 0
    return number & sum(_JOURNAL_FEATURES)
