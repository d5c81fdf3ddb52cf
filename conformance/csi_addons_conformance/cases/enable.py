# SPDX-License-Identifier: Apache-2.0
"""EnableVolumeReplication."""

import json
import struct
import sys
import uuid
from functools import partial

import rbd

from csi_addons_conformance.case import (
    JOURNAL,
    SNAPSHOT,
    Kind,
    SkippedError,
    case,
    expect,
    require,
    settle,
)
from csi_addons_conformance.client import Answer
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import SIZE, Stage
from lab import Volume
from lab.site import driver_caps
from lab.volumes import handle_of

_OTHER = {"snapshot": "journal", "journal": "snapshot"}
_IMAGE_DISABLING, _IMAGE_ENABLED = 0, 1
"""States of ``cls::rbd::MirrorImage``, as they lie in the pool."""
_JOURNAL_MODE, _SNAPSHOT_MODE = 0, 1
_MODULES_SHARE_ONE_INTERPRETER = 20
"""The release of Ceph whose manager first runs its modules so."""


# --- mirroring comes on ----------------------------------------------------------------------


@case(
    "enable/mirrors",
    kind=Kind.SPEC,
    row="mirroringMode (snapshot, default, or journal); already enabled in the mode asked for → OK",
)
def mirrors(stage: Stage) -> None:
    """Mirroring is on in the mode asked for, the image primary; repeating it changes nothing."""
    volume = stage.enabled()
    require(stage.here.mirrored(volume), "mirroring is on", "it is off")
    require(stage.here.mode(volume) == stage.mode, stage.mode, stage.here.mode(volume))
    require(stage.here.primary(volume), "the image is primary", "it is not")
    before = _newest_snapshot(stage.here, volume)
    expect(stage.here.client.enable(volume.handle, mirroringMode=stage.mode), "OK")
    require(stage.here.mode(volume) == stage.mode, stage.mode, stage.here.mode(volume))
    after = _newest_snapshot(stage.here, volume)
    require(before == after, f"no new mirror snapshot after {before}", after)


@case(
    "enable/default-mode",
    kind=Kind.CONTRACT,
    row="mirroringMode (snapshot, default, or journal)",
    modes=SNAPSHOT,
)
def default_mode(stage: Stage) -> None:
    """Without parameters the mode is snapshot."""
    volume = stage.volume()
    expect(stage.here.client.enable(volume.handle), "OK")
    require(stage.here.mode(volume) == "snapshot", "snapshot", stage.here.mode(volume))


@case(
    "enable/mode-mismatch",
    kind=Kind.SPEC,
    row="Already enabled in the other mode → FAILED_PRECONDITION, naming both",
)
def mode_mismatch(stage: Stage) -> None:
    """The other mode than the one it is in is refused, both are named, nothing changes."""
    volume = stage.enabled()
    refused = stage.here.client.enable(volume.handle, mirroringMode=_OTHER[stage.mode])
    expect(refused, "FAILED_PRECONDITION", saying=("snapshot", "journal"))
    require(stage.here.mode(volume) == stage.mode, stage.mode, stage.here.mode(volume))


@case(
    "enable/on-a-secondary",
    kind=Kind.SPEC,
    row="Already enabled in the mode asked for → OK; the schedule is brought in line if the image "
    "is primary",
)
def on_a_secondary(stage: Stage) -> None:
    """On the secondary Enable is OK, makes nothing primary and puts no schedule there."""
    volume = stage.mirrored(schedulingInterval="5m")
    answer = stage.there.client.enable(
        volume.handle, mirroringMode=stage.mode, schedulingInterval="5m"
    )
    expect(answer, "OK")
    require(not stage.there.primary(volume), "a secondary", "a primary")
    require(stage.here.primary(volume), "dr1 stays primary", "it does not")
    require(not stage.there.schedules(volume), "no schedule", stage.there.schedules(volume))
    refused = stage.there.client.enable(volume.handle, mirroringMode=_OTHER[stage.mode])
    expect(refused, "FAILED_PRECONDITION", saying=("snapshot", "journal"))


