# SPDX-License-Identifier: Apache-2.0
"""What all calls share: secrets, parameters, deadlines, joining, outages, errors."""

import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc
import rbd

from csi_addons_conformance._proto import identity_pb2
from csi_addons_conformance._proto import replication_pb2 as pb
from csi_addons_conformance.case import (
    SNAPSHOT,
    Kind,
    SkippedError,
    case,
    expect,
    poll,
    require,
    settle,
)
from csi_addons_conformance.client import METHODS, source
from csi_addons_conformance.stage import Stage
from lab.site import driver_caps

_OWN_BOUND = 75
"""Seconds in which any driver must have answered, whatever Ceph does."""
_WRONG_KEY = "AQCf0VRlAAAAABAAzOmwVXlWJWhM6HPJKbnAkA=="


@case(
    "frame/secrets",
    kind=Kind.SPEC,
    row="secrets absent or incomplete, or cephx refuses them → UNAUTHENTICATED",
    modes=SNAPSHOT,
)
def secrets(stage: Stage) -> None:
    """UNAUTHENTICATED for each way to have no right key, from every call; no text shows a key."""
    volume, good = stage.volume(), stage.here.client.secrets
    incomplete: tuple[dict[str, str], ...] = (
        {},
        {"userID": good["userID"]},
        {"userKey": good["userKey"]},
        good | {"userKey": "not a key"},
    )
    refused = (good | {"userKey": _WRONG_KEY}, good | {"userID": "nobody"})
    call = stage.here.client.call
    answers = [
        *(call(method, volume.handle, secrets=bad) for method in METHODS for bad in incomplete),
        *(call("PromoteVolume", volume.handle, secrets=bad) for bad in refused),
    ]
    for answer in answers:
        expect(answer, "UNAUTHENTICATED")
        require(good["userKey"] not in answer.message, "a text without the key", answer)
    expect(stage.here.client.enable(volume.handle), "OK")


@case(
    "frame/caps",
    kind=Kind.SPEC,
    row="cephx accepts, but the caps do not allow the operation → PERMISSION_DENIED",
    modes=SNAPSHOT,
)
def caps(stage: Stage) -> None:
    """A user that may only read is refused by name of the cap; a user with caps may go on."""
    volume = stage.volume()
    caps = {"mon": "profile rbd", "osd": "profile rbd-read-only", "mgr": "allow r"}
    answer = stage.here.client_of(f"reader-{stage.mode}", caps).enable(volume.handle)
    expect(answer, "PERMISSION_DENIED", saying=("profile rbd",))
    require(not stage.here.mirrored(volume), "an image that is not mirrored", "a mirrored one")
    expect(stage.here.client.enable(volume.handle), "OK")


@case(
    "frame/rotated-key",
    kind=Kind.CONTRACT,
    row="A rotated key works at the next call",
    modes=SNAPSHOT,
)
def rotated_key(stage: Stage) -> None:
    """After the key was changed, the new one works at once, and the old one is refused in time."""
    volume, name, ceph = stage.enabled(), f"rotated-{stage.mode}", stage.here.site
    caps = ("mon", "profile rbd", "osd", "profile rbd", "mgr", "profile rbd")
    make = ("auth", "get-or-create-key", f"client.{name}", *caps)
    old = {"userID": name, "userKey": ceph.ceph(*make).strip()}
    ask = partial(stage.here.client.call, "GetReplicationDestinationInfo", volume.handle)
    expect(ask(secrets=old), "OK")
    ceph.ceph("auth", "rm", f"client.{name}")
    new = {"userID": name, "userKey": ceph.ceph(*make).strip()}
    require(new != old, "a new key", "the old one")
    expect(ask(secrets=new), "OK")


