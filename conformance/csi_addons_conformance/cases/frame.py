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
    volume, name = stage.volume(), f"reader-{stage.mode}"
    key = stage.here.site.ceph(
        *("auth", "get-or-create-key", f"client.{name}"),
        *("mon", "profile rbd", "osd", "profile rbd-read-only", "mgr", "allow r"),
    ).strip()
    answer = stage.here.client.call(
        "EnableVolumeReplication", volume.handle, secrets={"userID": name, "userKey": key}
    )
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
    row="Attach a stable reason token (google.rpc.ErrorInfo, domain = driver name)",
    modes=SNAPSHOT,
)
def reason_tokens(stage: Stage) -> None:
    """Every error bears a token in capitals and one domain; equal errors bear equal tokens."""
    volume, client = stage.volume(), stage.here.client
    answers = [client.call(method, "nonsense") for method in METHODS]
    answers += [client.promote(volume.handle), client.demote(volume.handle)]
    answers += [client.info(volume.handle), client.call("DemoteVolume", volume.handle, secrets={})]
    for answer in answers:
        require(answer.reason and answer.reason.isupper(), "a reason token", answer)
    require(len({each.domain for each in answers}) == 1, "one domain", answers)
    require(len({each.reason for each in answers[: len(METHODS)]}) == 1, "one token", answers)


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
