# SPDX-License-Identifier: Apache-2.0
"""Protobuf in, the frozen calls of ``calls.py`` out.

Everything wrong with a request itself is found here, before any cluster is asked: each text
names the field, what came and what is accepted, and never shows a secret.

Class parameters (the same ones come with each call, and each call reads its own):

======================= ================= ======================================================
``mirroringMode``       Enable, Promote   ``snapshot`` (default) or ``journal``
``schedulingInterval``  Enable, Promote   whole number and ``m``, ``h`` or ``d``; default none
``schedulingStartTime`` Enable, Promote   ISO 8601, needs the interval; default none
``flattenMode``         Enable            ``never`` (default) or ``force``
``force``               Disable           ``true`` or ``false`` (default), spelt as Go may
``resyncMode``          Resync            ``split-brain`` (default): only that is resynced;
                                          ``always``: ``force`` resyncs any secondary, once
======================= ================= ======================================================

Journal mode has no schedule: its two keys are ignored with a warning.
"""

import base64
import math
import re
import struct
from collections.abc import Mapping
from datetime import datetime, time
from enum import StrEnum
from typing import Final, Protocol, TypeVar

import structlog

from csi_addons_rbd._proto import replication_pb2 as pb
from csi_addons_rbd.replication.calls import (
    Credentials,
    DemoteCall,
    DestinationCall,
    DisableCall,
    EnableCall,
    FlattenMode,
    InfoCall,
    MirroringMode,
    PromoteCall,
    ResyncCall,
    Schedule,
)
from csi_addons_rbd.replication.errors import (
    InvalidParameter,
    InvalidRequest,
    Unauthenticated,
    Unsupported,
)
from csi_addons_rbd.replication.volume_id import VolumeId

_log = structlog.get_logger(__name__)
_Choice = TypeVar("_Choice", bound=StrEnum)
_Parameters = Mapping[str, str]

_KNOWN: Final = frozenset(
    {
        "mirroringMode",
        "schedulingInterval",
        "schedulingStartTime",
        "flattenMode",
        "force",
        "resyncMode",
    }
)
_INTERVAL: Final = re.compile(r"([0-9]{1,6})([smhd])")
_INTERVAL_ACCEPTED: Final = "a whole number greater than 0 and m, h or d, such as 5m"
_MINUTES: Final = {"m": 1, "h": 60, "d": 24 * 60}
_SECONDS_LEAST: Final = 10
_START: Final = re.compile(
    r"(\d{4}-\d{2}-\d{2})?(?:(?(1)T)\d{2}:\d{2}(:\d{2}(\.\d{1,6})?)?(Z|[+-]\d{2}:?\d{2})?)?",
    re.ASCII,
)
_START_ACCEPTED: Final = "ISO 8601, such as 14:30:00+02:00 or 2030-01-31T14:30:00Z"
_KEY_HEAD: Final = struct.Struct("<HIIH")
"""Head of a cephx key: kind, seconds and nanoseconds of its making, length of what follows."""
_KEY_LEAST: Final = {1: 16, 2: 32}
"""Bytes of an AES key, and of an AES256 key (Ceph 20)."""
_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_SHOWN: Final = 80
"""Characters of a wrong value that an error text repeats."""

_warned: set[str] = set()
"""Unknown parameters that were logged already, once for the life of the process."""
_WARNED_MOST: Final = 1000


class ResyncMode(StrEnum):
    """What a forced resync may touch: parameter ``resyncMode``."""

    SPLIT_BRAIN = "split-brain"
    ALWAYS = "always"


class _Sourced(Protocol):
    """What every request of the service has."""

    @property
    def secrets(self) -> Mapping[str, str]: ...

    @property
    def replication_source(self) -> pb.ReplicationSource: ...


def enable(request: pb.EnableVolumeReplicationRequest) -> EnableCall:
    """Read an EnableVolumeReplication request."""
    parameters = _parameters(request.parameters)
    mode = _choice(parameters, "mirroringMode", MirroringMode.SNAPSHOT)
    return EnableCall(
        volume=_volume(request),
        credentials=_credentials(request.secrets),
        mode=mode,
        schedule=_schedule(parameters, mode),
        flatten=_choice(parameters, "flattenMode", FlattenMode.NEVER),
    )


def disable(request: pb.DisableVolumeReplicationRequest) -> DisableCall:
    """Read a DisableVolumeReplication request."""
    parameters = _parameters(request.parameters)
    return DisableCall(
        volume=_volume(request),
        credentials=_credentials(request.secrets),
        force=_flag(parameters, "force"),
    )


def promote(request: pb.PromoteVolumeRequest) -> PromoteCall:
    """Read a PromoteVolume request."""
    parameters = _parameters(request.parameters)
    mode = _choice(parameters, "mirroringMode", MirroringMode.SNAPSHOT)
    return PromoteCall(
        volume=_volume(request),
        credentials=_credentials(request.secrets),
        force=request.force,
        schedule=_schedule(parameters, mode),
    )


def demote(request: pb.DemoteVolumeRequest) -> DemoteCall:
    """Read a DemoteVolume request."""
    _parameters(request.parameters)
    return DemoteCall(volume=_volume(request), credentials=_credentials(request.secrets))