@case(
    "frame/parameters",
    kind=Kind.SPEC,
    row="malformed parameter value (every bad force, interval, mode…) → INVALID_ARGUMENT, naming "
    "the field and what is accepted; unknown parameters are ignored",
    modes=SNAPSHOT,
)
def parameters(stage: Stage) -> None:
    """INVALID_ARGUMENT that names the parameter, and nothing is changed."""
    volume, client = stage.volume(), stage.here.client
    for name, value in (
        ("mirroringMode", "both"),
        ("mirroringMode", ""),
        ("schedulingInterval", "0m"),
        ("schedulingInterval", "5"),
        ("schedulingInterval", "5s"),
        ("schedulingInterval", "1.5h"),
        ("flattenMode", "maybe"),
    ):
        expect(client.enable(volume.handle, **{name: value}), "INVALID_ARGUMENT", saying=(name,))
    start = client.enable(volume.handle, schedulingStartTime="14:00")
    expect(start, "INVALID_ARGUMENT", saying=("schedulingInterval",))
    start = client.enable(volume.handle, schedulingInterval="1h", schedulingStartTime="soon")
    expect(start, "INVALID_ARGUMENT", saying=("schedulingStartTime",))
    forced = client.disable(volume.handle, force="yes, please")
    expect(forced, "INVALID_ARGUMENT", saying=("force",))
    resync = client.resync(volume.handle, resyncMode="sometimes")
    expect(resync, "INVALID_ARGUMENT", saying=("resyncMode",))
    require(not stage.here.mirrored(volume), "an image that is not mirrored", "a mirrored one")
    expect(client.enable(volume.handle, somethingElse="1"), "OK")


@case(
    "frame/reason-tokens",
    kind=Kind.CONTRACT,
    row="The message ends with the reason token in brackets; also attach it as error detail "
    "(google.rpc.ErrorInfo, domain = driver name)",
    modes=SNAPSHOT,
)
def reason_tokens(stage: Stage) -> None:
    """Every error bears a token in capitals and one domain; equal errors bear equal tokens."""
    volume, client = stage.volume(), stage.here.client
    malformed = [each for each in METHODS if each != "DisableVolumeReplication"]
    answers = [client.call(method, "nonsense") for method in malformed]
    answers += [client.promote(volume.handle), client.demote(volume.handle)]
    answers += [client.info(volume.handle), client.call("DemoteVolume", volume.handle, secrets={})]
    for answer in answers:
        require(answer.reason and answer.reason.isupper(), "a reason token", answer)
        token = f"[{answer.reason}]"
        require(answer.message.endswith(f" {token}"), f"a message that ends {token}", answer)
        require(answer.message.count(token) == 1, f"{token} once", answer)
    require(len({each.domain for each in answers}) == 1, "one domain", answers)
    require(len({each.reason for each in answers[: len(malformed)]}) == 1, "one token", answers)


@case(
    "frame/not-enabled",
    kind=Kind.SPEC,
    row="not enabled → FAILED_PRECONDITION (Promote, Demote, Resync, info, destination)",
    modes=SNAPSHOT,
)
def not_enabled(stage: Stage) -> None:
    """FAILED_PRECONDITION from each call that needs mirroring, with and without force."""
    volume, client = stage.volume(), stage.here.client
    for answer in (
        client.promote(volume.handle),
        client.promote(volume.handle, force=True),
        client.demote(volume.handle),
        client.resync(volume.handle),
        client.resync(volume.handle, force=True),
        client.info(volume.handle),
        client.destination(volume.handle),
    ):
        expect(answer, "FAILED_PRECONDITION")


@case(
    "frame/one-at-a-time",
    kind=Kind.SAFETY,
    row="at most once at a time per image, not handle text; a repeated identical call joins; a "
    "conflicting one gets ABORTED",
)
def one_at_a_time(stage: Stage) -> None:
    """While two promotes by different handles wait as one, a demote is ABORTED; both end alike."""
    volume, client = stage.mirrored(), stage.there.client
    local = stage.here.client.destination(volume.handle).destination
    with ThreadPoolExecutor() as executor:
        calls = [executor.submit(client.promote, handle) for handle in (volume.handle, local)]
        time.sleep(1)  # a demote that comes first would hold the image itself
        poll(
            lambda: calls[0].done() or client.demote(local).code == "ABORTED",
            seconds=20,
            what="a conflicting call is ABORTED",
            every=0.05,
        )
        require(not calls[0].done(), "a promote that still waits", calls[0])
        first, second = (each.result() for each in calls)
    require(
        (first.code, first.reason) == (second.code, second.reason), "the same answer twice", second
    )


