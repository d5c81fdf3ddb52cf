# SPDX-License-Identifier: Apache-2.0
"""Protobuf in, the frozen calls of ``calls.py`` out.

Everything wrong with a request itself is found here, before any cluster is asked: each text
names the field, what came and what is accepted, and never shows a secret.
"""

from collections.abc import Mapping
from typing import Final, Protocol

from google.protobuf.message import Message

from csi_addons_rbd._proto import replication_pb2 as pb
from csi_addons_rbd.api.parameters import ResyncMode, choice, flag, known, schedule, short
from csi_addons_rbd.api.secret import credentials
from csi_addons_rbd.replication.calls import (
    DemoteCall,
    DestinationCall,
    DisableCall,
    EnableCall,
    FlattenMode,
    InfoCall,
    MirroringMode,
    PromoteCall,
    ResyncCall,
)
from csi_addons_rbd.replication.errors import (
    InvalidHandle,
    InvalidRequest,
    NeverEnabled,
    UnknownHandleVersion,
    Unsupported,
)
from csi_addons_rbd.replication.volume_id import VolumeId

_LOGGED: Final = 200
"""Characters of a handle in the log; a well-formed one has 131 at most."""


class _Sourced(Protocol):
    """What every request of the service has."""

    @property
    def secrets(self) -> Mapping[str, str]: ...

    @property
    def replication_source(self) -> pb.ReplicationSource: ...


def enable(request: pb.EnableVolumeReplicationRequest) -> EnableCall:
    """Read an EnableVolumeReplication request."""
    parameters = known(request.parameters)
    mode = choice(parameters, "mirroringMode", MirroringMode.SNAPSHOT)
    return EnableCall(
        volume=_volume(request),
        credentials=credentials(request.secrets),
        mode=mode,
        schedule=schedule(parameters, mode),
        flatten=choice(parameters, "flattenMode", FlattenMode.NEVER),
    )


def disable(request: pb.DisableVolumeReplicationRequest) -> DisableCall:
    """Read a DisableVolumeReplication request."""
    try:
        volume = _volume(request)
    except UnknownHandleVersion:
        raise
    except InvalidHandle as exc:  # for ever: the controller could never let go of it
        raise NeverEnabled(f"{exc.message}; no replication was ever enabled under it") from exc
    parameters = known(request.parameters)
    return DisableCall(
        volume=volume,
        credentials=credentials(request.secrets),
        force=flag(parameters, "force"),
    )


def promote(request: pb.PromoteVolumeRequest) -> PromoteCall:
    """Read a PromoteVolume request."""
    parameters = known(request.parameters)
    mode = choice(parameters, "mirroringMode", MirroringMode.SNAPSHOT)
    return PromoteCall(
        volume=_volume(request),
        credentials=credentials(request.secrets),
        force=request.force,
        schedule=schedule(parameters, mode),
    )


def demote(request: pb.DemoteVolumeRequest) -> DemoteCall:
    """Read a DemoteVolume request."""
    known(request.parameters)
    return DemoteCall(volume=_volume(request), credentials=credentials(request.secrets))


def resync(request: pb.ResyncVolumeRequest) -> ResyncCall:
    """Read a ResyncVolume request."""
    parameters = known(request.parameters)
    mode = choice(parameters, "resyncMode", ResyncMode.SPLIT_BRAIN)
    return ResyncCall(
        volume=_volume(request),
        credentials=credentials(request.secrets),
        force=request.force,
        always=mode is ResyncMode.ALWAYS,
    )


def info(request: pb.GetVolumeReplicationInfoRequest) -> InfoCall:
    """Read a GetVolumeReplicationInfo request."""
    return InfoCall(volume=_volume(request), credentials=credentials(request.secrets))


def destination(request: pb.GetReplicationDestinationInfoRequest) -> DestinationCall:
    """Read a GetReplicationDestinationInfo request."""
    return DestinationCall(volume=_volume(request), credentials=credentials(request.secrets))


def named_in(request: Message) -> dict[str, str]:
    """Return what a request is about, as it came, well-formed or not: fields of the log."""
    source = getattr(request, "replication_source", None)
    names = {
        "volume": (source.volume.volume_id if source else "") or getattr(request, "volume_id", ""),
        "volume_group": source.volumegroup.volume_group_id if source else "",
        "replication_id": getattr(request, "replication_id", ""),
    }
    return {name: text[:_LOGGED] for name, text in names.items() if text}


# --- the parts that requests share --------------------------------------------------------


def _volume(request: _Sourced) -> VolumeId:
    """Return the volume; callers older than July 2026 name it in field 1."""
    source = request.replication_source
    if source.WhichOneof("type") == "volumegroup":
        raise Unsupported(
            "replication_source names a volume group; Ceph cannot mirror groups of images yet, "
            "so name a single volume"
        )
    new, old = source.volume.volume_id, getattr(request, "volume_id", "")
    if new and old and new != old:
        raise InvalidRequest(
            f"replication_source.volume.volume_id is {short(new)}, but volume_id is "
            f"{short(old)}; accepted is one of them, or the same in both"
        )
    if not new and not old:
        raise InvalidRequest(
            "replication_source.volume.volume_id is empty; accepted is the volumeHandle of the "
            "PersistentVolume"
        )
    return VolumeId.parse(new or old)
