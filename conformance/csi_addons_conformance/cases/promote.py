# SPDX-License-Identifier: Apache-2.0
"""PromoteVolume."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from signal import SIGCONT, SIGSTOP
from typing import Any, TypeVar

import rbd

from csi_addons_conformance.case import (
    SNAPSHOT,
    Kind,
    SkippedError,
    case,
    expect,
    poll,
    require,
    settle,
)
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage
from lab import Volume
from lab.site import DATA_POOL

_T = TypeVar("_T")
_BLOCK = 64 << 10
_OBJECT = 4 << 20
SPARSE = 100 * _OBJECT
"""Bytes of a volume with many objects, and little in each."""
MARK = 256 << 10
_OLDER = 200
"""Snapshots that its images had before."""
_MOMENT = 0.05
"""Seconds in which no copy of such a volume is made."""
_SLOW = 12
"""Seconds for which a copy stands still: longer than a peer that restarts may be down."""
BIG = 384 << 20
"""Bytes of a volume whose first copy takes long enough to be interrupted."""


# --- nothing to wait for ---------------------------------------------------------------------


@case(
    "promote/not-enabled",
    kind=Kind.SPEC,
    row="Not enabled → FAILED_PRECONDITION",
    modes=SNAPSHOT,
)
def not_enabled(stage: Stage) -> None:
    """A volume that is not mirrored is refused, with or without force, and stays so."""
    volume = stage.volume()
    for force in (False, True):
        expect(stage.here.client.promote(volume.handle, force=force), "FAILED_PRECONDITION")
    require(not stage.here.mirrored(volume), "a volume that is not mirrored", "a mirrored one")


@case(
    "promote/already-primary",
    kind=Kind.SPEC,
    row="Already primary → OK",
)
def already_primary(stage: Stage) -> None:
    """A primary is OK at once, with or without force, and nothing changes."""
    volume = stage.mirrored()
    before = len(stage.here.mirror_snapshots(volume))
    for force in (False, True):
        expect(stage.here.client.promote(volume.handle, force=force), "OK", within=10)
    after = len(stage.here.mirror_snapshots(volume))
    require(after == before, f"the {before} mirror snapshots there were", after)
    require(stage.there.state(volume) == "up+replaying", "a copy that follows", "another state")


@case(
    "promote/peer-primary",
    kind=Kind.SPEC,
    row="librbd refuses, a fresh status says the peer is primary → FAILED_PRECONDITION: demote it, "
    "or force",
)
def peer_primary(stage: Stage) -> None:
    """While the peer is primary the copy is refused, and stays a copy that follows."""
    volume = stage.mirrored()
    settle(lambda: stage.there.client.promote(volume.handle), "FAILED_PRECONDITION")
    require(not stage.there.primary(volume), "a secondary", "a primary")
    require(stage.here.primary(volume), "dr1 stays primary", "it does not")
    require(stage.there.state(volume) == "up+replaying", "a copy that follows", "another state")


@case(
    "promote/forced",
    kind=Kind.SPEC,
    row="force=true: promote; transient EBUSY or EROFS (rbd-mirror lets go of the image) is "
    "retried within the deadline; OK only after a fresh read shows primary",
)
def forced(stage: Stage) -> None:
    """Force makes a copy that is being replayed primary, whole and writable."""
    data = os.urandom(_BLOCK)
    volume = stage.mirrored(data=data)
    settle(lambda: stage.there.client.promote(volume.handle, force=True))
    require(stage.there.primary(volume), "a primary", "a secondary")
    require(stage.there.read(volume, len(data)) == data, "the data", "other data")
    poll(
        lambda: accepts(stage.there, volume, b"written", _BLOCK),
        seconds=60,
        what="the promoted image takes a write",
    )
    expect(stage.there.client.promote(volume.handle), "OK")


@case(
    "promote/forced-half-copied",
    kind=Kind.SAFETY,
    row="The last good copy is never destroyed: force while a later copy is half made",
    modes=SNAPSHOT,
    alone=True,
)
def forced_half_copied(stage: Stage) -> None:
    """dr1 is lost in the middle of a copy, or of a demotion's: the last whole copy is there.

    Also where the data of images is in a pool of its own, as with erasure coding.
    """
    for cut, pool in (
        (stage.here.take_mirror_snapshot, _data_pool(stage)),
        (partial(_demote, stage.here), nullcontext()),
    ):
        with pool:
            volume = copied(stage)
        mark_blocks(stage.here, volume, b"2" * MARK)
        try:
            cut_a_copy(stage, volume, cut)
            settle(partial(stage.there.client.promote, volume.handle, force=True))
            found = blocks(stage.there, volume)
        finally:
            stage.there.site.start("rbd-mirror")
        require(found == {b"1"}, "what the last whole copy held", found)


@contextmanager
def _data_pool(stage: Stage) -> Iterator[None]:
    """Have the images that are made meanwhile keep their data in a pool of its own, on each site.

    On dr2 that pool is older than any image, so that the numbers of its snapshots are greater.
    """
    for site in (stage.here.site, stage.there.site):
        site.ceph("osd", "pool", "create", DATA_POOL)
        site.rbd("pool", "init", DATA_POOL)
    with stage.there.site.connect() as cluster, cluster.open_ioctx(DATA_POOL) as ioctx:
        for _ in range(_OLDER):
            ioctx.create_self_managed_snap()
    place = (stage.here.site.pool, "rbd_default_data_pool")
    stage.here.site.rbd("config", "pool", "set", *place, DATA_POOL)
    try:
        yield
    finally:
        stage.here.site.rbd("config", "pool", "remove", *place)


@case(
    "promote/forced-half-copied-snapshots",
    kind=Kind.SAFETY,
    row="No complete copy exists here: force meets the same refusal (a later copy is half made, "
    "and brings snapshots of users, with which rbd-mirror writes over the last whole copy)",
    modes=SNAPSHOT,
    alone=True,
)
def forced_half_copied_snapshots(stage: Stage) -> None:
    """Nothing promotes the mixture; once rbd-mirror has made the copy whole, it is promoted.

    What it holds then is rbd-mirror's affair: that of Ceph 16 may leave out one object when it goes
    on with a copy.
    """
    volume = copied(stage)
    mark_blocks(stage.here, volume, b"2" * MARK)
    with stage.here.image(volume, writing=True) as image:
        image.create_snap("between")
    mark_blocks(stage.here, volume, b"3" * MARK)
    force = partial(stage.there.client.promote, volume.handle, force=True)
    try:
        cut_a_copy(stage, volume, stage.here.take_mirror_snapshot)
        expect(force(), "ABORTED", saying=("between",))
        with stage.here.without("rbd-mirror"):
            answer = settle(force, "FAILED_PRECONDITION", seconds=150)
            expect(answer, "FAILED_PRECONDITION", saying=("between", "rbd cp"))
        require(not stage.there.primary(volume), "a secondary", "a primary")
    finally:
        stage.there.site.start("rbd-mirror")
    stage.move(stage.here, stage.there, volume)
    require(stage.there.primary(volume), "a primary", "a secondary")


def copied(stage: Stage) -> Volume:
    """Make a volume with many objects, each of which begins with 1, and await its copy."""
    volume = stage.volume(size=SPARSE)
    mark_blocks(stage.here, volume, b"1")
    expect(stage.here.client.enable(volume.handle, mirroringMode=stage.mode), "OK")
    stage.await_copy(volume)
    poll(lambda: blocks(stage.there, volume) == {b"1"}, seconds=60, what="a whole copy")
    return volume


def _demote(site: SiteUnderTest, volume: Volume) -> None:
    settle(lambda: site.client.demote(volume.handle))


def cut_a_copy(stage: Stage, volume: Volume, begin: Callable[[Volume], None]) -> None:
    """Begin a copy, and kill dr2's rbd-mirror in the middle of it."""
    try:
        freeze_in_a_copy(stage, volume, begin)
    finally:
        stage.there.site.kill("rbd-mirror")


