# SPDX-License-Identifier: Apache-2.0
"""The volume's image has another name, or is in another pool: what is said instead of absence."""

import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import rados
import rbd

from csi_addons_conformance.case import BOTH, SNAPSHOT, Kind, case, expect, poll, require, settle
from csi_addons_conformance.cases.handles import _CONFIG, _MAPPING, _added, _rewritten
from csi_addons_conformance.cases.promote import accepts
from csi_addons_conformance.cases.resync import await_split, checksum_when_ready, recreate_once
from csi_addons_conformance.client import METHODS, Answer
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage
from lab import Volume
from lab.site import DATA_POOL, Site, driver_caps
from lab.volumes import FEATURES, handle_of, make_volumes

_ROW = (
    "Before absence is said, look for images, in use or in the trash, whose name ends in the "
    "handle's uuid"
)
_MIB = 1 << 20


def _expect_elsewhere(ask: Callable[[str], Answer], *saying: str) -> None:
    """Check what each call says of an image that is not where the handle leads."""
    for method in METHODS:
        answer = ask(method)
        if method == "PromoteVolume":
            expect(answer, "UNAVAILABLE", reason="PROMOTION_BARRED", saying=saying)
        else:
            expect(answer, "FAILED_PRECONDITION", reason="VOLUME_ELSEWHERE", saying=saying)


def _renamed(site: SiteUnderTest, volume: Volume, prefix: str) -> Volume:
    """Give the image another prefix, as a class with volumeNamePrefix would."""
    image, pool = f"{prefix}{volume.uuid}", site.site.pool
    site.site.rbd("rename", f"{pool}/{volume.image}", f"{pool}/{image}")
    return Volume(handle=volume.handle, uuid=volume.uuid, image=image)


def _without_journal(site: Site, volume: Volume) -> None:
    with site.ioctx() as ioctx:
        ioctx.remove_object(f"csi.volume.{volume.uuid}")


def _write_journal(ioctx: rados.Ioctx, volume: Volume) -> None:
    with rados.WriteOpCtx() as operation:
        ioctx.set_omap(operation, ("csi.imagename",), (volume.image,))
        ioctx.operate_write_op(operation, f"csi.volume.{volume.uuid}")


@contextmanager
def _pool(site: SiteUnderTest, name: str, *, mirrored: bool, namespace: str = "") -> Iterator[str]:
    """Lend a pool, or a namespace in one, as the ``rbd`` command names it."""
    with site.extra_pool(name):
        where = name
        if mirrored:
            site.site.rbd("mirror", "pool", "enable", name, "image")
        if namespace:
            where = f"{name}/{namespace}"
            site.site.rbd("namespace", "create", where)
            site.site.rbd("mirror", "pool", "enable", where, "image")
        yield where


@case(
    "handles/prefix-without-journal",
    kind=Kind.SAFETY,
    row=f"{_ROW}. In the candidate's own pool and namespace exactly one, mirrored: that is the "
    "volume",
    modes=BOTH,
)
def prefix_without_journal(stage: Stage) -> None:
    """With volumeNamePrefix and no journal on the secondary, a failover there and back works."""
    volume = _renamed(stage.here, stage.volume(), "team-a-")
    with stage.here.site.ioctx() as ioctx:
        _write_journal(ioctx, volume)
    here, there = stage.here.client, stage.there.client
    expect(here.enable(volume.handle, mirroringMode=stage.mode), "OK")
    poll(
        lambda: stage.there.exists(volume) and stage.there.state(volume) == "up+replaying",
        seconds=90,
        what="the copy on dr2 follows",
    )
    settle(lambda: here.demote(volume.handle))
    upper = volume.handle[:-36] + volume.uuid.upper()
    settle(lambda: there.promote(volume.handle))
    require(stage.there.primary(volume), "a primary on dr2", "a secondary")
    expect(there.promote(upper), "OK")
    settle(lambda: there.demote(volume.handle))
    settle(lambda: there.promote(volume.handle))
    expect(there.disable(volume.handle), "OK")
    require(not stage.there.mirrored(volume), "no mirroring any more", "a mirrored image")
    # the answer may be lost: it is off, and stays so
    expect(there.disable(volume.handle), "OK")
    stage.there.site.rbd("rm", f"{stage.there.site.pool}/{volume.image}")
    settle(lambda: there.disable(volume.handle), "NOT_FOUND")


