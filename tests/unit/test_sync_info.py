# SPDX-License-Identifier: Apache-2.0
"""Status texts → role and sync; the texts were written by rbd-mirror on two real sites.

Those below are of Ceph 16.2.15; ``statuses/`` has those of later releases, gathered while the
conformance suite ran: state, text, and what it means.
"""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csi_addons_rbd.replication.image import SiteState, SiteStatus
from csi_addons_rbd.replication.sync_info import Role, role, sync_report, text

IDLE = (
    'replaying, {"bytes_per_second":1677721.6,"bytes_per_snapshot":33554432.0,'
    '"last_snapshot_bytes":33554432,"last_snapshot_sync_seconds":0,'
    '"local_snapshot_timestamp":1795455225,"remote_snapshot_timestamp":1795455260,'
    '"replay_state":"idle"}'
)
FIRST = (
    'replaying, {"bytes_per_second":0.0,"bytes_per_snapshot":0.0,"last_snapshot_bytes":0,'
    '"last_snapshot_sync_seconds":0,"remote_snapshot_timestamp":1795455225,"replay_state":"idle"}'
)
JOURNAL = (
    'replaying, {"bytes_per_second":0.0,"entries_behind_primary":3,"entries_per_second":0.0,'
    '"non_primary_position":{"entry_tid":1,"object_number":1,"tag_tid":0},'
    '"primary_position":{"entry_tid":3,"object_number":3,"tag_tid":1}}'
)


def status(state: SiteState, description: str) -> SiteStatus:
    """Make a status as a site's rbd-mirror writes it."""
    return SiteStatus(
        site="peer", up=True, state=state, description=description, last_update=1_795_455_300
    )


@pytest.mark.parametrize(
    ("state", "description", "expected"),
    [
        (SiteState.STOPPED, "local image is primary", Role.PRIMARY),
        (SiteState.UNKNOWN, "remote image is not primary", Role.DEMOTED),
        (SiteState.UNKNOWN, "remote image demoted", Role.DEMOTED),
        (SiteState.ERROR, "split-brain", Role.SPLIT_BRAIN),
        (SiteState.ERROR, "split-brain detected", Role.SPLIT_BRAIN),
        (SiteState.REPLAYING, IDLE, Role.FOLLOWING),
        (SiteState.REPLAYING, JOURNAL, Role.FOLLOWING),
        (SiteState.SYNCING, "bootstrapping, IMAGE_SYNC/COPY_IMAGE 35%", Role.FOLLOWING),
        (SiteState.STOPPED, "stopped", Role.UNKNOWN),
        (SiteState.STOPPED, "orphan (force promoting)", Role.UNKNOWN),
        (SiteState.ERROR, "error bootstrapping replay", Role.UNKNOWN),
        (SiteState.STARTING_REPLAY, "starting replay", Role.UNKNOWN),
        (SiteState.UNKNOWN, "status not found", Role.UNKNOWN),
    ],
)
def test_the_corpus_is_read(state: SiteState, description: str, expected: Role) -> None:
    """Every text that was met means what the lab showed it to mean."""
    assert role(status(state, description)) is expected


CORPORA = tuple(
    pytest.param(*json.loads(line), id=f"{file.stem}-{number}")
    for file in sorted(Path(__file__).with_name("statuses").glob("*.jsonl"))
    for number, line in enumerate(file.read_text().splitlines(), 1)
)


@pytest.mark.parametrize(("state", "description", "expected"), CORPORA)
def test_the_corpus_of_each_release_is_read(state: str, description: str, expected: str) -> None:
    """Every text means what it meant before, and its numbers are read where it has any."""
    met = status(SiteState[state], description)
    assert role(met) is Role[expected]
    report = sync_report(met)
    for field, value in (
        ("local_snapshot_timestamp", report.copied_until),
        ("remote_snapshot_timestamp", report.newest),
        ('"primary_position":{"', report.primary_position),
    ):
        assert (field in description) is (value is not None)


@given(
    st.sampled_from(SiteState),
    st.text().filter(lambda words: "primary" not in words and "split" not in words),
)
def test_an_unknown_text_is_never_primary_nor_split_brain(state: SiteState, words: str) -> None:
    """A text of some later release decides nothing."""
    assert role(status(state, words)) not in (Role.PRIMARY, Role.SPLIT_BRAIN)


def test_a_primary_s_words_in_another_state_are_not_believed() -> None:
    """State and text belong together."""
    assert role(status(SiteState.ERROR, "local image is primary")) is Role.UNKNOWN


def test_snapshot_mode_tells_what_is_copied() -> None:
    """Times, bytes and seconds of the last snapshot, and how far the primary is ahead."""
    report = sync_report(status(SiteState.REPLAYING, IDLE))
    assert report.copied_until == 1795455225
    assert report.newest == 1795455260
    assert report.last_bytes == 33554432
    assert report.last_seconds == 0
    assert not report.syncing
    assert text(status(SiteState.REPLAYING, IDLE)) == "replaying"


def test_before_the_first_heartbeat_nothing_is_known_to_be_copied() -> None:
    """The first status of a copy does not name a snapshot yet."""
    assert sync_report(status(SiteState.REPLAYING, FIRST)).copied_until is None


def test_journal_mode_tells_positions() -> None:
    """Positions are tag and entry; equal ones mean that nothing is missing."""
    report = sync_report(status(SiteState.REPLAYING, JOURNAL))
    assert report.position == (0, 1)
    assert report.primary_position == (1, 3)
    assert report.entries_behind == 3
    assert not report.positions_equal
    caught_up = JOURNAL.replace('"entry_tid":1', '"entry_tid":3').replace(
        '"tag_tid":0', '"tag_tid":1'
    )
    assert sync_report(status(SiteState.REPLAYING, caught_up)).positions_equal


@pytest.mark.parametrize(
    "words",
    [
        "replaying, {",
        "replaying, {]",
        'replaying, {"local_snapshot_timestamp":true}',
        'replaying, {"local_snapshot_timestamp":NaN}',
        'replaying, {"local_snapshot_timestamp":"soon"}',
        'replaying, {"primary_position":[1,2]}',
        'replaying, {"primary_position":{"tag_tid":1}}',
        "bootstrapping, IMAGE_SYNC/COPY_IMAGE 35%",
    ],
)
def test_garbage_reads_as_nothing_known(words: str) -> None:
    """A broken or foreign description is no reason to fail a call."""
    report = sync_report(status(SiteState.REPLAYING, words))
    assert report.copied_until is None
    assert report.primary_position is None
    assert report.entries_behind is None
    assert not report.positions_equal


@given(st.text())
def test_no_text_breaks_the_reader(words: str) -> None:
    """Whatever stands there, reading it ends well."""
    assert sync_report(status(SiteState.REPLAYING, words + "{" + words)).last_seconds is None
