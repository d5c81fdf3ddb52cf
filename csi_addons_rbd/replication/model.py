# SPDX-License-Identifier: Apache-2.0
"""The vocabulary: what a call asks, what an image shows, what is answered.

Frozen values only, so that they can cross the boundary between the serving process and a
worker, and the small protocols that ``ceph/`` fulfils for ``replication/``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum, StrEnum
from typing import Protocol, TypeAlias

from csi_addons_rbd.replication.errors import DriverError
from csi_addons_rbd.replication.volume_id import VolumeId


class MirroringMode(StrEnum):
    """How rbd-mirror carries an image over: parameter ``mirroringMode``."""

    SNAPSHOT = "snapshot"
    JOURNAL = "journal"


class FlattenMode(StrEnum):
    """What Enable does with a clone: parameter ``flattenMode``."""

    NEVER = "never"
    FORCE = "force"


# --- what a call asks ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The cephx user of one call. The key never shows in a repr."""

    user: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """When Ceph's scheduler takes mirror snapshots of one image."""

    minutes: int
    """Interval in minutes, at least 1."""
    start_time: str | None
    """ISO 8601 time the intervals are counted from, as the caller wrote it."""

    @property
    def interval(self) -> str:
        """The interval in the scheduler's own notation."""
        return f"{self.minutes}m"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What every call has."""

    volume: VolumeId
    credentials: Credentials

    @property
    def name(self) -> str:
        """The operation's name in messages, such as ``promote``."""
        return type(self).__name__.removesuffix("Call").lower()

    @property
    def intent(self) -> tuple[object, ...]:
        """What makes two calls on one image the same: all but handle text and credentials."""
        common = {each.name for each in fields(Call)}
        own = (getattr(self, each.name) for each in fields(self) if each.name not in common)
        return (type(self), *own)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnableCall(Call):
    """EnableVolumeReplication."""

    mode: MirroringMode
    schedule: Schedule | None
    flatten: FlattenMode


@dataclass(frozen=True, slots=True, kw_only=True)
class DisableCall(Call):
    """DisableVolumeReplication."""

    force: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PromoteCall(Call):
    """PromoteVolume."""

    force: bool
    schedule: Schedule | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoteCall(Call):
    """DemoteVolume. The request's ``force`` means nothing here, as with every peer driver."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResyncCall(Call):
    """ResyncVolume."""

    force: bool
    always: bool
    """``resyncMode=always``: force may also resync a secondary without split-brain."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InfoCall(Call):
    """GetVolumeReplicationInfo."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationCall(Call):
    """GetReplicationDestinationInfo."""


# --- where a handle leads -----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One pool in which a handle's volume may lie, by config.json and cluster-mapping.json."""

    cluster: str
    monitors: tuple[str, ...]
    pool: int
    namespace: str
    """RADOS namespace; empty for the default one."""


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
    followed: bool
    """Whether the image itself shows that every peer has followed into that epoch: what they
    still need of it, or of its journal, is of that epoch. False where that cannot be told."""
    complete: bool
    """Whether a whole copy of the image was ever here: true on a primary."""
    progress: str
    """How far the newest copy has come, in plain words; empty when there is nothing to say."""


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
    primary: bool
    image_id: str
    local: SiteStatus | None
    """``None`` when the local site has not written a status yet."""
    peers: tuple[SiteStatus, ...]
    peered: bool
    """Whether the pool has a peer at all, heard of or not."""
    history: History

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


@dataclass(frozen=True, slots=True, kw_only=True)
class ResyncRecord:
    """The note that a resync was asked for, kept in the pool because it deletes the image."""

    image_id: str
    """Id of the image that the resync deletes."""
    requested: int
    """When, in Unix seconds of the driver's clock; for people only."""
    sent: bool
    """Whether librbd has taken the request; false when a crash may have come between."""


# --- what is answered ---------------------------------------------------------------------


class Health(Enum):
    """GetVolumeReplicationInfo's ``status``, with the numbers of the wire."""

    UNKNOWN = 0
    HEALTHY = 1
    DEGRADED = 2
    ERROR = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationInfo:
    """Answer of GetVolumeReplicationInfo."""

    last_sync: int | None
    """Unix seconds of the primary's clock; ``None`` only with status ERROR."""
    last_sync_seconds: int | None
    last_sync_bytes: int | None
    health: Health
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """Answer to a destination call: where the volume lies here, mirrored."""

    cluster: str
    pool: str
    pool_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resynced:
    """Answer of ResyncVolume."""

    ready: bool


Answer: TypeAlias = ReplicationInfo | Located | Resynced | None


# --- between the serving process and a worker ---------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One call on its way to a worker."""

    number: int
    """Pairs the reply with this message."""
    call_id: str
    """The id under which both processes log this call."""
    call: Call
    places: tuple[Place, ...]
    """Where the volume may lie in this worker's cluster, in the order to look."""
    seconds: float
    """How long somebody will wait for the reply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a worker answers to one ``Ask``."""

    number: int
    answer: Answer | DriverError


# --- what ceph/ provides ------------------------------------------------------------------


class MirroredImage(Protocol):
    """One resolved image. Every method is one round to the cluster; nothing is cached."""

    @property
    def spec(self) -> ImageSpec:
        """The image's name."""
        ...

    def view(self) -> MirrorView:
        """Read the image. Never blocks longer than the read timeout."""
        ...

    def pool_mirroring(self) -> PoolMirroring:
        """Read the mirroring mode of the image's pool or namespace."""
        ...

    def parent(self) -> str | None:
        """Name the parent of a clone (``pool/image``); ``None`` when there is none."""
        ...

    def holders(self) -> tuple[str, ...]:
        """Name the clients, other than rbd-mirror, that hold a lock on the image."""
        ...

    def held_by_mirror_daemon(self) -> str | None:
        """Name this site's rbd-mirror if it holds a lock on the image."""
        ...

    def enable(self, mode: MirroringMode) -> None:
        """Switch mirroring on, and the features that journal mode needs."""
        ...

    def disable(self, *, force: bool) -> None:
        """Switch mirroring off."""
        ...

    def promote(self, *, force: bool) -> bool:
        """Promote; ``False`` when librbd refuses (EBUSY, EROFS), for which there are reasons."""
        ...

    def demote(self) -> None:
        """Demote."""
        ...

    def resync(self, image_id: str) -> None:
        """Flag just that image, whatever bears its name by now, for deletion and a new copy."""
        ...

    def notes(self) -> Mapping[str, str]:
        """Read this driver's own metadata of the image."""
        ...

    def note(self, key: str, value: str | None) -> None:
        """Write one entry of this driver's own metadata, or remove it."""
        ...

    def keep_schedule(self, wanted: Schedule | None) -> None:
        """Leave exactly the wanted snapshot schedule on the image itself, or none."""
        ...

    def record_resync(self, record: ResyncRecord | None) -> None:
        """Write, or remove, the resync record."""
        ...

    def resync_record(self) -> ResyncRecord | None:
        """Read the resync record."""
        ...

    def correct_journal(self, image_id: str) -> None:
        """Set ``csi.imageid`` where ``csi.volname`` stands; never create the object."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The image is there."""

    image: MirroredImage


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """The image is not there, but a resync record says that it will come back."""

    spec: ImageSpec
    record: ResyncRecord
