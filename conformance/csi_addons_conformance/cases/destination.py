# SPDX-License-Identifier: Apache-2.0
"""GetReplicationDestinationInfo."""

from csi_addons_conformance.case import Kind, case, expect, require
from csi_addons_conformance.stage import Stage


@case(
    "destination/symmetric",
    kind=Kind.SPEC,
    row="The handle by which the peer site knows the volume; X → Y here must be Y → X there",
)
def symmetric(stage: Stage) -> None:
    """The handle that dr1 answers leads back from dr2, by either handle, to the one of dr1."""
    volume = stage.mirrored()
    there = stage.here.client.destination(volume.handle)
    expect(there, "OK")
    require(f"{stage.there.site.pool_id:016x}" in there.destination, "dr2's pool id", there)
    for handle in (there.destination, volume.handle):
        back = stage.there.client.destination(handle)
        expect(back, "OK")
        require(back.destination == volume.handle, volume.handle, back.destination)


@case(
    "destination/before-any-sync",
    kind=Kind.CONTRACT,
    row="Needs no sync to have happened",
)
def before_any_sync(stage: Stage) -> None:
    """A volume that was enabled a moment ago has a destination already."""
    volume = stage.enabled()
    expect(stage.here.client.destination(volume.handle), "OK")


@case(
    "destination/not-mirrored",
    kind=Kind.SPEC,
    row="Mirroring off → FAILED_PRECONDITION",
    modes=("snapshot",),
)
def not_mirrored(stage: Stage) -> None:
    """A volume that is not mirrored has no destination: FAILED_PRECONDITION."""
    expect(stage.here.client.destination(stage.volume().handle), "FAILED_PRECONDITION")
