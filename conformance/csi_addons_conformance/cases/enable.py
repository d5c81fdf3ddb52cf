# SPDX-License-Identifier: Apache-2.0
"""EnableVolumeReplication."""

import json
from functools import partial

import rbd

from csi_addons_conformance.case import BOTH, SNAPSHOT, Kind, case, expect, require, settle
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage
from lab import Volume


@case(
    "enable/switches-mirroring-on",
    kind=Kind.SPEC,
    row="Enabled in the mode asked for; already enabled in that mode → OK",
)
def switches_on(stage: Stage) -> None:
    """The image is mirrored in the mode asked for, and primary; asking again changes nothing."""
    volume = stage.volume()
    for _ in range(2):
        expect(stage.here.client.enable(volume.handle, mirroringMode=stage.mode), "OK")
        require(stage.here.mode(volume) == stage.mode, stage.mode, stage.here.mode(volume))
        require(stage.here.primary(volume), "a primary image", "a secondary")


@case(
    "enable/snapshot-is-the-default",
    kind=Kind.CONTRACT,
    row="mirroringMode: snapshot is the default",
    modes=SNAPSHOT,
)
def default_mode(stage: Stage) -> None:
    """Without the parameter the image is mirrored by snapshots."""
    volume = stage.volume()
    expect(stage.here.client.enable(volume.handle), "OK")
    require(stage.here.mode(volume) == "snapshot", "snapshot", stage.here.mode(volume))


@case(
    "enable/mode-mismatch",
    kind=Kind.CONTRACT,
    row="already enabled in the other mode → FAILED_PRECONDITION, naming both",
)
def mode_mismatch(stage: Stage) -> None:
    """FAILED_PRECONDITION that names both modes, and the image stays as it was."""
    volume = stage.enabled()
    (other,) = set(BOTH) - {stage.mode}
    answer = stage.here.client.enable(volume.handle, mirroringMode=other)
    expect(answer, "FAILED_PRECONDITION", saying=BOTH)
    require(stage.here.mode(volume) == stage.mode, stage.mode, stage.here.mode(volume))


@case(
    "enable/pool-not-mirrored",
    kind=Kind.SPEC,
    row="pool mirroring is off, or in pool mode → FAILED_PRECONDITION, with the command",
    modes=SNAPSHOT,
)
def pool_not_mirrored(stage: Stage) -> None:
    """FAILED_PRECONDITION with the command that sets it; so for a pool mirrored as a whole."""
    site = stage.here.site
    for name, mode in (("unmirrored", None), ("whole", "pool")):
        volume, pool = stage.volume(), f"{name}-{stage.mode}"
        handle = _in_pool(stage.here, volume, pool)
        if mode:
            site.rbd("mirror", "pool", "enable", pool, mode)
        answer = stage.here.client.enable(handle)
        expect(answer, "FAILED_PRECONDITION", saying=(f"rbd mirror pool enable {pool} image",))


def _in_pool(site: SiteUnderTest, volume: Volume, pool: str) -> str:
    """Move a volume to a new pool and return its handle there."""
    ceph = site.site
    ceph.ceph("osd", "pool", "create", pool)
    ceph.rbd("pool", "init", pool)
    ceph.rbd("rm", f"{ceph.pool}/{volume.image}")
    ceph.rbd("create", f"{pool}/{volume.image}", "--size", "8M")
    pools = json.loads(ceph.ceph("osd", "lspools", "--format", "json"))
    number = next(each["poolnum"] for each in pools if each["poolname"] == pool)
    return volume.handle.replace(f"{ceph.pool_id:016x}", f"{number:016x}")


