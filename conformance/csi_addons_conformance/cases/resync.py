# SPDX-License-Identifier: Apache-2.0
"""ResyncVolume: evidence decides, not the flag alone."""

import os
from functools import partial

from csi_addons_conformance.case import Kind, case, expect, poll, require, settle
from csi_addons_conformance.client import Answer
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage
from lab import Volume

MIB = 1 << 20


@case(
    "resync/primary",
    kind=Kind.SPEC,
    row="not enabled, or primary → FAILED_PRECONDITION",
)
def primary(stage: Stage) -> None:
    """FAILED_PRECONDITION, with and without force."""
    volume = stage.enabled()
    for force in (False, True):
        expect(stage.here.client.resync(volume.handle, force=force), "FAILED_PRECONDITION")


@case(
    "resync/healthy-secondary",
    kind=Kind.SAFETY,
    row="anything else, such as the healthy secondary of a live primary, with or without force → "
    "ready=false, untouched",
)
def healthy_secondary(stage: Stage) -> None:
    """ready=false, and the image is the same as before."""
    volume = stage.mirrored()
    before = stage.there.image_id(volume)
    for force in (False, True):
        answer = settle(partial(stage.there.client.resync, volume.handle, force=force))
        require(not answer.ready, "ready=false", answer)
    require(stage.there.image_id(volume) == before, "the same image", stage.there.image_id(volume))


@case(
    "resync/ready",
    kind=Kind.SAFETY,
    row="both sides demoted and the last data exchanged → ready=true; csi.imageid is corrected "
    "only where csi.volname stands, the journal never created",
)
def ready(stage: Stage) -> None:
    """Polled from before the demotion: ready only with every byte there; no journal is made."""
    volume = stage.mirrored()
    stage.here.write(volume, os.urandom(4 * MIB), offset=MIB)
    expected = stage.here.checksum(volume)
    require(not _is_ready(stage.there, volume), "ready=false before the demotion", "true")
    settle(lambda: stage.here.client.demote(volume.handle))
    poll(lambda: _is_ready(stage.there, volume), seconds=150, what="ready=true on dr2")
    found = stage.there.checksum(volume)
    require(found == expected, f"checksum {expected} when ready", found)
    poll(lambda: _is_ready(stage.here, volume), seconds=150, what="ready=true on dr1")
    entry = stage.there.journal_entry(volume, "csi.imageid")
    require(entry is None, "no journal where there was none", entry)
    settle(lambda: stage.there.client.promote(volume.handle))


@case(
    "resync/split-brain",
    kind=Kind.SAFETY,
    row="split-brain, no force → FAILED_PRECONDITION; force, and a peer up and primary → record, "
    "then request the resync, once; requested earlier → ready=false; never a second request",
)
def split_brain(stage: Stage) -> None:
    """Refused, then resynced exactly once towards the primary, then home with nothing lost."""
    volume = _split(stage)
    answer = stage.there.client.info(volume.handle)
    if answer.code == "OK":
        stage.say(f"info on the primary: {answer.response.status_message}")
    _await_split(stage.here, volume)
    _resync_once(stage.here, volume)
    if stage.mode == "snapshot":
        stage.there.take_mirror_snapshot(volume)
    poll(
        lambda: stage.here.checksum(volume) == stage.there.checksum(volume),
        seconds=90,
        what="equal data on both sites",
    )
    stage.there.write(volume, b"last words", offset=2 * MIB)
    settle(lambda: stage.there.client.demote(volume.handle))
    poll(lambda: _is_ready(stage.here, volume), seconds=150, what="ready=true on dr1")
    require(
        stage.here.journal_entry(volume, "csi.imageid") == stage.here.image_id(volume),
        "the new image's id in the CSI journal",
        stage.here.journal_entry(volume, "csi.imageid"),
    )
    settle(lambda: stage.here.client.promote(volume.handle))
    require(stage.here.read(volume, 10, 2 * MIB) == b"last words", "dr2's data", "other data")


