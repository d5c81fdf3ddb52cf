# SPDX-License-Identifier: Apache-2.0
"""GetVolumeReplicationInfo: how old the copy is, and whether it can be relied on."""

import time
from concurrent.futures import ThreadPoolExecutor

from csi_addons_conformance.case import SNAPSHOT, Kind, case, expect, poll, require, settle
from csi_addons_conformance.stage import Stage

_AGE = 120
"""Seconds by which the copy of a volume that was mirrored a moment ago is younger."""


@case(
    "info/healthy",
    kind=Kind.SPEC,
    row="last_sync_time, bytes and seconds; HEALTHY: primary up+stopped, every peer up and "
    "replaying; status_message always says why in plain words, lag included",
)
def healthy(stage: Stage) -> None:
    """A time of the last minutes, HEALTHY, and words that say how old the copy is."""
    volume = stage.mirrored()
    poll(lambda: _is_healthy(stage, volume.handle), seconds=60, what="HEALTHY")
    response = stage.here.client.info(volume.handle).response
    age = time.time() - response.last_sync_time.seconds
    require(-5 < age < _AGE, f"a last sync of the last {_AGE} s", f"{age:.0f} s ago")
    require(" s old" in response.status_message, "the lag in words", response.status_message)
    stage.say(response.status_message)


@case(
    "info/journal-keeps-up",
    kind=Kind.CONTRACT,
    row="Journal mode: the time of the newest status whose positions are equal",
    modes=("journal",),
)
def journal_keeps_up(stage: Stage) -> None:
    """After a write the last sync time moves on without a mirror snapshot."""
    volume = stage.mirrored()
    first = stage.here.client.info(volume.handle).response.last_sync_time.seconds
    stage.here.write(volume, b"more")
    poll(
        lambda: stage.here.client.info(volume.handle).response.last_sync_time.seconds > first,
        seconds=90,
        what="a newer last sync time",
    )


@case(
    "info/snapshot-moves-on",
    kind=Kind.SPEC,
    row="Snapshot mode: last_sync_time = the peer's local_snapshot_timestamp",
    modes=SNAPSHOT,
)
def snapshot_moves_on(stage: Stage) -> None:
    """A mirror snapshot that arrived is the last sync, with its bytes."""
    volume = stage.mirrored()
    first = stage.here.client.info(volume.handle).response.last_sync_time.seconds
    time.sleep(1.1)  # the time stamps have whole seconds
    stage.here.write(volume, b"x" * 65536)
    stage.here.take_mirror_snapshot(volume)
    poll(
        lambda: stage.here.client.info(volume.handle).response.last_sync_time.seconds > first,
        seconds=60,
        what="a newer last sync time",
    )


@case(
    "info/secondary",
    kind=Kind.SPEC,
    row="Not primary → FAILED_PRECONDITION",
)
def secondary(stage: Stage) -> None:
    """FAILED_PRECONDITION on dr2, at once, also while a promote waits there."""
    volume = stage.mirrored()
    with ThreadPoolExecutor() as executor:
        promote = executor.submit(stage.there.client.promote, volume.handle)
        for _ in range(5):
            expect(stage.there.client.info(volume.handle), "FAILED_PRECONDITION", within=5)
            time.sleep(0.3)
        promote.result()


@case(
    "info/never-synced",
    kind=Kind.SPEC,
    row="never synced → NOT_FOUND (the controller then keeps what it had)",
)
def never_synced(stage: Stage) -> None:
    """NOT_FOUND right after Enable, and again after Disable and Enable of a synced volume."""
    volume = stage.mirrored()
    settle(lambda: stage.here.client.disable(volume.handle))
    poll(lambda: not stage.there.exists(volume), seconds=90, what="the copy on dr2 is gone")
    expect(stage.here.client.enable(volume.handle, mirroringMode=stage.mode), "OK")
    expect(stage.here.client.info(volume.handle), "NOT_FOUND")


@case(
    "info/error-keeps-the-time",
    kind=Kind.CONTRACT,
    row="A site in error or split-brain is an OK with status ERROR and the last known sync time",
)
def error_keeps_the_time(stage: Stage) -> None:
    """In split-brain the primary's info is ERROR, with the time of the last sync."""
    volume = stage.mirrored()
    stage.move(stage.here, stage.there, volume)
    poll(
        lambda: stage.there.client.info(volume.handle).code == "OK",
        seconds=90,
        what="dr1 follows dr2",
    )
    settle(lambda: stage.here.client.promote(volume.handle, force=True))
    stage.here.write(volume, b"dr1's")
    settle(lambda: stage.here.client.demote(volume.handle))
    answer = poll(lambda: _error(stage, volume.handle), seconds=150, what="ERROR on dr2")
    stage.say(answer)


def _is_healthy(stage: Stage, handle: str) -> bool:
    answer = stage.here.client.info(handle)
    return answer.code == "OK" and answer.response.status == answer.response.HEALTHY


def _error(stage: Stage, handle: str) -> str:
    answer = stage.there.client.info(handle)
    expect(answer, "OK")
    if answer.response.status != answer.response.ERROR:
        return ""
    require(answer.response.last_sync_time.seconds, "the last known time", answer.response)
    return str(answer.response.status_message)
