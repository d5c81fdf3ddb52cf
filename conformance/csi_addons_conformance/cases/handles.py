# SPDX-License-Identifier: Apache-2.0
"""Volume handles: their layout, and the clusters, pools and images that they lead to."""

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rados
import rbd

from csi_addons_conformance._proto import replication_pb2 as pb
from csi_addons_conformance.case import SNAPSHOT, Kind, case, expect, poll, require, settle
from csi_addons_conformance.client import METHODS, source
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import SIZE, Stage
from lab import Volume
from lab.site import free_port
from lab.volumes import handle_of

_WITH_FIELD_1 = tuple(each for each in METHODS if each != "GetReplicationDestinationInfo")
_CONFIG = "config.json"
_MAPPING = "cluster-mapping.json"
_NO_POOL = 0x0FFF
"""A pool id that no site has."""


# --- the layout ------------------------------------------------------------------------------


@case(
    "handles/malformed",
    kind=Kind.SPEC,
    row="Check every separator, length and hex digit, the version, and the uuid's shape",
    modes=SNAPSHOT,
)
def malformed(stage: Stage) -> None:
    """Each way to spoil a handle is INVALID_ARGUMENT, naming volume_id, for each call but one."""
    good = handle_of(stage.here.site, str(uuid.uuid4()))
    for handle in _spoilt(good, stage.here.site.cluster_id):
        expect(stage.here.client.info(handle), "INVALID_ARGUMENT", saying=("volume_id",))
    for method in METHODS:
        if method != "DisableVolumeReplication":
            answer = stage.here.client.call(method, good[:-1])
            expect(answer, "INVALID_ARGUMENT", saying=("volume_id",), within=5)


@case(
    "handles/malformed-disable",
    kind=Kind.CONTRACT,
    row="Malformed → INVALID_ARGUMENT; for Disable alone NOT_FOUND when it cannot be a handle of "
    "any version (nothing was ever enabled under it, and the controller must be able to let go "
    "of it); an unknown version stays INVALID_ARGUMENT",
    modes=SNAPSHOT,
)
def malformed_disable(stage: Stage) -> None:
    """What can be no handle is NOT_FOUND; a handle of another version is INVALID_ARGUMENT."""
    good = handle_of(stage.here.site, str(uuid.uuid4()))
    for handle in (*_spoilt(good, stage.here.site.cluster_id), "cafe-0001-data"):
        answer = stage.here.client.disable(handle)
        if handle.startswith("0002-"):
            expect(answer, "INVALID_ARGUMENT", saying=("volume_id",))
        else:
            expect(answer, "NOT_FOUND", saying=("volume_id",))
            require(answer.reason == "NEVER_ENABLED", "NEVER_ENABLED", answer)


@case(
    "handles/upper-case",
    kind=Kind.CONTRACT,
    row="Hex digits and the uuid are compared without regard to case",
    modes=SNAPSHOT,
)
def upper_case(stage: Stage) -> None:
    """The same volume, whichever way its uuid and pool id are written, for each call."""
    volume, client = stage.volume(), stage.here.client
    shouted = f"{volume.handle[:-53]}{volume.handle[-53:].upper()}"
    require(shouted != volume.handle, "a uuid with letters", volume.handle)
    expect(client.enable(shouted, mirroringMode=stage.mode), "OK")
    require(stage.here.mirrored(volume), "a mirrored volume", "one that is not")
    expect(client.promote(shouted), "OK")
    settle(lambda: client.demote(shouted))
    settle(lambda: client.promote(shouted, force=True))
    expect(client.resync(shouted), "FAILED_PRECONDITION")
    expect(client.destination(shouted), "OK")
    expect(client.disable(shouted), "OK")
    require(not stage.here.mirrored(volume), "a volume without mirroring", "a mirrored one")


