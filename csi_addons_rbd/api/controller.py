# SPDX-License-Identifier: Apache-2.0
"""The Replication service: parse, ask the worker of the volume's cluster, build the response.

Errors leave as exceptions; the interceptor turns them into statuses.
"""

from typing import TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from csi_addons_rbd._proto import replication_pb2 as pb
from csi_addons_rbd._proto import replication_pb2_grpc
from csi_addons_rbd.api import requests
from csi_addons_rbd.clusters import ClusterMap, Leads
from csi_addons_rbd.recent_answers import RecentAnswers
from csi_addons_rbd.replication.calls import (
    Answer,
    Call,
    InfoCall,
    Located,
    PromoteCall,
    ReplicationInfo,
    Resynced,
)
from csi_addons_rbd.replication.errors import (
    NOTHING_TO_DO,
    ClusterEntryUnusable,
    ClusterNotConfigured,
    DeadlineExceeded,
    InternalError,
    NotFound,
    PreconditionFailed,
    PromotionBarred,
    SyncInfoMissing,
    VolumeNotFound,
)
from csi_addons_rbd.volume_metrics import VolumeMetrics
from csi_addons_rbd.worker_process import Wait

_Kind = TypeVar("_Kind", ReplicationInfo, Located, Resynced)


class Controller(replication_pb2_grpc.ControllerServicer):
    """The seven calls of ``replication.Controller``.

    Args:
        clusters: Where a handle leads.
        answers: Who asks the clusters.
        volumes: Shows what is known of each volume.
        call_timeout: Our own bound of every call, in seconds.
    """

    def __init__(
        self,
        *,
        clusters: ClusterMap,
        answers: RecentAnswers,
        volumes: VolumeMetrics,
        call_timeout: float,
    ) -> None:
        self._clusters = clusters
        self._answers = answers
        self._volumes = volumes
        self._call_timeout = call_timeout

    def EnableVolumeReplication(  # noqa: N802 - gRPC's name
        self, request: pb.EnableVolumeReplicationRequest, context: grpc.ServicerContext
    ) -> pb.EnableVolumeReplicationResponse:
        """Switch mirroring of a volume on."""
        self._ask(requests.enable(request), context)
        return pb.EnableVolumeReplicationResponse()

    def DisableVolumeReplication(  # noqa: N802 - gRPC's name
        self, request: pb.DisableVolumeReplicationRequest, context: grpc.ServicerContext
    ) -> pb.DisableVolumeReplicationResponse:
        """Switch mirroring of a volume off."""
        call = requests.disable(request)
        self._ask(call, context)
        self._volumes.forget(str(call.volume))
        return pb.DisableVolumeReplicationResponse()

    def PromoteVolume(  # noqa: N802 - gRPC's name
        self, request: pb.PromoteVolumeRequest, context: grpc.ServicerContext
    ) -> pb.PromoteVolumeResponse:
        """Make the volume primary here."""
        self._ask(requests.promote(request), context)
        return pb.PromoteVolumeResponse()

    def DemoteVolume(  # noqa: N802 - gRPC's name
        self, request: pb.DemoteVolumeRequest, context: grpc.ServicerContext
    ) -> pb.DemoteVolumeResponse:
        """Make the volume secondary here."""
        call = requests.demote(request)
        self._ask(call, context)
        self._volumes.forget(str(call.volume))
        return pb.DemoteVolumeResponse()

    def ResyncVolume(  # noqa: N802 - gRPC's name
        self, request: pb.ResyncVolumeRequest, context: grpc.ServicerContext
    ) -> pb.ResyncVolumeResponse:
        """Copy the volume afresh from its primary, where evidence allows it."""
        answer = _expect(Resynced, self._ask(requests.resync(request), context))
        return pb.ResyncVolumeResponse(ready=answer.ready)

    def GetVolumeReplicationInfo(  # noqa: N802 - gRPC's name
        self, request: pb.GetVolumeReplicationInfoRequest, context: grpc.ServicerContext
    ) -> pb.GetVolumeReplicationInfoResponse:
        """Tell how far the peer's copy has come."""
        answer = self._replication_info(requests.info(request), context)
        return pb.GetVolumeReplicationInfoResponse(
            last_sync_time=None
            if answer.last_sync is None
            else Timestamp(seconds=answer.last_sync),
            last_sync_duration=None
            if answer.last_sync_seconds is None
            else Duration(seconds=answer.last_sync_seconds),
            last_sync_bytes=answer.last_sync_bytes or 0,
            status=answer.health.name,
            status_message=answer.message,
        )

    def GetReplicationDestinationInfo(  # noqa: N802 - gRPC's name
        self, request: pb.GetReplicationDestinationInfoRequest, context: grpc.ServicerContext
    ) -> pb.GetReplicationDestinationInfoResponse:
        """Tell the handle by which the peer site knows the volume."""
        call = requests.destination(request)
        here = _expect(Located, self._ask(call, context))
        there = self._clusters.destination(
            cluster=here.cluster, pool=here.pool_id, pool_name=here.pool, volume=call.volume
        )
        volume = pb.ReplicationDestination.VolumeDestination(volume_id=str(there))
        return pb.GetReplicationDestinationInfoResponse(
            replication_destination=pb.ReplicationDestination(volume=volume)
        )

    def _replication_info(self, call: InfoCall, context: grpc.ServicerContext) -> ReplicationInfo:
        """Ask, and show the answer in the metrics."""
        volume = str(call.volume)
        try:
            answer = _expect(ReplicationInfo, self._ask(call, context))
        except SyncInfoMissing:
            self._volumes.note(volume, None)
            raise
        except (NotFound, PreconditionFailed):
            self._volumes.forget(volume)
            raise
        self._volumes.note(volume, answer)
        return answer

    def _ask(self, call: Call, context: grpc.ServicerContext) -> Answer:
        wait = Wait.bounded(caller=context.time_remaining(), own=self._call_timeout)
        if not wait.until.remaining:
            raise DeadlineExceeded(
                f"the caller's deadline was over before the call began; {NOTHING_TO_DO}"
            )
        leads = self._leads(call)
        try:
            return self._answers.ask(call, leads, wait)
        except VolumeNotFound as exc:
            if not leads.doubt:
                raise
            # NOT_FOUND would let the controller forget a volume that may well be there
            raise ClusterNotConfigured(
                f"{exc.message}; it may lie elsewhere, since a part of the configuration cannot be "
                f"used: {leads.doubt}; mend that"
            ) from exc

    def _leads(self, call: Call) -> Leads:
        try:
            return self._clusters.leads(call.volume)
        except ClusterEntryUnusable as exc:
            if isinstance(call, PromoteCall):
                # the controller would answer FAILED_PRECONDITION with a force
                raise PromotionBarred(exc.message) from exc
            raise


def _expect(kind: type[_Kind], answer: Answer) -> _Kind:
    if not isinstance(answer, kind):
        raise InternalError(f"the worker answered {answer!r}, not {kind.__name__}")
    return answer
