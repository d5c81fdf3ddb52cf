# SPDX-License-Identifier: Apache-2.0
"""What GetVolumeReplicationInfo tells beside status and time: what metrics and alerts rest on."""

import json
from dataclasses import replace

import pytest
from test_promotion_rules import DEMOTED, NOW, PRIMARY, SPEC, status, view

from csi_addons_rbd.replication.calls import Health, MirroringMode, ReplicationInfo
from csi_addons_rbd.replication.image import MirrorView, SiteState, SiteStatus
from csi_addons_rbd.replication.info import replication_info
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
    observation = Observation(last_sync=NOW - 10)
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