def _spoilt(good: str, cluster: str) -> Iterator[str]:
    """Yield handles each of which has one fault."""
    version, length, pool, uuid_ = good[:4], good[5:9], good[-53:-37], good[-36:]

    def put(
        *, version: str = version, length: str = length, cluster: str = cluster, pool: str = pool,
        uuid_: str = uuid_, dashes: str = "----",
    ) -> str:  # fmt: skip
        parts = (version, length, cluster, pool)
        return "".join(part + dash for part, dash in zip(parts, dashes, strict=True)) + uuid_

    for number in range(4):
        yield put(dashes="----"[:number] + "_" + "----"[number + 1 :])
    yield from (put(version=text) for text in ("0002", "001", "1", "000g", ""))
    for text in (f"{len(cluster) - 1:04x}", f"{len(cluster) + 1:04x}", "0000", "ffff", "00g0"):
        yield put(length=text)
    yield from (put(cluster=text) for text in ("", cluster[:-1], cluster + "x"))
    for text in (pool[:-1], "0" + pool, "g" + pool[1:], "-" + pool[1:], "f" * 16, " " + pool[1:]):
        yield put(pool=text)
    for text in (uuid_[:-1], uuid_ + "0", "g" + uuid_[1:], uuid_.replace("-", ""), "0" * 36):
        yield put(uuid_=text)
    yield from (" " + good, good + "\n", good + "\0", "pvc-1", "-", good + good, "x" * 5000)


@case(
    "handles/none",
    kind=Kind.SPEC,
    row="Both set and different, or none → INVALID_ARGUMENT",
    modes=SNAPSHOT,
)
def none(stage: Stage) -> None:
    """A request that names no volume is INVALID_ARGUMENT, naming the field."""
    client = stage.here.client
    for method in METHODS:
        for named in (None, pb.ReplicationSource(), source("")):
            answer = client.call(method, "", replication_source=named)
            expect(answer, "INVALID_ARGUMENT", saying=("volume_id",))


@case(
    "handles/two-different",
    kind=Kind.SPEC,
    row="Both set and different → INVALID_ARGUMENT",
    modes=SNAPSHOT,
)
def two_different(stage: Stage) -> None:
    """Two different handles in one request are INVALID_ARGUMENT, and neither volume changes."""
    client, one, other = stage.here.client, stage.volume(), stage.volume()
    for method in _WITH_FIELD_1:
        answer = client.call(method, one.handle, volume_id=other.handle)
        expect(answer, "INVALID_ARGUMENT", saying=("volume_id", "replication_source"))
    require(not stage.here.mirrored(one), "an untouched volume", "a mirrored one")
    require(not stage.here.mirrored(other), "an untouched volume", "a mirrored one")


@case(
    "handles/two-alike",
    kind=Kind.SPEC,
    row="Source: replication_source.volume.volume_id; both set and different → INVALID_ARGUMENT",
    modes=SNAPSHOT,
)
def two_alike(stage: Stage) -> None:
    """The same handle in both fields is as good as in one."""
    volume = stage.volume()
    answer = stage.here.client.call(
        "EnableVolumeReplication", volume.handle, volume_id=volume.handle
    )
    expect(answer, "OK")
    require(stage.here.mirrored(volume), "a mirrored volume", "one that is not")


@case(
    "handles/field-1-alone",
    kind=Kind.SPEC,
    row="Source: replication_source.volume.volume_id; if that is empty, the old field 1 volume_id",
)
def field_1_alone(stage: Stage) -> None:
    """Callers older than July 2026 name the volume in field 1, and every call acts on it."""
    client, volume = stage.here.client, stage.volume()

    def ask(method: str, **fields: Any) -> Any:
        return client.call(
            method, "", volume_id=volume.handle, replication_source=source(""), **fields
        )

    expect(ask("EnableVolumeReplication", parameters={"mirroringMode": stage.mode}), "OK")
    require(stage.here.mirrored(volume), "a mirrored volume", "one that is not")
    expect(ask("PromoteVolume"), "OK")
    expect(ask("ResyncVolume"), "FAILED_PRECONDITION")
    expect(ask("GetVolumeReplicationInfo"), "OK", "NOT_FOUND")
    settle(lambda: ask("DemoteVolume"))
    require(not stage.here.primary(volume), "a demoted volume", "a primary one")
    settle(lambda: ask("PromoteVolume", force=True))
    expect(ask("DisableVolumeReplication"), "OK")
    require(not stage.here.mirrored(volume), "a volume without mirroring", "a mirrored one")


