# SPDX-License-Identifier: Apache-2.0
"""Volume handles and where they lead."""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import rados
import rbd

from csi_addons_conformance._proto import replication_pb2 as pb
from csi_addons_conformance.case import SNAPSHOT, Kind, case, expect, require, settle
from csi_addons_conformance.client import METHODS, source
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage
from lab import Volume


@case(
    "handles/malformed",
    kind=Kind.SPEC,
    row="Malformed → INVALID_ARGUMENT: separators, lengths, hex digits, version, shape of the uuid",
    modes=SNAPSHOT,
)
def malformed(stage: Stage) -> None:
    """INVALID_ARGUMENT for each way to be malformed, from every call."""
    good = stage.volume().handle
    for handle in (
        good[:-1],
        good + "0",
        good.replace("0001-", "0002-", 1),
        good.replace("0001-0008-", "0001-0009-", 1),
        good.replace("0001-0008-", "0001-00g8-", 1),
        good.replace("-", "_"),
        good[:-36] + "not-a-uuid-at-all-not-a-uuid-at-all-",
        good.replace("-0000000000000001-", "-000000000000000x-", 1),
        "x",
        "../../etc/passwd",
    ):
        expect(stage.here.client.promote(handle), "INVALID_ARGUMENT")
    for method in METHODS:
        expect(stage.here.client.call(method, "not a handle"), "INVALID_ARGUMENT")


@case(
    "handles/either-field",
    kind=Kind.SPEC,
    row="Source: replication_source.volume.volume_id; if that is empty, the old field 1 volume_id. "
    "Both set and different, or none → INVALID_ARGUMENT",
    modes=SNAPSHOT,
)
def either_field(stage: Stage) -> None:
    """Either field leads to the volume; two different ones, or none, are refused."""
    client, volume = stage.here.client, stage.enabled()
    secrets = client.secrets
    old = pb.DemoteVolumeRequest(volume_id=volume.handle, secrets=secrets)
    new = pb.DemoteVolumeRequest(replication_source=source(volume.handle), secrets=secrets)
    both = pb.PromoteVolumeRequest(
        volume_id=volume.handle, replication_source=source(volume.handle), secrets=secrets
    )
    expect(client.send("PromoteVolume", both), "OK")
    for request in (old, new):
        settle(partial(client.send, "DemoteVolume", request))
    other = volume.handle[:-1] + ("0" if volume.handle[-1] != "0" else "1")
    different = pb.DemoteVolumeRequest(
        volume_id=other, replication_source=source(volume.handle), secrets=secrets
    )
    expect(client.send("DemoteVolume", different), "INVALID_ARGUMENT")
    none = pb.DemoteVolumeRequest(secrets=secrets)
    expect(client.send("DemoteVolume", none), "INVALID_ARGUMENT", saying=("volume_id",))


@case(
    "handles/volume-group",
    kind=Kind.SAFETY,
    row="A volumegroup source → UNIMPLEMENTED; never read a group id as a volume",
    modes=SNAPSHOT,
)
def volume_group(stage: Stage) -> None:
    """UNIMPLEMENTED, though the group's id is the handle of a volume, which stays as it was."""
    volume = stage.enabled()
    group = pb.ReplicationSource(
        volumegroup=pb.ReplicationSource.VolumeGroupSource(volume_group_id=volume.handle)
    )
    for method in METHODS:
        answer = stage.here.client.call(method, "", replication_source=group)
        expect(answer, "UNIMPLEMENTED")
    require(stage.here.primary(volume), "an untouched primary", "a secondary")


@case(
    "handles/not-found",
    kind=Kind.SPEC,
    row="NOT_FOUND only when a cluster was reached and every candidate proved absent",
    modes=SNAPSHOT,
)
def not_found(stage: Stage) -> None:
    """A volume that never was is NOT_FOUND for every call."""
    handle = _without_volume(stage)
    for method in METHODS:
        expect(stage.here.client.call(method, handle), "NOT_FOUND")


@case(
    "handles/unknown-cluster",
    kind=Kind.SAFETY,
    row="A cluster id that is in neither file is never NOT_FOUND: UNAVAILABLE",
    modes=SNAPSHOT,
)
def unknown_cluster(stage: Stage) -> None:
    """UNAVAILABLE, so that nobody drops finalizers of a volume that may exist."""
    handle = f"0001-0007-nowhere-0000000000000001-{uuid.uuid4()}"
    for method in METHODS:
        expect(stage.here.client.call(method, handle), "UNAVAILABLE", saying=("nowhere",))


@case(
    "handles/trash",
    kind=Kind.SAFETY,
    row="absent means absent in the trash, too",
    modes=SNAPSHOT,
)
def trash(stage: Stage) -> None:
    """An image in the trash is not NOT_FOUND; restored, it is as before."""
    volume, ceph = stage.volume(), stage.here.site
    with stage.here.image(volume) as image:
        image_id = image.id()
    ceph.rbd("trash", "mv", f"{ceph.pool}/{volume.image}")
    for method in METHODS:
        answer = stage.here.client.call(method, volume.handle)
        expect(answer, "FAILED_PRECONDITION", "ABORTED", saying=("trash",))
    ceph.rbd("trash", "restore", "--pool", ceph.pool, image_id)
    expect(stage.here.client.enable(volume.handle), "OK")


