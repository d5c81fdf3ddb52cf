# SPDX-License-Identifier: Apache-2.0
"""A site is lost and comes back: forced promotion, split-brain, resync, and home again."""

import os

from csi_addons_conformance.case import Kind, case, expect, poll, require, settle
from csi_addons_conformance.cases.promote import accepts, insist
from csi_addons_conformance.cases.resync import (
    await_equal,
    await_split,
    checksum_when_ready,
    recreate_once,
)
from csi_addons_conformance.stage import Stage
from lab import Volume

_REPLICATED, _LATER = b"replicated" * 100, os.urandom(64 << 10)
_OFFSET = 1 << 20
_BOUND = 75
"""Seconds within which a call to a site whose cluster is dead is answered."""


@case(
    "site-loss/there-and-back",
    kind=Kind.SAFETY,
    row="No peer up → FAILED_PRECONDITION: force is the legitimate next step; whatever is dead, "
    "the answer names the cause and the way out; the last good copy is never destroyed",
    alone=True,
)
def there_and_back(stage: Stage) -> None:
    """dr1 dies, dr2 takes over by force, dr1 is resynced and takes back: no byte is lost."""
    volume = stage.mirrored(data=_REPLICATED)
    with stage.here.without():
        _fail_over(stage, volume)
    before = stage.there.checksum(volume)
    stage.here.write(volume, b"a write that nobody may keep", _OFFSET)
    settle(lambda: stage.here.client.demote(volume.handle))
    await_split(stage.here, volume)
    recreate_once(stage.here, volume)
    await_equal(stage, volume)
    require(stage.there.checksum(volume) == before, "an untouched dr2", "other data")
    _take_back(stage, volume)


def _fail_over(stage: Stage, volume: Volume) -> None:
    """Take the controller's two steps on dr2, and ask what must not be done, or cannot."""
    there = stage.there
    refused = settle(lambda: there.client.promote(volume.handle), "FAILED_PRECONDITION")
    require(refused.message, "the cause and the way out", "no words")
    insist(stage, there, volume)
    require(there.read(volume, len(_REPLICATED)) == _REPLICATED, "the data", "other data")
    poll(
        lambda: accepts(there, volume, _LATER, _OFFSET),
        seconds=90,
        what="the promoted image takes a write",
    )
    if stage.mode == "snapshot":
        there.take_mirror_snapshot(volume)
    expect(there.client.promote(volume.handle), "OK")
    expect(there.client.resync(volume.handle, force=True), "FAILED_PRECONDITION")
    for call in (stage.here.client.demote, stage.here.client.info, stage.here.client.promote):
        expect(call(volume.handle), "UNAVAILABLE", within=_BOUND)


def _take_back(stage: Stage, volume: Volume) -> None:
    """Move home as orchestrators do: demoted, ready, promoted."""
    stage.there.write(volume, b"last word", 2 * _OFFSET)
    written = stage.there.checksum(volume)
    settle(lambda: stage.there.client.demote(volume.handle))
    came = checksum_when_ready(stage.here, volume)
    require(came == written, "every byte of dr2 when dr1 is ready", "other data")
    entry = stage.here.journal_entry(volume, "csi.imageid")
    require(entry == stage.here.image_id(volume), "csi.imageid of the new image", entry)
    settle(lambda: stage.here.client.promote(volume.handle))
    require(stage.here.checksum(volume) == written, "every byte of dr2", "other data")
    poll(
        lambda: stage.there.state(volume) == "up+replaying",
        seconds=90,
        what="dr2 follows dr1 again",
    )
