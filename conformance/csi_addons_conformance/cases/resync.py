# SPDX-License-Identifier: Apache-2.0
"""ResyncVolume."""

import os
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import rbd

from csi_addons_conformance.case import SNAPSHOT, Kind, case, expect, poll, require, settle
from csi_addons_conformance.cases.promote import accepts, peer_up, together
from csi_addons_conformance.client import Answer
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage
from lab import Volume

_BLOCK = 64 << 10
_OLD, _NEW = b"old primary" * 100, b"new primary" * 100


# --- what is refused, and what is left alone -------------------------------------------------


@case(
    "resync/not-enabled",
    kind=Kind.SPEC,
    row="Not enabled → FAILED_PRECONDITION",
    modes=SNAPSHOT,
)
def not_enabled(stage: Stage) -> None:
    """A volume that is not mirrored is refused, with or without force, and stays."""
    volume = stage.volume()
    before = stage.here.image_id(volume)
    for force in (False, True):
        expect(stage.here.client.resync(volume.handle, force=force), "FAILED_PRECONDITION")
    _require_kept(stage.here, volume, before)


@case(
    "resync/primary",
    kind=Kind.SAFETY,
    row="Primary → FAILED_PRECONDITION",
)
def primary(stage: Stage) -> None:
    """A primary is never resynced: not with force, nor with resyncMode=always."""
    volume = stage.mirrored(data=_OLD)
    before = stage.here.image_id(volume)
    for force in (False, True):
        for parameters in ({}, {"resyncMode": "always"}):
            answer = stage.here.client.resync(volume.handle, force=force, **parameters)
            expect(answer, "FAILED_PRECONDITION")
    _require_kept(stage.here, volume, before)
    require(stage.here.primary(volume), "a primary", "a secondary")
    require(stage.here.read(volume, len(_OLD)) == _OLD, "the data", "other data")


@case(
    "resync/healthy-secondary",
    kind=Kind.SAFETY,
    row="Anything else, such as the healthy secondary of a live primary, with or without force → "
    "ready=false, untouched",
)
def healthy_secondary(stage: Stage) -> None:
    """A copy that follows is not ready, and stays the image it is, with or without force."""
    volume = stage.mirrored()
    before = stage.there.image_id(volume)
    for force in (False, True, True):
        answer = stage.there.client.resync(volume.handle, force=force)
        expect(answer, "OK")
        require(not answer.ready, "ready=false", answer.response)
    poll(
        lambda: stage.there.state(volume) == "up+replaying",
        seconds=30,
        what="the copy goes on following",
    )
    _require_kept(stage.there, volume, before)


@case(
    "resync/mode-always",
    kind=Kind.CONTRACT,
    row="Class parameter resyncMode=always lets force resync it once, under the same evidence",
)
def mode_always(stage: Stage) -> None:
    """With it force deletes and copies anew a healthy secondary, exactly once; never ready."""
    volume = stage.mirrored()
    before = stage.there.image_id(volume)
    for _ in range(2):
        answer = stage.there.client.resync(volume.handle, resyncMode="always")
        expect(answer, "OK")
        require(not answer.ready, "ready=false", answer.response)
    _require_kept(stage.there, volume, before)
    recreate_once(stage.there, volume, resyncMode="always")
    await_equal(stage, volume)


# --- ready -----------------------------------------------------------------------------------


@case(
    "resync/ready",
    kind=Kind.SAFETY,
    row="Both sides demoted and the last data exchanged: every site up and unknown in fresh "
    "statuses, newest local mirror snapshot complete and NON_PRIMARY_DEMOTED (journal: positions "
    "equal), the same in two reads at least 2 s apart → ready=true; if the newest is "
    "PRIMARY_DEMOTED, the bold row of Promote decides",
)
def ready(stage: Stage) -> None:
    """Asked without a pause from before the demotion: ready on both sites, with every byte."""
    volume = stage.mirrored()
    stage.here.write(volume, os.urandom(4 << 20), 1 << 20)
    expected = stage.here.checksum(volume)
    with ThreadPoolExecutor(2) as executor:
        copies = [executor.submit(checksum_when_ready, stage.there, volume)]
        settle(lambda: stage.here.client.demote(volume.handle))
        copies.append(executor.submit(checksum_when_ready, stage.here, volume))
    for copy in copies:
        require(copy.result() == expected, "every byte when it is first ready", "other data")
    require(not stage.here.primary(volume), "dr1 is demoted", "it is primary")
    entry = stage.there.journal_entry(volume, "csi.imageid")
    require(entry is None, "no CSI journal where there was none", entry)
    settle(lambda: stage.there.client.promote(volume.handle))
    require(stage.there.checksum(volume) == expected, "every byte on dr2", "other data")


