# SPDX-License-Identifier: Apache-2.0
"""PromoteVolume: nothing forced that need not be, nothing early, nothing lost."""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from csi_addons_conformance.case import Kind, SkippedError, case, expect, poll, require, settle
from csi_addons_conformance.stage import Stage
from lab import Volume

MIB = 1 << 20


@case(
    "promote/planned-failover",
    kind=Kind.SAFETY,
    row="the last data is still coming → wait inside the call, then ABORTED; a planned failover is "
    "never forced and loses nothing, however soon after Demote's OK the promote arrives",
)
def planned_failover(stage: Stage) -> None:
    """Promoted at once after the demotion, unforced: OK or ABORTED, and every byte is there."""
    volume = stage.mirrored()
    sites = [stage.here, stage.there]
    for number in range(4):
        old, new = sites[number % 2], sites[(number + 1) % 2]
        old.write(volume, os.urandom(MIB), offset=number * MIB)
        written = old.checksum(volume)
        stage.move(old, new, volume)
        require(new.checksum(volume) == written, f"checksum {written}", new.checksum(volume))


@case(
    "promote/already-primary",
    kind=Kind.SPEC,
    row="already primary → OK",
)
def already_primary(stage: Stage) -> None:
    """OK, with and without force."""
    volume = stage.enabled()
    for force in (False, True):
        expect(stage.here.client.promote(volume.handle, force=force), "OK")


@case(
    "promote/peer-is-primary",
    kind=Kind.SPEC,
    row="librbd refuses, a fresh status says the peer is primary → FAILED_PRECONDITION",
)
def peer_is_primary(stage: Stage) -> None:
    """FAILED_PRECONDITION, and the image stays secondary."""
    volume = stage.mirrored()
    settle(lambda: stage.there.client.promote(volume.handle), "FAILED_PRECONDITION")
    require(not stage.there.primary(volume), "a secondary", "a primary")


@case(
    "promote/last-primary",
    kind=Kind.SAFETY,
    row="this site was the last primary it knows of: wait until both sides read up+unknown in "
    "statuses written at least one state-check interval after the call began, then promote",
)
def last_primary(stage: Stage) -> None:
    """Demoted and promoted on one site: not before every site has looked again, then OK."""
    volume = stage.mirrored(data=b"first")
    settle(lambda: stage.here.client.demote(volume.handle))
    answer = settle(lambda: stage.here.client.promote(volume.handle))
    require(answer.seconds >= stage.check_interval, f"{stage.check_interval} s at least", answer)
    require(stage.here.read(volume, 5) == b"first", "the data", "other data")


@case(
    "promote/stale-history",
    kind=Kind.SAFETY,
    row="the peer may have been promoted, written and demoted since, and its data would be lost",
)
def stale_history(stage: Stage) -> None:
    """Written on dr2 meanwhile and demoted there: dr1 is not promoted without that data."""
    volume = stage.mirrored()
    stage.move(stage.here, stage.there, volume)
    stage.there.write(volume, b"newest", offset=MIB)
    settle(lambda: stage.there.client.demote(volume.handle))
    settle(lambda: stage.here.client.promote(volume.handle))
    require(stage.here.read(volume, 6, MIB) == b"newest", "the newest data", "older data")


@case(
    "promote/force",
    kind=Kind.SPEC,
    row="force=true: promote; OK only after a fresh read shows primary",
)
def force(stage: Stage) -> None:
    """A secondary of a live primary becomes primary by force, with the data that it had."""
    volume = stage.mirrored(data=b"first")
    settle(lambda: stage.there.client.promote(volume.handle, force=True))
    require(stage.there.primary(volume), "a primary", "a secondary")
    require(stage.there.read(volume, 5) == b"first", "the data", "other data")