@case(
    "enable/migrating",
    kind=Kind.CONTRACT,
    row="The request cannot succeed before someone changes the image (migration prepared) → "
    "FAILED_PRECONDITION, naming the cause and what to change",
)
def migrating(stage: Stage) -> None:
    """Refused in each state of a live migration, by its name; enabled when that is committed."""
    volume, here = stage.volume(), stage.here
    with here.site.ioctx() as ioctx:
        migration = rbd.RBD()
        migration.migration_prepare(ioctx, volume.image, ioctx, volume.image)
        for go_on in (migration.migration_execute, migration.migration_commit):
            refused = here.client.enable(volume.handle, mirroringMode=stage.mode)
            expect(refused, "FAILED_PRECONDITION", saying=("migration", "rbd migration commit"))
            require(refused.reason == "IMAGE_MIGRATING", "IMAGE_MIGRATING", refused)
            require(not here.mirrored(volume), "a volume that is not mirrored", "a mirrored one")
            go_on(ioctx, volume.image)
    settle(partial(here.client.enable, volume.handle, mirroringMode=stage.mode))
    require(here.primary(volume), "a primary", "a secondary")


@case(
    "enable/disabling",
    kind=Kind.CONTRACT,
    row="Disabling → ABORTED",
)
def disabling(stage: Stage) -> None:
    """While mirroring is being switched off Enable is ABORTED, in either mode."""
    volume = stage.enabled()
    half_disable(stage.here, volume)
    for mode in ("snapshot", "journal"):
        expect(stage.here.client.enable(volume.handle, mirroringMode=mode), "ABORTED")


@case(
    "enable/pool-not-mirrored",
    kind=Kind.SPEC,
    row="Pool (or namespace) mirroring is off, or in pool mode → FAILED_PRECONDITION, with the "
    "command that sets it to image",
    alone=True,
)
def pool_not_mirrored(stage: Stage) -> None:
    """A pool that is not mirrored, or as a whole, is refused with the command; then it is OK."""
    site, pool = stage.here.site, f"unmirrored-{stage.mode}"
    with stage.here.extra_pool(pool):
        volume = _volume_in(stage.here, pool)
        client = stage.here.client_of(f"user-of-{pool}", driver_caps(pool))

        def ask() -> None:
            refused = client.enable(volume.handle, mirroringMode=stage.mode)
            expect(
                refused,
                "FAILED_PRECONDITION",
                saying=(pool, f"rbd mirror pool enable {pool} image"),
            )

        ask()
        site.rbd("mirror", "pool", "enable", pool, "pool")
        ask()
        site.rbd("mirror", "pool", "enable", pool, "image")
        expect(client.enable(volume.handle, mirroringMode=stage.mode), "OK")
        expect(client.disable(volume.handle), "OK")
        site.rbd("mirror", "pool", "disable", pool)


@case(
    "enable/pool-for-namespaces",
    kind=Kind.SPEC,
    row="Pool (or namespace) mirroring is off, or in pool mode → FAILED_PRECONDITION, with the "
    "command that sets it to image",
    modes=SNAPSHOT,
    alone=True,
)
def pool_for_namespaces(stage: Stage) -> None:
    """A pool of which only namespaces are mirrored (Ceph 20's init-only) is refused likewise."""
    site, pool = stage.here.site, "for-namespaces"
    if "init-only" not in site.rbd("help", "mirror", "pool", "enable"):
        raise SkippedError("Ceph knows no such mode of a pool before 20")
    with stage.here.extra_pool(pool):
        volume = _volume_in(stage.here, pool)
        client = stage.here.client_of(f"user-of-{pool}", driver_caps(pool))
        site.rbd("mirror", "pool", "enable", pool, "init-only")
        refused = client.enable(volume.handle, mirroringMode=stage.mode)
        expect(refused, "FAILED_PRECONDITION", saying=(f"rbd mirror pool enable {pool} image",))
        site.rbd("mirror", "pool", "enable", pool, "image")
        expect(client.enable(volume.handle, mirroringMode=stage.mode), "OK")
        expect(client.disable(volume.handle), "OK")
        site.rbd("mirror", "pool", "disable", pool)


