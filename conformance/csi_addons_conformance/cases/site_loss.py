# SPDX-License-Identifier: Apache-2.0
"""A site is lost and comes back: forced promotion, split-brain, resync, and home again."""

import os

import rbd

from csi_addons_conformance.case import Kind, case, expect, poll, require, settle
from csi_addons_conformance.cases.resync import _await_split, _is_ready, _resync_once
from csi_addons_conformance.stage import Stage
from lab import Volume

MIB = 1 << 20


@case(
    "site-loss/there-and-back",
    kind=Kind.SAFETY,
    row="librbd refuses, no peer up → FAILED_PRECONDITION at once: force is the legitimate next "
    "step; whatever is dead, the answer names the cause; the last good copy is never destroyed",
    alone=True,
)
def there_and_back(stage: Stage) -> None:
    """dr1 dead: dr2 by force; dr1 back: split-brain, resync, failback; no byte of dr2 is lost."""
    volume = stage.mirrored(data=b"replicated")
    with stage.here.without():
        settle(lambda: stage.there.client.promote(volume.handle), "FAILED_PRECONDITION")
        _force(stage, volume)
        poll(lambda: _takes(stage, volume), seconds=90, what="dr2 takes writes")
        gone = stage.here.client.demote(volume.handle)
        expect(gone, "UNAVAILABLE", within=75)
        require(stage.there.read(volume, 10) == b"replicated", "the data of dr1", "other data")
    settle(lambda: stage.here.client.demote(volume.handle))
    _await_split(stage.here, volume)
    _resync_once(stage.here, volume)
    stage.there.write(volume, os.urandom(MIB), offset=2 * MIB)
    expected = stage.there.checksum(volume)
    settle(lambda: stage.there.client.demote(volume.handle))
    poll(lambda: _is_ready(stage.here, volume), seconds=150, what="ready=true on dr1")
    settle(lambda: stage.here.client.promote(volume.handle))
    found = stage.here.checksum(volume)
    require(found == expected, f"dr2's checksum {expected}", found)


def _force(stage: Stage, volume: Volume) -> None:
    """Force; in journal mode rbd-mirror may hang on the lost peer with the lock: restart it."""

    def forced() -> bool:
        answer = stage.there.client.promote(volume.handle, force=True)
        expect(answer, "OK", "ABORTED")
        if answer.code == "ABORTED":
            stage.say("rbd-mirror of dr2 had to be restarted")
            stage.there.site.kill("rbd-mirror")
            stage.there.site.start("rbd-mirror")
        return answer.code == "OK"

    poll(forced, seconds=200, what="the forced promotion is OK")


def _takes(stage: Stage, volume: Volume) -> bool:
    """Write, unless a dead rbd-mirror's lock still stands."""
    try:
        stage.there.write(volume, b"after the loss", offset=MIB)
    except rbd.ReadOnlyImage:
        return False
    return True