@case(
    "handles/journal-pool",
    kind=Kind.SAFETY,
    row="The journal may be missing on the secondary site, or stand in another pool "
    "(csi.journalpool), and the image name may have any prefix",
    modes=SNAPSHOT,
    alone=True,
)
def journal_pool(stage: Stage) -> None:
    """A journal in another pool proves which image is the volume; without it, nothing is done."""
    site = stage.here.site
    volume = _renamed(stage.here, stage.volume(), "team-a-")
    _without_journal(site, volume)
    with _pool(stage.here, "journals", mirrored=False):
        client = stage.here.client_of("of-journals", driver_caps(site.pool, DATA_POOL, "journals"))
        answer = client.enable(volume.handle)
        expect(answer, "FAILED_PRECONDITION", reason="VOLUME_ELSEWHERE", saying=(volume.image,))
        with site.connect() as cluster, cluster.open_ioctx("journals") as ioctx:
            _write_journal(ioctx, volume)
        expect(client.enable(volume.handle), "OK")
        require(stage.here.mirrored(volume), "a mirrored volume", "one that is not")
    stage.await_copy(volume)
    for each in (stage.here.client, stage.there.client):
        expect(each.destination(volume.handle), "OK")
    stage.move(stage.here, stage.there, volume)
    require(stage.there.primary(volume), "a primary on dr2", "a secondary")


@case(
    "handles/journal-without-entry",
    kind=Kind.SAFETY,
    row="The journal may stand in another pool; exactly one, mirrored: that is the volume",
    modes=SNAPSHOT,
    alone=True,
)
def journal_without_entry(stage: Stage) -> None:
    """A pool without a journal proves nothing of an image that has the default name."""
    site, volume = stage.here.site, stage.volume()
    # the journal names an image that is not there
    renamed = Volume(handle=volume.handle, uuid=volume.uuid, image=f"team-a-{volume.uuid}")
    with site.ioctx() as ioctx:
        _write_journal(ioctx, renamed)
    with _pool(stage.here, "no-journals", mirrored=False):
        client = stage.here.client_of(
            "of-no-journals", driver_caps(site.pool, DATA_POOL, "no-journals")
        )
        answer = client.enable(volume.handle)
        expect(answer, "FAILED_PRECONDITION", reason="VOLUME_ELSEWHERE", saying=(volume.image,))
    require(not stage.here.mirrored(volume), "an untouched image", "a mirrored one")


@case(
    "handles/namesake",
    kind=Kind.SAFETY,
    row="Disable's NOT_FOUND and OK make the controller drop its finalizers: not while the volume "
    "is mirrored elsewhere",
    modes=SNAPSHOT,
    alone=True,
)
def namesake(stage: Stage) -> None:
    """Disable is not OK for an unmirrored namesake while the volume is mirrored elsewhere."""
    site = stage.here.site
    backup = _renamed(stage.here, stage.volume(), "backup-")
    _without_journal(site, backup)
    client = stage.here.client_of("of-both", driver_caps(site.pool, DATA_POOL, "real"))
    with _pool(stage.here, "real", mirrored=True) as where:
        image = f"{where}/csi-vol-{backup.uuid}"
        site.rbd("create", image, "--size", "1M")
        site.rbd("mirror", "image", "enable", image, "snapshot")
        answer = client.disable(backup.handle)
        expect(
            answer,
            "FAILED_PRECONDITION",
            reason="VOLUME_ELSEWHERE",
            saying=(image, backup.image),
        )
        site.rbd("mirror", "image", "disable", image)
        site.rbd("rm", "--no-progress", image)
        expect(client.disable(backup.handle), "OK")


