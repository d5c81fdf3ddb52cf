# SPDX-License-Identifier: Apache-2.0
"""Demote: which peers it waits for, decided from readings alone."""

from dataclasses import replace

import pytest

from csi_addons_rbd.replication.calls import MirroringMode
from csi_addons_rbd.replication.demote import _behind
from csi_addons_rbd.replication.image import (
    Epoch,
    History,
    MirrorState,
    MirrorView,
    SiteState,
    SiteStatus,
)
from csi_addons_rbd.replication.observations import Observation
from csi_addons_rbd.replication.patience import Hindsight

NOW = 1_795_455_300
BEGAN = NOW - 60
CHECK_INTERVAL = 30


def peer(state: SiteState, words: str, *, up: bool = True, written: int = NOW) -> SiteStatus:
    """Make a peer's status."""
    return SiteStatus(site="a", up=up, state=state, description=words, last_update=written)


def copied(until: int, *, up: bool = True) -> SiteStatus:
    """Make the status of a peer that has a snapshot whole."""
    return peer(SiteState.REPLAYING, f'replaying, {{"local_snapshot_timestamp":{until}}}', up=up)


def view(*peers: SiteStatus) -> MirrorView:
    """Make a reading of a primary whose own history does not tell who has followed."""
    return MirrorView(
        state=MirrorState.ENABLED,
        mode=MirroringMode.SNAPSHOT,
        mirroring="6f0c",
        primary=True,
        image_id="abc",
        local=None,
        peers=peers,
        peered=True,
        history=History(
            epoch=Epoch.PRIMARY,
            mark=4,
            began=BEGAN,
            began_at=BEGAN,
            newest_at=BEGAN,
            awaited=True,
            copied_until=None,
            followed=False,
            delivered=False,
            complete=True,
            progress="",
        ),
    )


def behind(seen: MirrorView, *, age: float) -> str:
    """Judge a reading ``age`` seconds after the call began."""
    hindsight, observation = Hindsight(CHECK_INTERVAL), Observation()
    hindsight._began -= age
    observation.note(seen)
    return _behind(seen, observation, hindsight)


@pytest.mark.parametrize(
    "seen",
    [
        view(copied(BEGAN)),
        view(copied(BEGAN - 1, up=False)),
        view(peer(SiteState.STOPPED, "local image is primary")),
        replace(view(copied(BEGAN - 1)), history=replace(view().history, followed=True)),
    ],
)
def test_nobody_is_waited_for(seen: MirrorView) -> None:
    """The peer has followed, is down, or is primary itself, as it has said since."""
    assert not behind(seen, age=60)


@pytest.mark.parametrize(
    "seen",
    [
        view(copied(BEGAN - 1)),
        view(peer(SiteState.STARTING_REPLAY, "starting replay")),
        view(peer(SiteState.STOPPED, "local image is primary", written=BEGAN + 30)),
        view(copied(BEGAN), copied(BEGAN - 1)),
    ],
)
def test_a_live_peer_is_waited_for(seen: MirrorView) -> None:
    """It may have nothing of what was written since the promotion here."""
    assert behind(seen, age=60)


def test_a_peer_that_may_be_restarting_is_waited_for() -> None:
    """Its rbd-mirror reads down until it writes again, and may miss the whole epoch."""
    seen = view(copied(BEGAN - 1, up=False))
    assert behind(seen, age=14)
    assert not behind(seen, age=15)
