# SPDX-License-Identifier: Apache-2.0
"""What GetVolumeReplicationInfo tells beside status and time: what metrics and alerts rest on."""

import json
import time
from dataclasses import replace

import pytest
from test_promotion_rules import DEMOTED, NOW, PRIMARY, SPEC, status, view
from test_torn import snapshot

from csi_addons_rbd.ceph.histories import snapshot_history
from csi_addons_rbd.replication.calls import Health, MirroringMode, ReplicationInfo
from csi_addons_rbd.replication.errors import SyncInfoMissing
from csi_addons_rbd.replication.image import Epoch, MirrorView, SiteState, SiteStatus
from csi_addons_rbd.replication.info import agreed, last_sync, replication_info
from csi_addons_rbd.replication.notes import LAST_SYNC, Synced, noted_sync, synced
from csi_addons_rbd.replication.observations import STALE_AFTER, Observation

HERE = status("", PRIMARY)
COPIED = (SiteState.REPLAYING, f'replaying, {{"local_snapshot_timestamp":{NOW - 10}}}')
PEER = status("a", COPIED)
EVERY_MINUTE = json.dumps({"seconds": 60, "by_driver": False, "start_time": None, "placed": True})


def replayed(behind: int) -> SiteStatus:
    """A peer in journal mode, with so many entries still to be replayed."""
    positions = {
        "entries_behind_primary": behind,
        "non_primary_position": {"tag_tid": 1, "entry_tid": 9 - behind},
        "primary_position": {"tag_tid": 1, "entry_tid": 9},
    }
    return status("a", (SiteState.REPLAYING, f"replaying, {json.dumps(positions)}"))


def info(
    *peers: SiteStatus, local: SiteStatus | None = HERE, mode: MirroringMode | None = None
) -> ReplicationInfo:
    """Ask about a primary."""
    seen: MirrorView = replace(
        view(local, *peers),
        primary=True,
        mode=mode or view(None).mode,
        notes={"schedule": EVERY_MINUTE} if mode is None else {},
    )
    observation = Observation(last_sync=synced(seen, NOW - 10))
    observation.note(seen)
    return replication_info(SPEC, seen, observation)


def test_all_is_well() -> None:
    """Both daemons report, and the interval is the one asked for."""
    seen = info(PEER)
    assert seen.health is Health.HEALTHY
    assert (seen.daemon_here, seen.daemon_there) == (True, True)
    assert seen.interval == 60
    assert seen.entries_behind is None


@pytest.mark.parametrize(
    ("local", "peers", "up"),
    [
        (None, [PEER], (False, True)),
        (replace(HERE, up=False), [PEER], (False, True)),
        (replace(HERE, last_update=NOW - STALE_AFTER), [PEER], (False, True)),
        (HERE, [], (True, False)),
        (HERE, [replace(PEER, up=False)], (True, False)),
        (HERE, [replace(PEER, last_update=NOW - STALE_AFTER)], (True, False)),
        (HERE, [PEER, replace(PEER, site="b", up=False)], (True, False)),
        (HERE, [status("a", DEMOTED)], (True, True)),
    ],
)
def test_daemons_that_are_down_or_silent(
    local: SiteStatus | None, peers: list[SiteStatus], up: tuple[bool, bool]
) -> None:
    """Whatever the state that each wrote last; every peer must be there."""
    seen = info(*peers, local=local)
    assert (seen.daemon_here, seen.daemon_there) == up


def test_journal_mode_counts_entries() -> None:
    """Those of the peer that is furthest behind; there is no interval."""
    seen = info(replayed(0), replace(replayed(4), site="b"), mode=MirroringMode.JOURNAL)
    assert seen.entries_behind == 4
    assert seen.interval is None


# --- two primaries ---------------------------------------------------------------------------


BESIDE = status("a", PRIMARY)


def primary(*peers: SiteStatus, began_at: int | None = None, first: int = 4) -> MirrorView:
    """Make a reading of a primary in journal mode, or in snapshot mode since some moment."""
    seen = replace(view(HERE, *peers, epoch=Epoch.PRIMARY), primary=True)
    history = replace(seen.history, began=began_at or first, began_at=began_at, first=first)
    mode = MirroringMode.JOURNAL if began_at is None else MirroringMode.SNAPSHOT
    return replace(seen, mode=mode, history=history)


