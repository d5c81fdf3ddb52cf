# SPDX-License-Identifier: Apache-2.0
"""Everything of the driver that reads what others wrote: each target takes bytes, and judges.

Whatever comes must end in a value or in the error that is meant for it; any other exception, and
any assertion, is a finding.
"""

import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import wraps
from typing import Any, Final

import atheris

with atheris.instrument_imports(include=["csi_addons_rbd"]):
    from csi_addons_rbd._proto import replication_pb2 as pb
    from csi_addons_rbd.api import parameters, requests
    from csi_addons_rbd.ceph import rbd_header, rbd_journal, rbd_mirroring
    from csi_addons_rbd.ceph.encoding import structure
    from csi_addons_rbd.ceph.encoding import text as string
    from csi_addons_rbd.ceph.resync_records import parse_record
    from csi_addons_rbd.cluster_files import parse_config, parse_mapping
    from csi_addons_rbd.json_values import MalformedFileError, decode
    from csi_addons_rbd.monitors import parse_monitors
    from csi_addons_rbd.replication.calls import MirroringMode
    from csi_addons_rbd.replication.errors import (
        CephFailure,
        DriverError,
        InvalidHandle,
        InvalidParameter,
    )
    from csi_addons_rbd.replication.image import SiteState, SiteStatus
    from csi_addons_rbd.replication.notes import (
        LAST_SYNC,
        READERS,
        SCHEDULE,
        noted_readers,
        noted_sync,
        wanted_schedule,
    )
    from csi_addons_rbd.replication.sync_info import role, sync_report, text
    from csi_addons_rbd.replication.volume_id import VolumeId

from google.protobuf.message import DecodeError

_UUID: Final = "11111111-2222-3333-4444-555555555555"
_SLOWEST: Final = 1.0
"""Seconds of the processor that one file may take."""


def handle(data: bytes) -> None:
    """Read a volume handle; what was accepted is written again as it came."""
    given = _text(data)
    with suppress(InvalidHandle):
        volume = VolumeId.parse(given)
        assert str(volume).lower() == given.lower()


