# SPDX-License-Identifier: Apache-2.0
"""The vocabulary of images: what one shows, and what ``ceph/`` can do with it."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Protocol

from csi_addons_rbd.replication.calls import MirroringMode, Schedule
from csi_addons_rbd.replication.deadline import Deadline

if TYPE_CHECKING:
    from csi_addons_rbd.replication.vanished import VanishedImage


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpec:
    """The name of one image, as operators write it."""

    cluster: str
    pool: str
    pool_id: int
    namespace: str
    image: str

    @property
    def path(self) -> str:
        """``pool/[namespace/]image``: what the ``rbd`` command takes."""
        return "/".join(part for part in (self.pool, self.namespace, self.image) if part)

    def __str__(self) -> str:
        """Return the words that error texts use."""
        return f"image {self.path} on cluster {self.cluster}"


# --- what an image shows ------------------------------------------------------------------


class MirrorState(Enum):
    """Mirroring of one image (librbd's ``mirror_image_state_t``; 3 is seen on new copies)."""

    DISABLING = 0
    ENABLED = 1
    DISABLED = 2
    CREATING = 3
    TORN = -1
    """Not librbd's: this driver was cut short while it switched mirroring on or off, and what is
    left is neither. librbd calls it enabled, or creating, as it does a new copy."""


class Torn(StrEnum):
    """What a promotion or demotion leaves that was cut short inside librbd: neither side."""

    READ_ONLY = "primary by librbd's mirror info, and yet read-only (feature non-primary)"
    """Snapshot mode: librbd's demotion begins so, and so its promotion ends."""
    DEMOTION = "demoted, but its demotion was not written to the end, so that no peer gets it"
    """Snapshot mode: the demotion's snapshot is not complete. Journal mode: its tag is there, its
    entry is not. The peer waits for the rest for ever."""
    UNPROVEN = "primary, promoted only to make a demotion anew, which was cut short once more"
    """It can be written, but whether a peer was primary since that demotion nobody has found out.
    This driver's own note of the demotion tells it."""
    UNMIRRORED = "not mirrored, and yet read-only (feature non-primary)"
    """Mirroring of the first kind was switched off by a tool that did not look."""


class Epoch(StrEnum):
    """Who wrote the newest history this image holds, read from the image itself.

    Snapshot mode: the state of the newest mirror snapshot. Journal mode: the same four cases,
    from the owner of the newest journal tag. librbd itself decides by these.
    """

    PRIMARY = "primary"
    PRIMARY_DEMOTED = "primary, demoted"
    NON_PRIMARY = "non-primary"
    NON_PRIMARY_DEMOTED = "non-primary, demoted"
    NONE = "none"

    @property
    def own(self) -> bool:
        """Whether this site wrote it."""
        return self in (Epoch.PRIMARY, Epoch.PRIMARY_DEMOTED)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The newest history an image holds."""

    epoch: Epoch
    mark: int
    """What identifies it: id of the newest mirror snapshot, or of the newest journal tag."""
    began: int
    """Where the present primary epoch began: time of its first mirror snapshot in Unix
    seconds, or its first journal tag. 0 when the image is not primary."""
    began_at: int | None
    """When that was, in Unix seconds of this cluster's clock; ``None`` where nothing tells."""
    newest_at: int | None
    """Snapshot mode: when the newest mirror snapshot was taken, as ``began_at``."""
    awaited: bool
    """Snapshot mode: whether the image itself shows that a peer still lacks that snapshot."""
    copied_until: int | None
    """Snapshot mode: when the newest snapshot was taken that, as the image itself shows, every
    peer has whole, as ``began_at``; counts only once a peer has had a first copy."""
    followed: bool
    """Whether the image itself shows that every peer has followed into that epoch: what they
    still need of it, or of its journal, is of that epoch. False where that cannot be told."""
    delivered: bool
    """After this site's own demotion: whether the image itself shows that every peer has all of
    it. Both sides may read demoted, and yet each hold writes that the other lacks."""
    complete: bool
    """Whether a whole copy of the image was ever here: true on a primary."""
    progress: str
    """How far the newest copy has come, in plain words; empty when there is nothing to say."""
    overwritten_by: tuple[str, ...] = ()
    """Snapshot mode: the users' snapshots whose copy, half made, has begun to overwrite the last
    whole copy: there is no way back to that, nor yet one forward."""
    readers: frozenset[str] = frozenset()
    """Journal mode: the peers (mirror uuids) that are registered as readers of the journal."""
    copied: frozenset[str] = frozenset()
    """Journal mode: those that once copied the whole image from here."""
    unfinished: bool = False
    """Whether this site's own demotion is not written to the end: see ``Torn.DEMOTION``."""
    orphaned: bool = False
    """Snapshot mode: whether a promotion by force was begun here and not brought to its end:
    this site's rbd-mirror leaves the image alone since."""
    hollow: bool = False
    """Snapshot mode: whether all snapshots of the present primary epoch are torn: no peer can
    follow into it before there is another."""
    first: int = 0
    """Oldest number that a snapshot or tag of the present primary epoch may have, as far as the
    image still shows: what was noted under a smaller ``mark`` is of an earlier one."""
    agreed_at: int | None = None
    """Snapshot mode: when the demotion was taken that the present primary epoch began with, and
    that both sides had whole, as ``began_at``."""


class SiteState(Enum):
    """What a site's rbd-mirror says it is doing (librbd's ``mirror_image_status_state_t``)."""

    UNKNOWN = 0
    ERROR = 1
    SYNCING = 2
    STARTING_REPLAY = 3
    REPLAYING = 4
    STOPPING_REPLAY = 5
    STOPPED = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteStatus:
    """The last status one site's rbd-mirror wrote about an image."""

    site: str
    """The site's mirror uuid; empty for the local site."""
    up: bool
    """Whether that rbd-mirror still watches: stays true for up to 30 s after its death."""
    state: SiteState
    description: str
    last_update: int
    """When it was written, in whole Unix seconds of *this* cluster's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MirrorView:
    """Everything one read of an image tells about its mirroring."""

    state: MirrorState
    mode: MirroringMode
    mirroring: str
    """What identifies it (librbd's global image id): each Enable makes another one."""
    primary: bool
    image_id: str
    local: SiteStatus | None
    """``None`` when the local site has not written a status yet."""
    peers: tuple[SiteStatus, ...]
    peered: bool
    """Whether the pool has a peer at all, heard of or not."""
    history: History
    notes: Mapping[str, str] = field(default_factory=dict)
    """This driver's own metadata of the image, as far as it is mirrored."""
    torn: Torn | None = None
    """What a promotion or demotion left that was cut short inside librbd, or is just running."""

    @property
    def statuses(self) -> tuple[SiteStatus, ...]:
        """Every status there is, the local one first."""
        return self.peers if self.local is None else (self.local, *self.peers)

    @property
    def newest_update(self) -> int:
        """The newest ``last_update`` of any site; 0 when there is none."""
        return max((status.last_update for status in self.statuses), default=0)


class PoolMirroring(Enum):
    """Mirroring of a pool or namespace (librbd's ``rbd_mirror_mode_t``)."""

    DISABLED = 0
    IMAGE = 1
    POOL = 2
    INIT_ONLY = 3
    """From Ceph 20 on: the pool's namespaces may be mirrored, its own images are not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """An image that a clone reads from, as far as it has no data of its own."""

    path: str
    """``pool/[namespace/]image``."""
    mirrored: bool
    trashed: bool

    def __str__(self) -> str:
        """Return the words that error texts use."""
        faults = [
            words
            for words, so in (("in the trash", self.trashed), ("not mirrored", not self.mirrored))
            if so
        ]
        return f"{self.path} ({', '.join(faults)})" if faults else self.path


class Grip(Enum):
    """How a client holds an image."""

    LOCK = "locks it"
    SILENT = "locks it and does not watch it"
    """It has librbd's own exclusive lock, and no watch: it is dead, or about to come back."""
    FENCED = "locks it and is fenced"
    """The same, and the cluster takes nothing of it any more."""
    WATCH = "has it open"
    """The image lacks exclusive-lock, so that only its watch shows a writer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """A client, neither rbd-mirror's nor this driver's, that may write to an image."""

    client: str
    """Such as ``client.4100``."""
    address: str
    grip: Grip
    cookie: str = ""
    """Of its lock."""

    def __str__(self) -> str:
        """Return the words that error texts use."""
        return f"{self.client} at {self.address}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResyncRecord:
    """The note that a resync was asked for, kept in the pool because it deletes the image."""

    image_id: str
    """Id of the image that the resync deletes."""
    requested: int
    """When, in Unix seconds of the driver's clock; for people only."""
    sent: bool
    """Whether librbd has taken the request; false when a crash may have come between."""
    done: bool = False
    """Whether the new copy was seen whole; what happens to it later is no resync's doing."""
    mirroring: str = ""
    """The mirroring's global id; empty in records of earlier versions."""
    gone: int = 0
    """Since when no trace of the image was found, as ``requested``; 0 while there is any."""


# --- what ceph/ provides ------------------------------------------------------------------


class MirroredImage(Protocol):
    """One resolved image. Every method is one round to the cluster; nothing is cached."""

    @property
    def spec(self) -> ImageSpec:
        """The image's name."""
        ...

    def as_found(self) -> MirrorView:
        """Read the image that the call was resolved to, whatever bears its name by now."""
        ...

    def view(self) -> MirrorView:
        """Read the image. Never blocks longer than the read timeout."""
        ...

    def pool_mirroring(self) -> PoolMirroring:
        """Read the mirroring mode of the image's pool or namespace."""
        ...

    def lease(self, until: Deadline) -> AbstractContextManager["LeasedImage"]:
        """Be the only driver that changes the image, if that begins in time.

        Raises:
            LeaseHeld: another one is.
            CallOver: it would begin too late.
            LeaseLost: another one is by now, as this one was silent for long.
        """
        ...

    def parents(self) -> tuple[Parent, ...]:
        """Name the images that a clone hangs on, the nearest first; none for other images."""
        ...

    def flatten(self) -> str:
        """Have the manager copy everything that the parents hold; tell how far it has come."""
        ...

    def snapshot_room(self) -> int | None:
        """Return how many more snapshots the image may have; ``None`` where there is no limit."""
        ...

    def migrating(self) -> bool:
        """Tell whether a live migration of the image was prepared and has not ended."""
        ...

    def watchers(self) -> frozenset[str]:
        """Name the clients, other than rbd-mirror, that have the image open, be it idly."""
        ...

    def holders(self) -> tuple[Holder, ...]:
        """Name the clients, other than rbd-mirror, that hold the image."""
        ...

    def held_by_mirror_daemon(self) -> str | None:
        """Name this site's rbd-mirror if it holds a lock on the image."""
        ...

    def announce(self, view: MirrorView) -> None:
        """Notify rbd-mirror of what was read: librbd may have been killed before it did."""
        ...

    def restore_features(self, until: Deadline) -> None:
        """Switch off the features that ``enable`` had to switch on, under a lease of its own."""
        ...

    def resync_requested(self) -> bool:
        """Tell whether librbd's own request for a resync of this image stands."""
        ...

    def notes(self) -> Mapping[str, str]:
        """Read this driver's own metadata of the image."""
        ...

    def note(self, key: str, value: str | None, *, only: str | None = None) -> None:
        """Write one entry of this driver's own metadata, or remove it.

        Args:
            key: Which.
            value: What shall stand there; ``None`` removes it.
            only: Unless this stands there now, nothing is done.

        Raises:
            ImageChanged: another driver changed it in that moment.
        """
        ...

    def schedule_stands(self, image_id: str, schedule: Schedule) -> bool:
        """Tell whether the manager keeps just this schedule; true where that cannot be read."""
        ...

    def keep_schedule(self, wanted: Schedule | None) -> None:
        """Leave exactly the wanted snapshot schedule on the image itself, or none."""
        ...

    def record_resync(self, record: ResyncRecord | None, *, standing: ResyncRecord | None) -> None:
        """Write, or remove, the resync record.

        Raises:
            ImageChanged: another one stands there by now than was read before.
        """
        ...

    def resync_record(self) -> ResyncRecord | None:
        """Read the resync record."""
        ...

    def resync_text(self) -> str | None:
        """Read what stands in its place, be it a record or not."""
        ...

    def is_trashed(self, image_id: str) -> bool:
        """Tell whether the trash has an entry of that image, which may be there, too."""
        ...

    def correct_journal(self, image_id: str) -> None:
        """Set ``csi.imageid`` where ``csi.volname`` stands; never create the object."""
        ...


class LeasedImage(MirroredImage, Protocol):
    """The same while no other driver changes it: whatever is written is signed before.

    Each method raises ``LeaseLost`` when it is too late.
    """

    def enable(self, mode: MirroringMode) -> None:
        """Switch mirroring on, and the features that journal mode needs."""
        ...

    def disable(self, *, force: bool) -> bool:
        """Switch mirroring off; ``False`` while rbd-mirror has a half made copy open.

        librbd promotes a secondary first, and takes a half made copy back, which may last minutes.
        """
        ...

    def promote(self, *, force: bool) -> bool:
        """Promote; ``False`` when librbd refuses (EBUSY, EROFS), for which there are reasons.

        Taking back a half made copy may last minutes.
        """
        ...

    def demote(self) -> None:
        """Demote."""
        ...

    def finish_demotion(self) -> bool:
        """Mark the snapshot of a demotion complete; false when more than that is missing."""
        ...

    def make_writable(self) -> None:
        """Take the feature non-primary off, as librbd does at the end of a promotion."""
        ...

    def evict(self, holder: Holder) -> None:
        """Fence a client that is dead, then break its lock.

        Raises:
            ImageInUse: the caps do not allow it.
        """
        ...

    def resync(self, image_id: str) -> None:
        """Flag just that image, whatever bears its name by now, for deletion and a new copy."""
        ...

    def forget_resync(self, standing: str) -> None:
        """Remove the resync record, whoever wrote it, if it still is what was read before."""
        ...

    def take_snapshot(self) -> int:
        """Take a mirror snapshot and return its id."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The image is there."""

    image: MirroredImage


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """The image is not there, but a resync record says that it will come back."""

    image: "VanishedImage"
    record: ResyncRecord