def told(seen: MirrorView, observation: Observation | None = None) -> ReplicationInfo:
    """Ask about a reading; what was seen before it is remembered."""
    observation = observation or Observation(last_sync=synced(seen, NOW - 10))
    observation.note(seen)
    return replication_info(SPEC, seen, observation)


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize(
    ("began_at", "health"),
    [(NOW - 31, Health.ERROR), (NOW - 30, Health.UNKNOWN), (NOW + 2, Health.UNKNOWN)],
)
def test_a_peer_that_reads_primary(began_at: int, health: Health, *, up: bool) -> None:
    """It is an error once its status cannot be older than the promotion here, dead or alive."""
    seen = told(primary(replace(BESIDE, up=up), began_at=began_at))
    expected = health if up or health is Health.ERROR else Health.DEGRADED
    assert seen.health is expected
    assert seen.last_sync == NOW - 10
    assert "primary" in seen.message or not up


def test_a_journal_tells_no_time_of_a_promotion() -> None:
    """So the status must be newer than one state check after the promotion was seen first."""
    observation = Observation(check_interval=0)
    observation.note(view(HERE, BESIDE))
    first = primary(BESIDE)
    observation.last_sync = synced(first, NOW)
    assert told(first, observation).health is Health.UNKNOWN
    later = primary(replace(BESIDE, last_update=NOW + 1))
    assert told(later, observation).health is Health.ERROR


def test_another_term_begins_anew() -> None:
    """A promotion between two calls is seen by its tag: what was written before it is old."""
    observation = Observation(check_interval=0)
    observation.note(primary(BESIDE))
    again = primary(replace(BESIDE, last_update=NOW + 1), first=9)
    observation.last_sync = synced(replace(again, history=replace(again.history, mark=9)), NOW)
    assert told(again, observation).health is Health.UNKNOWN


def test_an_error_needs_no_time_of_a_sync() -> None:
    """Both primary, and nothing known of a copy: an error, and never silence about it."""
    seen = told(primary(BESIDE, began_at=NOW - 31), Observation())
    assert (seen.health, seen.last_sync) == (Health.ERROR, None)


# --- terms as primary ------------------------------------------------------------------------


def test_an_earlier_term_is_forgotten() -> None:
    """By memory and by note: whatever was learnt before the first of what is here now."""
    seen = primary(status("a", DEMOTED), first=4)
    old = Synced(until=NOW - 500, mark=3, mirroring=seen.mirroring)
    noted = json.dumps({"until": NOW - 400, "mark": 3, "mirroring": seen.mirroring})
    observation = Observation(last_sync=old)
    assert last_sync(replace(seen, notes={LAST_SYNC: noted}), observation) is None
    with pytest.raises(SyncInfoMissing, match="since it became primary here"):
        told(seen, Observation(last_sync=old))


@pytest.mark.parametrize("mark", [4, 7])
def test_this_term_is_remembered(mark: int) -> None:
    """Also by another process, from the note."""
    seen = primary(status("a", DEMOTED), first=4)
    noted = json.dumps({"until": NOW - 400, "mark": mark, "mirroring": seen.mirroring})
    assert last_sync(replace(seen, notes={LAST_SYNC: noted}), Observation()) == NOW - 400
    other = noted.replace(seen.mirroring, "another Enable")
    assert last_sync(replace(seen, notes={LAST_SYNC: other}), Observation()) is None


def test_this_term_outlives_its_snapshots() -> None:
    """librbd drops the snapshot at which a sync was learnt, with the next that the peer has."""
    before = snapshot_history([snapshot(10, Epoch.PRIMARY)])
    after = snapshot_history([snapshot(11, Epoch.PRIMARY)])
    seen = primary(status("a", DEMOTED))
    observation = Observation(last_sync=synced(replace(seen, history=before), NOW - 60))
    assert last_sync(replace(seen, history=after), observation) == NOW - 60
    demoted = snapshot_history([snapshot(11, Epoch.PRIMARY_DEMOTED), snapshot(12, Epoch.PRIMARY)])
    # forgotten; both sides had all of that demotion
    assert last_sync(replace(seen, history=demoted), observation) == NOW + 11


def test_a_secondary_remembers_nothing() -> None:
    """A term ends when the image is seen secondary, whatever it shows later."""
    seen = primary(status("a", DEMOTED), first=0)
    observation = Observation(last_sync=synced(seen, NOW))
    observation.note(seen)
    assert last_sync(seen, observation) == NOW
    observation.note(view(HERE))
    assert last_sync(seen, observation) is None


def test_a_term_begins_with_the_demotion() -> None:
    """Both sides were the same then; a copy that is newer counts from its own time on."""
    seen = primary(status("a", DEMOTED), began_at=NOW - 60)
    seen = replace(seen, history=replace(seen.history, agreed_at=NOW - 62))
    assert last_sync(seen, Observation()) == NOW - 62
    followed = replace(seen.history, copied_until=NOW - 60, followed=True)
    assert last_sync(replace(seen, history=followed), Observation()) == NOW - 60
    assert last_sync(replace(seen, peers=(PEER,)), Observation()) == NOW - 10