@case(
    "resync/moved-away",
    kind=Kind.SAFETY,
    row="ready=true is what orchestrators wait for before they move an application; a false one "
    "loses data: while a peer is primary it is ready=false",
)
def moved_away(stage: Stage) -> None:
    """The old primary of a planned failover is never ready while the new one lives."""
    volume = stage.mirrored()
    stage.move(stage.here, stage.there, volume)
    before = stage.here.image_id(volume)

    def follows() -> bool:
        answer = _resync(stage.here, volume)
        require(not answer.ready, "ready=false beside a primary", answer.response)
        return stage.here.state(volume) == "up+replaying"

    poll(follows, seconds=90, what="dr1 follows dr2")
    follows()
    _require_kept(stage.here, volume, before)


# --- split-brain -----------------------------------------------------------------------------


@case(
    "resync/split-brain",
    kind=Kind.SAFETY,
    row="Split-brain, no force → FAILED_PRECONDITION: says what was seen and that force is needed; "
    "force, and a peer up and primary → record, then request the resync, once; requested earlier "
    "→ ready=false, never a second request; when ready is first said, correct csi.imageid",
)
def split_brain(stage: Stage) -> None:
    """Untouched without force; recreated once with it; ready, and whole, after a demotion."""
    volume, here = split(stage), stage.here
    before = here.image_id(volume)
    refused = here.client.resync(volume.handle)
    expect(refused, "FAILED_PRECONDITION", saying=("split-brain", "force"))
    _require_kept(here, volume, before)
    require(here.read(volume, len(_OLD)) == _OLD, "dr1's own data", "other data")
    after = recreate_once(here, volume)
    await_equal(stage, volume)
    require(here.read(volume, len(_NEW)) == _NEW, "the primary's data", "other data")
    stage.there.write(volume, os.urandom(_BLOCK), _BLOCK)
    settle(lambda: stage.there.client.demote(volume.handle))
    came = checksum_when_ready(here, volume)
    require(came == stage.there.checksum(volume), "every byte when it is ready", "other data")
    _require_kept(here, volume, after)
    entry = here.journal_entry(volume, "csi.imageid")
    require(entry == after, f"csi.imageid {after}", entry)
    require(not _recorded(here, volume), "no resync record after ready=true", "one that stands")
    settle(lambda: here.client.promote(volume.handle))


@case(
    "resync/both-torn",
    kind=Kind.SAFETY,
    row="Split-brain, force, and no peer up and primary: a resync would delete the only copy; a "
    "false ready=true loses data",
)
def both_torn(stage: Stage) -> None:
    """When both wrote and both are demoted, neither is deleted by force, and none is ready."""
    volume, sites = split(stage), (stage.here, stage.there)
    before = [each.image_id(volume) for each in sites]
    site = stage.there.site
    site.rbd("mirror", "image", "demote", f"{site.pool}/{volume.image}")
    # until a status tells of it the peer reads primary
    poll(
        lambda: "local image is primary" not in str(stage.here.mirror_status(volume)),
        seconds=120,
        what="dr1 knows that dr2 was demoted",
    )
    for force in (False, True):
        for each in sites:
            answer = _resync(each, volume, force=force)
            require(not answer.ready, "ready=false, or a refusal", answer.response)
    time.sleep(2 * stage.check_interval)  # what must not happen takes its time
    after = [each.image_id(volume) for each in sites]
    require(after == before, f"both images, untouched: {before}", after)


@case(
    "resync/daemons-down",
    kind=Kind.SAFETY,
    row="Split-brain, force, no such peer → FAILED_PRECONDITION: a resync would delete the only "
    "copy; local rbd-mirror down or stale → UNAVAILABLE",
    alone=True,
    tags={"long"},
)
def daemons_down(stage: Stage) -> None:
    """Without dr2's rbd-mirror a split dr1 keeps its image; a copy on dr2 is UNAVAILABLE."""
    torn, healthy = together(lambda: split(stage), stage.mirrored)
    before, copy = stage.here.image_id(torn), stage.there.image_id(healthy)
    with stage.there.without("rbd-mirror"):
        poll(lambda: not peer_up(stage.here, torn), seconds=60, what="dr2 reads down on dr1")
        expect(stage.here.client.resync(torn.handle, force=True), "FAILED_PRECONDITION")
        for force in (False, True):
            _await_unavailable(stage.there, healthy, force=force)
    _require_kept(stage.here, torn, before)
    require(stage.here.read(torn, len(_OLD)) == _OLD, "dr1's own data", "other data")
    _require_kept(stage.there, healthy, copy)


