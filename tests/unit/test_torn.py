# SPDX-License-Identifier: Apache-2.0
"""Torn images: how they are told from whole ones, and when one may be made primary."""

from dataclasses import replace

import pytest
import rbd
from test_promotion_rules import (
    DEMOTED,
    NOW,
    PRIMARY,
    REPLAYING,
    SPEC,
    STARTING,
    later,
    status,
    view,
)

from csi_addons_rbd.ceph.histories import NOTHING, snapshot_history, unfinished_demotion
from csi_addons_rbd.ceph.rbd_header import Header, MirrorSnapshot
from csi_addons_rbd.ceph.rbd_mirroring import Mirroring
from csi_addons_rbd.ceph.views import _torn
from csi_addons_rbd.replication.calls import MirroringMode
from csi_addons_rbd.replication.errors import (
    DriverError,
    MirrorDaemonDown,
    PeerIsPrimary,
    PeerUnreachable,
)
from csi_addons_rbd.replication.image import Epoch, History, MirrorState, MirrorView, SiteState
from csi_addons_rbd.replication.observations import Observation
from csi_addons_rbd.replication.patience import Hindsight
from csi_addons_rbd.replication.torn import snapshots_to_promote
from csi_addons_rbd.replication.torn_repair import torn_obstacle


def snapshot(number: int, epoch: Epoch, *, complete: bool = True) -> MirrorSnapshot:
    """Make a mirror snapshot that the peer still needs."""
    own = epoch in (Epoch.PRIMARY, Epoch.PRIMARY_DEMOTED)
    return MirrorSnapshot(
        number=number,
        taken_at=NOW + number,
        epoch=epoch,
        claimed=True,
        complete=complete or own,
        torn=epoch is Epoch.PRIMARY and not complete,
        unfinished=epoch is Epoch.PRIMARY_DEMOTED and not complete,
        copied=0,
        orphan=False,
    )


def torn(history: History, *, flagged: bool, state: MirrorState = MirrorState.ENABLED) -> bool:
    """Judge an image of that history, with the feature non-primary or without; as a kind."""
    features = rbd.RBD_FEATURE_NON_PRIMARY if flagged else 0
    header = Header(
        features=features, has_parent=False, metadata={}, snapshots=(), user_snapshots=(), room=None
    )
    mirroring = Mirroring(state=state, mode=MirroringMode.SNAPSHOT, global_id="6f0c")
    return _torn(mirroring, history, header) is not None


def test_a_primary_is_torn_while_it_has_the_feature() -> None:
    """librbd sets it before the demotion's snapshot, and takes it off after the promotion's."""
    primary = snapshot_history([snapshot(1, Epoch.PRIMARY)])
    assert torn(primary, flagged=True)
    assert not torn(primary, flagged=False)


@pytest.mark.parametrize("epoch", [Epoch.PRIMARY_DEMOTED, Epoch.NON_PRIMARY])
def test_a_secondary_has_the_feature(epoch: Epoch) -> None:
    """As it must."""
    assert not torn(snapshot_history([snapshot(1, epoch)]), flagged=True)


def test_an_image_that_is_being_disabled_is_a_primary_to_librbd() -> None:
    """Without any mirror snapshot left it would stay read-only; a new copy has none, either."""
    assert torn(NOTHING, flagged=True, state=MirrorState.DISABLING)
    assert not torn(NOTHING, flagged=True, state=MirrorState.CREATING)


def test_a_demotion_that_is_not_complete_is_torn() -> None:
    """No peer ever gets it."""
    whole = snapshot(2, Epoch.PRIMARY_DEMOTED)
    half = snapshot(2, Epoch.PRIMARY_DEMOTED, complete=False)
    for newest, expected in ((whole, False), (half, True)):
        history = snapshot_history([snapshot(1, Epoch.PRIMARY), newest])
        assert history.epoch is Epoch.PRIMARY_DEMOTED
        assert torn(history, flagged=True) is expected


def test_only_the_newest_snapshot_may_be_a_demotion_to_be_finished() -> None:
    """A peer must not be told that some other snapshot is whole."""
    half = snapshot(2, Epoch.PRIMARY_DEMOTED, complete=False)
    assert unfinished_demotion([snapshot(1, Epoch.PRIMARY), half]) == 2
    for newest in (snapshot(3, Epoch.PRIMARY), snapshot(3, Epoch.NON_PRIMARY, complete=False)):
        assert unfinished_demotion([half, newest]) is None
    assert unfinished_demotion([snapshot(2, Epoch.PRIMARY_DEMOTED)]) is None
    assert unfinished_demotion([]) is None


