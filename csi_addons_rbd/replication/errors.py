# SPDX-License-Identifier: Apache-2.0
"""Every way in which a call can fail, as classes; imports nothing.

The second level decides the gRPC status (one table, in ``api/interceptor.py``); the third
level names the case and carries the stable ``reason`` that tools read instead of prose::

    DriverError
    ├── InvalidRequest          INVALID_ARGUMENT     the caller must change the request
    ├── NotFound                NOT_FOUND            proven absence, nothing weaker
    ├── PreconditionFailed      FAILED_PRECONDITION  the image is in the wrong state
    ├── Busy                    ABORTED              passes by itself, or with help
    ├── Unauthenticated         UNAUTHENTICATED      cephx refuses the secret
    ├── PermissionDenied        PERMISSION_DENIED    cephx accepts, the caps do not
    ├── Unavailable             UNAVAILABLE          the cluster does not answer
    ├── DeadlineExceeded        DEADLINE_EXCEEDED    the caller's time is over, work goes on
    ├── Exhausted               RESOURCE_EXHAUSTED   a limit of concurrent calls
    ├── Unsupported             UNIMPLEMENTED        neither now nor on a retry
    └── InternalError           INTERNAL             a fault of ours

On Promote the controller answers FAILED_PRECONDITION with an immediate ``force=true``, and on
Disable it takes NOT_FOUND for "already gone": below ``PreconditionFailed`` and ``NotFound``
belongs only what may be read so.
"""

from typing import ClassVar, Final

NOTHING_TO_DO: Final = "the controller retries; nothing to do"
"""How a text ends whose reader need not act."""


class DriverError(Exception):
    """The root. Its text goes to the caller: what was seen, where, and what to do next."""

    reason: ClassVar[str] = "INTERNAL"
    temporary: ClassVar[bool] = False
    """Whether it passes by itself, so that the same call is right a little later."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class InvalidRequest(DriverError):
    """A field is missing or malformed; the text names it and says what is accepted."""

    reason = "INVALID_REQUEST"


class InvalidHandle(InvalidRequest):
    """The volume handle does not follow the CSI layout."""

    reason = "INVALID_HANDLE"


class UnknownHandleVersion(InvalidHandle):
    """Perhaps a handle of a later layout, so that a volume may stand behind it."""


class InvalidParameter(InvalidRequest):
    """A class parameter has a value that is not accepted."""

    reason = "INVALID_PARAMETER"


class NotFound(DriverError):
    """Something was looked for in a cluster that answered, and is proven absent."""

    reason = "NOT_FOUND"


class VolumeNotFound(NotFound):
    """Every place the handle may lead to was searched, and holds no such image."""

    reason = "VOLUME_NOT_FOUND"


class NeverEnabled(NotFound):
    """Disable of what can be no handle: no call ever enabled anything under it."""

    reason = "NEVER_ENABLED"


class UnknownService(NotFound):
    """Health was asked of a service that is not served."""

    reason = "UNKNOWN_SERVICE"


class SyncInfoMissing(NotFound):
    """The image is primary, but no copy was ever completed on a peer."""

    reason = "NEVER_SYNCED"


class PreconditionFailed(DriverError):
    """The image, its pool or its peers are in a state in which the call must not act."""

    reason = "FAILED_PRECONDITION"


class NotEnabled(PreconditionFailed):
    """The image is not mirrored."""

    reason = "NOT_ENABLED"


class NotPrimary(PreconditionFailed):
    """The call makes sense only on the primary."""

    reason = "NOT_PRIMARY"


class IsPrimary(PreconditionFailed):
    """The call makes sense only on a secondary."""

    reason = "IS_PRIMARY"


class ModeMismatch(PreconditionFailed):
    """The image is mirrored already, in the other mode."""

    reason = "MODE_MISMATCH"


class PoolNotMirrored(PreconditionFailed):
    """The pool's (or namespace's) mirroring is off, or covers whole pools."""

    reason = "POOL_NOT_MIRRORED"


class FeaturesMissing(PreconditionFailed):
    """Journal mode needs image features that cannot be switched on."""

    reason = "FEATURES_MISSING"


class ImageInTrash(PreconditionFailed):
    """The image was moved to the trash: neither usable nor gone."""

    reason = "IMAGE_IN_TRASH"


class VolumeElsewhere(PreconditionFailed):
    """Not where the handle leads, and its absence is not proven: its uuid is found elsewhere."""

    reason = "VOLUME_ELSEWHERE"


class ParentNotMirrored(PreconditionFailed):
    """A clone can only be mirrored where its parent is, or without one."""

    reason = "PARENT_NOT_MIRRORED"


class ImageTorn(PreconditionFailed):
    """A promotion or demotion was cut short inside librbd: the image is neither side."""

    reason = "IMAGE_TORN"


class SnapshotLimitReached(PreconditionFailed):
    """The image's snapshot limit leaves no room for the mirror snapshots that the call takes."""

    reason = "SNAPSHOT_LIMIT_REACHED"


