# SPDX-License-Identifier: Apache-2.0
"""Promote without force: each row of the contract's table, decided from readings alone."""

import json
from dataclasses import replace

import pytest

from csi_addons_rbd.replication.calls import MirroringMode
from csi_addons_rbd.replication.errors import (
    DataPending,
    DriverError,
    FirstSyncRunning,
    MirrorDaemonDown,
    NoCompleteCopy,
    PeerIsPrimary,
    PeerUnreachable,
)
from csi_addons_rbd.replication.image import (
    Epoch,
    History,
    ImageSpec,
    MirrorState,
    MirrorView,
    SiteState,
    SiteStatus,
)
from csi_addons_rbd.replication.observations import Observation
from csi_addons_rbd.replication.patience import Hindsight
from csi_addons_rbd.replication.promote import (
    _Judge,
    _require_way_back,
    require_complete_copy,
)

NOW = 1_795_455_300
SPEC = ImageSpec(cluster="site-dr2", pool="pool", pool_id=2, namespace="", image="csi-vol-1")
PRIMARY = (SiteState.STOPPED, "local image is primary")
DEMOTED = (SiteState.UNKNOWN, "remote image is not primary")
REPLAYING = (SiteState.REPLAYING, 'replaying, {"replay_state":"idle"}')
SYNCING = (SiteState.REPLAYING, 'replaying, {"replay_state":"syncing"}')
SPLIT = (SiteState.ERROR, "split-brain")
STARTING = (SiteState.STARTING_REPLAY, "starting replay")


def status(
    site: str, says: tuple[SiteState, str], *, up: bool = True, written: int = NOW
) -> SiteStatus:
    """Make a status."""
    state, description = says
    return SiteStatus(site=site, up=up, state=state, description=description, last_update=written)


def view(
    local: SiteStatus | None, *peers: SiteStatus, epoch: Epoch = Epoch.NON_PRIMARY
) -> MirrorView:
    """Make a reading of a secondary with a whole copy."""
    return MirrorView(
        state=MirrorState.ENABLED,
        mode=MirroringMode.SNAPSHOT,
        mirroring="6f0c",
        primary=False,
        image_id="abc",
        local=local,
        peers=peers,
        peered=True,
        history=History(
            epoch=epoch,
            mark=4,
            began=0,
            began_at=None,
            newest_at=None,
            awaited=False,
            copied_until=None,
            followed=False,
            delivered=True,
            complete=True,
            progress="",
        ),
    )


def later(seen: MirrorView, seconds: int) -> MirrorView:
    """Return the same reading with statuses written later."""

    def rewritten(each: SiteStatus) -> SiteStatus:
        return replace(each, last_update=each.last_update + seconds)

    return replace(
        seen,
        local=rewritten(seen.local) if seen.local else None,
        peers=tuple(map(rewritten, seen.peers)),
    )


def judge(
    first: MirrorView,
    *,
    check_interval: int = 0,
    age: float = 60,
    observation: Observation | None = None,
) -> _Judge:
    """Begin to judge at a first reading, as a call that began ``age`` seconds ago."""
    hindsight, observation = Hindsight(check_interval), observation or Observation()
    hindsight.note(first)
    hindsight._began -= age
    observation.note(first)
    return _Judge(
        spec=SPEC, start=first.newest_update, hindsight=hindsight, observation=observation
    )


def demoted_last(local: SiteStatus | None, *peers: SiteStatus) -> MirrorView:
    """Make a reading of a secondary that has the peer's demotion, whole."""
    return view(local, *peers, epoch=Epoch.NON_PRIMARY_DEMOTED)


@pytest.mark.parametrize(
    "seen",
    [
        demoted_last(status("", DEMOTED), status("a", DEMOTED)),
        demoted_last(status("", DEMOTED), status("a", DEMOTED, written=NOW - 60)),
        demoted_last(status("", DEMOTED, written=NOW - 35), status("a", DEMOTED)),
        demoted_last(status("", DEMOTED), status("a", STARTING)),
    ],
)
def test_a_demotion_that_stands_is_promoted(seen: MirrorView) -> None:
    """This site's rbd-mirror has seen the peer demoted of late, and nobody calls it primary."""
    assert judge(seen).obstacle(seen) is None