@case(
    "handles/resync-record",
    kind=Kind.SAFETY,
    row="while a resync record stands no call says NOT_FOUND (Disable: ABORTED, Resync: not ready)",
    modes=SNAPSHOT,
)
def resync_record(stage: Stage) -> None:
    """An absent image whose resync is on record is on its way back, not gone."""
    volume, ceph = stage.volume(), stage.here.site
    record = json.dumps({"image_id": stage.here.image_id(volume), "requested": 1, "sent": True})
    ceph.rbd("rm", f"{ceph.pool}/{volume.image}")
    key = f"csi-addons-rbd/resync/{volume.image}"
    with ceph.ioctx() as ioctx:
        rbd.RBD().pool_metadata_set(ioctx, key, record)
    for method in METHODS:
        answer = stage.here.client.call(method, volume.handle)
        require(answer.code != "NOT_FOUND", "anything but NOT_FOUND", answer)
    expect(stage.here.client.disable(volume.handle), "ABORTED")
    resync = stage.here.client.resync(volume.handle, force=True)
    require(resync.code == "OK" and not resync.ready, "ready=false", resync)
    with ceph.ioctx() as ioctx:
        rbd.RBD().pool_metadata_remove(ioctx, key)
    expect(stage.here.client.disable(volume.handle), "NOT_FOUND")


@case(
    "handles/mapped-both-ways",
    kind=Kind.SPEC,
    row="try the handle's own (cluster, pool id), then every mapped pair, in both directions",
    modes=SNAPSHOT,
)
def mapped(stage: Stage) -> None:
    """The handle of one site leads to the volume of the same uuid on the other, either way."""
    on_dr1 = stage.volume()
    elsewhere = _handle(stage.there, on_dr1.uuid)
    expect(stage.here.client.enable(elsewhere), "OK")
    require(stage.here.mirrored(on_dr1), "a mirrored image on dr1", "none")
    on_dr2 = stage.lab.make_volume("dr2", 8 << 20)
    expect(stage.there.client.enable(_handle(stage.here, on_dr2.uuid)), "OK")
    require(stage.there.mirrored(on_dr2), "a mirrored image on dr2", "none")


@case(
    "handles/image-name",
    kind=Kind.SPEC,
    row="the image name from omap object csi.volume.<uuid> key csi.imagename, else csi-vol-<uuid>; "
    "the journal is read only, never created",
    modes=SNAPSHOT,
)
def image_name(stage: Stage) -> None:
    """The name in the CSI journal counts; without a journal the default; none is made."""
    ceph, named, plain = stage.here.site, stage.volume(), stage.volume()
    ceph.rbd("mv", f"{ceph.pool}/{named.image}", f"{ceph.pool}/renamed-{named.uuid}")
    with ceph.ioctx() as ioctx:
        _set_omap(ioctx, f"csi.volume.{named.uuid}", "csi.imagename", f"renamed-{named.uuid}")
        ioctx.remove_object(f"csi.volume.{plain.uuid}")
    for volume in (named, plain):
        expect(stage.here.client.enable(volume.handle), "OK")
    renamed = Volume(handle=named.handle, uuid=named.uuid, image=f"renamed-{named.uuid}")
    require(stage.here.mirrored(renamed), "the renamed image is mirrored", "it is not")
    entry = stage.here.journal_entry(plain, "csi.imagename")
    require(entry is None, "no journal where there was none", entry)


@case(
    "handles/config-reloaded",
    kind=Kind.CONTRACT,
    row="Both files are re-read when they change; half written ones keep the last good version in "
    "use; key names without regard to case; radosNamespace",
    modes=SNAPSHOT,
    alone=True,
)
def config_reloaded(stage: Stage) -> None:
    """A new cluster id with a RADOS namespace is known at once; broken files harm nobody."""
    ceph, volume = stage.here.site, stage.volume()
    tenant = f"tenant-{stage.mode}"
    ceph.rbd("namespace", "create", "--pool", ceph.pool, "--namespace", tenant)
    ceph.rbd("mirror", "pool", "enable", f"{ceph.pool}/{tenant}", "image")
    with _config(stage.here) as entries, ceph.ioctx(tenant) as ioctx:
        rbd.RBD().create(ioctx, volume.image, 8 << 20, old_format=False)
        own = entries[0]
        entries.append(
            {"CLUSTERid": tenant, "Monitors": own["monitors"], "RBD": {"RADOSnamespace": tenant}}
        )
        _write(stage.here, json.dumps(entries))
        handle = f"0001-{len(tenant):04x}-{tenant}-{ceph.pool_id:016x}-{volume.uuid}"
        expect(stage.here.client.enable(handle), "OK")
        with rbd.Image(ioctx, volume.image, read_only=True) as image:
            state = image.mirror_image_get_info()["state"]
        require(state == rbd.RBD_MIRROR_IMAGE_ENABLED, "the namespace's image mirrored", state)
        require(not stage.here.mirrored(volume), "the other image of that name untouched", "it is")
        _write(stage.here, json.dumps(entries)[:-20])
        expect(stage.here.client.enable(handle), "OK")
        expect(stage.here.client.disable(handle), "OK")
    expect(stage.here.client.enable(handle), "UNAVAILABLE")


def _without_volume(stage: Stage) -> str:
    return _handle(stage.here, str(uuid.uuid4()))


def _handle(site: SiteUnderTest, of: str) -> str:
    ceph = site.site
    return f"0001-{len(ceph.cluster_id):04x}-{ceph.cluster_id}-{ceph.pool_id:016x}-{of}"


def _set_omap(ioctx: rados.Ioctx, name: str, key: str, value: str) -> None:

    with rados.WriteOpCtx() as operation:
        ioctx.set_omap(operation, (key,), (value,))
        ioctx.operate_write_op(operation, name)


@contextmanager
def _config(site: SiteUnderTest) -> Iterator[list[dict[str, Any]]]:
    """Lend the entries of a site's config.json, and put the file back as it was."""
    path = site.site.config_dir / "config.json"
    before = path.read_text()
    try:
        yield json.loads(before)
    finally:
        path.write_text(before)


def _write(site: SiteUnderTest, text: str) -> None:
    (site.site.config_dir / "config.json").write_text(text)