@case(
    "frame/join-by-own-rights",
    kind=Kind.SAFETY,
    row="A repeated identical call joins; the caller's own credentials must work",
)
def join_by_own_rights(stage: Stage) -> None:
    """Of two promotes that wait as one, that of a user who may only read is refused at the end."""
    volume, client = stage.mirrored(), stage.there.client
    pool = f"pool={stage.there.site.pool}"
    reader = stage.there.client_of(
        f"reader-{volume.uuid[:8]}",
        {"mon": "profile rbd", "osd": f"profile rbd-read-only {pool}", "mgr": "allow r"},
    )
    expect(reader.info(volume.handle), "FAILED_PRECONDITION")  # it may read
    with ThreadPoolExecutor() as executor:
        executor.submit(client.promote, volume.handle)
        time.sleep(0.5)  # so that the other one joins
        joined = executor.submit(reader.promote, volume.handle)
        settle(lambda: stage.here.client.demote(volume.handle))
    settle(lambda: client.promote(volume.handle))
    require(joined.result().code == "PERMISSION_DENIED", "PERMISSION_DENIED", joined.result())


@case(
    "frame/callers-deadline",
    kind=Kind.SPEC,
    row="Every call answers by the caller's deadline; the work goes on",
)
def callers_deadline(stage: Stage) -> None:
    """A promote that must wait answers a caller of little patience in time, and changes nothing."""
    volume = stage.mirrored()
    answer = stage.there.client.call("PromoteVolume", volume.handle, timeout=2)
    expect(answer, "DEADLINE_EXCEEDED", "ABORTED", within=2.5)
    require(stage.here.primary(volume), "the primary where it was", "a secondary")


@case(
    "frame/frozen-cluster",
    kind=Kind.SAFETY,
    row="A bounded answer in any outage; a dead cluster never delays calls for a healthy one. "
    "Identity and health never queue behind storage",
    alone=True,
)
def frozen_cluster(stage: Stage) -> None:
    """With dr1's OSD frozen every call there answers in time; Probe and dr2 answer at once."""
    volume, elsewhere = stage.mirrored(), stage.mirrored()
    stage.move(stage.here, stage.there, elsewhere)
    poll(
        lambda: stage.there.client.info(elsewhere.handle).code == "OK",
        seconds=90,
        what="info of the healthy site",
    )
    with stage.here.frozen("osd"), ThreadPoolExecutor() as executor:
        began = time.monotonic()
        ask = partial(stage.here.client.call, handle=volume.handle, timeout=None)
        calls = [executor.submit(ask, method) for method in METHODS]
        while not all(each.done() for each in calls):
            expect(stage.here.client.probe(), "OK", within=1)
            expect(stage.there.client.info(elsewhere.handle), "OK", within=5)
            require(time.monotonic() - began < _OWN_BOUND, f"answers in {_OWN_BOUND} s", "none")
            time.sleep(1)
        answers = [each.result() for each in calls]
    for answer in answers:
        expect(answer, "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED", within=_OWN_BOUND)
    stage.say(f"slowest answer {max(each.seconds for each in answers):.1f} s")
    settle(lambda: stage.here.client.destination(volume.handle))
    settle(lambda: stage.here.client.enable(volume.handle, mirroringMode=stage.mode))


@case(
    "frame/silent-cluster",
    kind=Kind.CONTRACT,
    row="A cluster that just failed to answer costs no further caller its time; it heals without "
    "a restart",
    modes=SNAPSHOT,
    alone=True,
)
def silent_cluster(stage: Stage) -> None:
    """Once a cluster failed to answer, calls are refused at once until it answers again."""
    volume, client = stage.mirrored(), stage.here.client
    with stage.here.frozen("osd"):
        # a driver may tell for up to two seconds what it has just learnt of a copy
        first = client.destination(volume.handle)
        expect(first, "UNAVAILABLE", within=_OWN_BOUND)
        poll(lambda: client.info(volume.handle).seconds < 1, seconds=30, what="a refusal at once")
        for _ in range(5):
            expect(client.info(volume.handle), "UNAVAILABLE", within=1)
    thawed = time.monotonic()
    settle(lambda: client.destination(volume.handle), seconds=60)
    stage.say(f"{first.seconds:.1f} s at first; healed {time.monotonic() - thawed:.1f} s later")