@case(
    "enable/journal-features",
    kind=Kind.SPEC,
    row="features that journal mode needs are switched on; Disable switches them off again",
    modes=("journal",),
)
def journal_features(stage: Stage) -> None:
    """Journaling is on while the image is mirrored, and as before when it is not."""
    volume = stage.enabled()
    with stage.here.image(volume) as image:
        require(image.features() & rbd.RBD_FEATURE_JOURNALING, "journaling on", "off")
    settle(lambda: stage.here.client.disable(volume.handle))
    with stage.here.image(volume) as image:
        require(not image.features() & rbd.RBD_FEATURE_JOURNALING, "journaling off", "on")


@case(
    "enable/clone",
    kind=Kind.SPEC,
    row="clone whose parent is not mirrored, flattenMode=never → FAILED_PRECONDITION, naming it; "
    "flattenMode=force → one flatten task; ABORTED until done, then as usual",
)
def clone(stage: Stage) -> None:
    """Refused with the parent's name; with flattenMode=force an independent mirrored image."""
    parent, child = _parent_and_clone(stage)
    enable = stage.here.client.enable
    answer = enable(child.handle, mirroringMode=stage.mode)
    expect(answer, "FAILED_PRECONDITION", saying=(parent.image,))
    require(not stage.here.mirrored(child), "an image that is not mirrored", "a mirrored one")
    first = enable(child.handle, mirroringMode=stage.mode, flattenMode="force")
    expect(first, "ABORTED", "OK")
    settle(lambda: enable(child.handle, mirroringMode=stage.mode, flattenMode="force"))
    require(stage.here.mirrored(child), "a mirrored image", "one that is not")
    require(not _is_clone(stage, child), "an image of its own", "a clone")


@case(
    "enable/clone-of-trashed-parent",
    kind=Kind.SPEC,
    row="clone whose parent is in the trash, flattenMode=never → FAILED_PRECONDITION",
)
def clone_of_trashed(stage: Stage) -> None:
    """Refused with the parent's name, and that it lies in the trash."""
    parent, child = _parent_and_clone(stage)
    stage.here.site.rbd("trash", "mv", f"{stage.here.site.pool}/{parent.image}")
    answer = stage.here.client.enable(child.handle, mirroringMode=stage.mode)
    expect(answer, "FAILED_PRECONDITION", saying=(parent.image, "trash"))


@case(
    "enable/clone-of-mirrored-parent",
    kind=Kind.CONTRACT,
    row="a clone whose parent is mirrored → OK; Disable of the parent then → FAILED_PRECONDITION "
    "naming the clone",
    modes=SNAPSHOT,
)
def clone_of_mirrored(stage: Stage) -> None:
    """The clone is mirrored, stays a clone, and keeps its parent from being disabled."""
    parent, child = _parent_and_clone(stage)
    for volume in (parent, child):
        expect(stage.here.client.enable(volume.handle, mirroringMode=stage.mode), "OK")
    require(_is_clone(stage, child), "a clone", "an image of its own")
    refused = stage.here.client.disable(parent.handle)
    expect(refused, "FAILED_PRECONDITION", saying=(child.image,))
    require(stage.here.mirrored(parent), "a parent that is still mirrored", "one that is not")
    for volume in (child, parent):
        settle(partial(stage.here.client.disable, volume.handle))


def _parent_and_clone(stage: Stage) -> tuple[Volume, Volume]:
    """Make a volume, and another one as a clone of it."""
    ceph, parent, child = stage.here.site, stage.volume(), stage.volume()
    stage.here.write(parent, b"of the parent")
    ceph.rbd("rm", f"{ceph.pool}/{child.image}")
    ceph.rbd("snap", "create", f"{ceph.pool}/{parent.image}@base")
    ceph.rbd(
        *("clone", "--rbd-default-clone-format", "2"),
        *(f"{ceph.pool}/{parent.image}@base", f"{ceph.pool}/{child.image}"),
    )
    return parent, child


def _is_clone(stage: Stage, volume: Volume) -> bool:
    with stage.here.image(volume) as image:
        try:
            image.parent_id()
        except rbd.ImageNotFound:
            return False
    return True
