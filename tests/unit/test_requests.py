# SPDX-License-Identifier: Apache-2.0
"""Protobuf to calls: what is read, and what is refused by name."""

import base64
from collections.abc import Callable, Mapping

import pytest
import stand_in
from structlog.testing import capture_logs

from csi_addons_rbd._proto import replication_pb2 as pb
from csi_addons_rbd.api import requests
from csi_addons_rbd.replication.calls import Call, FlattenMode, MirroringMode, Schedule
from csi_addons_rbd.replication.errors import (
    InvalidHandle,
    InvalidParameter,
    InvalidRequest,
    NeverEnabled,
    Unauthenticated,
    Unsupported,
)

_HANDLE = "0001-0001-a-0000000000000002-11111111-2222-3333-4444-555555555555"
_KEY = stand_in.KEY
_LONG = base64.b64encode(bytes([2, *bytes(9), 90, 0]) + bytes(90)).decode()
"""A well-formed key that does not fit one line."""


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _wrapped(text: str) -> str:
    return base64.encodebytes(text.encode()).decode()


_TWICE = _encoded(_KEY)
_OTHER = base64.b64encode(
    bytes([1, 0]) + bytes([9, 200, 251, 103, 255, 239, 7, 8, 16, 0]) + b"0?>4~~789abcdef~"
).decode()
"""A key that is not the one beside it."""
_SECRETS = {"userID": "csi", "userKey": _KEY}


def source(handle: str = _HANDLE) -> pb.ReplicationSource:
    """Return a volume source."""
    return pb.ReplicationSource(volume=pb.ReplicationSource.VolumeSource(volume_id=handle))


def enable(**parameters: str) -> pb.EnableVolumeReplicationRequest:
    """Return an Enable request with these class parameters."""
    return pb.EnableVolumeReplicationRequest(
        replication_source=source(), secrets=_SECRETS, parameters=parameters
    )


def promote(**parameters: str) -> pb.PromoteVolumeRequest:
    """Return a Promote request with these class parameters."""
    return pb.PromoteVolumeRequest(
        replication_source=source(), secrets=_SECRETS, parameters=parameters
    )


def disable(**parameters: str) -> pb.DisableVolumeReplicationRequest:
    """Return a Disable request with these class parameters."""
    return pb.DisableVolumeReplicationRequest(
        replication_source=source(), secrets=_SECRETS, parameters=parameters
    )


def resync(**parameters: str) -> pb.ResyncVolumeRequest:
    """Return a Resync request with these class parameters."""
    return pb.ResyncVolumeRequest(
        replication_source=source(), secrets=_SECRETS, parameters=parameters
    )


_ALL: tuple[tuple[Callable[..., Call], type], ...] = (
    (requests.enable, pb.EnableVolumeReplicationRequest),
    (requests.disable, pb.DisableVolumeReplicationRequest),
    (requests.promote, pb.PromoteVolumeRequest),
    (requests.demote, pb.DemoteVolumeRequest),
    (requests.resync, pb.ResyncVolumeRequest),
    (requests.info, pb.GetVolumeReplicationInfoRequest),
    (requests.destination, pb.GetReplicationDestinationInfoRequest),
)


# --- the volume ---------------------------------------------------------------------------


@pytest.mark.parametrize(("read", "message"), _ALL)
def test_volume_and_credentials(read: Callable[..., Call], message: type) -> None:
    """Every call takes the volume from the source, and the user and key from the secret."""
    call = read(message(replication_source=source(), secrets=_SECRETS))
    assert str(call.volume) == _HANDLE
    assert (call.credentials.user, call.credentials.key) == ("csi", _KEY)
    assert _KEY not in repr(call)


@pytest.mark.parametrize(("read", "message"), _ALL[:-1])
def test_deprecated_field(read: Callable[..., Call], message: type) -> None:
    """Callers older than July 2026 name the volume in field 1, on the wire."""
    old = b"\x0a" + bytes([len(_HANDLE)]) + _HANDLE.encode()
    request = message.FromString(old + message(secrets=_SECRETS).SerializeToString())  # type: ignore[attr-defined]
    assert str(read(request).volume) == _HANDLE