@case(
    "handles/prefix-not-mirrored",
    kind=Kind.SAFETY,
    row=f"{_ROW}. Exactly one, mirrored: that is the volume",
    modes=SNAPSHOT,
)
def prefix_not_mirrored(stage: Stage) -> None:
    """One that is not mirrored proves nothing, nor do several; all are named."""
    client = stage.here.client
    one = _renamed(stage.here, stage.volume(), "team-a-")
    _without_journal(stage.here.site, one)
    for method in METHODS:
        if method not in ("DisableVolumeReplication", "PromoteVolume"):
            answer = client.call(method, one.handle)
            expect(answer, "FAILED_PRECONDITION", reason="VOLUME_ELSEWHERE", saying=(one.image,))
    expect(client.promote(one.handle), "UNAVAILABLE", reason="PROMOTION_BARRED")
    # there is nothing to switch off
    expect(client.disable(one.handle), "OK")
    with stage.here.site.ioctx() as ioctx:
        other = f"team-b-{one.uuid.upper()}"
        rbd.RBD().create(ioctx, other, _MIB, old_format=False, features=FEATURES)
    stage.here.site.rbd("mirror", "image", "enable", f"{stage.here.site.pool}/{other}", "snapshot")
    _expect_elsewhere(lambda method: client.call(method, one.handle), one.image, other)
    require(not stage.here.mirrored(one), "an untouched image", "a mirrored one")


@case(
    "handles/prefix-in-trash",
    kind=Kind.SAFETY,
    row=_ROW,
    modes=SNAPSHOT,
)
def prefix_in_trash(stage: Stage) -> None:
    """In the trash under any prefix it is neither usable nor gone."""
    volume = _renamed(stage.here, stage.volume(), "team-a-")
    _without_journal(stage.here.site, volume)
    with stage.here.site.ioctx() as ioctx:
        rbd.RBD().trash_move(ioctx, volume.image)
    for method in METHODS:
        answer = stage.here.client.call(method, volume.handle)
        expect(answer, "FAILED_PRECONDITION", reason="IMAGE_IN_TRASH", saying=(volume.image,))


@case(
    "handles/migration-source",
    kind=Kind.SAFETY,
    row=_ROW,
    modes=SNAPSHOT,
)
def migration_source(stage: Stage) -> None:
    """The source of a live migration is in the trash, too: it is named, and not to be purged."""
    volume, pool = stage.volume(), stage.here.site.pool
    target = f"{pool}/moved-{volume.uuid[:8]}"
    stage.here.site.rbd("migration", "prepare", f"{pool}/{volume.image}", target)
    for method in METHODS:
        answer = stage.here.client.call(method, volume.handle)
        expect(
            answer,
            "FAILED_PRECONDITION",
            reason="IMAGE_IN_TRASH",
            saying=(volume.image, "rbd migration abort"),
        )
        require("purge" not in answer.message, "no advice to remove it", answer)
    stage.here.site.rbd("migration", "abort", target)
    expect(stage.here.client.enable(volume.handle), "OK")


@case(
    "handles/prefix-resync-record",
    kind=Kind.SAFETY,
    row="While the resync record stands no call says NOT_FOUND (Disable: ABORTED)",
    modes=SNAPSHOT,
)
def prefix_resync_record(stage: Stage) -> None:
    """A record under any prefix keeps an absent image from being called gone."""
    name = str(uuid.uuid4())
    handle, key = handle_of(stage.here.site, name), f"csi-addons-rbd/resync/team-a-{name}"
    with stage.here.site.ioctx() as ioctx:
        record = '{"image_id": "0123456789ab", "requested": 1780000000, "sent": true}'
        rbd.RBD().pool_metadata_set(ioctx, key, record)
        expect(stage.here.client.disable(handle), "ABORTED", reason="IMAGE_RECREATING")
        rbd.RBD().pool_metadata_remove(ioctx, key)
    expect(stage.here.client.disable(handle), "NOT_FOUND", reason="VOLUME_NOT_FOUND")


