# SPDX-License-Identifier: Apache-2.0
"""DisableVolumeReplication."""

from csi_addons_conformance.case import SNAPSHOT, Kind, case, expect, poll, require, settle
from csi_addons_conformance.stage import Stage


@case(
    "disable/primary",
    kind=Kind.SPEC,
    row="Primary: remove our schedule and metadata, disable, verify; disabled → OK",
)
def primary(stage: Stage) -> None:
    """Mirroring is off on dr1 and the copy on dr2 goes; schedule and metadata go, too."""
    volume = stage.mirrored(schedulingInterval="5m")
    for _ in range(2):
        settle(lambda: stage.here.client.disable(volume.handle))
        require(not stage.here.mirrored(volume), "an image that is not mirrored", "a mirrored one")
    require(not stage.here.schedules(volume), "no schedule", stage.here.schedules(volume))
    with stage.here.image(volume) as image:
        left = [key for key, _ in image.metadata_list()]
    require(not left, "no metadata left", left)
    poll(lambda: not stage.there.exists(volume), seconds=90, what="the copy on dr2 is gone")
    settle(lambda: stage.there.client.disable(volume.handle), "NOT_FOUND")


@case(
    "disable/healthy-secondary",
    kind=Kind.SAFETY,
    row="Secondary that is up and replaying, with a peer seen up and primary → OK without "
    "touching it",
)
def healthy_secondary(stage: Stage) -> None:
    """OK, also with force, and the secondary goes on to follow."""
    volume = stage.mirrored()
    before = stage.there.image_id(volume)
    poll(
        lambda: stage.there.client.disable(volume.handle).code == "OK",
        seconds=90,
        what="Disable of the secondary answers OK",
    )
    expect(stage.there.client.disable(volume.handle, force="true"), "OK")
    require(stage.there.image_id(volume) == before, "the same image", stage.there.image_id(volume))
    require(stage.there.mirrored(volume), "a mirrored secondary", "one that is not")


@case(
    "disable/unhealthy-secondary",
    kind=Kind.SPEC,
    row="Any other secondary → FAILED_PRECONDITION with the exact reason, or disabled when force",
)
def unhealthy_secondary(stage: Stage) -> None:
    """A secondary whose peer is no primary: refused with the reason; disabled by force."""
    volume = stage.mirrored()
    settle(lambda: stage.here.client.demote(volume.handle))
    # until its rbd-mirror has found out, the statuses tell of a live primary
    poll(
        lambda: stage.there.client.disable(volume.handle).code == "FAILED_PRECONDITION",
        seconds=90,
        what="Disable answers FAILED_PRECONDITION",
    )
    answer = stage.there.client.disable(volume.handle)
    expect(answer, "FAILED_PRECONDITION", saying=("secondary",))
    settle(lambda: stage.there.client.disable(volume.handle, force="true"), "OK", "NOT_FOUND")
    require(
        not stage.there.exists(volume) or not stage.there.mirrored(volume),
        "a secondary that is no longer mirrored",
        "one that is",
    )


@case(
    "disable/gone",
    kind=Kind.SPEC,
    row="gone → NOT_FOUND",
    modes=SNAPSHOT,
)
def gone(stage: Stage) -> None:
    """An image that was removed is NOT_FOUND: the controller drops its finalizers."""
    volume = stage.volume()
    stage.here.site.rbd("rm", f"{stage.here.site.pool}/{volume.image}")
    expect(stage.here.client.disable(volume.handle), "NOT_FOUND")


@case(
    "disable/never-enabled",
    kind=Kind.SPEC,
    row="Idempotent and total: disabled → OK",
    modes=SNAPSHOT,
)
def never_enabled(stage: Stage) -> None:
    """OK on an image that never was mirrored."""
    expect(stage.here.client.disable(stage.volume().handle), "OK")