@case(
    "frame/sidecars-bytes",
    kind=Kind.SPEC,
    row="requests as sidecars sent them before and after the move to replication_source",
    modes=SNAPSHOT,
)
def sidecars_bytes(stage: Stage) -> None:
    """The bytes of either generation lead to the volume, with a deadline of three minutes."""
    volume, client = stage.enabled(), stage.here.client
    before = pb.EnableVolumeReplicationRequest(volume_id=volume.handle, secrets=client.secrets)
    after = pb.EnableVolumeReplicationRequest(
        replication_source=source(volume.handle), secrets=client.secrets, replication_id="pvc-1"
    )
    length = bytes([len(volume.handle)])
    require(
        b"\x0a" + length + volume.handle.encode() in before.SerializeToString(), "field 1", before
    )
    send: Any = client.channel.unary_unary("/replication.Controller/EnableVolumeReplication")
    for request in (before, after):
        require(send(request.SerializeToString(), timeout=180) == b"", "an empty answer", request)


@case(
    "frame/grpcurl",
    kind=Kind.CONTRACT,
    row="Standard gRPC health and server reflection on the same socket, so that grpcurl -unix "
    "works without proto files",
    modes=SNAPSHOT,
)
def grpcurl(stage: Stage) -> None:
    """A client that is not Python lists the services, enables a volume and probes health."""
    volume = stage.volume()
    request = {"volume_id": volume.handle, "secrets": stage.here.client.secrets}
    listed = _grpcurl(stage, "list")
    for name in ("identity.Identity", "replication.Controller", "grpc.health.v1.Health"):
        require(name in listed.split(), name, listed)
    enabled = _grpcurl(stage, "replication.Controller/EnableVolumeReplication", json.dumps(request))
    require(json.loads(enabled) == {}, "an empty answer", enabled)
    require(stage.here.mirrored(volume), "a mirrored image", "none")
    health = _grpcurl(stage, "grpc.health.v1.Health/Check")
    require(json.loads(health) == {"status": "SERVING"}, "SERVING", health)


@case(
    "frame/key-not-borrowed",
    kind=Kind.SAFETY,
    row="Cephx refuses the secrets → UNAUTHENTICATED; connections are kept and shared per "
    "(monitors, user, key)",
    modes=SNAPSHOT,
)
def key_not_borrowed(stage: Stage) -> None:
    """After good calls of the same user, a wrong key is refused by every call, and not shown."""
    volume, good = stage.enabled(), stage.here.client.secrets
    call = stage.here.client.call
    for method in METHODS:
        answer = call(method, volume.handle, secrets=good | {"userKey": _WRONG_KEY})
        expect(answer, "UNAUTHENTICATED")
        require(_WRONG_KEY not in answer.message, "a text without the key", answer)
        require(answer.reason, "a reason token", answer)
    require(stage.here.primary(volume), "an untouched volume", "one that is not primary")
    expect(stage.here.client.destination(volume.handle), "OK")


@case(
    "frame/caps-elsewhere",
    kind=Kind.SAFETY,
    row="A refused permission is never NOT_FOUND",
    modes=SNAPSHOT,
)
def caps_elsewhere(stage: Stage) -> None:
    """A user with rights to another pool alone is PERMISSION_DENIED, whether it exists or not."""
    volume = stage.enabled()
    client = stage.here.client_of("elsewhere", driver_caps("elsewhere"))
    absent = volume.handle.replace(volume.uuid, str(uuid4()))
    for method in METHODS:
        for handle in (volume.handle, absent):
            expect(client.call(method, handle), "PERMISSION_DENIED", saying=("osd",))
    require(stage.here.mirrored(volume), "an untouched volume", "one that is not mirrored")