def test_both_fields() -> None:
    """The same volume in both fields is fine; two different ones are not."""
    request = enable()
    request.volume_id = _HANDLE
    assert str(requests.enable(request).volume) == _HANDLE
    request.volume_id = _HANDLE.replace("-a-", "-b-")
    with pytest.raises(InvalidRequest, match=r"volume\.volume_id is .* volume_id is"):
        requests.enable(request)


@pytest.mark.parametrize(("read", "message"), _ALL)
def test_no_volume(read: Callable[..., Call], message: type) -> None:
    """A request without a volume is refused by the field's name."""
    for empty in (pb.ReplicationSource(), source("")):
        with pytest.raises(InvalidRequest, match=r"replication_source\.volume\.volume_id is empty"):
            read(message(secrets=_SECRETS, replication_source=empty))


@pytest.mark.parametrize(("read", "message"), _ALL)
def test_group(read: Callable[..., Call], message: type) -> None:
    """A group id is never read as a volume."""
    group = pb.ReplicationSource.VolumeGroupSource(volume_group_id=_HANDLE)
    request = message(secrets=_SECRETS, replication_source=pb.ReplicationSource(volumegroup=group))
    with pytest.raises(Unsupported, match="volume group"):
        read(request)


def test_malformed_handle() -> None:
    """A malformed handle is named, shortened."""
    request = pb.DemoteVolumeRequest(replication_source=source("x" * 5000), secrets=_SECRETS)
    with pytest.raises(InvalidHandle, match="volume_id") as caught:
        requests.demote(request)
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    "handle",
    [
        "csi-vol-x",
        " ",
        "cafe-0001-data",
        "0000-data",
        "0010-my-image",
        "x" * 5000,
        _HANDLE[:-1],
        f"{_HANDLE} ",
        _HANDLE.replace("0001-", "0001_", 1),
        _HANDLE.replace("0001-0001", "0001-0002", 1),
    ],
)
def test_disable_of_what_is_no_handle(handle: str) -> None:
    """Nothing was ever enabled under it, and the controller must be able to let go of it."""
    request = pb.DisableVolumeReplicationRequest(replication_source=source(handle))
    with pytest.raises(NeverEnabled, match=r"volume_id .* malformed"):
        requests.disable(request)


@pytest.mark.parametrize("version", ["0002", "00fF", "cafe", "1000"])
def test_disable_of_an_unknown_version(version: str) -> None:
    """It may be a volume's, so that to call it absent would let go of what is mirrored."""
    handle = _HANDLE.replace("0001", version, 1)
    request = pb.DisableVolumeReplicationRequest(replication_source=source(handle))
    with pytest.raises(InvalidHandle, match=r"volume_id .* malformed"):
        requests.disable(request)


def test_disable_of_an_unknown_layout() -> None:
    """A version that is counted on from this one may look otherwise."""
    for handle in ("0002-0009-anything", "00a0-1234-short"):
        request = pb.DisableVolumeReplicationRequest(replication_source=source(handle))
        with pytest.raises(InvalidHandle, match=r"volume_id .* malformed"):
            requests.disable(request)


def test_disable_of_what_is_no_handle_by_a_class_that_is_wrong() -> None:
    """A class cannot be edited, so what is wrong with it must not keep the volume, either."""
    request = pb.DisableVolumeReplicationRequest(
        replication_source=source("garbage"), parameters={"force": "maybe"}
    )
    with pytest.raises(NeverEnabled):
        requests.disable(request)


def test_disable_that_names_no_volume() -> None:
    """An empty field is a mistake of the caller's, not an absent volume."""
    with pytest.raises(InvalidRequest, match="is empty"):
        requests.disable(pb.DisableVolumeReplicationRequest())


