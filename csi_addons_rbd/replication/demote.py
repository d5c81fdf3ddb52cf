# SPDX-License-Identifier: Apache-2.0
"""DemoteVolume: give up being primary, under no open writer and ahead of no peer."""

import time
from typing import Final

from csi_addons_rbd.replication.errors import DriverError, ImageChanged, ImageInUse, PeerBehind
from csi_addons_rbd.replication.model import (
    MirroredImage,
    MirroringMode,
    MirrorView,
    SiteStatus,
)
from csi_addons_rbd.replication.observations import Observation
from csi_addons_rbd.replication.operations import Deadline
from csi_addons_rbd.replication.promote import POLL
from csi_addons_rbd.replication.scheduling import SCHEDULE_NOTE
from csi_addons_rbd.replication.sync_info import Role, role, sync_report, text

_PASSING: Final = 5
"""Seconds for which a holder may be one that comes and goes, such as the snapshot scheduler."""


def demote(
    image: MirroredImage, view: MirrorView, *, observation: Observation, until: Deadline
) -> None:
    """Demote a primary; returns only after a fresh read shows it secondary.

    Raises:
        ImageInUse: a client holds the image.
        PeerBehind: a peer has not yet followed this primary epoch.
    """
    _require_unheld(image)
    _await_peers(image, view, observation, until)
    _require_unheld(image)
    _demote_without_schedule(image)
    if image.view().primary:
        raise ImageChanged(f"{image.spec} was demoted, but still reads primary; ask again")
    intruders = image.holders()
    if intruders:
        raise ImageInUse(
            f"{image.spec} is demoted, but {', '.join(intruders)} opened it in that moment: what "
            "it wrote after the demotion stays behind here; close it before promoting the peer"
        )


def _demote_without_schedule(image: MirroredImage) -> None:
    """Demote, and first take back the note of the schedule: a secondary takes no notes."""
    schedule = image.notes().get(SCHEDULE_NOTE)
    image.note(SCHEDULE_NOTE, None)
    try:
        image.demote()
    except DriverError:
        image.note(SCHEDULE_NOTE, schedule)
        raise


def _require_unheld(image: MirroredImage) -> None:
    """librbd itself would demote under an open writer, whose acknowledged writes are lost then."""
    passing = Deadline.after(_PASSING)
    while holders := image.holders():
        if passing.remaining <= 0:
            raise ImageInUse(
                f"{image.spec} is held by {', '.join(holders)}: demoting now would lose its "
                "writes; stop the workload and unmap the volume, then ask again"
            )
        time.sleep(POLL)


def _await_peers(
    image: MirroredImage, view: MirrorView, observation: Observation, until: Deadline
) -> None:
    """Wait until each live secondary has followed into this primary epoch.

    Otherwise a peer could be promoted on the history before it, and demoted again, without
    either side ever noticing: the writes of one of them would be lost.
    """
    while behind := [peer for peer in view.peers if _is_behind(peer, view, observation)]:
        if until.remaining <= 0:
            peer = behind[0]
            raise PeerBehind(
                f"the peer of {image.spec} has not followed yet: it reads "
                f"{peer.state.name.lower()} ({text(peer)!r}) and has nothing of what was "
                "written since the promotion here; ask again"
            )
        time.sleep(POLL)
        view = image.view()
        observation.note(view)


def _is_behind(peer: SiteStatus, view: MirrorView, observation: Observation) -> bool:
    if role(peer) is Role.PRIMARY or not observation.alive(peer, view):
        return False
    report = sync_report(peer)
    if view.mode is MirroringMode.JOURNAL:
        return report.position is None or report.position[0] < view.history.began
    return report.copied_until is None or report.copied_until < view.history.began