def _await_unavailable(site: SiteUnderTest, volume: Volume, *, force: bool) -> None:
    """Ask until the site knows that its rbd-mirror is down; never ready until then."""

    def ask() -> bool:
        answer = _resync(site, volume, force=force)
        require(not answer.ready, "ready=false", answer.response)
        return answer.code == "UNAVAILABLE" and "rbd-mirror" in answer.message

    poll(ask, seconds=60, what="UNAVAILABLE, naming rbd-mirror")


# --- facts, and what other modules need, too -------------------------------------------------


def split(stage: Stage) -> Volume:
    """Bring about a split-brain that dr1 knows of: both wrote as primary, dr2 still is."""
    volume = stage.mirrored()
    here, there = stage.here, stage.there
    settle(lambda: there.client.promote(volume.handle, force=True))
    for site, data in ((here, _OLD), (there, _NEW)):
        write = partial(accepts, site, volume, data, 0)
        poll(write, seconds=60, what=f"{site.name} takes a write")
    if stage.mode == "snapshot":
        there.take_mirror_snapshot(volume)
    settle(lambda: here.client.demote(volume.handle))
    await_split(here, volume)
    return volume


def await_split(site: SiteUnderTest, volume: Volume) -> None:
    """Ask without force until the split-brain is seen; never ready until then."""

    def refused() -> bool:
        answer = _resync(site, volume)
        require(not answer.ready, "ready=false in split-brain", answer.response)
        return answer.code == "FAILED_PRECONDITION"

    poll(refused, seconds=150, what="a split-brain is refused without force")


def _resync(site: SiteUnderTest, volume: Volume, *, force: bool = False, **words: str) -> Answer:
    """Ask once; whatever the state is, these answers are possible."""
    answer = site.client.resync(volume.handle, force=force, **words)
    expect(answer, "OK", "ABORTED", "UNAVAILABLE", "FAILED_PRECONDITION")
    return answer


def recreate_once(site: SiteUnderTest, volume: Volume, **words: str) -> str:
    """Force a resync, repeat it as the controller does, and return the one new image id."""
    seen = {site.image_id(volume)}
    answers: deque[Answer] = deque(maxlen=1)

    def whole() -> bool:
        answer = site.client.resync(volume.handle, force=True, **words)
        answers.append(answer)
        expect(answer, "OK", "ABORTED", "UNAVAILABLE")
        require(not answer.ready, "ready=false beside a primary", answer.response)
        seen.add(site.image_id(volume))
        return len(seen - {""}) > 1 and site.state(volume) == "up+replaying"

    poll(
        whole,
        seconds=170,
        what="the image was recreated, and follows",
        instead=lambda: f"images {seen}, {site.mirror_status(volume)}, answer {answers[-1]}",
    )
    whole()
    ids = seen - {""}
    require(len(ids) == 2, "one resync, that is two image ids", ids)
    return site.image_id(volume)


def checksum_when_ready(site: SiteUnderTest, volume: Volume) -> str:
    """Ask until it is ready, and return what the image holds at that moment."""
    poll(lambda: _resync(site, volume).ready, seconds=170, what=f"ready=true on {site.name}")
    return site.checksum(volume)


def await_equal(stage: Stage, volume: Volume) -> None:
    """Wait until both images hold the same."""
    poll(
        lambda: stage.here.checksum(volume) == stage.there.checksum(volume),
        seconds=60,
        what="the same data on both sites",
    )


def _require_kept(site: SiteUnderTest, volume: Volume, before: str) -> None:
    after = site.image_id(volume)
    require(after == before, f"the image {before}, untouched", after or "none")


def _recorded(site: SiteUnderTest, volume: Volume) -> bool:
    with site.site.ioctx() as ioctx:
        try:
            rbd.RBD().pool_metadata_get(ioctx, f"csi-addons-rbd/resync/{volume.image}")
        except KeyError:
            return False
    return True