@case(
    "promote/half-copied",
    kind=Kind.SAFETY,
    row="being created, or the first sync not complete → ABORTED with progress while the peer is "
    "up, else FAILED_PRECONDITION; force meets the same refusal",
    alone=True,
)
def half_copied(stage: Stage) -> None:
    """A half copied image is never promoted, by force neither; without a peer it is refused."""
    volume = _half_copied(stage)
    promote = stage.there.client.promote
    for forced in (False, True):
        expect(promote(volume.handle, force=forced), "ABORTED", "FAILED_PRECONDITION")
    with stage.here.without("rbd-mirror"):
        settle(lambda: promote(volume.handle, force=True), "FAILED_PRECONDITION")
    require(not stage.there.primary(volume), "a secondary", "a primary")
    stage.there.site.start("rbd-mirror")


def _half_copied(stage: Stage) -> Volume:
    """Make a copy on dr2 that its rbd-mirror could not complete, and leave that daemon dead."""
    volume = stage.volume(size=512 * MIB)
    for offset in range(0, 512 * MIB, 32 * MIB):
        stage.here.write(volume, os.urandom(32 * MIB), offset=offset)
    expect(stage.here.client.enable(volume.handle, mirroringMode=stage.mode), "OK")
    poll(lambda: stage.there.exists(volume), seconds=60, what="the copy on dr2 begins", every=0.05)
    stage.there.site.kill("rbd-mirror")
    if stage.there.checksum(volume) == stage.here.checksum(volume):
        stage.there.site.start("rbd-mirror")
        raise SkippedError("the whole copy was made before rbd-mirror could be stopped")
    return volume


@case(
    "promote/local-daemon-down",
    kind=Kind.SAFETY,
    row="peer up and demoted, local rbd-mirror down → UNAVAILABLE, naming the daemon; so where "
    "this site was primary last, and for Resync; Disable of such a secondary needs force",
    alone=True,
)
def local_daemon_down(stage: Stage) -> None:
    """UNAVAILABLE as long as dr2's rbd-mirror is dead, then OK with all data; nothing forced."""
    with ThreadPoolExecutor() as executor:
        coming, last = executor.map(lambda _: stage.mirrored(), range(2))
    stage.move(stage.here, stage.there, last)
    stage.there.write(last, b"newest")
    stage.here.write(coming, b"newest")
    settle(lambda: stage.there.client.demote(last.handle))
    there = stage.there.client
    with stage.there.without("rbd-mirror"):
        settle(lambda: stage.here.client.demote(coming.handle))
        for call in (there.promote, there.resync):
            for volume in (coming, last):
                settle(partial(call, volume.handle), "UNAVAILABLE", saying=("rbd-mirror",))
        expect(there.disable(coming.handle), "FAILED_PRECONDITION")
    for volume in (coming, last):
        settle(partial(there.promote, volume.handle))
        require(stage.there.read(volume, 6) == b"newest", "the newest data", "older data")


@case(
    "promote/peer-daemon-down",
    kind=Kind.SPEC,
    row="no peer up → FAILED_PRECONDITION: force is the legitimate next step; Demote with no peer "
    "up → demote; info → DEGRADED with a daemon down",
    alone=True,
)
def peer_daemon_down(stage: Stage) -> None:
    """With dr1's rbd-mirror dead dr2 is told to force, may demote, and its info is DEGRADED."""
    with ThreadPoolExecutor() as executor:
        following, last, primary = executor.map(lambda _: stage.mirrored(), range(3))
    for volume in (last, primary):
        stage.move(stage.here, stage.there, volume)
        poll(partial(_told, stage, volume), seconds=90, what="dr1 follows dr2")
    settle(lambda: stage.there.client.demote(last.handle))
    there = stage.there.client
    with stage.here.without("rbd-mirror"):
        for volume in (following, last):
            settle(partial(there.promote, volume.handle), "FAILED_PRECONDITION")
        poll(lambda: _degraded(stage, primary), seconds=60, what="info on dr2 is DEGRADED")
        settle(lambda: there.demote(primary.handle))


def _told(stage: Stage, volume: Volume) -> bool:
    return stage.there.client.info(volume.handle).code == "OK"


def _degraded(stage: Stage, volume: Volume) -> bool:
    answer = stage.there.client.info(volume.handle)
    return answer.code == "OK" and answer.response.status == answer.response.DEGRADED