def _volume_in(site: SiteUnderTest, pool: str) -> Volume:
    pools = json.loads(site.site.ceph("osd", "lspools", "--format", "json"))
    number = next(each["poolnum"] for each in pools if each["poolname"] == pool)
    name = str(uuid.uuid4())
    handle = handle_of(site.site, name).replace(f"{site.site.pool_id:016x}", f"{number:016x}")
    volume = Volume(handle=handle, uuid=name, image=f"csi-vol-{name}")
    site.site.rbd("create", f"{pool}/{volume.image}", "--size", "16M")
    return volume


# --- what journal mode needs -----------------------------------------------------------------


@case(
    "enable/journal-features",
    kind=Kind.CONTRACT,
    row="Features that journal mode needs are missing and cannot be switched on → "
    "FAILED_PRECONDITION, naming them",
    modes=JOURNAL,
)
def journal_features(stage: Stage) -> None:
    """Features that journal mode lacks are switched on, and are off again after Disable."""
    volume = stage.lab.make_volume("dr1", SIZE, features=rbd.RBD_FEATURE_LAYERING)
    expect(stage.here.client.enable(volume.handle, mirroringMode=stage.mode), "OK")
    needed = rbd.RBD_FEATURE_EXCLUSIVE_LOCK | rbd.RBD_FEATURE_JOURNALING
    with stage.here.image(volume) as image:
        require(image.features() & needed == needed, "both features", image.features())
    expect(stage.here.client.disable(volume.handle), "OK")
    with stage.here.image(volume) as image:
        require(image.features() & needed == 0, "the features as before", image.features())


@case(
    "enable/features-missing",
    kind=Kind.CONTRACT,
    row="Features that journal mode needs are missing and cannot be switched on → "
    "FAILED_PRECONDITION, naming them",
    modes=JOURNAL,
)
def features_missing(stage: Stage) -> None:
    """An image of format 1 can never have them: refused, naming what is missing; off is OK."""
    name = str(uuid.uuid4())
    volume = Volume(handle=handle_of(stage.here.site, name), uuid=name, image=f"csi-vol-{name}")
    with stage.here.site.ioctx() as ioctx:
        ioctx.write_full(f"{volume.image}.rbd", _header_of_format_1())
    try:
        with stage.here.image(volume) as image:
            features = image.features()
    except rbd.Error as exc:
        raise SkippedError("this Ceph release opens no images of format 1 any more") from exc
    require(features == 0, "an image without features", features)
    refused = stage.here.client.enable(volume.handle, mirroringMode=stage.mode)
    expect(refused, "FAILED_PRECONDITION", saying=("exclusive-lock",))
    expect(stage.here.client.disable(volume.handle), "OK")


def _header_of_format_1() -> bytes:
    """Return what releases before 2012 kept of an image: librbd still opens it, makes none."""
    return struct.pack(
        "<40s24s4s8s4BQQIIQ",
        b"<<< Rados Block Device Image >>>\n",
        f"rb.0.{uuid.uuid4().hex[:8]}".encode(),
        *(b"RBD", b"001.005"),
        *(22, 0, 0, 0),
        *(SIZE, 0, 0, 0, 0),
    )


# --- clones ----------------------------------------------------------------------------------


@case(
    "enable/clone-of-unmirrored",
    kind=Kind.SPEC,
    row="Clone whose parent is not mirrored, and flattenMode=never → FAILED_PRECONDITION, naming "
    "the parent chain",
)
def clone_of_unmirrored(stage: Stage) -> None:
    """Both ancestors are named, by default and by flattenMode=never, and nothing changes."""
    first = stage.volume()
    second = clone(stage.here, first)
    third = clone(stage.here, second)
    for parameters in ({}, {"flattenMode": "never"}):
        refused = stage.here.client.enable(third.handle, mirroringMode=stage.mode, **parameters)
        expect(refused, "FAILED_PRECONDITION", saying=(first.image, second.image))
    require(not stage.here.mirrored(third), "a clone that is not mirrored", "a mirrored one")
    require(_parent(stage.here, third) == second.image, second.image, _parent(stage.here, third))