@case(
    "handles/volume-group",
    kind=Kind.SPEC,
    row="A volumegroup source → UNIMPLEMENTED; never read a group id as a volume",
    modes=SNAPSHOT,
)
def volume_group(stage: Stage) -> None:
    """A group is UNIMPLEMENTED for each call, also when its id is the handle of a volume."""
    volume = stage.enabled()
    group = pb.ReplicationSource(
        volumegroup=pb.ReplicationSource.VolumeGroupSource(volume_group_id=volume.handle)
    )
    for method in METHODS:
        answer = stage.here.client.call(method, "", replication_source=group)
        expect(answer, "UNIMPLEMENTED", saying=("group",))
        require(answer.message, "a plain sentence", answer)
    require(stage.here.mirrored(volume), "an untouched volume", "one that is not mirrored")
    require(stage.here.primary(volume), "an untouched volume", "one that is not primary")


# --- where a handle leads --------------------------------------------------------------------


@case(
    "handles/unknown-cluster",
    kind=Kind.SAFETY,
    row="A cluster id that is in neither file is never NOT_FOUND",
    modes=SNAPSHOT,
)
def unknown_cluster(stage: Stage) -> None:
    """A cluster that is not configured is UNAVAILABLE for each call, and named."""
    handle = _handle("no-such-cluster", stage.here.site.pool_id, str(uuid.uuid4()))
    for method in METHODS:
        answer = stage.here.client.call(method, handle)
        expect(answer, "UNAVAILABLE", saying=("no-such-cluster",))


@case(
    "handles/mapped",
    kind=Kind.SPEC,
    row="Try the handle's own (cluster, pool id), then every mapped pair, also when the handle's "
    "own cluster is not configured here; mappings read in both directions",
    modes=SNAPSHOT,
    alone=True,
)
def mapped(stage: Stage) -> None:
    """The peer's handle leads to the volume here, whichever way round the mapping is written."""
    volume = stage.volume()
    handle = handle_of(stage.there.site, volume.uuid)
    expect(stage.here.client.enable(handle), "OK")
    require(stage.here.mirrored(volume), "a mirrored volume", "one that is not")
    with _rewritten(stage.here, _MAPPING, lambda entries: [_turned(each) for each in entries]):
        for each in (handle, volume.handle):
            expect(stage.here.client.enable(each), "OK")
    with _rewritten(stage.here, _MAPPING, lambda _: []):
        expect(stage.here.client.enable(handle), "UNAVAILABLE")
        expect(stage.here.client.enable(volume.handle), "OK")
    expect(stage.here.client.enable(handle), "OK")


def _turned(entry: dict[str, Any]) -> dict[str, Any]:
    """Turn an entry of the mapping round, as it is written on the other site."""
    return {
        "clusterIDMapping": {right: left for left, right in entry["clusterIDMapping"].items()},
        "RBDPoolIDMapping": [
            {right: left for left, right in pairs.items()} for pairs in entry["RBDPoolIDMapping"]
        ],
    }