@case(
    "frame/no-caps-for-osd",
    kind=Kind.CONTRACT,
    row="Every call answers by our own bound; cephx accepts, but the caps do not allow the "
    "operation → PERMISSION_DENIED, naming the missing cap",
    modes=SNAPSHOT,
)
def no_caps_for_osd(stage: Stage) -> None:
    """Whom OSDs leave unanswered (Ceph 18) is told in time, naming osd; others are served."""
    volume = stage.enabled()
    caps = {name: cap for name, cap in driver_caps(stage.here.site.pool).items() if name != "osd"}
    client = stage.here.client_of("no-osd", caps)
    for method in METHODS:
        refused = client.call(method, volume.handle)
        expect(refused, "PERMISSION_DENIED", "UNAVAILABLE", saying=("osd",), within=_OWN_BOUND)
        expect(stage.here.client.destination(volume.handle), "OK", within=5)
    expect(stage.here.client.demote(volume.handle), "OK", "ABORTED")


@case(
    "frame/caps-of-the-manager",
    kind=Kind.CONTRACT,
    row="Cephx accepts, but the caps do not allow the operation → PERMISSION_DENIED, naming the "
    "missing cap",
    modes=SNAPSHOT,
)
def caps_of_the_manager(stage: Stage) -> None:
    """A schedule asked for by a user without a cap for the mgr is refused, naming mgr."""
    volume = stage.volume()
    caps = {"mon": "profile rbd", "osd": "profile rbd"}
    client = stage.here.client_of("no-mgr", caps)
    answer = client.enable(volume.handle, schedulingInterval="5m")
    expect(answer, "PERMISSION_DENIED", saying=("mgr",))


@case(
    "frame/parameter-values",
    kind=Kind.SPEC,
    row="Malformed parameter value (every bad force, interval, mode…) → INVALID_ARGUMENT, naming "
    "the field and what is accepted",
    modes=SNAPSHOT,
)
def parameter_values(stage: Stage) -> None:
    """Each bad value is refused by each call that reads it, with what is accepted instead."""
    volume = stage.enabled(schedulingInterval="2h")
    before = stage.here.schedules(volume)
    for method, name, values in (
        ("EnableVolumeReplication", "mirroringMode", ("Snapshot", "journal ", "pool", "0")),
        ("EnableVolumeReplication", "schedulingInterval", _BAD_INTERVALS),
        ("PromoteVolume", "schedulingInterval", _BAD_INTERVALS),
        ("EnableVolumeReplication", "flattenMode", ("", "true", "Never", "force ")),
        ("DisableVolumeReplication", "force", ("", "2", "yes", "tRUE", " true")),
        ("ResyncVolume", "resyncMode", ("", "never", "Always")),
    ):
        for value in values:
            _refuse_value(stage, volume.handle, method, {name: value}, name)
    for method in ("EnableVolumeReplication", "PromoteVolume"):
        for start in ("", "14", "25:00", "14:61", "14:00 PM", "2030-02-30T14:00", "tomorrow"):
            given = {"schedulingInterval": "1h", "schedulingStartTime": start}
            _refuse_value(stage, volume.handle, method, given, "schedulingStartTime")
        alone = {"schedulingStartTime": "14:00"}
        _refuse_value(stage, volume.handle, method, alone, "schedulingInterval")
    require(stage.here.schedules(volume) == before, str(before), stage.here.schedules(volume))
    require(stage.here.mirrored(volume), "an untouched volume", "one that is not mirrored")


_BAD_INTERVALS = ("", "m", "-5m", "+5m", "5M", "5 m", "5m ", "5w", "1h30m", "9s", "0h", "0s", "٥m")


def _refuse_value(stage: Stage, handle: str, method: str, given: dict[str, str], name: str) -> None:
    answer = stage.here.client.call(method, handle, parameters=given)
    expect(answer, "INVALID_ARGUMENT", saying=(name, "accepted"), within=5)
    require(answer.reason, "a reason token", answer)