def freeze_in_a_copy(stage: Stage, volume: Volume, begin: Callable[[Volume], None]) -> None:
    """Begin a copy, and leave dr2's rbd-mirror frozen in the middle of it."""

    def newest() -> Mapping[str, Any]:
        return stage.there.mirror_snapshots(volume)[-1]

    whole, site = newest()["id"], stage.there.site

    def begun() -> bool:
        """Let rbd-mirror run for a moment, and look while it stands still."""
        site.signal("rbd-mirror", SIGCONT)
        time.sleep(_MOMENT)
        site.signal("rbd-mirror", SIGSTOP)
        return bool(newest()["id"] != whole)

    site.signal("rbd-mirror", SIGSTOP)
    begin(volume)
    poll(begun, seconds=60, what="a copy has begun", every=0)
    if newest()["mirror"]["complete"]:
        raise SkippedError("the whole copy was made before rbd-mirror could be stopped")


def mark_blocks(site: SiteUnderTest, volume: Volume, data: bytes) -> None:
    """Begin each object of the image with the data."""
    with site.image(volume, writing=True) as image:
        for offset in range(0, SPARSE, _OBJECT):
            image.write(data, offset)
        image.flush()


def blocks(site: SiteUnderTest, volume: Volume) -> set[bytes]:
    """Read with what the objects begin."""
    with site.image(volume) as image:
        return {bytes(image.read(offset, 1)) for offset in range(0, SPARSE, _OBJECT)}


