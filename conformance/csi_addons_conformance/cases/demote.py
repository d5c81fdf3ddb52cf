# SPDX-License-Identifier: Apache-2.0
"""DemoteVolume."""

import os
import re
import time
from functools import partial

import rbd

from csi_addons_conformance.case import SNAPSHOT, Kind, case, expect, poll, require, settle
from csi_addons_conformance.cases.promote import hand_over, together
from csi_addons_conformance.client import Answer
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage
from lab import Volume

_BLOCK = 64 << 10
_QUICKLY = 5
"""Seconds within which a demotion that has been done before is answered."""
_SHORT_CALL = 10
"""Deadline in seconds of a call that must not see a frozen daemon read down (30 s)."""


@case(
    "demote/not-enabled",
    kind=Kind.SPEC,
    row="Not enabled → FAILED_PRECONDITION",
    modes=SNAPSHOT,
)
def not_enabled(stage: Stage) -> None:
    """A volume that is not mirrored cannot be demoted."""
    expect(stage.here.client.demote(stage.volume().handle), "FAILED_PRECONDITION")


@case(
    "demote/primary",
    kind=Kind.SPEC,
    row="Otherwise (peer has followed) → demote; OK only after a fresh read shows secondary; our "
    "schedule removed; already secondary → OK, quickly",
)
def primary(stage: Stage) -> None:
    """The image is secondary, its schedule is gone, and repeating it is OK, quickly."""
    volume = stage.mirrored(schedulingInterval="5m")
    settle(lambda: stage.here.client.demote(volume.handle))
    for _ in range(2):
        require(not stage.here.primary(volume), "a secondary", "a primary")
        require(not stage.here.schedules(volume), "no schedule", stage.here.schedules(volume))
        expect(stage.here.client.demote(volume.handle), "OK", within=_QUICKLY)


@case(
    "demote/already-secondary",
    kind=Kind.SPEC,
    row="Already secondary → OK, quickly (the controller repeats it every 15–30 s)",
)
def already_secondary(stage: Stage) -> None:
    """The copy of a live primary is demoted already: OK, quickly, and it goes on following."""
    volume = stage.mirrored()
    expect(stage.there.client.demote(volume.handle), "OK", within=_QUICKLY)
    require(stage.there.state(volume) == "up+replaying", "a copy that follows", "another state")
    require(stage.here.primary(volume), "dr1 stays primary", "it does not")


@case(
    "demote/peer-is-primary",
    kind=Kind.SPEC,
    row="Otherwise (peer is primary itself) → demote",
)
def peer_is_primary(stage: Stage) -> None:
    """Of two primaries the old one can be demoted; the new one is left as it is."""
    volume = stage.mirrored()
    settle(lambda: stage.there.client.promote(volume.handle, force=True))
    settle(lambda: stage.here.client.demote(volume.handle))
    require(not stage.here.primary(volume), "a secondary on dr1", "a primary")
    require(stage.there.primary(volume), "a primary on dr2", "a secondary")


# --- somebody holds the image ----------------------------------------------------------------


@case(
    "demote/open-writer",
    kind=Kind.SAFETY,
    row="A client holds it (owner of the exclusive lock) → FAILED_PRECONDITION naming the holder: "
    "librbd itself would demote under an open writer, and an acknowledged write was lost so",
)
def open_writer(stage: Stage) -> None:
    """The writer is named and goes on; once it has closed, all it wrote arrives on dr2."""
    volume = stage.mirrored()
    with stage.here.image(volume, writing=True) as image:
        image.write(b"before", 0)
        _require_held(stage.here, volume)
        image.write(b"after the refusal", 4096)
        image.flush()
    stage.move(stage.here, stage.there, volume)
    for offset, data in ((0, b"before"), (4096, b"after the refusal")):
        came = stage.there.read(volume, len(data), offset)
        require(came == data, f"{data!r} on dr2", came)


@case(
    "demote/foreign-locker",
    kind=Kind.SAFETY,
    row="A client holds it (a foreign locker) → FAILED_PRECONDITION naming the holder",
)
def foreign_locker(stage: Stage) -> None:
    """Whoever locked the image by hand is named; without that lock it is demoted."""
    volume = stage.mirrored()
    with stage.here.image(volume, writing=True) as image:
        image.lock_exclusive("fence")
        _require_held(stage.here, volume)
        image.unlock("fence")
    settle(lambda: stage.here.client.demote(volume.handle))


@case(
    "demote/watcher",
    kind=Kind.CONTRACT,
    row="Watchers alone are not holders: rbd-mirror of both sites is one",
)
def watcher(stage: Stage) -> None:
    """An image that is open, and not written to, is demoted."""
    volume = stage.mirrored()
    with stage.here.image(volume, writing=True) as image:
        require(list(image.watchers_list()), "a watcher", "none")
        settle(lambda: stage.here.client.demote(volume.handle))
    require(not stage.here.primary(volume), "a secondary", "a primary")