@pytest.mark.parametrize(
    ("local", "epoch", "force", "until"),
    [
        (status("", DEMOTED), Epoch.NON_PRIMARY_DEMOTED, False, NOW),
        (status("", DEMOTED), Epoch.NON_PRIMARY_DEMOTED, True, NOW),
        (status("", COPIED), Epoch.NON_PRIMARY, True, NOW - 10),
        (status("", PRIMARY), Epoch.NON_PRIMARY, True, NOW - 20),
        (status("", DEMOTED), Epoch.PRIMARY_DEMOTED, False, NOW),
    ],
)
def test_a_promotion_notes_what_it_begins_with(
    local: SiteStatus, epoch: Epoch, *, force: bool, until: int
) -> None:
    """Without force both sides are equal; by force, what was copied here is on both."""
    before = view(local, epoch=epoch)
    before = replace(before, history=replace(before.history, newest_at=NOW - 20))
    begun = agreed(before, primary(status("a", DEMOTED)), force=force)
    assert begun is not None
    assert begun.until == until


def noted(seen: MirrorView, until: int) -> MirrorView:
    """Return the reading with what was noted of a sync in its mirroring."""
    note = json.dumps({"until": until, "mark": 3, "mirroring": seen.mirroring})
    return replace(seen, notes={LAST_SYNC: note})


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("delivered", [True, False])
def test_a_forced_promotion_knows_what_the_peer_has_of_the_demotion_here(
    *, delivered: bool, known: bool
) -> None:
    """A demotion that never reached the peer made nothing there any newer: the age goes on."""
    before = view(status("", DEMOTED), status("a", DEMOTED), epoch=Epoch.PRIMARY_DEMOTED)
    history = replace(before.history, newest_at=NOW - 20, delivered=delivered)
    before = replace(before, history=history)
    before = noted(before, NOW - 10_800) if known else before
    after = primary(status("a", DEMOTED), began_at=NOW - 5, first=9)
    after = replace(after, history=replace(after.history, mark=9), notes=before.notes)
    begun = agreed(before, after, force=True)
    observation = Observation(last_sync=begun)
    expected = NOW - 20 if delivered else NOW - 10_800 if known else None
    assert last_sync(after, observation) == expected


def test_another_mirroring_s_sync_is_not_carried_over() -> None:
    """It was disabled and enabled since, and what the peer had then is gone."""
    before = view(status("", DEMOTED), epoch=Epoch.PRIMARY_DEMOTED)
    before = replace(before, history=replace(before.history, newest_at=NOW, delivered=False))
    other = replace(noted(before, NOW - 500), mirroring="another Enable")
    assert agreed(other, primary(), force=True) is None


@pytest.mark.parametrize("until", [-1, 0, 1 << 62, 1 << 70])
def test_a_time_that_no_answer_can_carry_is_none(until: int) -> None:
    """Or every question would end in a fault, for ever."""
    note = json.dumps({"until": until, "mark": 4, "mirroring": "6f0c"})
    assert noted_sync({LAST_SYNC: note}) is None


@pytest.mark.parametrize("note", ["1795455300", "", "{}", "[]", "null", '{"until":1e999}', "NaN"])
def test_other_notes_of_a_sync_are_none(note: str) -> None:
    """Earlier versions noted the bare time, which may be of any term."""
    assert noted_sync({LAST_SYNC: note}) is None


# --- age -------------------------------------------------------------------------------------


def test_the_age_grows_while_nobody_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster's clock is seen only in what is written; time passes here, too."""
    seen = primary(PEER, began_at=NOW - 60)
    observation = Observation()
    observation.note(seen)
    now, monotonic = time.time(), time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: monotonic + 150)
    monkeypatch.setattr(time, "time", lambda: float(NOW - 1000))  # a node whose clock is behind
    observation.note(seen)
    assert "160 s old" in replication_info(SPEC, seen, observation).message
    monkeypatch.setattr(time, "time", lambda: now)


def test_a_new_process_takes_its_node_s_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """But only where no rbd-mirror writes, and it says so."""
    monkeypatch.setattr(time, "time", lambda: float(NOW + 155))
    dead = primary(replace(PEER, up=False), began_at=NOW - 60)
    dead = replace(dead, local=replace(HERE, up=False), notes={"schedule": EVERY_MINUTE})
    seen = told(dead, Observation())
    assert "165 s old by the clock of this driver's node" in seen.message
    assert "more than twice the interval (120 s)" in seen.message
    alive = told(primary(PEER, began_at=NOW - 60), Observation())
    assert "10 s old" in alive.message


def test_the_newest_snapshot_tells_the_time() -> None:
    """It is taken also while both daemons are dead."""
    seen = primary(PEER, began_at=NOW - 60)
    seen = replace(seen, history=replace(seen.history, newest_at=NOW + 300))
    assert "310 s old" in told(seen, Observation()).message