@case(
    "handles/prefix-resync",
    kind=Kind.SAFETY,
    row="Split-brain, force → record, then request the resync, once; ready=true when it is done; "
    "the image name may have any prefix, and the journal may be missing on the secondary site",
    modes=BOTH,
)
def prefix_resync(stage: Stage) -> None:
    """An image that a resync brought back under a prefix is the volume again."""
    here, there = stage.here, stage.there
    volume = _renamed(here, stage.volume(), "team-a-")
    with here.site.ioctx() as ioctx:
        _write_journal(ioctx, volume)
    expect(here.client.enable(volume.handle, mirroringMode=stage.mode), "OK")
    stage.await_copy(volume)
    settle(lambda: there.client.promote(volume.handle, force=True))
    for site in (here, there):
        write = partial(accepts, site, volume, site.name.encode() * 100, 0)
        poll(write, seconds=60, what=f"{site.name} takes a write")
    if stage.mode == "snapshot":
        here.take_mirror_snapshot(volume)
    settle(lambda: there.client.demote(volume.handle))
    await_split(there, volume)
    recreate_once(there, volume)
    settle(lambda: here.client.demote(volume.handle))
    came = checksum_when_ready(there, volume)
    require(came == here.checksum(volume), "the primary's data", "other data")
    settle(lambda: there.client.promote(volume.handle))
    settle(lambda: there.client.disable(volume.handle))
    require(not there.mirrored(volume), "no mirroring any more", "a mirrored image")


@case(
    "handles/resync-in-another-pool",
    kind=Kind.SAFETY,
    row="While the resync record stands no call says NOT_FOUND; anywhere else in the cluster's "
    "mirrored pools: FAILED_PRECONDITION naming what was found",
    modes=SNAPSHOT,
    alone=True,
)
def resync_in_another_pool(stage: Stage) -> None:
    """What a resync is about to bring back in another pool is not gone."""
    site, name = stage.here.site, str(uuid.uuid4())
    handle, key = handle_of(site, name), f"csi-addons-rbd/resync/team-a-{name}"
    record = '{"image_id": "0123456789ab", "requested": 1780000000, "sent": true'
    for number, namespace in enumerate(("", "tenant")):
        pool = f"recreating-{number}"
        client = stage.here.client_of(
            f"of-recreating-{number}", driver_caps(site.pool, DATA_POOL, pool)
        )
        with (
            _pool(stage.here, pool, mirrored=True, namespace=namespace) as where,
            site.connect() as cluster,
            cluster.open_ioctx(pool) as ioctx,
        ):
            ioctx.set_namespace(namespace)
            rbd.RBD().pool_metadata_set(ioctx, key, f"{record}}}")
            _expect_elsewhere(
                lambda method: client.call(method, handle),  # noqa: B023
                f"{where}/team-a-{name}",
                "copied anew by a resync",
            )
            rbd.RBD().pool_metadata_set(ioctx, key, f'{record}, "done": true}}')
            expect(client.disable(handle), "NOT_FOUND", reason="VOLUME_NOT_FOUND")


@case(
    "handles/in-another-pool",
    kind=Kind.SAFETY,
    row="Anywhere else in the cluster's mirrored pools: no NOT_FOUND, but FAILED_PRECONDITION "
    "(Promote: UNAVAILABLE) naming what was found",
    modes=SNAPSHOT,
    alone=True,
)
def in_another_pool(stage: Stage) -> None:
    """In another mirrored pool or namespace, in use or in the trash; not without mirroring."""
    site = stage.here.site
    for number, (mirrored, namespace) in enumerate(((True, ""), (False, "tenant"), (False, ""))):
        name = f"elsewhere-{number}"
        client = stage.here.client_of(f"all-{number}", driver_caps(site.pool, DATA_POOL, name))
        with _pool(stage.here, name, mirrored=mirrored, namespace=namespace) as where:
            handle = handle_of(site, uuid_ := str(uuid.uuid4()))
            image = f"{where}/csi-vol-{uuid_}"
            site.rbd("create", image, "--size", "1M")
            if not mirrored and not namespace:
                answer = client.disable(handle)
                expect(answer, "NOT_FOUND", reason="VOLUME_NOT_FOUND")
                continue
            _expect_elsewhere(lambda method: client.call(method, handle), image, site.cluster_id)  # noqa: B023
            site.rbd("trash", "mv", image)
            _expect_elsewhere(lambda method: client.call(method, handle), image, "trash")  # noqa: B023