# --- the last data ---------------------------------------------------------------------------


@case(
    "promote/planned",
    kind=Kind.SAFETY,
    row="librbd refuses (EBUSY, EROFS), the last data is still coming → wait. A planned failover "
    "is never forced and loses nothing, however soon after Demote's OK the promote arrives, and "
    "however fast volumes are moved back and forth",
)
def planned(stage: Stage) -> None:
    """Four moves without a pause: never a word that asks for force, and every byte is there."""
    volume = stage.mirrored()
    sites = [stage.here, stage.there]
    for number in range(4):
        old, new = sites[number % 2], sites[(number + 1) % 2]
        old.write(volume, os.urandom(1 << 20), number << 20)
        written = old.checksum(volume)
        stage.move(old, new, volume)
        require(new.primary(volume), f"{new.name} is primary", "it is not")
        require(not old.primary(volume), f"{old.name} is secondary", "it is not")
        came = new.checksum(volume)
        require(came == written, f"every byte on {new.name} after move {number + 1}", "other data")


@case(
    "promote/last-primary",
    kind=Kind.SAFETY,
    row="This site was the last primary it knows of: librbd accepts, and that proves nothing; a "
    "peer up → wait until both sides read up+unknown in statuses written at least one state-check "
    "interval after the call began, then promote",
)
def last_primary(stage: Stage) -> None:
    """What a peer wrote in between is there, though librbd would promote at once without it."""
    volume = stage.mirrored()
    stage.move(stage.here, stage.there, volume)
    written = os.urandom(_BLOCK)
    stage.there.write(volume, written, _BLOCK)
    stage.move(stage.there, stage.here, volume)
    came = stage.here.read(volume, _BLOCK, _BLOCK)
    require(came == written, "what dr2 wrote while it was primary", "other data on dr1")
    state = stage.there.state(volume)
    require(state != "up+error", "no split-brain on dr2", state)


@case(
    "promote/last-primary-undisturbed",
    kind=Kind.CONTRACT,
    row="This site was the last primary it knows of; a peer up → wait until both sides read "
    "up+unknown in statuses written at least one state-check interval after the call began",
)
def last_primary_undisturbed(stage: Stage) -> None:
    """Nobody was primary in between: not promoted before one state check, then OK."""
    data = os.urandom(_BLOCK)
    volume = stage.mirrored(data=data)
    settle(lambda: stage.here.client.demote(volume.handle))
    began = time.monotonic()
    settle(lambda: stage.here.client.promote(volume.handle))
    took = time.monotonic() - began
    require(took >= stage.check_interval, f"OK after {stage.check_interval} s or more", took)
    require(stage.here.read(volume, len(data)) == data, "the data", "other data")
    poll(
        lambda: stage.there.state(volume) == "up+replaying",
        seconds=90,
        what="the copy on dr2 follows again",
    )