class PoolFull(PreconditionFailed):
    """The pool is full or has reached its quota: nothing can be changed in it."""

    reason = "POOL_FULL"


class ImageMigrating(PreconditionFailed):
    """A live migration of the image has not ended; librbd mirrors no such image."""

    reason = "IMAGE_MIGRATING"


class ClusterEntryUnusable(PreconditionFailed):
    """The handle leads to an entry of config.json that cannot be read: somebody must mend it."""

    reason = "CLUSTER_ENTRY_UNUSABLE"


class ImageHasDependents(PreconditionFailed):
    """A mirrored clone depends on this image."""

    reason = "IMAGE_HAS_DEPENDENTS"


class ImageInUse(PreconditionFailed):
    """A client holds the image; demoting under it would lose its writes."""

    reason = "IMAGE_IN_USE"


class ResyncPending(PreconditionFailed):
    """A resync asked for before the promotion still stands: rbd-mirror would delete the image."""

    reason = "RESYNC_PENDING"


class NoCompleteCopy(PreconditionFailed):
    """No whole copy is here, and its source is gone: nothing to promote, by force neither."""

    reason = "NO_COMPLETE_COPY"


class PeerIsPrimary(PreconditionFailed):
    """A fresh status says that the peer is primary."""

    reason = "PEER_IS_PRIMARY"


class PeerUnreachable(PreconditionFailed):
    """No peer can send the last data any more; forcing is the legitimate next step."""

    reason = "PEER_UNREACHABLE"


class SecondaryUnhealthy(PreconditionFailed):
    """A secondary that does not follow a live primary is left alone without force."""

    reason = "SECONDARY_UNHEALTHY"


class SplitBrain(PreconditionFailed):
    """Both sides hold writes the other never saw."""

    reason = "SPLIT_BRAIN"


class NoGoodCopyElsewhere(PreconditionFailed):
    """A resync would delete the only copy: no peer is known to be up and primary."""

    reason = "NO_GOOD_COPY_ELSEWHERE"


class Busy(DriverError):
    """The situation passes by itself; the same call is right a little later."""

    reason = "BUSY"
    temporary = True


class OperationRunning(Busy):
    """Another, different operation on the same image is running."""

    reason = "OPERATION_RUNNING"


class LeaseHeld(Busy):
    """Another driver is changing the image at this moment."""

    reason = "LEASE_HELD"


class CallOver(Busy):
    """The call's time ended before anything was changed, so nothing was."""

    reason = "CALL_OVER"


class Flattening(Busy):
    """The clone is being made independent of its parent before it can be mirrored."""

    reason = "FLATTENING"


class DataPending(Busy):
    """The last data of the peer is still on its way here."""

    reason = "DATA_PENDING"