# --- the secret ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("secrets", "named"),
    [
        ({}, "no userID and no userKey"),
        ({"userID": "csi"}, "no userKey"),
        ({"userKey": _KEY}, "no userID"),
        ({"userID": "", "userKey": _KEY}, "no userID"),
        ({"userID": "csi", "userKey": " \n"}, "no userKey"),
        ({"userID": "client.csi", "userKey": _KEY}, "'client.csi'; accepted is 'csi'"),
        ({"userID": "client.", "userKey": _KEY}, "without 'client.'"),
        ({"userID": "csi\0", "userKey": _KEY}, "userID"),
        ({"userID": "a b", "userKey": _KEY}, "userID"),
        (
            {"userID": _encoded("csi-rbd-node\n"), "userKey": _KEY},
            "userID of the secret is encoded",
        ),
        ({"userID": "YWRtaW4=", "userKey": _KEY}, "userID of the secret is encoded"),
        ({"userID": "YWRtaW4K", "userKey": _KEY}, "userID of the secret is encoded"),
        ({"userID": "Y2xpZW50LmFkbWlu", "userKey": _KEY}, "userID of the secret is encoded"),
        ({"userID": "Y2xpZW50Lng", "userKey": _KEY}, "userID of the secret is encoded"),
        ({"userID": "Client.csi", "userKey": _KEY}, "'Client.csi'; accepted is 'csi'"),
        ({"userID": "client.CLIENT.csi", "userKey": _KEY}, "accepted is 'csi', without"),
        ({"userID": "client.client.", "userKey": _KEY}, "without 'client.'"),
        *(
            ({"userID": user, "userKey": _KEY}, "is not the name of a cephx user")
            for user in (
                "client:csi",
                "client/csi",
                "[client.csi]",
                '"csi"',
                "'csi'",
                "entity=client.csi",
                "key=csi",
                "csi,key",
                "csi;",
                "ü",
                "csi\u200b",
                "csi=",
                "...",
                "csi " * 100,
                "csi." * 100,
            )
        ),
        ({"userID": _KEY, "userKey": "csi"}, "userID of the secret is a key"),
        *(
            ({"userID": form.format(key), "userKey": _KEY}, "userID of the secret is a key")
            for key in (_KEY, _KEY.rstrip("="), _KEY[:20], _OTHER, _OTHER.rstrip("="), _OTHER[:20])
            for form in (
                "{}",
                '"{}"',
                "'{}'",
                "admin:{}",
                "admin-{}",
                "client.{}",
                "key={}",
                "key: {}",
                "[client.x]\n\tkey = {}",
                "{}\\n",
                "{}%3D",
                "csi.{}.x",
                "{}AAAA",
            )
        ),
        ({"userID": _KEY[-16:].rstrip("="), "userKey": _KEY}, "userID of the secret is a key"),
        ({"userID": _OTHER.replace("+", "-"), "userKey": _KEY}, "userID of the secret is a key"),
        ({"userID": _TWICE.rstrip("="), "userKey": _KEY}, "userID of the secret is a key"),
        ({"userID": _encoded(f'"{_OTHER}"'), "userKey": _KEY}, "userID of the secret is a key"),
        ({"userID": "csi." + "aB3" * 10, "userKey": _KEY}, "looks like a key"),
        ({"userID": base64.b64decode(_OTHER).hex(), "userKey": _KEY}, "looks like a key"),
        ({"userID": f"client.{_KEY}", "userKey": _KEY}, "userID of the secret is a key"),
        ({"userID": _TWICE, "userKey": _KEY}, "userID of the secret is a key"),
        ({"userID": "csi", "userKey": "not-base64!"}, "not base64"),
        ({"userID": "csi", "userKey": f"{_KEY}\n{_KEY}"}, "not base64"),
        ({"userID": "csi", "userKey": f"{_KEY}\0"}, "not base64"),
        ({"userID": "csi", "userKey": "schlüssel"}, "not base64"),
        ({"userID": "csi", "userKey": f'"{_KEY}"'}, "not base64"),
        ({"userID": "csi", "userKey": _KEY * 1000}, "not base64"),
        ({"userID": "csi", "userKey": "AQ=="}, "too short"),
        ({"userID": "csi", "userKey": _KEY[:20]}, "a part of one"),
        ({"userID": "csi", "userKey": _KEY.replace("AQ", "Ag", 1)}, "fewer bytes"),
        ({"userID": "csi", "userKey": _KEY.replace("AQ", "AA", 1)}, "of type 0"),
        ({"userID": "csi", "userKey": _KEY.replace("AQ", "Aw", 1)}, "of type 3"),
        ({"userID": "csi", "userKey": _KEY.replace("ABAA", "AA8A")}, "a part of one"),
        ({"userID": "csi", "userKey": f"{_KEY[:-4]}AAAA"}, "userKey"),
        ({"userID": "csi", "userKey": f"[client.csi]\n\tkey = {_KEY}"}, "is a keyring"),
        ({"userID": "csi", "userKey": f"key = {_KEY}"}, "is a keyring"),
        (
            {
                "userID": "csi-rbd-provisioner",
                "userKey": f"[client.csi-rbd-provisioner]\n\tkey = {_KEY}",
            },
            "is a keyring",
        ),
        ({"userID": "csi", "userKey": _TWICE}, "encoded twice"),
        ({"userID": "csi", "userKey": _encoded(f"{_KEY}\n")}, "encoded twice"),
        ({"userID": "csi", "userKey": _wrapped(_LONG)}, "encoded twice"),
        ({"userID": "csi", "userKey": _encoded(f" {_KEY[:20]}\r\n{_KEY[20:]} ")}, "encoded twice"),
        ({"userID": "csi", "userKey": _encoded(_TWICE)}, "encoded 3 times"),
        ({"userID": "csi", "userKey": _encoded(_LONG)}, "encoded twice"),
        *(
            ({"userID": "csi", "userKey": form.format(_KEY)}, "is a keyring")
            for form in (
                "key: {}",
                "key={}",
                "client.u: key: {}",
                "client.u:\n  key: {}\n",
                "Key = {}",
                '{{"key":"{}"}}',
                "[client.u]\nkey: {}",
                "userKey: {}",
                '"key": "{}"',
            )
        ),
        *(
            ({"userID": "csi", "userKey": form.format(_KEY)}, "not base64, though it holds a key")
            for form in ("'{}'", "\ufeff{}", "{}\\n", "{}%3D%3D", "{0} {0}", "csi:{0}")
        ),
        ({"userID": "csi", "userKey": _KEY.rstrip("=")}, "'=' at its end is missing"),
        *(
            ({"userID": "csi", "userKey": twice}, "encoded twice")
            for inside in (
                _KEY,
                f'"{_KEY}"',
                f"key: {_KEY}",
                f"[client.u]\n\tkey = {_KEY}\n",
                _KEY.rstrip("="),
                f"{{'key': '{_KEY}'}}",
                f"\ufeff{_KEY}\r\n",
            )
            for text in (_encoded(inside), base64.b64encode(inside.encode("utf-16-le")).decode())
            for twice in (text, text.rstrip("="), f'"{text}"', f"key: {text}", _wrapped(inside))
        ),
        (
            {"userID": "csi", "userKey": _encoded(_encoded(f"key = {_KEY}").rstrip("="))},
            "encoded 3 times",
        ),
    ],
)
def test_bad_secret(secrets: Mapping[str, str], named: str) -> None:
    """What is wrong with the secret is named; the key is not shown."""
    request = pb.DemoteVolumeRequest(replication_source=source(), secrets=secrets)
    with pytest.raises(Unauthenticated) as caught:
        requests.demote(request)
    assert named in caught.value.message
    shown = [value for value in secrets.values() if value.strip() and value in caught.value.message]
    assert shown in ([], ["client."], [user := secrets.get("userID", "")])
    assert not shown or user.casefold().startswith("client.")
    for key in (_KEY, _OTHER):
        assert not any(key[at : at + 8] in caught.value.message for at in range(len(key) - 7))