def resync(request: pb.ResyncVolumeRequest) -> ResyncCall:
    """Read a ResyncVolume request."""
    parameters = _parameters(request.parameters)
    mode = _choice(parameters, "resyncMode", ResyncMode.SPLIT_BRAIN)
    return ResyncCall(
        volume=_volume(request),
        credentials=_credentials(request.secrets),
        force=request.force,
        always=mode is ResyncMode.ALWAYS,
    )


def info(request: pb.GetVolumeReplicationInfoRequest) -> InfoCall:
    """Read a GetVolumeReplicationInfo request."""
    return InfoCall(volume=_volume(request), credentials=_credentials(request.secrets))


def destination(request: pb.GetReplicationDestinationInfoRequest) -> DestinationCall:
    """Read a GetReplicationDestinationInfo request."""
    return DestinationCall(volume=_volume(request), credentials=_credentials(request.secrets))


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
            f"replication_source.volume.volume_id is {_short(new)}, but volume_id is "
            f"{_short(old)}; accepted is one of them, or the same in both"
        )
    if not new and not old:
        raise InvalidRequest(
            "replication_source.volume.volume_id is empty; accepted is the volumeHandle of the "
            "PersistentVolume"
        )
    return VolumeId.parse(new or old)


def _credentials(secrets: Mapping[str, str]) -> Credentials:
    """Return the cephx user and key, without what an editor left around them."""
    user, key = secrets.get("userID", "").strip(), secrets.get("userKey", "").strip()
    missing = [name for name, value in (("userID", user), ("userKey", key)) if not value]
    if missing:
        raise Unauthenticated(
            f"the secret has no {' and no '.join(missing)}; both userID and userKey are needed"
        )
    if user.startswith("client.") or not user.isprintable() or " " in user:
        raise Unauthenticated(
            "userID of the secret is not the name of a cephx user; accepted is the name without "
            "'client.' and without spaces"
        )
    if not _is_cephx_key(key):
        raise Unauthenticated(
            "userKey of the secret is not a cephx key; accepted is the base64 text that "
            "'ceph auth get-key' prints"
        )
    return Credentials(user=user, key=key)


def _is_cephx_key(text: str) -> bool:
    """Tell whether librados can decode a key; one that it cannot, it prints to stderr."""
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        return False
    if len(raw) < _KEY_HEAD.size:
        return False
    kind: int
    length: int
    kind, _, _, length = _KEY_HEAD.unpack_from(raw)
    return length >= _KEY_LEAST.get(kind, math.inf) and length == len(raw) - _KEY_HEAD.size


def _parameters(parameters: _Parameters) -> _Parameters:
    for name in sorted(parameters.keys() - _KNOWN - _warned):
        if len(_warned) < _WARNED_MOST:
            _warned.add(name)
            _log.warning("an unknown parameter is ignored", parameter=name)
    return parameters


def _choice(parameters: _Parameters, name: str, default: _Choice) -> _Choice:
    kind = type(default)
    try:
        return kind(parameters.get(name, default))
    except ValueError:
        raise _invalid(parameters, name, " or ".join(kind)) from None


def _flag(parameters: _Parameters, name: str) -> bool:
    text = parameters.get(name, "false")
    if text not in _TRUE | _FALSE:
        raise _invalid(parameters, name, "true or false")
    return text in _TRUE


def _schedule(parameters: _Parameters, mode: MirroringMode) -> Schedule | None:
    given = [name for name in ("schedulingInterval", "schedulingStartTime") if name in parameters]
    if mode is MirroringMode.JOURNAL:
        if given:
            _log.warning("journal mode has no schedule", ignored=", ".join(given))
        return None
    if not given:
        return None
    if "schedulingInterval" not in parameters:
        raise InvalidParameter(
            f"parameter schedulingStartTime is {_short(parameters['schedulingStartTime'])}, but "
            f"schedulingInterval is missing; accepted is {_INTERVAL_ACCEPTED}"
        )
    return Schedule(minutes=_minutes(parameters), start_time=_start_time(parameters))


def _minutes(parameters: _Parameters) -> int:
    match = _INTERVAL.fullmatch(parameters["schedulingInterval"])
    number, unit = (int(match[1]), match[2]) if match else (0, "")
    if number == 0 or (unit == "s" and number < _SECONDS_LEAST):
        raise _invalid(parameters, "schedulingInterval", _INTERVAL_ACCEPTED)
    if unit == "s":
        raise Unsupported(
            f"parameter schedulingInterval is {number}s, and intervals in seconds are not "
            "supported yet; use m, h or d"
        )
    return number * _MINUTES[unit]


def _start_time(parameters: _Parameters) -> str | None:
    name = "schedulingStartTime"
    text = parameters.get(name)
    if text is None:
        return None
    match = _START.fullmatch(text)
    if not text or match is None:
        raise _invalid(parameters, name, _START_ACCEPTED)
    try:
        (datetime if match[1] else time).fromisoformat(text)
    except ValueError:
        raise _invalid(parameters, name, _START_ACCEPTED) from None
    return text


def _invalid(parameters: _Parameters, name: str, accepted: str) -> InvalidParameter:
    return InvalidParameter(
        f"parameter {name} is {_short(parameters[name])}; accepted is {accepted}"
    )


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
