# SPDX-License-Identifier: Apache-2.0
"""Images that a promotion or demotion left torn, since it was cut short inside librbd.

The order of librbd's steps, the states that a kill leaves, and what leads out of each:
docs/explanation/torn-images.md. Beside it: what librbd would refuse halfway, looked at before.
"""

import time
from contextlib import suppress
from dataclasses import replace
from typing import Final

import structlog

from csi_addons_rbd.replication.calls import Health, MirroringMode, ReplicationInfo
from csi_addons_rbd.replication.errors import (
    NOTHING_TO_DO,
    ImageChanged,
    ImageTorn,
    PromotionBarred,
    SnapshotLimitReached,
    SyncInfoMissing,
)
from csi_addons_rbd.replication.image import (
    Epoch,
    ImageSpec,
    LeasedImage,
    MirroredImage,
    MirrorView,
    Torn,
)
from csi_addons_rbd.replication.info import replication_info
from csi_addons_rbd.replication.observations import Observation
from csi_addons_rbd.replication.patience import POLL, Patience

_PASSES: Final = 2
"""Seconds after which an image that still reads torn is so: librbd's own steps take less."""
_ORPHANED: Final = 2
"""Mirror snapshots of a promotion by force: librbd first takes an orphan's."""
_log = structlog.get_logger()


def words(torn: Torn) -> str:
    """Name the state, and why it is one."""
    return f"torn: it reads {torn}; a demotion or promotion was cut short, or is just running"


# --- what librbd would refuse halfway --------------------------------------------------------


def require_room(image: MirroredImage, view: MirrorView, needed: int) -> None:
    """Refuse what would end at the image's snapshot limit, after librbd has begun it.

    librbd of Ceph 16 even answers success then, and leaves the image torn.

    Raises:
        SnapshotLimitReached: fewer snapshots may be taken than are needed.
    """
    room = image.snapshot_room()
    if room is None or room >= needed:
        return
    spec = image.spec
    command = f"rbd snap limit clear {spec.path}"
    if view.torn is not None or not view.primary:  # rbd refuses to change what it cannot write
        place = f"--pool {spec.pool}" + (f" --namespace {spec.namespace}" if spec.namespace else "")
        command = f"rados {place} rmomapkey rbd_header.{view.image_id} snap_limit"
    raise SnapshotLimitReached(
        f"{spec} has reached its snapshot limit: {needed} mirror snapshots are needed, {room} may "
        f"be taken; nothing was changed; raise the limit, or lift it with '{command}'; "
        "the controller retries by itself"
    )


def require_room_to_promote(
    image: MirroredImage, view: MirrorView, needed: int | None = None
) -> None:
    """Do so before a promotion, by which no caller may be led to force.

    Args:
        image: The image.
        view: What it shows.
        needed: How many snapshots; ``None`` for as many as librbd takes.

    Raises:
        PromotionBarred: at the image's snapshot limit.
    """
    if view.mode is MirroringMode.JOURNAL:
        return
    try:
        require_room(image, view, snapshots_to_promote(view) if needed is None else needed)
    except SnapshotLimitReached as exc:
        raise PromotionBarred(exc.message) from exc


def snapshots_to_promote(view: MirrorView) -> int:
    """Count the mirror snapshots that librbd takes for a promotion, at most."""
    needed = _ORPHANED if view.history.epoch is Epoch.NON_PRIMARY else 1
    # a half made copy is taken back, for which the driver takes one more
    return needed + bool(view.history.progress)


# --- what each call makes of a torn image ----------------------------------------------------


def refuse_torn(image: MirroredImage, view: MirrorView, patience: Patience) -> None:
    """Refuse to enable or resync a torn image, if no other driver is just changing it.

    Raises:
        ImageTorn: it is torn.
    """
    if view.torn is None:
        return
    with image.lease(patience.call) as leased:
        torn = leased.view().torn
    if torn is None:
        raise ImageChanged(
            f"{image.spec} was changed by another driver in this moment; {NOTHING_TO_DO}"
        )
    way_out = "disable its replication first"
    if torn is not Torn.UNMIRRORED:
        way_out = (
            "demote or promote it, by which that is brought to an end (a VolumeReplication: set "
            "replicationState to secondary, and back when it is Completed)"
        )
    raise ImageTorn(f"{image.spec} is {words(torn)}; {way_out}")


def torn_info(
    image: MirroredImage, view: MirrorView, observation: Observation
) -> ReplicationInfo | None:
    """Report on a torn image; ``None`` when it was only passing through that state."""
    passing = time.monotonic() + _PASSES
    while view.torn is not None and time.monotonic() < passing:
        time.sleep(POLL)
        view = image.view()
    if view.torn is None:
        return None
    message = f"the image is {words(view.torn)}; demote or promote it"
    known = ReplicationInfo(
        last_sync=None,
        last_sync_seconds=None,
        last_sync_bytes=None,
        entries_behind=None,
        interval=None,
        schedule_in_place=None,
        daemon_here=view.local is not None and observation.alive(view.local, view),
        daemon_there=bool(view.peers) and all(observation.alive(p, view) for p in view.peers),
        health=Health.ERROR,
        message=message,
    )
    with suppress(SyncInfoMissing):
        known = replication_info(image.spec, replace(view, primary=True), observation)
    return replace(known, health=Health.ERROR, message=message)


def require_lasting(image: LeasedImage, view: MirrorView) -> None:
    """Look once more at what is not mirrored and yet read-only.

    So is for a moment a copy that rbd-mirror begins.
    """
    time.sleep(_PASSES)
    require_same(image.spec, view, image.view())


def require_same(spec: ImageSpec, seen: MirrorView, now: MirrorView) -> MirrorView:
    """Return the second of two looks at a torn image.

    Raises:
        ImageChanged: it shows something else than the first.
    """
    if (now.torn, now.history.mark, now.image_id) != (seen.torn, seen.history.mark, seen.image_id):
        raise ImageChanged(
            f"{spec} was changed meanwhile, by another driver or by rbd-mirror; {NOTHING_TO_DO}"
        )
    return now
