# SPDX-License-Identifier: Apache-2.0
"""The vocabulary of calls: what is asked, and what is answered.

Frozen values only, so that they can cross the boundary between the serving process and a
worker.
"""

from dataclasses import dataclass, field, fields
from enum import Enum, StrEnum
from typing import Final, TypeAlias

from csi_addons_rbd.replication.deadline import Deadline
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
    """When mirror snapshots of one image are taken."""

    seconds: int
    """The interval: 10 at least, or whole minutes."""
    by_driver: bool
    """Whether the driver takes them itself, as for intervals asked for in seconds: Ceph's own
    scheduler counts in minutes."""
    start_time: str | None
    """ISO 8601 time the intervals are counted from, as the caller wrote it."""

    @property
    def interval(self) -> str:
        """The interval in the notation of the parameter, and of Ceph's scheduler."""
        return f"{self.seconds}s" if self.by_driver else f"{self.seconds // 60}m"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentifyCall(Call):
    """Asks a cluster whether it accepts the key, and which one it is: no call of CSI-Addons."""


OPERATIONS: Final = ("enable", "disable", "promote", "demote", "resync")
"""The calls that hold their image while they run."""

# --- where a handle leads -----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One pool in which a handle's volume may lie, by config.json and cluster-mapping.json."""

    cluster: str
    monitors: tuple[str, ...]
    pool: int
    namespace: str
    """RADOS namespace; empty for the default one."""


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
    entries_behind: int | None
    """Journal mode: entries that a peer had still to replay when it wrote its status."""
    interval: int | None
    """Seconds between two snapshots, as asked for; ``None`` where no schedule was."""
    schedule_in_place: bool | None
    """``None`` where no schedule was asked for."""
    daemon_here: bool
    daemon_there: bool
    """Whether rbd-mirror of this site, and of every peer, is up and wrote a status of late."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Identified:
    """Answer of a cluster that accepts the key."""

    fsid: str
    """Its own id, the same whichever way its monitors are written."""


Answer: TypeAlias = ReplicationInfo | Located | Resynced | Identified | None


# --- between the serving process and a worker ---------------------------------------------

STUCK: Final = 75
"""Exit code of a worker in which librbd hangs for good, although the cluster answers."""


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
    until: Deadline
    """When nobody waits for the reply any more: processes of one machine share the clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningOperations:
    """The operations of one kind that hold an image, whether or not a caller still waits."""

    name: str
    """The kind, such as ``promote``."""
    count: int
    oldest: float
    """Age of the oldest, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """What a worker tells every second, unasked: that it lives, and how it is."""

    operations: tuple[RunningOperations, ...]
    silent: bool
    """Whether a part of the cluster does not answer."""
    clients: tuple[str, ...]
    """What the cluster knows it by: the addresses of its connections."""
    connections: int
    """How many of these are its own; the others a dead predecessor left behind."""
    answered: float | None
    """When the cluster answered last, in Unix seconds; ``None`` when it has not yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a worker answers to one ``Ask``."""

    number: int
    answer: Answer | DriverError