@case(
    "enable/clone-of-trashed",
    kind=Kind.SPEC,
    row="Clone whose parent is in the trash, and flattenMode=never → FAILED_PRECONDITION, naming "
    "the parent chain",
)
def clone_of_trashed(stage: Stage) -> None:
    """A parent in the trash, as ceph-csi leaves it behind, is named."""
    parent = stage.volume()
    child = clone(stage.here, parent)
    with stage.here.site.ioctx() as ioctx:
        rbd.RBD().trash_move(ioctx, parent.image)
    refused = stage.here.client.enable(child.handle, mirroringMode=stage.mode)
    expect(refused, "FAILED_PRECONDITION", saying=(parent.image, "trash"))
    require(not stage.here.mirrored(child), "a clone that is not mirrored", "a mirrored one")


@case(
    "enable/clone-of-mirrored",
    kind=Kind.CONTRACT,
    row="Clone whose parent is not mirrored, or in the trash → FAILED_PRECONDITION",
)
def clone_of_mirrored(stage: Stage) -> None:
    """A clone whose parent is mirrored is enabled as it is, and stays a clone."""
    parent = stage.enabled()
    child = clone(stage.here, parent)
    expect(stage.here.client.enable(child.handle, mirroringMode=stage.mode), "OK")
    require(stage.here.mirrored(child), "a mirrored clone", "one that is not")
    require(_parent(stage.here, child) == parent.image, parent.image, _parent(stage.here, child))


@case(
    "enable/clone-flattened",
    kind=Kind.CONTRACT,
    row="Clone and flattenMode=force → one flatten task; ABORTED with its progress until done, "
    "then as usual",
)
def clone_flattened(stage: Stage) -> None:
    """First ABORTED with progress, at most one task, then OK: mirrored, without a parent."""
    _require_that_flattening_is_survived(stage.here)
    parent = stage.volume(size=256 << 20)
    data = b"parent" * 1000
    stage.here.write(parent, data)
    child = clone(stage.here, parent)

    def ask() -> str:
        answer = stage.here.client.enable(
            child.handle, mirroringMode=stage.mode, flattenMode="force"
        )
        return f"{answer.code} {answer.message}"

    first = ask()
    require(first.startswith("ABORTED"), "ABORTED while the flatten task runs", first)
    require("%" in first, "its progress in percent", first)
    require(len(_tasks(stage.here, child)) <= 1, "one flatten task", _tasks(stage.here, child))
    settle(
        lambda: stage.here.client.enable(
            child.handle, mirroringMode=stage.mode, flattenMode="force"
        )
    )
    require(stage.here.mirrored(child), "a mirrored image", "one that is not")
    require(not _parent(stage.here, child), "no parent", _parent(stage.here, child))
    require(stage.here.read(child, len(data)) == data, "the parent's data", "other data")
    require(not stage.here.mirrored(parent), "an untouched parent", "a mirrored one")
    again = stage.here.client.enable(child.handle, mirroringMode=stage.mode, flattenMode="force")
    expect(again, "OK")
    require(not _tasks(stage.here, child), "no further task", _tasks(stage.here, child))


@case(
    "enable/clone-of-trashed-flattened",
    kind=Kind.CONTRACT,
    row="Clone and flattenMode=force → one flatten task; ABORTED with its progress until done, "
    "then as usual",
)
def clone_of_trashed_flattened(stage: Stage) -> None:
    """A clone whose parent is in the trash is made independent, too, and then mirrored."""
    _require_that_flattening_is_survived(stage.here)
    parent = stage.volume()
    child = clone(stage.here, parent)
    with stage.here.site.ioctx() as ioctx:
        rbd.RBD().trash_move(ioctx, parent.image)
    settle(
        lambda: stage.here.client.enable(
            child.handle, mirroringMode=stage.mode, flattenMode="force"
        )
    )
    require(stage.here.mirrored(child), "a mirrored image", "one that is not")
    require(not _parent(stage.here, child), "no parent", _parent(stage.here, child))