@case(
    "frame/unknown-parameters",
    kind=Kind.SPEC,
    row="Unknown parameters are logged once and ignored; replication_id is accepted and logged",
)
def unknown_parameters(stage: Stage) -> None:
    """Parameters and a replication_id that mean nothing to the driver change no answer."""
    volume, client = stage.volume(), stage.here.client
    strange = {"replication.storage.openshift.io/x": "1", "pool": "", "FORCE": "maybe", "": ""}

    def ask(method: str, **fields: Any) -> Any:
        return client.call(method, volume.handle, replication_id="vr-1", **fields)

    enable = strange | {"mirroringMode": stage.mode}
    expect(ask("EnableVolumeReplication", parameters=enable), "OK")
    require(stage.here.mode(volume) == stage.mode, stage.mode, stage.here.mode(volume))
    expect(ask("PromoteVolume", parameters=strange), "OK")
    expect(ask("ResyncVolume", parameters=strange), "FAILED_PRECONDITION")
    expect(ask("GetVolumeReplicationInfo"), "OK", "NOT_FOUND")
    settle(lambda: ask("DemoteVolume", parameters=strange))
    settle(lambda: ask("PromoteVolume", parameters=strange, force=True))
    expect(ask("DisableVolumeReplication", parameters=strange), "OK")


@case(
    "frame/every-error",
    kind=Kind.CONTRACT,
    row="Messages say what was seen; no secrets, no class names, no tracebacks. Attach a stable "
    "reason token. UNKNOWN never leaves the driver",
    modes=SNAPSHOT,
)
def every_error(stage: Stage) -> None:
    """Errors of each code have a token, the driver's domain and a text that shows no inside."""
    volume, client = stage.volume(), stage.here.client
    absent = volume.handle.replace(volume.uuid, str(uuid4()))
    group = pb.ReplicationSource(
        volumegroup=pb.ReplicationSource.VolumeGroupSource(volume_group_id="group")
    )
    answers = {
        "INVALID_ARGUMENT": client.info("no handle"),
        "UNIMPLEMENTED": client.call("PromoteVolume", "", replication_source=group),
        "UNAUTHENTICATED": client.call("PromoteVolume", volume.handle, secrets={}),
        "NOT_FOUND": client.disable(absent),
        "FAILED_PRECONDITION": client.demote(volume.handle),
        "UNAVAILABLE": client.enable(volume.handle.replace("site-dr1", "site-xyz")),
    }
    domain = client.identity.GetIdentity(identity_pb2.GetIdentityRequest(), timeout=5).name
    for code, answer in answers.items():
        expect(answer, code)
        require(answer.reason, "a reason token", answer)
        require(answer.domain == domain, f"the domain {domain}", answer.domain)
        require(len(answer.message) > 10, "a sentence", answer)
        for inside in (client.secrets["userKey"], "Traceback", "Error(", "object at 0x"):
            require(inside not in answer.message, f"a text without {inside!r}", answer)


@case(
    "frame/rubbish",
    kind=Kind.SPEC,
    row="UNKNOWN never leaves the driver; a malformed field → INVALID_ARGUMENT",
    modes=SNAPSHOT,
)
def rubbish(stage: Stage) -> None:
    """Bytes that are no request are INVALID_ARGUMENT, and a strange method UNIMPLEMENTED."""
    for method in METHODS:
        for raw in (b"\xff\xff\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe"):
            code = _send_raw(stage, method, raw)
            require(code == "INVALID_ARGUMENT", f"INVALID_ARGUMENT for {raw!r}", code)
    code = _send_raw(stage, "NoSuchCall", b"")
    require(code == "UNIMPLEMENTED", "UNIMPLEMENTED for a method that is none", code)


@case(
    "frame/raw-bytes",
    kind=Kind.SPEC,
    row="Requests as sidecars sent them before and after the move to replication_source",
)
def raw_bytes(stage: Stage) -> None:
    """Every call, put together byte by byte in both generations, means what it must."""
    for generation in (_before, _after):
        volume, secrets = stage.volume(), stage.here.client.secrets
        for method, expected in (
            ("EnableVolumeReplication", ("OK",)),
            ("PromoteVolume", ("OK",)),
            ("GetVolumeReplicationInfo", ("OK", "NOT_FOUND")),
            ("ResyncVolume", ("FAILED_PRECONDITION",)),
            ("DisableVolumeReplication", ("OK",)),
            ("DemoteVolume", ("FAILED_PRECONDITION",)),
        ):
            mode = {"mirroringMode": stage.mode} if method.startswith("Enable") else {}
            code = _send_raw(stage, method, generation(method, volume.handle, secrets, mode))
            require(code in expected, f"{' or '.join(expected)} from {method}", code)