class PeerBehind(Busy):
    """The peer has not followed this primary yet."""

    reason = "PEER_BEHIND"


class FirstSyncRunning(Busy):
    """The first copy of the image is still being made here."""

    reason = "FIRST_SYNC_RUNNING"


class MirroringDisabling(Busy):
    """Mirroring of the image is just being switched off."""

    reason = "MIRRORING_DISABLING"


class ImageRecreating(Busy):
    """A resync deleted the image and is recreating it."""

    reason = "IMAGE_RECREATING"


class ImageBeingDeleted(Busy):
    """rbd-mirror is deleting the image, since its primary is mirrored no longer."""

    reason = "IMAGE_BEING_DELETED"


class MirrorDaemonHoldsImage(Busy):
    """Promoted, but rbd-mirror of this site keeps the exclusive lock: no write gets through."""

    reason = "MIRROR_DAEMON_HOLDS_IMAGE"


class ImageChanged(Busy):
    """The image did not show, on a fresh read, what the call had just done."""

    reason = "IMAGE_CHANGED"


class ImageVanished(ImageChanged):
    """It is not there (any more), as Ceph says (ENOENT): removed, renamed or in the trash."""


class Unauthenticated(DriverError):
    """The secret is absent, incomplete or refused by cephx."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(DriverError):
    """The caps of the user do not allow the operation."""

    reason = "PERMISSION_DENIED"


class Unavailable(DriverError):
    """A cluster, or a part of it, does not answer."""

    reason = "UNAVAILABLE"
    temporary = True


class ClusterNotConfigured(Unavailable):
    """The handle's cluster stands in neither configuration file (yet)."""

    reason = "CLUSTER_NOT_CONFIGURED"


class ClusterAmbiguous(Unavailable):
    """A writing call may lead to several clusters, and which one is this site's is not told."""

    reason = "CLUSTER_AMBIGUOUS"


class ClusterUnreachable(Unavailable):
    """Monitors or OSDs do not answer within the bound."""

    reason = "CLUSTER_UNREACHABLE"


class ClientBlocklisted(Unavailable):
    """The cluster fenced this client, also after one reconnect."""

    reason = "CLIENT_BLOCKLISTED"


class LeaseLost(Unavailable):
    """The cluster fenced this driver in the middle of a change."""

    reason = "LEASE_LOST"


class MirrorDaemonDown(Unavailable):
    """The local rbd-mirror is down or silent, and without it the data cannot arrive."""

    reason = "MIRROR_DAEMON_DOWN"


class PromotionBarred(Unavailable):
    """Somebody must change the image, or the configuration; forcing meets the same obstacle."""

    reason = "PROMOTION_BARRED"


class ManagerUnavailable(Unavailable):
    """The ceph-mgr, which keeps the snapshot schedules, does not answer."""

    reason = "MANAGER_UNAVAILABLE"


class WorkerLost(Unavailable):
    """The process that talks to this cluster ended in the middle of the call."""

    reason = "WORKER_LOST"


class CephFailure(Unavailable):
    """Ceph answered with an error that this driver has no better word for."""

    reason = "CEPH_ERROR"


LEASE_LOSSES: Final = (LeaseHeld, LeaseLost, ClientBlocklisted)
"""After these another driver may be at work: nothing is to be put back as it was."""


class DeadlineExceeded(DriverError):
    """The caller's deadline ended while Ceph was still working; the work goes on."""

    reason = "DEADLINE_EXCEEDED"
    temporary = True


class Exhausted(DriverError):
    """A limit of concurrent calls is reached; refused at once rather than queued."""

    reason = "TOO_MANY_CALLS"
    temporary = True


class Unsupported(DriverError):
    """Neither this driver nor this Ceph can do what was asked."""

    reason = "UNSUPPORTED"


class InternalError(DriverError):
    """A programming error of ours; the caller gets a fixed text, the log the traceback."""

    reason = "INTERNAL"