def test_nobody_waits_for_a_demotion_that_was_made_anew() -> None:
    """Peers skip the one that is not complete, whatever claims it bears."""
    half = snapshot(2, Epoch.PRIMARY_DEMOTED, complete=False)
    given_up = [replace(snapshot(each, Epoch.PRIMARY), claimed=False) for each in (1, 3)]
    newest = snapshot(4, Epoch.PRIMARY_DEMOTED)
    assert snapshot_history([given_up[0], half, given_up[1], newest]).delivered
    assert not snapshot_history([given_up[0], snapshot(3, Epoch.PRIMARY), newest]).delivered


def test_an_epoch_is_hollow_until_it_has_a_whole_snapshot() -> None:
    """A promotion's own that is torn is all that there is; peers follow into it later only."""
    before = snapshot(1, Epoch.NON_PRIMARY_DEMOTED)
    half = snapshot(2, Epoch.PRIMARY, complete=False)
    assert snapshot_history([before, half]).hollow
    assert not snapshot_history([before, half, snapshot(3, Epoch.PRIMARY)]).hollow
    assert not snapshot_history([before]).hollow


def test_a_forced_promotion_takes_an_orphans_snapshot_first() -> None:
    """So it needs room for two."""
    assert snapshots_to_promote(view(None)) == 2
    assert snapshots_to_promote(view(None, epoch=Epoch.PRIMARY_DEMOTED)) == 1


def obstacle(seen: MirrorView, *, silent: float = 0) -> str | None:
    """Judge with statuses that were written since the call began."""
    hindsight, observation = Hindsight(0), Observation()
    hindsight.note(seen)
    hindsight._began -= 60
    observation.note(seen)
    now = later(seen, 5)
    if silent:
        observation.silent_for(now, hindsight)
        observation.silence.since -= silent
    return torn_obstacle(SPEC, now, observation, hindsight)


def test_a_peer_that_follows_was_not_primary_meanwhile() -> None:
    """Then this side has the newest data, once both sites have said so anew."""
    seen = view(status("", PRIMARY), status("a", REPLAYING), epoch=Epoch.PRIMARY)
    assert obstacle(seen) is None
    fresh = Hindsight(30)
    fresh.note(seen)
    assert torn_obstacle(SPEC, seen, Observation(), fresh)


@pytest.mark.parametrize(
    ("seen", "refusal"),
    [
        (view(status("", PRIMARY), status("a", PRIMARY)), PeerIsPrimary),
        (view(status("", PRIMARY, up=False), status("a", REPLAYING)), MirrorDaemonDown),
        (view(status("", PRIMARY), status("a", REPLAYING, up=False)), PeerUnreachable),
        (view(status("", PRIMARY, up=False), status("a", REPLAYING, up=False)), PeerUnreachable),
    ],
)
def test_when_waiting_is_in_vain(seen: MirrorView, refusal: type[DriverError]) -> None:
    """Force is offered only where a peer is primary, or has been silent for a minute."""
    with pytest.raises(refusal):
        obstacle(seen, silent=60)


@pytest.mark.parametrize("says", [STARTING, DEMOTED])
def test_a_peer_whose_cluster_is_lost_is_not_waited_for(says: tuple[SiteState, str]) -> None:
    """Its rbd-mirror lives, and for 90 s has no word on who is primary; one has, and is asked."""
    seen = later(view(status("", PRIMARY), status("a", says), epoch=Epoch.PRIMARY), 5)
    hindsight, observation = Hindsight(0), Observation()
    hindsight.note(view(status("", PRIMARY), status("a", says)))
    hindsight._began -= 60
    assert torn_obstacle(SPEC, seen, observation, hindsight)
    observation.undecided.since -= 90
    if says is DEMOTED:
        assert torn_obstacle(SPEC, seen, observation, hindsight)
    else:
        with pytest.raises(PeerUnreachable):
            torn_obstacle(SPEC, seen, observation, hindsight)


@pytest.mark.parametrize(
    "seen",
    [
        view(status("", PRIMARY), status("a", DEMOTED)),
        view(status("", PRIMARY), status("a", REPLAYING, up=False)),
        view(status("", PRIMARY), status("a", REPLAYING), status("b", DEMOTED)),
        view(status("", PRIMARY)),
        view(None),
    ],
)
def test_when_waiting_is_right(seen: MirrorView) -> None:
    """A demoted peer may have been primary meanwhile; one that is silent may speak."""
    assert obstacle(seen)