@pytest.mark.parametrize(
    "seen",
    [
        demoted_last(status("", DEMOTED), status("a", PRIMARY)),
        demoted_last(status("", REPLAYING), status("a", DEMOTED)),
        demoted_last(status("", REPLAYING), status("a", PRIMARY)),
        demoted_last(status("", DEMOTED, written=NOW - 36), status("a", DEMOTED)),
        demoted_last(status("", DEMOTED), status("a", DEMOTED, up=False)),
        demoted_last(status("", DEMOTED), status("a", PRIMARY, up=False)),
        demoted_last(status("", DEMOTED, up=False), status("a", DEMOTED, up=False)),
        demoted_last(None),
    ],
)
def test_a_demotion_is_no_proof(seen: MirrorView) -> None:
    """librbd would promote at once, and lose what the peer wrote if it was promoted again."""
    assert judge(seen).obstacle(seen)


def test_a_word_written_since_proves_that_the_demotion_stands() -> None:
    """With no peer up, this site's rbd-mirror writes only while it reaches the peer's cluster."""
    seen = demoted_last(status("", DEMOTED), status("a", DEMOTED, up=False))
    started = judge(seen)
    assert started.obstacle(later(seen, 1))
    assert started.obstacle(later(seen, 2)) is None


def test_the_last_word_of_a_dead_primary_is_outlived() -> None:
    """An rbd-mirror that died as its image's primary does not block the promotion for ever."""
    seen = demoted_last(status("", DEMOTED), status("a", PRIMARY, up=False))
    started = judge(seen)
    looked = replace(seen, local=status("", DEMOTED, written=NOW + 30))
    assert started.obstacle(looked) is None
    hasty = judge(seen, check_interval=30, age=0)
    assert hasty.obstacle(looked)


@pytest.mark.parametrize(
    ("seen", "refusal"),
    [
        (demoted_last(status("", DEMOTED), status("a", PRIMARY)), PeerIsPrimary),
        (demoted_last(status("", REPLAYING), status("a", PRIMARY)), PeerIsPrimary),
        (demoted_last(status("", DEMOTED, up=False), status("a", DEMOTED)), MirrorDaemonDown),
        (demoted_last(None, status("a", DEMOTED)), MirrorDaemonDown),
    ],
)
def test_a_demotion_that_does_not_stand(seen: MirrorView, refusal: type[DriverError]) -> None:
    """The peer is primary again, or the one that could tell does not run."""
    with pytest.raises(refusal):
        judge(seen).obstacle(later(seen, 5))


@pytest.mark.parametrize(
    ("seen", "wait"),
    [
        (demoted_last(status("", DEMOTED), status("a", DEMOTED, up=False)), 90),
        (demoted_last(status("", DEMOTED, up=False), status("a", DEMOTED, up=False)), 90),
        (
            view(
                status("", DEMOTED, up=False),
                status("a", DEMOTED, up=False),
                epoch=Epoch.PRIMARY_DEMOTED,
            ),
            60,
        ),
    ],
)
def test_a_site_that_is_lost_after_a_demotion(seen: MirrorView, wait: int) -> None:
    """With no peer up for so long force is offered, whatever this site's rbd-mirror does."""
    started = judge(seen)
    assert started.obstacle(seen)
    started.observation.silence.since -= wait - 5
    assert started.obstacle(seen)
    started.observation.silence.since -= 5
    with pytest.raises(PeerUnreachable):
        started.obstacle(seen)


LOST = [
    demoted_last(status("", DEMOTED, up=False), status("a", DEMOTED, up=False)),
    view(status("", REPLAYING), status("a", DEMOTED, up=False)),
    view(status("", DEMOTED), status("a", DEMOTED, up=False), epoch=Epoch.PRIMARY_DEMOTED),
]


def called_again(seen: MirrorView, now: MirrorView, *, pause: float, age: float) -> str | None:
    """Judge in a call that comes after one that saw something else, and after a pause."""
    observation = judge(seen).observation
    assert judge(seen, observation=observation).obstacle(seen)
    for lasting in (observation.silence, observation.undecided, observation.progress):
        lasting.since -= pause
        lasting.seen -= pause
    return judge(now, age=age, observation=observation).obstacle(now)


@pytest.mark.parametrize("seen", LOST)
def test_patience_survives_the_pauses_of_a_controller(seen: MirrorView) -> None:
    """It backs off to 1000 s between its calls; none of them alone lasts long enough."""
    with pytest.raises(PeerUnreachable):
        called_again(seen, seen, pause=1000, age=5)