@pytest.mark.parametrize(
    "user",
    [
        "admin", "csi", "csi-rbd-node", "csi-rbd-node.1", "csi-rbd-provisioner.1", "rbd_user", "x",
        "csi-rbd-provisioner-my-storage-cluster-replicapool-some-rados-namespace", "a@b", "a+b",
        "9e107d9d372bb6826bd81d3542a419d6", "csi-rbd-node-9e107d9d372bb6826bd81d3542a419d6",
        # base64 of something, too
        "test", "user", "YWRt", "cephuser", "rbdmirror123", "clientele", "client",
    ],
)  # fmt: skip
def test_names_of_users(user: str) -> None:
    """As Rook, ceph-csi and people give them."""
    secrets = {"userID": user, "userKey": _KEY}
    call = requests.demote(pb.DemoteVolumeRequest(replication_source=source(), secrets=secrets))
    assert call.credentials.user == user


@pytest.mark.parametrize("key", ["AQAAAAAAAAAAABAA\nc29tZSBzZWNyZXQgc2FsdA==\r\n", " {} ", "{}\n"])
def test_a_key_with_blanks_and_line_breaks(key: str) -> None:
    """As editors and ``base64`` leave them; it is the same key, and one connection."""
    secrets = {"userID": "csi", "userKey": key.format(_KEY)}
    call = requests.demote(pb.DemoteVolumeRequest(replication_source=source(), secrets=secrets))
    assert call.credentials.key == _KEY


