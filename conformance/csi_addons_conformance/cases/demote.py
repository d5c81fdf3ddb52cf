# SPDX-License-Identifier: Apache-2.0
"""DemoteVolume: under no open writer, and ahead of no peer."""

import time

import rbd

from csi_addons_conformance.case import Kind, case, expect, poll, require, settle
from csi_addons_conformance.stage import Stage
from lab import Volume


@case(
    "demote/secondary",
    kind=Kind.SPEC,
    row="already secondary → OK, quickly",
)
def secondary(stage: Stage) -> None:
    """OK within 5 s, as often as it is asked."""
    volume = stage.mirrored()
    for _ in range(3):
        expect(stage.there.client.demote(volume.handle), "OK", within=5)


@case(
    "demote/open-writer",
    kind=Kind.SAFETY,
    row="a client holds it: owner of the exclusive lock → FAILED_PRECONDITION naming the holder",
)
def open_writer(stage: Stage) -> None:
    """Refused while the writer has it open, also while it pauses; what it writes arrives."""
    volume = stage.mirrored()
    with stage.here.image(volume, writing=True) as image:
        image.write(b"held", 0)
        image.flush()
        for _ in range(3):
            refused = stage.here.client.demote(volume.handle)
            expect(refused, "FAILED_PRECONDITION", saying=("client.",))
            time.sleep(1)  # the writer pauses, and holds the image all the same
        require(stage.here.primary(volume), "a primary", "a secondary")
        image.write(b"written after the refusal", 0)
        image.flush()
    stage.move(stage.here, stage.there, volume)
    found = stage.there.read(volume, 25)
    require(found == b"written after the refusal", "the writer's last words", found)


@case(
    "demote/foreign-locker",
    kind=Kind.SAFETY,
    row="a foreign locker → FAILED_PRECONDITION; watchers alone are not",
)
def foreign_locker(stage: Stage) -> None:
    """An advisory lock keeps the image primary; an open reader alone does not."""
    volume = stage.enabled()
    with stage.here.image(volume, writing=True) as image:
        image.lock_exclusive("an administrator")
        expect(stage.here.client.demote(volume.handle), "FAILED_PRECONDITION")
        require(stage.here.primary(volume), "a primary", "a secondary")
        image.unlock("an administrator")
    with stage.here.image(volume):
        settle(lambda: stage.here.client.demote(volume.handle))


@case(
    "demote/peer-has-not-followed",
    kind=Kind.SAFETY,
    row="a peer is up, not primary, and has not yet followed this epoch → wait, then ABORTED",
    alone=True,
)
def not_followed(stage: Stage) -> None:
    """With dr2's rbd-mirror frozen since before the promotion: ABORTED; thawed: OK, all there."""
    volume = stage.mirrored()
    stage.move(stage.here, stage.there, volume)
    settle(lambda: stage.there.client.demote(volume.handle))
    settle(lambda: stage.here.client.promote(volume.handle))
    with stage.there.frozen("rbd-mirror"):
        stage.here.write(volume, b"not there yet")
        answer = stage.here.client.call("DemoteVolume", volume.handle, timeout=15)
        expect(answer, "ABORTED", "DEADLINE_EXCEEDED")
        require(stage.here.primary(volume), "a primary", "a secondary")
    stage.move(stage.here, stage.there, volume)
    found = stage.there.read(volume, 13)
    require(found == b"not there yet", "what was written on dr1", found)


@case(
    "demote/pending-resync",
    kind=Kind.SAFETY,
    row="The last good copy is never destroyed (a request for a resync outlives a promotion)",
    alone=True,
)
def pending_resync(stage: Stage) -> None:
    """Promoted by force while a resync was asked for: not demoted, or not deleted afterwards."""
    volume = stage.mirrored()
    there = stage.there
    with there.without("rbd-mirror"):
        poll(lambda: _flagged(stage, volume), seconds=90, what="librbd takes the request", every=3)
        settle(lambda: there.client.promote(volume.handle, force=True))
        there.write(volume, b"written on dr2")
        before = there.image_id(volume)
    there.client.demote(volume.handle)
    time.sleep(4 * stage.check_interval)  # what must not happen takes its time
    require(there.image_id(volume) == before, "the same image", there.image_id(volume) or "none")


def _flagged(stage: Stage, volume: Volume) -> bool:
    """Ask for a resync as an administrator; a dead daemon's lock stands for half a minute."""
    try:
        with stage.there.image(volume, writing=True) as image:
            image.mirror_image_resync()
    except rbd.OSError:
        return False
    return True