@case(
    "handles/may-not-look",
    kind=Kind.SAFETY,
    row="Or where the key may not look: no NOT_FOUND, but FAILED_PRECONDITION (Promote: "
    "UNAVAILABLE)",
    modes=SNAPSHOT,
    alone=True,
)
def may_not_look(stage: Stage) -> None:
    """A pool of images that the key may not read leaves every absence unproven, and is named."""
    site, client = stage.here.site, stage.here.client
    handle = handle_of(site, str(uuid.uuid4()))
    expect(client.disable(handle), "NOT_FOUND", reason="VOLUME_NOT_FOUND")
    with _pool(stage.here, "hidden", mirrored=True):
        poll(
            lambda: client.disable(handle).code == "FAILED_PRECONDITION",
            seconds=60,
            what="the monitors know that there are objects in the pool",
        )
        _expect_elsewhere(
            lambda method: client.call(method, handle), "hidden", "unfinished", "profile rbd-read"
        )
        # an image that is there is found for all that
        volume = stage.volume()
        expect(client.enable(volume.handle), "OK")
        site.ceph(
            "osd", "pool", "application", "disable", "hidden", "rbd", "--yes-i-really-mean-it"
        )
        site.ceph("osd", "pool", "application", "enable", "hidden", "rgw")
        poll(
            lambda: client.disable(handle).reason == "VOLUME_NOT_FOUND",
            seconds=30,
            what="a pool of another application does not matter",
        )


@contextmanager
def _muted(site: Site, pool: str) -> Iterator[int]:
    """Have a pool answer nobody, as one whose OSDs are all gone; lend its id."""
    site.ceph("osd", "crush", "add-bucket", "nowhere", "root")
    site.ceph("osd", "crush", "rule", "create-replicated", "of-nobody", "nowhere", "osd")
    try:
        site.ceph("osd", "pool", "set", pool, "crush_rule", "of-nobody")
        with site.connect() as cluster:
            cluster.wait_for_latest_osdmap()
            number = cluster.pool_lookup(pool)
        assert number is not None
        yield number
    finally:
        site.ceph("osd", "pool", "set", pool, "crush_rule", "replicated_rule")
        site.ceph("osd", "crush", "rule", "rm", "of-nobody")
        site.ceph("osd", "crush", "rm", "nowhere")


@case(
    "handles/silent-pool",
    kind=Kind.SAFETY,
    row="A candidate that does not answer does not end the search; the first error is reported "
    "when none was good; NOT_FOUND only when every candidate proved absent",
    modes=SNAPSHOT,
    alone=True,
)
def silent_pool(stage: Stage) -> None:
    """A pool that does not answer bars neither the volume in another, nor, without images, all."""
    site, volume = stage.here.site, stage.volume()
    gone = handle_of(site, str(uuid.uuid4()))
    client = stage.here.client_of("of-mute", driver_caps(site.pool, DATA_POOL, "mute"))
    with _pool(stage.here, "mute", mirrored=True), _muted(site, "mute") as number:
        pair = {
            "clusterIDMapping": {site.cluster_id: site.cluster_id},
            "RBDPoolIDMapping": [{str(number): str(site.pool_id)}],
        }
        with _added(stage.here, _MAPPING, pair):
            for handle in (volume.handle, gone):
                mute = f"{handle[:-53]}{number:016x}{handle[-37:]}"
                for method in ("EnableVolumeReplication", "PromoteVolume"):
                    answer = client.call(method, mute)
                    if handle == volume.handle:
                        expect(answer, "OK")
                    else:
                        expect(answer, "UNAVAILABLE", reason="CLUSTER_UNREACHABLE")
        answer = client.disable(gone)
        said = ("mute", "unfinished", "bring back the pools")
        expect(answer, "FAILED_PRECONDITION", reason="VOLUME_ELSEWHERE", saying=said)
        require("profile rbd" not in answer.message, "no advice on caps", answer)
        site.ceph("osd", "pool", "application", "disable", "mute", "rbd", "--yes-i-really-mean-it")
        site.ceph("osd", "pool", "application", "enable", "mute", "cephfs")
        expect(client.disable(gone), "NOT_FOUND", reason="VOLUME_NOT_FOUND")