@case(
    "enable/clone-flattened-manager-frozen",
    kind=Kind.CONTRACT,
    row="Every call answers by our own bound, naming the cause; clone and flattenMode=force → one "
    "flatten task",
    alone=True,
)
def clone_flattened_manager_frozen(stage: Stage) -> None:
    """UNAVAILABLE within 8 s, naming the manager, and the image is free; thawed, it converges."""
    _require_that_flattening_is_survived(stage.here)
    child, client = clone(stage.here, stage.volume()), stage.here.client

    def ask() -> Answer:
        return client.enable(child.handle, mirroringMode=stage.mode, flattenMode="force")

    with stage.here.frozen("mgr"):
        expect(ask(), "UNAVAILABLE", saying=("manager", child.image), within=8)
        expect(client.disable(child.handle), "OK", within=5)
    settle(ask)
    require(stage.here.mirrored(child), "a mirrored image", "one that is not")
    require(not _parent(stage.here, child), "no parent", _parent(stage.here, child))


@case(
    "enable/not-a-clone-flattened",
    kind=Kind.CONTRACT,
    row="flattenMode (never, default, or force)",
)
def not_a_clone_flattened(stage: Stage) -> None:
    """flattenMode=force has no effect on an image without a parent: OK at once."""
    volume = stage.volume()
    answer = stage.here.client.enable(volume.handle, mirroringMode=stage.mode, flattenMode="force")
    expect(answer, "OK")


# --- facts, and what other modules need, too -------------------------------------------------


def clone(site: SiteUnderTest, parent: Volume) -> Volume:
    """Clone a volume as ceph-csi does: from a snapshot that needs no protection."""
    pool, name = site.site.pool, str(uuid.uuid4())
    child = Volume(handle=handle_of(site.site, name), uuid=name, image=f"csi-vol-{name}")
    snapshot = f"{pool}/{parent.image}@for-{name[:8]}"
    site.site.rbd("snap", "create", snapshot)
    version = ("--rbd-default-clone-format", "2")
    site.site.rbd("clone", *version, snapshot, f"{pool}/{child.image}")
    return child


def half_disable(site: SiteUnderTest, volume: Volume) -> None:
    """Leave the image as a client does that dies while it switches mirroring off."""
    with site.image(volume) as image:
        info, mode = image.mirror_image_get_info(), image.mirror_image_get_mode()
        image_id = image.id()
    snapshot = mode == rbd.RBD_MIRROR_IMAGE_MODE_SNAPSHOT
    entry = _text(info["global_id"]) + bytes(
        (_IMAGE_DISABLING, _SNAPSHOT_MODE if snapshot else _JOURNAL_MODE)
    )
    # version 2, readable from version 1 on, length
    request = _text(image_id) + struct.pack("<BBI", 2, 1, len(entry)) + entry
    with site.site.ioctx() as ioctx:
        ioctx.execute("rbd_mirroring", "rbd", "mirror_image_set", request)
    require(not site.mirrored(volume), "an image that reads disabling", "one that is enabled")


def _text(text: str) -> bytes:
    return struct.pack("<I", len(text)) + text.encode()


def _require_that_flattening_is_survived(site: SiteUnderTest) -> None:
    """Skip where the manager dies of it: before Ceph 20 each module has its own interpreter.

    With Python 3.13 the first report of progress that librbd makes there is a segmentation fault.
    """
    (manager,) = json.loads(site.site.ceph("versions"))["mgr"]
    release = int(manager.split()[2].partition(".")[0])
    if release < _MODULES_SHARE_ONE_INTERPRETER and sys.version_info >= (3, 13):
        raise SkippedError(f"the manager of Ceph {release} with this Python dies while it flattens")


def _parent(site: SiteUnderTest, volume: Volume) -> str:
    with site.image(volume) as image:
        try:
            return image.get_parent_image_spec()["image_name"]
        except rbd.ImageNotFound:
            return ""


def _tasks(site: SiteUnderTest, volume: Volume) -> list[str]:
    """List the manager's tasks on an image."""
    tasks = json.loads(site.site.ceph("rbd", "task", "list", "--format", "json"))
    return [each["message"] for each in tasks if volume.image in each["message"]]


def _newest_snapshot(site: SiteUnderTest, volume: Volume) -> int:
    return max((int(each["id"]) for each in site.mirror_snapshots(volume)), default=0)