@pytest.mark.parametrize("seen", LOST)
def test_one_look_after_a_pause_is_none(seen: MirrorView) -> None:
    """The call itself sees for a moment that no peer is up: one that restarts comes back."""
    assert called_again(seen, seen, pause=1000, age=1)


@pytest.mark.parametrize("seen", [LOST[0], LOST[2]])
def test_a_peer_that_was_up_in_a_pause_is_not_lost(seen: MirrorView) -> None:
    """It has written since, and is down again: perhaps just for a moment."""
    written = replace(seen, peers=(status("a", DEMOTED, up=False, written=NOW + 600),))
    assert called_again(seen, written, pause=1000, age=5)


def test_an_unclear_peer_may_have_been_clear_in_a_pause() -> None:
    """What two calls watched counts, and not the pause between them."""
    seen = view(status("", REPLAYING), status("a", STARTING))
    started = judge(seen)
    undecided = started.observation.undecided
    assert started.obstacle(later(seen, 5))
    undecided.since -= 55
    for seconds, refused in ((30, False), (5, True)):
        undecided.since -= 1000
        undecided.seen -= 1000
        again = judge(seen, observation=started.observation)
        assert again.obstacle(later(seen, 5))
        undecided.since -= seconds
        if refused:
            with pytest.raises(PeerUnreachable):
                again.obstacle(later(seen, 5))
        else:
            assert again.obstacle(later(seen, 5))


def test_a_peer_whose_cluster_is_gone_is_lost_after_a_demotion() -> None:
    """Its rbd-mirror lives and goes on writing, and nothing of it tells of the demotion."""
    seen = demoted_last(status("", STARTING), status("a", STARTING))
    started = judge(seen)
    assert started.obstacle(later(seen, 5))
    started.observation.undecided.since -= 90
    with pytest.raises(PeerUnreachable):
        started.obstacle(later(seen, 5))


@pytest.mark.parametrize(
    ("seen", "refusal"),
    [
        (view(status("", REPLAYING), status("a", PRIMARY)), PeerIsPrimary),
        (view(status("", REPLAYING), status("a", PRIMARY, up=False)), PeerUnreachable),
        (view(status("", REPLAYING, up=False), status("a", DEMOTED)), MirrorDaemonDown),
        (
            view(
                status("", DEMOTED, up=False),
                status("a", DEMOTED),
                epoch=Epoch.PRIMARY_DEMOTED,
            ),
            MirrorDaemonDown,
        ),
    ],
)
def test_when_waiting_is_in_vain(seen: MirrorView, refusal: type[DriverError]) -> None:
    """Force is offered, or the daemon named, only on statuses that cannot be older."""
    with pytest.raises(refusal):
        judge(seen).obstacle(later(seen, 5))


@pytest.mark.parametrize(
    "seen",
    [
        view(status("", REPLAYING), status("a", DEMOTED)),
        view(status("", REPLAYING), status("a", DEMOTED, up=False)),
        view(status("", DEMOTED), status("a", STARTING)),
        view(status("", SYNCING), status("a", STARTING)),
        view(status("", REPLAYING), status("a", STARTING)),
        view(status("", REPLAYING)),
    ],
)
def test_when_waiting_is_right(seen: MirrorView) -> None:
    """As long as data may come, or a peer may speak, nobody is told to force."""
    assert judge(seen).obstacle(later(seen, 5))


def replaying(written: int) -> tuple[SiteState, str]:
    """Return the status of a journal of which 900 entries were replayed."""
    first, last = ({"tag_tid": 1, "entry_tid": entry} for entry in (900, written))
    positions = json.dumps({"non_primary_position": first, "primary_position": last})
    return SiteState.REPLAYING, f"replaying, {positions}"


def copying(seen: MirrorView) -> MirrorView:
    """Return the same reading with a copy half made, of which no status tells."""
    return replace(seen, history=replace(seen.history, progress="copied 3 objects"))