@case(
    "handles/late-mapping",
    kind=Kind.SAFETY,
    row="NOT_FOUND only when every candidate proved absent: one cluster id on both sites, and the "
    "mapping comes late",
    modes=SNAPSHOT,
    alone=True,
)
def late_mapping(stage: Stage) -> None:
    """With one clusterID on both sites a handle of the peer is not NOT_FOUND without mapping."""
    volume, there = stage.mirrored(), stage.there
    entry = {"clusterID": stage.here.site.cluster_id, "monitors": list(there.site.monitors)}
    with _added(there, _CONFIG, entry), _rewritten(there, _MAPPING, lambda _: []):
        _expect_elsewhere(
            lambda method: there.client.call(method, volume.handle),
            f"{there.site.pool}/{volume.image}",
            f"pool id {there.site.pool_id}",
        )
        require(stage.here.primary(volume), "an untouched primary", "none")
        pair = {
            "clusterIDMapping": {stage.here.site.cluster_id: stage.here.site.cluster_id},
            "RBDPoolIDMapping": [{str(stage.here.site.pool_id): str(there.site.pool_id)}],
        }
        with _added(there, _MAPPING, pair):
            expect(there.client.disable(volume.handle), "OK")
            expect(there.client.info(volume.handle), "FAILED_PRECONDITION", reason="NOT_PRIMARY")


@case(
    "handles/odd-names",
    kind=Kind.SAFETY,
    row=_ROW,
    modes=SNAPSHOT,
    alone=True,
)
def odd_names(stage: Stage) -> None:
    """Names that are no UTF-8, and pages of any length, neither fail a call nor hide an image."""
    site, client = stage.here.site, stage.here.client
    raw = stage.volume()
    _without_journal(site, raw)
    odd = b"\xff\xfe-" + raw.uuid.encode()
    site.ceph("config", "set", "osd", "osd_max_omap_entries_per_request", "70")
    try:
        _rename_raw(site, raw.image, odd)
        expect(client.info(raw.handle), "FAILED_PRECONDITION", reason="VOLUME_ELSEWHERE")
        gone = handle_of(site, str(uuid.uuid4()))
        expect(client.disable(gone), "NOT_FOUND", reason="VOLUME_NOT_FOUND")
        for volume in make_volumes(site, _MIB, 150)[::15]:
            prefixed = _renamed(stage.here, volume, "zzz-")
            _without_journal(site, prefixed)
            site.rbd("mirror", "image", "enable", f"{site.pool}/{prefixed.image}", "snapshot")
            expect(client.promote(prefixed.handle), "OK")
    finally:
        site.ceph("config", "rm", "osd", "osd_max_omap_entries_per_request")
        _forget_raw(site, odd)


def _rename_raw(site: Site, name: str, odd: bytes) -> None:
    """Rename an image as ``rbd rename`` does it with a name that Python's bindings do not take."""
    argv = ["rbd", "--conf", str(site.ceph_conf), "rename", f"{site.pool}/{name}"]
    subprocess.run([*argv, site.pool.encode() + b"/" + odd], check=True, capture_output=True)


def _forget_raw(site: Site, odd: bytes) -> None:
    argv = ["rbd", "--conf", str(site.ceph_conf), "rm", "--no-progress"]
    subprocess.run([*argv, site.pool.encode() + b"/" + odd], check=False, capture_output=True)