def _require_held(site: SiteUnderTest, volume: Volume) -> None:
    """Ask for the demotion of an image that this process holds."""
    answer = settle(lambda: site.client.demote(volume.handle), "FAILED_PRECONDITION")
    require(re.search(r"client\.?\d+", answer.message), "the holder's name", answer)
    require(site.primary(volume), "an untouched primary", "a secondary")


# --- a peer that has not followed ------------------------------------------------------------


@case(
    "demote/peer-behind",
    kind=Kind.SAFETY,
    row="A peer is up, not primary, and has not yet followed this primary epoch → wait, then "
    "ABORTED; otherwise (no peer up) → demote",
    alone=True,
)
def peer_behind(stage: Stage) -> None:
    """ABORTED while the peer's frozen rbd-mirror reads up; OK once it is dead, or has followed."""
    followed, abandoned = volumes = together(stage.mirrored, stage.mirrored)
    client, data = stage.there.client, os.urandom(_BLOCK)
    together(*(partial(hand_over, stage, each) for each in volumes))
    with stage.here.frozen("rbd-mirror"):
        together(*(partial(settle, partial(client.promote, each.handle)) for each in volumes))
        for volume in volumes:
            stage.there.write(volume, data)
        for answer in together(*(partial(_demote_briefly, stage.there, each) for each in volumes)):
            expect(answer, "ABORTED")
        with stage.here.without("rbd-mirror"):
            settle(lambda: client.demote(abandoned.handle))
            require(not stage.there.primary(abandoned), "a secondary", "a primary")
    # dr1's rbd-mirror starts at this moment, and still reads down
    stage.move(stage.there, stage.here, followed)
    require(stage.here.read(followed, _BLOCK) == data, "what dr2 wrote", "other data on dr1")


def _demote_briefly(site: SiteUnderTest, volume: Volume) -> Answer:
    """Ask once, and see to it that nothing was demoted."""
    answer = site.client.call("DemoteVolume", volume.handle, timeout=_SHORT_CALL)
    require(site.primary(volume), "a primary that waits for its peer", f"a secondary: {answer}")
    return answer


# --- a resync that was asked for before ------------------------------------------------------


@case(
    "demote/pending-resync",
    kind=Kind.SAFETY,
    row="The last good copy is never destroyed (a request for a resync outlives a promotion, and "
    "rbd-mirror deletes the image as soon as it is secondary)",
    alone=True,
)
def pending_resync(stage: Stage) -> None:
    """Promoted by force while a resync was asked for: not demoted, or not deleted after it."""
    volume, there = stage.mirrored(), stage.there
    with there.without("rbd-mirror"):
        poll(lambda: _asked(there, volume), seconds=90, what="the request is taken", every=3)
        settle(lambda: there.client.promote(volume.handle, force=True))
        there.write(volume, b"written on dr2")
        before = there.image_id(volume)
    there.client.demote(volume.handle)
    time.sleep(4 * stage.check_interval)  # what must not happen takes its time
    after = there.image_id(volume)
    require(after == before, f"the image {before}, untouched", after or "none")


def _asked(site: SiteUnderTest, volume: Volume) -> bool:
    """Ask for a resync as an administrator; a dead daemon's lock stands for half a minute."""
    try:
        with site.image(volume, writing=True) as image:
            image.mirror_image_resync()
    except rbd.OSError:
        return False
    return True


@case(
    "demote/peer-just-came",
    kind=Kind.SAFETY,
    row="A peer is up, not primary, and has not yet followed this primary epoch → wait, then "
    "ABORTED (journal mode: a peer that just came begins at the primary's own position)",
    alone=True,
)
def peer_just_came(stage: Stage) -> None:
    """A first failover, dr1's rbd-mirror frozen meanwhile: what dr2 wrote is never left behind."""
    volume = stage.enabled()
    stage.here.write(volume, b"one")
    poll(lambda: stage.there.exists(volume), seconds=60, what="the copy on dr2", every=0.2)
    settle(lambda: stage.here.client.demote(volume.handle))
    with stage.here.frozen("rbd-mirror"):
        settle(lambda: stage.there.client.promote(volume.handle))
        stage.there.write(volume, b"two")
    answer = stage.there.client.call("DemoteVolume", volume.handle, timeout=20)
    expect(answer, "OK", "ABORTED", "DEADLINE_EXCEEDED")
    if answer.code == "OK":
        settle(lambda: stage.here.client.promote(volume.handle))
        found = stage.here.read(volume, 3)
        require(found == b"two", "what was written on dr2", found)
    stage.say(f"Demote answered {answer.code}")