@pytest.mark.parametrize("mode", MirroringMode)
@pytest.mark.parametrize(
    "peers", [(status("a", PRIMARY, up=False),), (status("a", STARTING, up=False),), ()]
)
def test_what_arrives_is_waited_for_though_no_peer_is_up(
    mode: MirroringMode, peers: tuple[SiteStatus, ...]
) -> None:
    """The peer's rbd-mirror is dead, its cluster is not: force would lose the last data."""
    seen = replace(view(status("", REPLAYING), *peers), peered=bool(peers))
    if mode is MirroringMode.JOURNAL:
        seen = replace(seen, mode=mode, local=status("", replaying(999)))
    else:
        seen = copying(seen)
    started = judge(seen)
    assert "still coming" in str(started.obstacle(seen))
    started.observation.progress.since -= 60
    with pytest.raises(PeerUnreachable):
        started.obstacle(seen)


@pytest.mark.parametrize(
    ("mode", "local_up", "seconds"),
    [
        (MirroringMode.SNAPSHOT, True, 5),
        (MirroringMode.JOURNAL, True, 15),
        (MirroringMode.JOURNAL, False, 5),
    ],
)
def test_a_journal_that_reads_replayed_may_have_just_been_written(
    *, mode: MirroringMode, local_up: bool, seconds: int
) -> None:
    """This site's status is up to 15 s older than what its rbd-mirror will find."""
    seen = replace(
        view(status("", replaying(900), up=local_up), status("a", PRIMARY, up=False)), mode=mode
    )
    assert judge(seen, age=seconds - 1).obstacle(seen)
    with pytest.raises(PeerUnreachable):
        judge(seen, age=seconds).obstacle(seen)


def test_a_demoted_peer_that_looks_again_has_been_clear() -> None:
    """At each state check its rbd-mirror starts anew, for a moment, and finds the same."""
    demoted, starting = (
        view(status("", REPLAYING), status("a", says)) for says in (DEMOTED, STARTING)
    )
    started = judge(demoted)
    for _ in range(4):
        assert started.obstacle(later(starting, 5))
        started.observation.undecided.since -= 30
        assert started.obstacle(later(demoted, 5))


def test_a_copy_that_stands_still_waits_for_no_lost_cluster() -> None:
    """Its rbd-mirror lives, and ours hangs in the copy: nothing moves, and nobody says a word."""
    seen = copying(view(status("", SYNCING), status("a", STARTING)))
    started = judge(seen)
    assert started.obstacle(later(seen, 5))
    started.observation.undecided.since -= 90
    assert started.obstacle(later(seen, 5))
    started.observation.progress.since -= 60
    with pytest.raises(PeerUnreachable):
        started.obstacle(later(seen, 5))


def test_force_is_offered_again_where_a_forced_promotion_was_cut_short() -> None:
    """The last word of the lost peer is that it was demoted; a controller begins without force."""
    seen = view(status("", REPLAYING), status("a", DEMOTED, up=False))
    seen = replace(seen, history=replace(seen.history, orphaned=True, progress="copied 3 objects"))
    started = judge(seen)
    assert started.obstacle(seen)
    started.observation.progress.since -= 60
    with pytest.raises(PeerUnreachable):
        started.obstacle(seen)


@pytest.mark.parametrize("says", [STARTING, REPLAYING])
def test_the_last_primary_waits_for_no_lost_cluster(says: tuple[SiteState, str]) -> None:
    """A peer's rbd-mirror that goes on without a word on who is primary."""
    seen = view(status("", DEMOTED), status("a", says), epoch=Epoch.PRIMARY_DEMOTED)
    started = judge(seen)
    assert started.obstacle(later(seen, 5))
    started.observation.undecided.since -= 90
    assert started.obstacle(seen), "by no status from before the call"
    with pytest.raises(PeerUnreachable):
        started.obstacle(later(seen, 5))


@pytest.mark.parametrize("says", [DEMOTED, SYNCING, PRIMARY, SPLIT])
def test_the_last_primary_waits_for_who_has_a_word(says: tuple[SiteState, str]) -> None:
    """Force is not offered beside a peer whose cluster lives."""
    seen = view(status("", STARTING), status("a", says), epoch=Epoch.PRIMARY_DEMOTED)
    started = judge(seen)
    assert started.obstacle(later(seen, 5))
    started.observation.undecided.since -= 900
    assert started.obstacle(later(seen, 5))


def test_an_old_word_of_a_primary_is_not_believed() -> None:
    """A heartbeat of the time before the demotion must not lead to a forced failover."""
    seen = view(status("", REPLAYING), status("a", PRIMARY))
    assert judge(seen).obstacle(seen)
    repeated = judge(seen, check_interval=30, age=0)
    repeated.hindsight.note(later(seen, 5))
    assert repeated.obstacle(later(seen, 10))


