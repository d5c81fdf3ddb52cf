# SPDX-License-Identifier: Apache-2.0
"""A driver frozen in the middle of operations, and what it does when it thaws: nothing.

Meanwhile another driver does the same, which takes until the lease has run out, and undoes it
again. Whatever the first one would still do, would lose what the second one did.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import rbd
from csi_addons_conformance.case import poll, settle
from csi_addons_conformance.stage import Stage

from csi_addons_rbd.ceph.rbd_journal import read_tags
from lab import Volume
from tests.driver_insides import operations
from tests.kills.holding import Held, for_each
from tests.kills.lanes import Lane
from tests.kills.leftovers import leftovers
from tests.kills.operations import Act, Operation

_CONVERGES: Final = 120
"""Seconds: the lease of the frozen one, 30 s, is in the way."""
_TOLD: Final = 3
"""Seconds after which a thawed driver has told anew how many operations run in it."""
_ENDS: Final = 60
_LATE: Final = 5
"""Seconds for what rbd-mirror, or the manager, does because of a late act."""
_DATA: Final = b"written when all was done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What an act changes, read past the drivers."""

    image_id: str
    mirroring: str
    """librbd's global image id: another one after each Enable."""
    primary: bool
    mark: int
    """The newest demotion: its mirror snapshot; in journal mode also a promotion: its tag."""
    data: bytes


def outlive(
    lane: Lane, other: Stage, operation: Operation, held: list[Held], *, undo: bool
) -> Iterator[tuple[Held, str]]:
    """Freeze the driver in which all are held; yield what is not as it must be after its thaw.

    Args:
        lane: That driver.
        other: The stage, with another driver of the same site.
        operation: What they are held in.
        held: Who is held.
        undo: Whether the other driver undoes what it did.
    """
    last = operation.undone if undo and operation.undone else operation.act
    left: dict[Held, Facts] = {}

    def take_over(one: Held) -> list[str]:
        left[one], found = _take_over(other, operation.act, last, one)
        return found

    def compare(one: Held) -> list[str]:
        now = _facts(other, one.volume)
        changed = [] if now == left[one] else [f"left by the other driver: {left[one]}; now: {now}"]
        return changed + leftovers(other, last, one.volume, one.image_id)

    try:
        lane.freeze()
        yield from for_each(held, take_over)
    finally:
        lane.thaw()
    time.sleep(_TOLD)
    poll(lambda: not operations(lane.driver), seconds=_ENDS, what="all ends in the thawed driver")
    time.sleep(_LATE)
    lane.hold_again()
    yield from for_each([one for one in held if one in left], compare)


def _take_over(other: Stage, act: Act, last: Act, held: Held) -> tuple[Facts, list[str]]:
    """Do the same through the other driver, undo it if so wanted, and use the volume."""
    settle(lambda: act.call(other, held.volume), seconds=_CONVERGES)
    if last is not act:
        settle(lambda: last.call(other, held.volume), seconds=_CONVERGES)
    found = leftovers(other, last, held.volume, held.image_id) if last.recreated else []
    if last.primary:
        other.here.write(held.volume, _DATA)
    return _facts(other, held.volume), found


def _facts(stage: Stage, volume: Volume) -> Facts:
    with stage.here.image(volume) as image:
        info = image.mirror_image_get_info()
        mirrored = info["state"] == rbd.RBD_MIRROR_IMAGE_ENABLED
        return Facts(
            image_id=image.id(),
            mirroring=info["global_id"],
            primary=info["primary"],
            mark=_mark(stage, image) if mirrored else 0,
            data=bytes(image.read(0, len(_DATA))),
        )


def _mark(stage: Stage, image: rbd.Image) -> int:
    if stage.mode == "journal":
        with stage.here.site.ioctx() as ioctx:
            tags = read_tags(ioctx, image.id())
        # any writer starts a tag after its own
        moved = (tag.number for tag in tags if {tag.owner, tag.predecessor} != {""})
        return max(moved, default=0)
    demoted = rbd.RBD_SNAP_MIRROR_STATE_PRIMARY_DEMOTED
    snapshots = (snap for snap in image.list_snaps() if "mirror" in snap)
    return max((snap["id"] for snap in snapshots if snap["mirror"]["state"] == demoted), default=0)