@case(
    "resync/only-copy",
    kind=Kind.SAFETY,
    row="split-brain, force, no such peer → FAILED_PRECONDITION: it would delete the only copy",
)
def only_copy(stage: Stage) -> None:
    """With both sides demoted in split-brain neither image is deleted, force or not."""
    volume = _split(stage)
    _await_split(stage.here, volume)
    before = stage.here.image_id(volume), stage.there.image_id(volume)
    stage.there.site.rbd("mirror", "image", "demote", f"{stage.there.site.pool}/{volume.image}")
    poll(
        lambda: stage.there.state(volume) != "up+stopped",
        seconds=60,
        what="dr2 is no primary any more",
    )
    # until a status tells so, the peer reads primary: then nothing may be known for 90 s
    poll(
        lambda: "local image is primary" not in str(stage.here.mirror_status(volume)),
        seconds=90,
        what="dr1 knows of it",
    )
    for site in (stage.here, stage.there):
        answer = settle(partial(_forced, site, volume), "FAILED_PRECONDITION", "OK")
        require(not answer.ready, "no ready=true", answer)
    after = stage.here.image_id(volume), stage.there.image_id(volume)
    require(after == before, "both images as they were", after)


@case(
    "resync/mode-always",
    kind=Kind.CONTRACT,
    row="class parameter resyncMode=always lets force resync a secondary once, same evidence",
)
def mode_always(stage: Stage) -> None:
    """A healthy secondary of a live primary is copied anew, once."""
    volume = stage.mirrored(data=b"kept")
    before = stage.there.image_id(volume)

    def ask() -> str:
        answer = stage.there.client.resync(volume.handle, force=True, resyncMode="always")
        expect(answer, "OK", "ABORTED", "UNAVAILABLE")
        require(not answer.ready, "ready=false", answer)
        return stage.there.image_id(volume)

    poll(lambda: ask() not in ("", before), seconds=120, what="a new image", every=1)
    poll(lambda: stage.there.state(volume) == "up+replaying", seconds=90, what="it follows")
    new = stage.there.image_id(volume)
    for _ in range(4):
        require(ask() == new, "no second resync", stage.there.image_id(volume))
    require(stage.there.read(volume, 4) == b"kept", "the data", "other data")


def _split(stage: Stage) -> Volume:
    """Write on both sides as primaries, then demote dr1: it now differs from dr2."""
    volume = stage.mirrored()
    settle(lambda: stage.there.client.promote(volume.handle, force=True))
    stage.there.write(volume, b"dr2's", offset=MIB)
    stage.here.write(volume, b"dr1's", offset=MIB)
    settle(lambda: stage.here.client.demote(volume.handle))
    return volume


def _await_split(site: SiteUnderTest, volume: Volume) -> None:
    """Ask without force until split-brain is seen: refused then, and never before."""

    def refused() -> bool:
        answer = site.client.resync(volume.handle)
        require(not answer.ready, "no ready=true in split-brain", answer)
        return answer.code == "FAILED_PRECONDITION"

    poll(refused, seconds=150, what="a refusal for split-brain", every=1)


def _resync_once(site: SiteUnderTest, volume: Volume) -> None:
    """Force, and repeat as the controller does: the image is replaced exactly once."""
    ids = [site.image_id(volume)]

    def whole() -> bool:
        answer = _forced(site, volume)
        expect(answer, "OK", "ABORTED", "UNAVAILABLE")
        require(not answer.ready, "ready=false while it is copied", answer)
        ids.append(site.image_id(volume) or ids[-1])
        return ids[-1] != ids[0] and site.state(volume) == "up+replaying"

    poll(whole, seconds=150, what="a new copy that follows", every=1)
    require(len(set(ids)) == 2, "one replacement of the image", set(ids))


def _forced(site: SiteUnderTest, volume: Volume) -> Answer:
    return site.client.resync(volume.handle, force=True)


def _is_ready(site: SiteUnderTest, volume: Volume) -> bool:
    answer = site.client.resync(volume.handle)
    expect(answer, "OK", "ABORTED", "UNAVAILABLE")
    return answer.ready