def test_trailing_newline() -> None:
    """A secret made from a file often ends in a newline, which is not part of it."""
    secrets = {"userID": "csi\n", "userKey": f"{_KEY}\n", "other": "ignored"}
    call = requests.demote(pb.DemoteVolumeRequest(replication_source=source(), secrets=secrets))
    assert (call.credentials.user, call.credentials.key) == ("csi", _KEY)


# --- class parameters ---------------------------------------------------------------------


def test_enable_defaults() -> None:
    """Without parameters: snapshot mode, no schedule, no flattening."""
    call = requests.enable(enable())
    assert (call.mode, call.schedule, call.flatten) == (
        MirroringMode.SNAPSHOT,
        None,
        FlattenMode.NEVER,
    )


@pytest.mark.parametrize(
    ("interval", "seconds"),
    [("1m", 60), ("90m", 5400), ("2h", 7200), ("1d", 86400), ("007m", 420)],
)
def test_interval(interval: str, seconds: int) -> None:
    """Whole minutes, hours or days are for Ceph's scheduler, at Enable and at Promote."""
    wanted = Schedule(seconds=seconds, by_driver=False, start_time=None)
    assert requests.enable(enable(schedulingInterval=interval)).schedule == wanted
    assert requests.promote(promote(schedulingInterval=interval)).schedule == wanted


def test_interval_in_seconds() -> None:
    """Seconds are for the driver, also whole minutes of them; they have no start time."""
    wanted = Schedule(seconds=120, by_driver=True, start_time=None)
    assert requests.enable(enable(schedulingInterval="120s")).schedule == wanted
    request = enable(schedulingInterval="120s", schedulingStartTime="14:30")
    assert requests.enable(request).schedule == wanted


@pytest.mark.parametrize(
    "start",
    [
        "14:30",
        "14:30:00",
        "14:30:00Z",
        "14:30:00+02:00",
        "2030-01-31T14:30:00.5-0500",
        "2030-01-31T14:30",
        "2030-01-31",
    ],
)
def test_start_time(start: str) -> None:
    """Start times are ISO 8601, and are handed on as written."""
    request = enable(schedulingInterval="1h", schedulingStartTime=start)
    assert requests.enable(request).schedule == Schedule(
        seconds=3600, by_driver=False, start_time=start
    )


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"mirroringMode": ""}, "mirroringMode"),
        ({"mirroringMode": "Snapshot"}, "mirroringMode"),
        ({"schedulingInterval": ""}, "schedulingInterval"),
        ({"schedulingInterval": "0m"}, "schedulingInterval"),
        ({"schedulingInterval": "0s"}, "schedulingInterval"),
        ({"schedulingInterval": "5s"}, "schedulingInterval"),
        ({"schedulingInterval": "5"}, "schedulingInterval"),
        ({"schedulingInterval": "-5m"}, "schedulingInterval"),
        ({"schedulingInterval": "5m\n"}, "schedulingInterval"),
        ({"schedulingInterval": "1.5h"}, "schedulingInterval"),
        ({"schedulingInterval": "\u0665m"}, "schedulingInterval"),
        ({"schedulingInterval": f"{'9' * 5000}m"}, "schedulingInterval"),
        ({"schedulingStartTime": "14:30"}, "schedulingStartTime"),
        ({"schedulingInterval": "1h", "schedulingStartTime": ""}, "schedulingStartTime"),
        ({"schedulingInterval": "1h", "schedulingStartTime": "tomorrow"}, "schedulingStartTime"),
        ({"schedulingInterval": "1h", "schedulingStartTime": "25:00"}, "schedulingStartTime"),
        ({"schedulingInterval": "1h", "schedulingStartTime": "1430"}, "schedulingStartTime"),
        (
            {"schedulingInterval": "1h", "schedulingStartTime": "2030-02-31T10:00"},
            "schedulingStartTime",
        ),
    ],
)
def test_malformed_schedule(parameters: dict[str, str], named: str) -> None:
    """Enable and Promote refuse the same malformed values, naming the parameter."""
    for read in (
        lambda: requests.enable(enable(**parameters)),
        lambda: requests.promote(promote(**parameters)),
    ):
        with pytest.raises(InvalidParameter, match=f"parameter {named} is .*accepted is") as caught:
            read()
        assert len(caught.value.message) < 300