@case(
    "promote/failover-cancelled",
    kind=Kind.SAFETY,
    row="librbd accepts because the newest history here is the peer's demotion: no proof, the peer "
    "may have been promoted again since. Local rbd-mirror down or stale: UNAVAILABLE naming it "
    "while a peer is up; a status calls the peer primary → never OK",
    alone=True,
)
def failover_cancelled(stage: Stage) -> None:
    """dr1 is promoted again and written while dr2's rbd-mirror is dead: dr2 is refused."""
    written, kept = volumes = together(stage.mirrored, stage.mirrored)
    client, data = stage.there.client, os.urandom(_BLOCK)
    together(*(partial(hand_over, stage, each) for each in volumes))
    promote = stage.here.client.promote
    together(*(partial(settle, partial(promote, each.handle)) for each in volumes))
    with stage.there.without("rbd-mirror"):
        stage.here.write(written, data)
        poll(lambda: called_primary(stage.there, kept), seconds=60, what="dr1 says it is primary")
        settle(lambda: client.promote(kept.handle), "FAILED_PRECONDITION")
        settle(lambda: stage.here.client.demote(written.handle))
        settle(lambda: client.promote(written.handle), "UNAVAILABLE", saying=("rbd-mirror",))
        for volume in volumes:
            require(not stage.there.primary(volume), "a secondary on dr2", "a primary")
    settle(lambda: promote(written.handle, force=True))
    poll(
        lambda: stage.there.read(written, _BLOCK) == data,
        seconds=90,
        what="what dr1 wrote last is on dr2, once dr1 is primary again",
    )


# --- daemons that are down -------------------------------------------------------------------


@case(
    "promote/local-daemon-down",
    kind=Kind.SAFETY,
    row="Peer up and demoted, local rbd-mirror down or stale → UNAVAILABLE, naming the daemon: the "
    "last data cannot arrive, and force would lose it; this site was the last primary, local "
    "rbd-mirror down or stale → UNAVAILABLE",
    alone=True,
)
def local_daemon_down(stage: Stage) -> None:
    """Both are UNAVAILABLE, naming rbd-mirror, and OK with all data once it is back."""
    pending, last = together(stage.mirrored, stage.mirrored)
    stage.move(stage.here, stage.there, last)
    settle(lambda: stage.there.client.demote(last.handle))
    data = os.urandom(_BLOCK)
    client = stage.there.client
    with stage.there.without("rbd-mirror"):
        stage.here.write(pending, data)
        settle(lambda: stage.here.client.demote(pending.handle))
        for volume in (pending, last):
            refused = partial(client.promote, volume.handle)
            settle(refused, "UNAVAILABLE", saying=("rbd-mirror",))
        for volume in (pending, last):
            require(not stage.there.primary(volume), "a secondary", "a primary")
    for volume in (pending, last):
        settle(partial(client.promote, volume.handle))
    require(stage.there.read(pending, _BLOCK) == data, "the last data", "other data")


@case(
    "promote/no-peer-up",
    kind=Kind.SPEC,
    row="librbd refuses, no peer up (down, stale, never heard of) → FAILED_PRECONDITION at once: "
    "force is the legitimate next step; this site was the last primary, no peer up → "
    "FAILED_PRECONDITION; the last data is still coming, whatever the peer's daemon is → wait",
    alone=True,
    tags={"long"},
)
def no_peer_up(stage: Stage) -> None:
    """Two are refused, at once when it is known; what can still arrive is waited for."""
    refused, last, coming = together(stage.mirrored, stage.mirrored, stage.mirrored)
    stage.move(stage.here, stage.there, last)
    settle(lambda: stage.there.client.demote(last.handle))
    client, data = stage.there.client, os.urandom(_BLOCK)
    with stage.here.without("rbd-mirror"):
        stage.here.write(coming, data)
        settle(lambda: stage.here.client.demote(coming.handle))
        settle(lambda: client.promote(coming.handle))
        require(stage.there.read(coming, _BLOCK) == data, "the last data", "other data")
        poll(lambda: not peer_up(stage.there, refused), seconds=60, what="dr1 reads down on dr2")
        # in journal mode this site's status may lag by 15 s
        expect(client.promote(refused.handle), "FAILED_PRECONDITION", within=25)
        settle(lambda: client.promote(last.handle), "FAILED_PRECONDITION")
        for volume in (refused, last):
            require(not stage.there.primary(volume), "a secondary", "a primary")