_FIELDS = {
    "EnableVolumeReplication": (2, 3, 4, 5),
    "DisableVolumeReplication": (2, 3, 4, 5),
    "PromoteVolume": (3, 4, 5, 6),
    "DemoteVolume": (3, 4, 5, 6),
    "ResyncVolume": (3, 4, 5, 6),
    "GetVolumeReplicationInfo": (0, 2, 3, 4),
}
"""Numbers of parameters, secrets, replication_id and replication_source; 0 where there is none."""


def _before(method: str, handle: str, secrets: dict[str, str], parameters: dict[str, str]) -> bytes:
    """Put a request together as sidecars did that named the volume in field 1."""
    of_parameters, of_secrets, of_id, _ = _FIELDS[method]
    return b"".join(
        (
            _field(1, handle.encode()),
            *(_entry(of_parameters, *each) for each in parameters.items()),
            *(_entry(of_secrets, *each) for each in secrets.items()),
            _field(of_id, b"vr-1"),
        )
    )


def _after(method: str, handle: str, secrets: dict[str, str], parameters: dict[str, str]) -> bytes:
    """Put a request together as sidecars do now, with a field that comes some day."""
    of_parameters, of_secrets, _, of_source = _FIELDS[method]
    return b"".join(
        (
            *(_entry(of_parameters, *each) for each in parameters.items()),
            *(_entry(of_secrets, *each) for each in secrets.items()),
            _field(of_source, _field(1, _field(1, handle.encode()))),
            _field(15, b"from the future"),
        )
    )


def _entry(number: int, key: str, value: str) -> bytes:
    return _field(number, _field(1, key.encode()) + _field(2, value.encode()))


def _field(number: int, content: bytes) -> bytes:
    """Encode one field that has a length: a text or a message."""
    length, head = len(content), bytes((number << 3 | 2,))
    digits = b""
    while length > 0x7F:
        digits += bytes((length & 0x7F | 0x80,))
        length >>= 7
    return head + digits + bytes((length,)) + content


def _send_raw(stage: Stage, method: str, request: bytes) -> str:
    """Send bytes as a sidecar would, with its three minutes; return the code."""
    send: Any = stage.here.client.channel.unary_unary(f"/replication.Controller/{method}")
    try:
        send(request, timeout=180)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


@case(
    "frame/conflict-named",
    kind=Kind.CONTRACT,
    row="Another, different operation on the same image is running → ABORTED, naming it and its "
    "age; two handles of one image exclude each other; a repeated identical call joins",
    alone=True,
)
def conflict_named(stage: Stage) -> None:
    """While a promote waits, others are told of it at once, the same joins, reads go on."""
    volume, client = stage.mirrored(), stage.there.client
    local = stage.here.client.destination(volume.handle).destination
    with stage.here.frozen("rbd-mirror"), ThreadPoolExecutor() as executor:
        first = executor.submit(client.call, "PromoteVolume", volume.handle, timeout=25)
        time.sleep(3)  # the promote is to have an age
        require(not first.done(), "a promote that waits", first)
        expect(client.destination(local), "OK", within=5)
        for conflicting in (
            client.demote(local),
            client.promote(local, force=True),
            client.disable(local),
            client.enable(local, mirroringMode=stage.mode),
        ):
            expect(conflicting, "ABORTED", saying=("promote", " s"), within=5)
        joined = client.call("PromoteVolume", local, timeout=60)
        ended = first.result()
        require(ended.code == joined.code, "the same answer for both", f"{ended}; {joined}")
        require(joined.seconds < ended.seconds, "an end with the first", f"{ended}; {joined}")
    require(stage.here.primary(volume), "dr1 primary as before", "a secondary")
    require(not stage.there.primary(volume), "dr2 secondary as before", "a primary")