@case(
    "handles/mapped-beside-own",
    kind=Kind.CONTRACT,
    row="Try the handle's own (cluster, pool id), then every mapped pair",
    modes=SNAPSHOT,
    alone=True,
)
def mapped_beside_own(stage: Stage) -> None:
    """When the own cluster is configured and has no such pool, the mapped pair is tried."""
    site, volume = stage.here.site, stage.volume()
    handle = _handle(site.cluster_id, _NO_POOL, volume.uuid)
    # it is in another mirrored pool than the handle says
    answer = stage.here.client.enable(handle)
    expect(answer, "FAILED_PRECONDITION", reason="VOLUME_ELSEWHERE", saying=(volume.image,))
    pair = {
        "clusterIDMapping": {site.cluster_id: "second-name"},
        "RBDPoolIDMapping": [{str(_NO_POOL): str(site.pool_id)}],
    }
    extra = {"clusterID": "second-name", "monitors": list(site.monitors)}
    with _added(stage.here, _CONFIG, extra), _added(stage.here, _MAPPING, pair):
        expect(stage.here.client.enable(handle), "OK")
    require(stage.here.mirrored(volume), "a mirrored volume", "one that is not")


@case(
    "handles/key-names",
    kind=Kind.CONTRACT,
    row="Key names matched without regard to case (Rook writes ClusterIDMapping), unknown keys "
    "ignored; both files are re-read when they change",
    modes=SNAPSHOT,
    alone=True,
)
def key_names(stage: Stage) -> None:
    """Any spelling of the keys is read in both files, and unknown keys beside them do no harm."""
    volume = stage.volume()
    handles = (volume.handle, handle_of(stage.there.site, volume.uuid))
    for respell in (str.lower, str.upper, str.title):

        def change(entries: Any, respell: Callable[[str], str] = respell) -> Any:
            return [{**_respelt(each, respell), "unknown": {"key": [1]}} for each in entries]

        with (
            _rewritten(stage.here, _CONFIG, change),
            _rewritten(stage.here, _MAPPING, change),
        ):
            for handle in handles:
                expect(stage.here.client.enable(handle), "OK")


def _respelt(entry: dict[str, Any], respell: Callable[[str], str]) -> dict[str, Any]:
    """Spell the keys that are names in another way; keys that are data stay."""
    entry = {
        key: _respelt(value, respell) if key == "rbd" else value for key, value in entry.items()
    }
    return {respell(key): value for key, value in entry.items()}


@case(
    "handles/namespace",
    kind=Kind.SPEC,
    row="For each: pool by id, radosNamespace, the image name",
    alone=True,
)
def namespace(stage: Stage) -> None:
    """A cluster id with a radosNamespace leads to that namespace, and to nothing outside of it."""
    site, name = stage.here.site, f"ns-{stage.mode}"
    site.rbd("namespace", "create", f"{site.pool}/{name}")
    inside = stage.lab.make_volume("dr1", SIZE, namespace=name)
    handle = _handle(name, site.pool_id, inside.uuid)
    outside = _handle(name, site.pool_id, stage.volume().uuid)
    extra = {"clusterID": name, "monitors": list(site.monitors), "rbd": {"radosNamespace": name}}
    client = stage.here.client
    expect(client.enable(inside.handle), "NOT_FOUND")
    with _added(stage.here, _CONFIG, extra):
        refused = client.enable(handle, mirroringMode=stage.mode)
        command = f"rbd mirror pool enable {site.pool}/{name} image"
        expect(refused, "FAILED_PRECONDITION", saying=(command,))
        site.rbd("mirror", "pool", "enable", f"{site.pool}/{name}", "image")
        expect(client.enable(handle, mirroringMode=stage.mode), "OK")
        with stage.here.image(inside, namespace=name) as image:
            state = image.mirror_image_get_info()["state"]
        require(state == rbd.RBD_MIRROR_IMAGE_ENABLED, "mirroring inside of it is on", state)
        answer = client.enable(outside, mirroringMode=stage.mode)
        expect(answer, "FAILED_PRECONDITION", reason="VOLUME_ELSEWHERE")
        expect(client.disable(handle), "OK")
        site.rbd("mirror", "pool", "disable", f"{site.pool}/{name}")