def test_the_interval_of_a_journal() -> None:
    """It is the controller's: it makes no schedule, nor a warning."""
    parameters = {"mirroringMode": "journal", "schedulingInterval": "5m"}
    with capture_logs() as logs:
        assert requests.enable(enable(**parameters)).schedule is None
        assert requests.promote(promote(**parameters)).schedule is None
    assert not logs


@pytest.mark.parametrize("interval", ["nonsense", "", "0m", "5", "9s", "5M"])
def test_malformed_interval_of_a_journal(interval: str) -> None:
    """The controller would ask once an hour, and nobody would know why."""
    parameters = {"mirroringMode": "journal", "schedulingInterval": interval}
    for read in (
        lambda: requests.enable(enable(**parameters)),
        lambda: requests.promote(promote(**parameters)),
    ):
        with pytest.raises(InvalidParameter, match=r"schedulingInterval is .*accepted is"):
            read()


def test_journal_mode_has_no_start_time() -> None:
    """It is ignored, with a warning that names it."""
    parameters = {"mirroringMode": "journal", "schedulingStartTime": "never"}
    with capture_logs() as logs:
        call = requests.enable(enable(**parameters))
        assert requests.promote(promote(**parameters)).schedule is None
    assert (call.mode, call.schedule) == (MirroringMode.JOURNAL, None)
    assert [each["ignored"] for each in logs] == ["schedulingStartTime"] * 2


@pytest.mark.parametrize(
    ("text", "force"),
    [
        *((text, True) for text in ("1", "t", "T", "TRUE", "true", "True")),
        *((text, False) for text in ("0", "f", "F", "FALSE", "false", "False")),
    ],
)
def test_force_of_disable(text: str, force: bool) -> None:  # noqa: FBT001 - a table's column
    """Disable takes ``force`` as a parameter, in Go's spellings."""
    assert requests.disable(disable(force=text)).force is force


def test_force_of_disable_default() -> None:
    """Nothing is forced that was not asked for."""
    assert not requests.disable(disable()).force


@pytest.mark.parametrize(
    ("read", "named"),
    [
        (lambda: requests.disable(disable(force="yes")), "force"),
        (lambda: requests.disable(disable(force="")), "force"),
        (lambda: requests.enable(enable(flattenMode="")), "flattenMode"),
        (lambda: requests.enable(enable(flattenMode="always")), "flattenMode"),
        (lambda: requests.resync(resync(resyncMode="")), "resyncMode"),
        (lambda: requests.resync(resync(resyncMode="never")), "resyncMode"),
    ],
)
def test_malformed_value(read: Callable[[], Call], named: str) -> None:
    """A malformed value names its parameter and what is accepted."""
    with pytest.raises(InvalidParameter, match=f"parameter {named} is .*; accepted is .* or "):
        read()


def test_flatten_mode() -> None:
    """Flattening is opt-in."""
    assert requests.enable(enable(flattenMode="force")).flatten is FlattenMode.FORCE


def test_resync_mode() -> None:
    """Only ``always`` lets force resync a healthy secondary."""
    assert requests.resync(resync(resyncMode="always")).always
    assert not requests.resync(resync(resyncMode="split-brain")).always
    assert not requests.resync(resync()).always


def test_values_of_other_calls_are_left_alone() -> None:
    """All calls get all class parameters: each judges only its own."""
    nonsense = {"mirroringMode": "?", "schedulingInterval": "?", "flattenMode": "?"}
    assert not requests.disable(disable(**nonsense)).force
    assert not requests.resync(resync(**nonsense)).force


def test_unknown_parameter_is_logged_once() -> None:
    """An unknown parameter is ignored, and logged by its name only, the first time."""
    with capture_logs() as logs:
        for _ in range(2):
            requests.enable(enable(unheardOf="some value"))
    assert [each["parameter"] for each in logs] == ["unheardOf"]
    assert "some value" not in str(logs)


def test_force_of_promote_and_resync() -> None:
    """Promote and Resync have ``force`` as a field."""
    assert not requests.promote(promote()).force
    request = promote()
    request.force = True
    assert requests.promote(request).force
    again = resync()
    again.force = True
    assert requests.resync(again).force