@case(
    "frame/abandoned-operation",
    kind=Kind.SAFETY,
    row="The caller's deadline ends while Ceph is still working → DEADLINE_EXCEEDED; operations "
    "outlive calls; the next call reads the state from the image and converges",
    alone=True,
    tags={"long"},
)
def abandoned_operation(stage: Stage) -> None:
    """With the OSD frozen an Enable ends with its caller's deadline; thawed, it converges."""
    volume = stage.volume()
    enable = partial(
        stage.here.client.call,
        "EnableVolumeReplication",
        volume.handle,
        parameters={"mirroringMode": stage.mode},
    )
    with stage.here.frozen("osd"):
        expect(enable(timeout=6), "DEADLINE_EXCEEDED", "UNAVAILABLE", "ABORTED", within=7)
        expect(stage.here.client.probe(), "OK", within=1)
    settle(enable)
    require(stage.here.mode(volume) == stage.mode, stage.mode, stage.here.mode(volume))


@case(
    "frame/too-many-calls",
    kind=Kind.CONTRACT,
    row="The limit of concurrent calls (per cluster, or in all) is reached → RESOURCE_EXHAUSTED, "
    "at once; Identity and health never queue behind storage",
    modes=SNAPSHOT,
    alone=True,
)
def too_many_calls(stage: Stage) -> None:
    """Of 200 calls to a frozen cluster the surplus is refused at once; Probe is as quick."""
    volume = stage.enabled()
    ask = partial(stage.here.client.call, "GetVolumeReplicationInfo", volume.handle, timeout=15)
    with stage.here.frozen("osd"), ThreadPoolExecutor(200) as executor:
        calls = [executor.submit(ask) for _ in range(200)]
        poll(lambda: any(each.done() for each in calls), seconds=10, what="an answer at once")
        expect(stage.here.client.probe(), "OK", within=2)
        answers = [each.result() for each in calls]
    refused = [each for each in answers if each.code == "RESOURCE_EXHAUSTED"]
    require(refused, "RESOURCE_EXHAUSTED for some", answers[0])
    for answer in refused:
        expect(answer, "RESOURCE_EXHAUSTED", within=5)
        require(answer.reason, "a reason token", answer)
    stage.say(f"{len(refused)} of {len(answers)} refused")
    settle(lambda: stage.here.client.destination(volume.handle))


@case(
    "frame/blocklisted",
    kind=Kind.CONTRACT,
    row="Client blocklisted → UNAVAILABLE (after one reconnect)",
    modes=SNAPSHOT,
    alone=True,
)
def blocklisted(stage: Stage) -> None:
    """A driver whose client the cluster fenced connects anew: at worst UNAVAILABLE, then OK."""
    first, second, client = stage.mirrored(), stage.volume(), stage.here.client
    enable = partial(client.enable, second.handle, mirroringMode="journal")
    with ThreadPoolExecutor() as executor, stage.here.site.ioctx() as ioctx:
        with rbd.Image(ioctx, first.image, read_only=True) as image:
            daemons = _watchers(image)
        # opened once: the driver holds the image shorter than opening it takes here
        with rbd.Image(ioctx, second.image, read_only=True) as image:
            enabling = executor.submit(enable)
            while not (opened := _watchers(image) - daemons) and not enabling.done():
                pass
        for address in opened:
            stage.here.site.ceph("osd", "blocklist", "add", address, "60")
        expect(enabling.result(), "OK", "UNAVAILABLE", within=_OWN_BOUND)
    require(opened, "the driver's client on the image while Enable ran", opened)
    stage.say(f"fenced {', '.join(sorted(opened))}")
    expect(enable(), "OK", "UNAVAILABLE")
    settle(enable, seconds=30)
    settle(lambda: client.disable(first.handle), seconds=30)


def _watchers(image: rbd.Image) -> set[str]:
    """Return the addresses of those that have the image open for writing, or replay it."""
    return {each["addr"] for each in image.watchers_list()}


def _grpcurl(stage: Stage, target: str, request: str = "") -> str:
    beside = Path(sys.executable).parent
    program = shutil.which("grpcurl") or shutil.which("grpcurl", path=str(beside))
    if program is None:
        raise SkippedError("grpcurl is not installed")
    # the request goes through standard input: an argument list is for everybody to see
    done = subprocess.run(
        [
            *(program, "-plaintext", "-unix", "-max-time", "180"),
            *(["-d", "@"] if request else []),
            *(stage.here.client.endpoint.removeprefix("unix://"), target),
        ],
        input=request,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    require(done.returncode == 0, "an answer to grpcurl", done.stderr)
    return done.stdout