def _in_no_time(target: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """Hold a target to a time: a file of a few kilobytes must not keep the driver busy."""

    @wraps(target)
    def timed(data: bytes) -> None:
        began = time.thread_time()
        target(data)
        took = time.thread_time() - began
        assert took < _SLOWEST, f"{took:.1f} s for {len(data)} bytes"

    return timed


@_in_no_time
def config_files(data: bytes) -> None:
    """Read either file, as the driver does; what librados gets of monitors is sound."""
    with suppress(MalformedFileError, ValueError):
        parse_mapping(decode(data))
    with suppress(MalformedFileError, ValueError):
        for cluster in parse_config(decode(data)).clusters.values():
            _require_sound(cluster.monitors)


@_in_no_time
def monitors(data: bytes) -> None:
    """Read the monitors of one cluster, one text a line."""
    _require_sound(parse_monitors(_text(data).splitlines()).texts)


def _require_sound(texts: tuple[str, ...]) -> None:
    """Read monitors once more: nothing is left out, no address stands twice, or too many."""
    again = parse_monitors(texts)
    assert again.texts == texts
    assert not again.faults
    members = [each.strip("[]") for text in texts for each in text.split(",")]
    assert len(set(members)) == len(members) <= 64


def description(data: bytes) -> None:
    """Read a site's status; a text that nobody knows is never primary and never split-brain."""
    number = data[0] % len(SiteState) if data else 0
    status = SiteStatus(
        site="peer",
        up=True,
        state=list(SiteState)[number],
        description=_text(data[1:]),
        last_update=0,
    )
    role(status)
    text(status)
    report = sync_report(status)
    for value in (report.copied_until, report.newest, report.last_bytes, report.last_seconds):
        assert value is None or 0 <= value < 2**63


def journal(data: bytes) -> None:
    """Read tags and clients of an RBD journal."""
    for decode in (rbd_journal.decode_tag, rbd_journal.decode_client, rbd_journal.asks_for_resync):
        with suppress(CephFailure):
            decode(data)


def image(data: bytes) -> None:
    """Read a snapshot in an image's header, and what ``cls_rbd`` answers about its mirroring."""
    for decode in (
        rbd_header.decode_snapshot,
        rbd_mirroring.decode_mirroring,
        rbd_mirroring.decode_statuses,
    ):
        with suppress(CephFailure):
            decode(data)


def notes(data: bytes) -> None:
    """Read the driver's own notes, which anybody with the caps may have changed."""
    written = dict.fromkeys((SCHEDULE, READERS, LAST_SYNC), _text(data))
    wanted = wanted_schedule(written)
    assert wanted is None or wanted.schedule.seconds > 0
    noted_readers(written)
    noted_sync(written)


def resync_record(data: bytes) -> None:
    """Read the record of a resync."""
    with suppress(ValueError):
        parse_record(_text(data))


def schedule(data: bytes) -> None:
    """Read interval and start time of a class."""
    interval, _, start = _text(data).partition(" ")
    with suppress(InvalidParameter):
        found = parameters.schedule(
            {"schedulingInterval": interval, "schedulingStartTime": start}, MirroringMode.SNAPSHOT
        )
        assert found is not None
        assert found.seconds >= 10


def request(data: bytes) -> None:
    """Read a request of each call."""
    for name, read in _READERS.items():
        message: Any = getattr(pb, f"{name}Request")()
        with suppress(DecodeError, DriverError):
            message.ParseFromString(data)
            read(message)


_READERS: Final[Mapping[str, Callable[[Any], object]]] = {
    "EnableVolumeReplication": requests.enable,
    "DisableVolumeReplication": requests.disable,
    "PromoteVolume": requests.promote,
    "DemoteVolume": requests.demote,
    "ResyncVolume": requests.resync,
    "GetVolumeReplicationInfo": requests.info,
    "GetReplicationDestinationInfo": requests.destination,
}

TARGETS: Final[Mapping[str, Callable[[bytes], None]]] = {
    each.__name__: each
    for each in (
        handle,
        config_files,
        monitors,
        description,
        journal,
        image,
        notes,
        resync_record,
        schedule,
        request,
    )
}

_HANDLE: Final = f"0001-0004-here-0000000000000001-{_UUID}"
SEEDS: Final[Mapping[str, tuple[bytes, ...]]] = {
    "handle": (_HANDLE.encode(),),
    "config_files": (
        (
            b'[{"clusterID": "a", "monitors": ["1.2.3.4:6789"], "rbd": {"radosNamespace": "n"}, '
            b'"replicationDestination": {"remoteClusterID": "b", "rbd": {"remotePoolMapping": '
            b'{"p": {"poolID": "1"}}}}}]'
        ),
        b'[{"ClusterIDMapping": {"a": "b"}, "RBDPoolIDMapping": [{"1": "2"}]}]',
        (
            b'[{}, 7, {"clusterID": "a", "clusterid": null, '
            b'"monitors": ["[v2:1.2.3.4:3300/0,v1:[::1]]", 7]}]'
        ),
        (
            b'[{"clusterIDMapping": {"a": 7, "b": "c"}, '
            b'"RBDPoolIDMapping": [{"1": "N/A", "2": 3}, 7]}]'
        ),
        b'[{"clusterID": "a", "monitors": ["' + b"1:" * 1000 + b'/x"]}]',
        b'["' + rb"\"" * 2000,
    ),
    "monitors": (
        b"[v2:1.2.3.4:3300/0,v1:1.2.3.4:6789/0] any:1.2.3.4;[::1]:6789",
        b"mon.example.com:6789,[v2:[::ffff:1.2.3.4]:3300,[v2:a,v1:b],],v1:1.2.3.4:0",
        b"127.0.0.1\n[v2:127.0.0.1:3300\nv1:127.0.0.1:6789]",
        b":" * 2000 + b"/x",
        b"1:" * 1000 + b"/x",
    ),
    "description": (
        (
            b'\x04replaying, {"local_snapshot_timestamp": 1, "remote_snapshot_timestamp": 2, '
            b'"last_snapshot_bytes": 3, "last_snapshot_sync_seconds": 4, "replay_state": "idle"}'
        ),
        (
            b'\x04replaying, {"primary_position": {"entry_tid": 3, "object_number": 3, '
            b'"tag_tid": 1}, '
            b'"non_primary_position": {"entry_tid": 3, "object_number": 3, "tag_tid": 1}}'
        ),
    ),
    "journal": (
        structure(struct.pack("<QQI", 3, 0, 20), string("<orphan>"), string(""), bytes(4)),
        structure(
            string("peer"),
            struct.pack("<I", 30) + structure(struct.pack("<I", 1), string("1a2b"), bytes(12)),
            structure(struct.pack("<I", 1), structure(struct.pack("<QQQ", 1, 2, 3))),
        ),
    ),
    "image": (
        b"\x08\x08"
        + structure(
            struct.pack("<Q", 5) + string(".mirror.primary") + struct.pack("<QBQ", 1 << 30, 0, 0),
            structure(
                struct.pack("<IBBI", 3, 0, 1, 1) + string("peer") + string("") + bytes(16),
            ),
            struct.pack("<II", 1_700_000_000, 0),
        )[2:],
        structure(string("global"), b"\x01\x01"),
        structure(
            b"\x04" + string("replaying") + struct.pack("<IIB", 1_700_000_000, 0, 1),
            b"\x01" + struct.pack("<I", 1) + string("peer"),
            b"\x04" + string("replaying") + struct.pack("<IIB", 1_700_000_000, 0, 1),
        ),
    ),
    "notes": (
        b'{"seconds": 60, "by_driver": false, "start_time": null, "placed": true}',
        b'{"seconds": 1e999, "by_driver": false, "start_time": 1, "placed": true}',
        b'["one", "two"]',
        b"1700000000",
    ),
    "resync_record": (b'{"image_id": "1a2b", "requested": 1700000000, "sent": true}',),
    "schedule": (b"5m 14:30:00+02:00", b"30s 2030-01-31T14:30:00Z"),
    "request": (
        pb.PromoteVolumeRequest(
            replication_source=pb.ReplicationSource(
                volume=pb.ReplicationSource.VolumeSource(volume_id=_HANDLE)
            ),
            secrets={"userID": "csi", "userKey": "AQAAAAAAAAAAABAAc29tZSBzZWNyZXQgc2FsdA=="},
            parameters={"mirroringMode": "snapshot", "schedulingInterval": "5m"},
            force=True,
        ).SerializeToString(),
    ),
}
"""What is good, for each target: mutations of it get further than noise."""


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