@case(
    "handles/broken-files",
    kind=Kind.CONTRACT,
    row="A file that is half written or broken keeps the last good version in use",
    modes=SNAPSHOT,
    alone=True,
)
def broken_files(stage: Stage) -> None:
    """Half of a file, rubbish or nothing leaves the last good version in use, and is logged."""
    client, volume = stage.here.client, stage.volume()
    handle = handle_of(stage.there.site, volume.uuid)
    expect(client.enable(handle), "OK")
    for name, wrong in ((_CONFIG, "clusterID"), (_MAPPING, "clusterIDMapping")):
        path = stage.here.site.config_dir / name
        good = path.read_text()
        for text in (good[: len(good) // 2], "", "{}", f'[{{"{wrong}": 5}}]', "\0"):
            logged = _log(stage.here)
            path.write_text(text)
            try:
                expect(client.enable(handle), "OK")
                told = name in _log(stage.here)[len(logged) :]
                require(told or not logged, f"a line in the log that names {name}", repr(text))
            finally:
                path.write_text(good)
            expect(client.enable(handle), "OK")


@case(
    "handles/monitors-moved",
    kind=Kind.CONTRACT,
    row="Both files are re-read when they change, without a restart: monitors move",
    modes=SNAPSHOT,
    alone=True,
)
def monitors_moved(stage: Stage) -> None:
    """Monitors at an address where nobody listens are UNAVAILABLE; at the new one all is well."""
    client, volume = stage.here.client, stage.volume()
    dead = f"v2:127.0.0.1:{free_port()}"
    with _rewritten(
        stage.here, _CONFIG, lambda entries: [{**each, "monitors": [dead]} for each in entries]
    ):
        for _ in range(2):
            expect(client.enable(volume.handle), "UNAVAILABLE", within=30)
    expect(client.enable(volume.handle), "OK")


def _log(site: SiteUnderTest) -> str:
    return site.started.log.read_text(errors="replace") if site.started else ""


# --- the image -------------------------------------------------------------------------------


@case(
    "handles/image-name",
    kind=Kind.SPEC,
    row="The image name from omap object csi.volume.<uuid> key csi.imagename, else csi-vol-<uuid>",
)
def image_name(stage: Stage) -> None:
    """The journal's csi.imagename is the image's name, whatever csi-vol-<uuid> may be."""
    site, volume = stage.here.site, stage.volume()
    other = Volume(handle=volume.handle, uuid=volume.uuid, image=f"own-name-{volume.uuid}")
    site.rbd("rename", f"{site.pool}/{volume.image}", f"{site.pool}/{other.image}")
    site.rbd("create", f"{site.pool}/{volume.image}", "--size", "1M")
    _write_journal(stage.here, volume, {"csi.imagename": other.image})
    expect(stage.here.client.enable(volume.handle, mirroringMode=stage.mode), "OK")
    require(stage.here.mirrored(other), f"{other.image} is mirrored", "it is not")
    require(not stage.here.mirrored(volume), f"{volume.image} is not mirrored", "it is")


@case(
    "handles/no-journal",
    kind=Kind.SAFETY,
    row="Else csi-vol-<uuid>; the journal is read only for us; never create it",
)
def no_journal(stage: Stage) -> None:
    """Without a journal csi-vol-<uuid> is the image, and no call makes a journal."""
    volume, client = stage.volume(), stage.here.client
    with stage.here.site.ioctx() as ioctx:
        ioctx.remove_object(f"csi.volume.{volume.uuid}")
    expect(client.enable(volume.handle, mirroringMode=stage.mode), "OK")
    client.info(volume.handle)
    expect(client.destination(volume.handle), "OK")
    settle(lambda: client.demote(volume.handle))
    client.resync(volume.handle)
    settle(lambda: client.promote(volume.handle, force=True))
    expect(client.disable(volume.handle), "OK")
    require(_journal(stage.here, volume) is None, "no journal", "one was made")


@case(
    "handles/journal-corrected",
    kind=Kind.SPEC,
    row="After a resync csi.imageid is corrected, and only when that object already holds "
    "csi.volname. Never create it",
)
def journal_corrected(stage: Stage) -> None:
    """At ready=true csi.imageid is corrected beside csi.volname; any other journal is left."""
    whole, foreign, bare = volumes = [stage.mirrored() for _ in range(3)]
    stale = {"csi.imageid": "stale", "csi.imagename": foreign.image}
    named = {"csi.imageid": "stale", "csi.imagename": whole.image, "csi.volname": "pvc-1"}
    _write_journal(stage.there, whole, named)
    _write_journal(stage.there, foreign, stale)
    for volume in volumes:
        settle(lambda volume=volume: stage.here.client.demote(volume.handle))  # type: ignore[misc]
    for volume in volumes:
        _await_ready(stage.there, volume)
    came = _journal(stage.there, whole)
    expected = {**named, "csi.imageid": stage.there.image_id(whole)}
    require(came == expected, str(expected), came)
    require(_journal(stage.there, foreign) == stale, str(stale), _journal(stage.there, foreign))
    require(_journal(stage.there, bare) is None, "no journal", _journal(stage.there, bare))


def _await_ready(site: SiteUnderTest, volume: Volume) -> None:
    poll(lambda: site.client.resync(volume.handle).ready, seconds=170, what="the resync is ready")


# --- NOT_FOUND is a strong word ---------------------------------------------------------------


@case(
    "handles/not-found",
    kind=Kind.SPEC,
    row="NOT_FOUND: a cluster was reached, every candidate proved absent (pool, or image by name "
    "and in the trash), and no resync record stands",
)
def not_found(stage: Stage) -> None:
    """A volume that is gone, or whose pool is, is NOT_FOUND for each call, Disable included."""
    site, volume = stage.here.site, stage.enabled()
    expect(stage.here.client.disable(volume.handle), "OK")
    site.rbd("rm", f"{site.pool}/{volume.image}")
    for handle in (volume.handle, _handle(site.cluster_id, _NO_POOL, volume.uuid)):
        for method in METHODS:
            expect(stage.here.client.call(method, handle), "NOT_FOUND")


@case(
    "handles/in-trash",
    kind=Kind.SAFETY,
    row="NOT_FOUND only when every candidate proved absent: image by name and in the trash",
    modes=SNAPSHOT,
)
def in_trash(stage: Stage) -> None:
    """An image in the trash is neither usable nor gone: no call says OK or NOT_FOUND."""
    volume = stage.volume()
    with stage.here.site.ioctx() as ioctx:
        rbd.RBD().trash_move(ioctx, volume.image)
    for method in METHODS:
        answer = stage.here.client.call(method, volume.handle)
        expect(answer, "FAILED_PRECONDITION", "ABORTED", "UNAVAILABLE", saying=("trash",))


@case(
    "handles/resync-record",
    kind=Kind.SAFETY,
    row="While the resync record stands no call says NOT_FOUND (Disable: ABORTED); requested "
    "earlier, also while the image does not exist → ready=false",
    modes=SNAPSHOT,
)
def resync_record(stage: Stage) -> None:
    """An absent image with a resync record is coming back: Disable ABORTED, Resync not ready."""
    name = str(uuid.uuid4())
    handle, key = handle_of(stage.here.site, name), f"csi-addons-rbd/resync/csi-vol-{name}"
    record = {"image_id": "0123456789ab", "requested": 1_780_000_000, "sent": True}
    client = stage.here.client
    with stage.here.site.ioctx() as ioctx:
        rbd.RBD().pool_metadata_set(ioctx, key, json.dumps(record))
        for method in METHODS:
            answer = client.call(method, handle)
            require(answer.code != "NOT_FOUND", "another code than NOT_FOUND", answer)
        expect(client.disable(handle), "ABORTED")
        expect(client.disable(handle, force="true"), "ABORTED")
        for force in (False, True):
            answer = client.resync(handle, force=force)
            expect(answer, "OK")
            require(not answer.ready, "ready=false", answer.response)
        kept = json.loads(rbd.RBD().pool_metadata_get(ioctx, key))
        # a driver may add to it since when nothing of the image is left
        require(kept | record == kept, f"what was recorded: {record}", kept)
        rbd.RBD().pool_metadata_remove(ioctx, key)
    expect(client.disable(handle), "NOT_FOUND")


@case(
    "handles/dead-candidate",
    kind=Kind.SAFETY,
    row="NOT_FOUND only when every candidate proved absent; an unreachable monitor is never "
    "NOT_FOUND",
    modes=SNAPSHOT,
    alone=True,
)
def dead_candidate(stage: Stage) -> None:
    """While one place where the volume may lie does not answer, its absence is not proven."""
    site = stage.here.site
    handle = handle_of(site, str(uuid.uuid4()))
    dead = {"clusterID": "dead", "monitors": ["v2:127.0.0.1:1"]}
    pair = {
        "clusterIDMapping": {site.cluster_id: "dead"},
        "RBDPoolIDMapping": [{str(site.pool_id): "1"}],
    }
    expect(stage.here.client.disable(handle), "NOT_FOUND")
    with _added(stage.here, _CONFIG, dead), _added(stage.here, _MAPPING, pair):
        expect(stage.here.client.disable(handle), "UNAVAILABLE")


@case(
    "handles/monitor-down",
    kind=Kind.SAFETY,
    row="An unreachable monitor is never NOT_FOUND; monitors unreachable → UNAVAILABLE",
    modes=SNAPSHOT,
    alone=True,
)
def monitor_down(stage: Stage) -> None:
    """With the cluster dead, Disable and Info of an absent volume are UNAVAILABLE."""
    handle = handle_of(stage.here.site, str(uuid.uuid4()))
    with stage.here.without("mon", "osd"):
        expect(stage.here.client.disable(handle), "UNAVAILABLE", within=75)
        stage.here.restart_driver()
        expect(stage.here.client.info(handle), "UNAVAILABLE", within=75)
    poll(
        lambda: stage.here.client.disable(handle).code == "NOT_FOUND",
        seconds=60,
        what="NOT_FOUND now that the cluster can say so",
    )


# --- what stands in the files and in the journal ----------------------------------------------


def _handle(cluster: str, pool: int, uuid_: str) -> str:
    return f"0001-{len(cluster):04x}-{cluster}-{pool:016x}-{uuid_}"


@contextmanager
def _rewritten(site: SiteUnderTest, name: str, change: Callable[[Any], Any]) -> Iterator[None]:
    """Change a file of the site for the length of a block."""
    path = site.site.config_dir / name
    good = path.read_text()
    _replace(path, json.dumps(change(json.loads(good))))
    try:
        yield
    finally:
        _replace(path, good)


@contextmanager
def _added(site: SiteUnderTest, name: str, entry: dict[str, Any]) -> Iterator[None]:
    """Add an entry to a file of the site for the length of a block."""
    with _rewritten(site, name, lambda entries: [*entries, entry]):
        yield


def _replace(path: Path, text: str) -> None:
    """Swap a file at once, as a ConfigMap is swapped."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.replace(path)


def _write_journal(site: SiteUnderTest, volume: Volume, entries: dict[str, str]) -> None:
    with site.site.ioctx() as ioctx, rados.WriteOpCtx() as operation:
        ioctx.set_omap(operation, tuple(entries), tuple(entries.values()))
        ioctx.operate_write_op(operation, f"csi.volume.{volume.uuid}")


def _journal(site: SiteUnderTest, volume: Volume) -> dict[str, str] | None:
    """Read the volume's whole CSI journal; ``None`` when there is none."""
    with site.site.ioctx() as ioctx, rados.ReadOpCtx() as operation:
        entries, _ = ioctx.get_omap_vals(operation, "", "", 100)
        try:
            ioctx.operate_read_op(operation, f"csi.volume.{volume.uuid}")
        except rados.ObjectNotFound:
            return None
        return {key: value.decode() for key, value in entries}