@case(
    "promote/peer-daemon-dead",
    kind=Kind.SAFETY,
    row="librbd refuses, the last data is still coming, whatever the peer's daemon is → wait. A "
    "planned failover is never forced and loses nothing",
    modes=SNAPSHOT,
    alone=True,
)
def peer_daemon_dead(stage: Stage) -> None:
    """dr1's rbd-mirror is dead, its cluster is not: the copy of the demotion is waited for."""
    volume, client = copied(stage), stage.there.client
    with stage.here.without("rbd-mirror"), ThreadPoolExecutor(1) as caller:
        poll(lambda: not peer_up(stage.there, volume), seconds=60, what="dr1 reads down on dr2")
        mark_blocks(stage.here, volume, b"2" * MARK)
        try:
            freeze_in_a_copy(stage, volume, partial(_demote, stage.here))
            answer = caller.submit(settle, partial(client.promote, volume.handle))
            time.sleep(_SLOW)
        finally:
            stage.there.site.signal("rbd-mirror", SIGCONT)
        answer.result()
    found = blocks(stage.there, volume)
    require(found == {b"2"}, "what was written before the demotion", found)


@case(
    "promote/peer-cluster-gone",
    kind=Kind.CONTRACT,
    row="librbd refuses, a peer is up but for 90 s fresh statuses say neither primary nor demoted "
    "(its cluster is gone, its daemon lives) → FAILED_PRECONDITION naming it (until then ABORTED)",
    alone=True,
    tags={"long"},
)
def peer_cluster_gone(stage: Stage) -> None:
    """With the peer's cluster dead, and not its rbd-mirror, force is offered in the end."""
    data = os.urandom(_BLOCK)
    volume = stage.mirrored(data=data)
    with stage.here.without("osd", "mgr", "mon"):
        client = stage.there.client
        refused = settle(lambda: client.promote(volume.handle), "FAILED_PRECONDITION", seconds=240)
        stage.say(refused.message)
        require(not stage.there.primary(volume), "a secondary", "a primary")
        insist(stage, stage.there, volume)
        require(stage.there.read(volume, _BLOCK) == data, "the data", "other data")


@case(
    "promote/last-data-lost",
    kind=Kind.SAFETY,
    row="The last data is still coming (peer demoted), whatever the peer's daemon is → wait; 60 s "
    "without progress and no peer up → FAILED_PRECONDITION",
    alone=True,
    tags={"long"},
)
def last_data_lost(stage: Stage) -> None:
    """A site that dies with its last data: force is offered in the end; back again, all is OK."""
    volume, data = stage.mirrored(), os.urandom(_BLOCK)
    client = stage.there.client
    with stage.there.without("rbd-mirror"):
        stage.here.write(volume, data)
        settle(lambda: stage.here.client.demote(volume.handle))
        stage.here.site.kill()
    try:
        settle(lambda: client.promote(volume.handle), "FAILED_PRECONDITION", seconds=240)
        require(not stage.there.primary(volume), "a secondary", "a primary")
    finally:
        stage.here.site.start()
    settle(lambda: client.promote(volume.handle), seconds=240)
    require(stage.there.read(volume, _BLOCK) == data, "the last data", "other data")