def test_a_peer_that_restarts_is_not_lost_yet() -> None:
    """Down for a moment is no reason to force; down for good is."""
    seen = view(status("", REPLAYING), status("a", PRIMARY, up=False))
    assert judge(seen, age=1).obstacle(seen)


def test_the_last_primary_waits_for_every_site_to_look_again() -> None:
    """librbd's acceptance proves nothing after this site's own demotion."""
    seen = view(status("", DEMOTED), status("a", DEMOTED), epoch=Epoch.PRIMARY_DEMOTED)
    started = judge(seen)
    assert started.obstacle(seen)
    half = replace(seen, local=later(seen, 5).local)
    assert started.obstacle(half)
    assert started.obstacle(later(seen, 5)) is None
    risen = later(view(status("", DEMOTED), status("a", PRIMARY), epoch=Epoch.PRIMARY_DEMOTED), 5)
    assert started.obstacle(risen)


def test_the_last_primary_waits_where_its_last_data_never_arrived() -> None:
    """Both sides demoted after both were primary: neither is promoted, nor ready, unforced."""
    seen = view(status("", DEMOTED), status("a", DEMOTED), epoch=Epoch.PRIMARY_DEMOTED)
    split = replace(seen, history=replace(seen.history, delivered=False))
    obstacle = judge(split).obstacle(later(split, 5))
    assert obstacle
    assert "never arrived" in obstacle


def test_the_last_primary_gives_a_silent_peer_a_minute() -> None:
    """It alone can tell whether it has newer data, which force would lose."""
    seen = view(status("", DEMOTED), status("a", DEMOTED, up=False), epoch=Epoch.PRIMARY_DEMOTED)
    started = judge(seen)
    assert started.obstacle(seen)
    started.observation.silence.since -= 60
    with pytest.raises(PeerUnreachable):
        started.obstacle(seen)


def test_a_silent_peer_is_lost_whatever_it_reads() -> None:
    """A status that is 90 s older than another's is stale, though it reads up."""
    seen = view(status("", REPLAYING), status("a", PRIMARY, written=NOW - 90))
    with pytest.raises(PeerUnreachable):
        judge(seen).obstacle(seen)


def test_a_half_made_copy_is_never_promoted() -> None:
    """Nor by force: with a peer it will be completed, without there is nothing to promote."""
    whole = view(status("", SYNCING), status("a", PRIMARY))
    partial = replace(whole, history=replace(whole.history, complete=False))
    observation = Observation()
    require_complete_copy(SPEC, whole, observation)
    with pytest.raises(FirstSyncRunning):
        require_complete_copy(SPEC, partial, observation)
    lost = replace(partial, peers=(status("a", PRIMARY, up=False),))
    with pytest.raises(NoCompleteCopy):
        require_complete_copy(SPEC, lost, observation)
    creating = replace(whole, state=MirrorState.CREATING)
    with pytest.raises(FirstSyncRunning):
        require_complete_copy(SPEC, creating, observation)


@pytest.mark.parametrize(
    ("seen", "refusal"),
    [
        (view(status("", REPLAYING), status("a", PRIMARY)), DataPending),
        (view(status("", SYNCING), status("a", PRIMARY, up=False)), DataPending),
        (view(status("", REPLAYING), status("a", PRIMARY, up=False)), DataPending),
        (view(status("", SYNCING, up=False), status("a", PRIMARY, up=False)), NoCompleteCopy),
    ],
)
def test_a_mixture_of_two_copies_is_never_promoted(
    seen: MirrorView, refusal: type[DriverError]
) -> None:
    """A copy that brings snapshots of users is made whole, or nothing here is."""
    observation = Observation()
    _require_way_back(SPEC, seen, observation)
    history = replace(seen.history, overwritten_by=("daily",), progress="copied 3 objects")
    with pytest.raises(refusal, match=r"copied 3 objects.*'daily'"):
        _require_way_back(SPEC, replace(seen, history=history), observation)


def test_an_image_that_nobody_copies_to_any_more_says_so() -> None:
    """A promotion by force was begun and given up; the peer was demoted, as for a move."""
    seen = view(status("", DEMOTED), status("a", DEMOTED))
    assert "still coming" in str(judge(seen).obstacle(seen))
    seen = replace(seen, history=replace(seen.history, orphaned=True))
    assert "force" in str(judge(seen).obstacle(seen))