@case(
    "promote/first-sync",
    kind=Kind.SAFETY,
    row="Being created, or the first sync not complete → ABORTED with progress while the peer is "
    "up, else FAILED_PRECONDITION: no complete copy exists here. force meets the same refusal",
    alone=True,
    tags={"long"},
)
def first_sync(stage: Stage) -> None:
    """Half a copy is never promoted: ABORTED beside a live peer, FAILED_PRECONDITION without."""
    volume = stage.volume(size=BIG)
    fill(stage.here, volume)
    expect(stage.here.client.enable(volume.handle, mirroringMode=stage.mode), "OK")
    await_half_a_copy(stage.there, volume)
    with stage.there.without("rbd-mirror"):
        if stage.there.checksum(volume) == stage.here.checksum(volume):
            raise SkippedError("the whole copy was made before rbd-mirror could be stopped")
        poll(lambda: peer_up(stage.there, volume), seconds=60, what="dr1 reads up on dr2")
        _require_refused(stage, volume, "ABORTED")
        with stage.here.without("rbd-mirror"):
            poll(lambda: not peer_up(stage.there, volume), seconds=60, what="dr1 reads down")
            _require_refused(stage, volume, "FAILED_PRECONDITION")
    stage.await_copy(volume)
    written = stage.here.checksum(volume)
    stage.move(stage.here, stage.there, volume)
    require(stage.there.checksum(volume) == written, "every byte on dr2", "other data")


def _require_refused(stage: Stage, volume: Volume, code: str) -> None:
    for force in (False, True):
        answer = stage.there.client.promote(volume.handle, force=force)
        snapshots = [each["mirror"] for each in stage.there.mirror_snapshots(volume)]
        require(answer.code == code, code, f"{answer}; mirror snapshots {snapshots}")
        require(not stage.there.primary(volume), "a secondary", "a primary")


def fill(site: SiteUnderTest, volume: Volume) -> None:
    """Write the whole image, so that its first copy takes a while."""
    chunk = os.urandom(4 << 20)
    with site.image(volume, writing=True) as image:
        for offset in range(0, image.size(), len(chunk)):
            image.write(chunk, offset)
        image.flush()


def await_half_a_copy(site: SiteUnderTest, volume: Volume) -> None:
    """Wait until the copy is no longer being created, and no moment longer."""
    poll(
        lambda: site.exists(volume) and site.mirrored(volume),
        seconds=90,
        what="the first copy has begun",
        every=0.02,
    )


# --- what other modules need, too ------------------------------------------------------------


def hand_over(stage: Stage, volume: Volume) -> None:
    """Demote on dr1, and wait until both sites have seen it: librbd would promote on dr2."""
    settle(lambda: stage.here.client.demote(volume.handle))
    poll(
        lambda: {each.state(volume) for each in (stage.here, stage.there)} == {"up+unknown"},
        seconds=90,
        what="both sites have seen the demotion",
    )


def called_primary(site: SiteUnderTest, volume: Volume) -> bool:
    """Tell whether the peer's rbd-mirror calls its own image primary, as a site reads it."""
    peers = site.mirror_status(volume).get("peer_sites", ())
    return any(peer["description"] == "local image is primary" for peer in peers)


def peer_up(site: SiteUnderTest, volume: Volume) -> bool:
    """Tell whether a site's status of the peer reads up."""
    peers = site.mirror_status(volume).get("peer_sites", ())
    return any(str(peer["state"]).startswith("up+") for peer in peers)


def accepts(site: SiteUnderTest, volume: Volume, data: bytes, offset: int) -> bool:
    """Write, unless the lock of a dead or hanging rbd-mirror still stands."""
    try:
        site.write(volume, data, offset)
    except rbd.ReadOnlyImage:
        return False
    return True


def insist(stage: Stage, site: SiteUnderTest, volume: Volume) -> None:
    """Promote by force while the peer's site is lost.

    rbd-mirror may hang on the lost peer with the exclusive lock in its hands; that is its own
    fault, and a restart of it the way out.
    """
    for _ in range(6):
        answer = site.client.promote(volume.handle, force=True)
        expect(answer, "OK", "ABORTED", "UNAVAILABLE")
        if answer.code == "OK":
            break
        stage.say(f"rbd-mirror of {site.name} restarted after: {answer}")
        with site.without("rbd-mirror"):
            pass
    expect(answer, "OK")
    require(site.primary(volume), "a primary", "a secondary")


def together(*makers: Callable[[], _T]) -> list[_T]:
    """Make several things side by side: each waits for rbd-mirror most of the time."""
    with ThreadPoolExecutor(len(makers)) as executor:
        return [each.result() for each in [executor.submit(make) for make in makers]]
