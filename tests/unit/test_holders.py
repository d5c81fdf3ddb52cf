# SPDX-License-Identifier: Apache-2.0
"""Who holds an image, and what becomes of a demotion in which a client came."""

import time
from dataclasses import dataclass
from typing import cast

import pytest
from test_promotion_rules import PRIMARY, REPLAYING, status, view

from csi_addons_rbd.ceph.rbd_mirroring import decode_origin
from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.errors import CephFailure, ImageChanged
from csi_addons_rbd.replication.holders import (
    is_dead,
    is_of_this_term,
    obstacle_to_taking_back,
    require_nobody_came,
)
from csi_addons_rbd.replication.image import (
    Epoch,
    Grip,
    Holder,
    LeasedImage,
    MirrorView,
)
from csi_addons_rbd.replication.notes import DEMOTING, Demotion, noted_demotion
from csi_addons_rbd.replication.observations import Observation
from csi_addons_rbd.replication.patience import Patience

HERE, PEER = status("", PRIMARY), status("a", REPLAYING)


def holder(grip: Grip) -> Holder:
    """Make a client that holds an image in some way."""
    return Holder(client="client.1", address="10.0.0.1:0/1", grip=grip)


@pytest.mark.parametrize(
    ("grip", "lasted", "looked", "dead"),
    [
        (Grip.SILENT, 59, 59, False),
        (Grip.SILENT, 60, 4, False),
        (Grip.SILENT, 60, 5, True),
        (Grip.FENCED, 0, 0, True),
        (Grip.LOCK, 1000, 1000, False),
        (Grip.WATCH, 1000, 1000, False),
    ],
)
def test_only_the_fenced_and_the_long_silent_are_dead(
    *, grip: Grip, lasted: float, looked: float, dead: bool
) -> None:
    """A client that comes back to its watch may have been away for half a minute."""
    assert is_dead(holder(grip), lasted=lasted, looked=looked) == dead


def test_what_nobody_looked_at_makes_no_client_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two stalls a quarter of an hour apart are not one: it may have worked in between."""
    now, silent = 1000.0, (holder(Grip.SILENT),)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    unwatched = Observation().unwatched
    unwatched.observe(silent)
    now += 900
    assert unwatched.observe(silent) == 0
    now += 50
    assert unwatched.observe(silent) == 50


def test_the_origin_of_a_status_is_its_client() -> None:
    """As Ceph 16.2.15 wrote it."""
    written = bytes.fromhex(
        "01012c000000083510000000000000"
        "0101011c00000003000000ef6b581c10000000020000007f0000010000000000000000"
    )
    assert decode_origin(written) == "client.4149"
    for damaged in (b"", written[:10], written.replace(b"\x08\x35", b"\x04\x35")):
        with pytest.raises(CephFailure):
            decode_origin(damaged)


def test_a_demotion_is_taken_back_unless_a_peer_is_primary() -> None:
    """What the peer wrote must not be lost for what a client wrote here."""
    demoted, primary = Epoch.PRIMARY_DEMOTED, status("b", PRIMARY, up=False)
    assert not obstacle_to_taking_back(view(HERE, PEER, epoch=demoted))
    assert not obstacle_to_taking_back(view(HERE, epoch=demoted))
    assert "primary" in obstacle_to_taking_back(view(HERE, PEER, primary, epoch=demoted))
    assert obstacle_to_taking_back(view(HERE, PEER, epoch=Epoch.NON_PRIMARY))


@pytest.mark.parametrize(
    ("epoch", "clients", "mark", "so"),
    [
        (Epoch.PRIMARY_DEMOTED, (), None, True),
        (Epoch.PRIMARY_DEMOTED, ("client.1",), 4, True),
        (Epoch.PRIMARY_DEMOTED, ("client.1",), 5, False),
        (Epoch.NON_PRIMARY, (), None, False),
        (Epoch.NON_PRIMARY, ("client.1",), 4, False),
    ],
)
def test_a_mark_ends_with_its_demotion(
    *, epoch: Epoch, clients: tuple[str, ...], mark: int | None, so: bool
) -> None:
    """It ends when the image follows a primary, or was promoted and demoted since."""
    now = view(HERE, PEER, epoch=epoch)
    assert is_of_this_term(Demotion(clients=clients, mark=mark), now) == so


def test_a_mark_that_cannot_be_read_is_one_of_a_demotion_cut_short() -> None:
    """So the next Demote looks who holds the image; fields of later versions are ignored."""
    assert noted_demotion({}) is None
    for text in ("", "[]", "{}", '{"clients": null, "mark": 1}'):
        assert noted_demotion({DEMOTING: text}) == Demotion()
    text = '{"clients": ["client.1"], "mark": 7, "later": 1}'
    assert noted_demotion({DEMOTING: text}) == Demotion(clients=("client.1",), mark=7)


@dataclass
class OpenImage:
    """A demoted image that a client has open, and does not lock."""

    spec: str = "pool/image"

    def view(self) -> MirrorView:
        """Show it demoted."""
        return view(HERE, PEER, epoch=Epoch.PRIMARY_DEMOTED)

    def holders(self) -> tuple[Holder, ...]:
        """Find nobody."""
        return ()

    def watchers(self) -> frozenset[str]:
        """Name the client."""
        return frozenset({"client.7"})


def test_a_call_that_ends_too_soon_leaves_the_question_to_the_next() -> None:
    """No answer says OK before it is known, and the note of the demotion stays."""
    soon = Deadline.after(5)
    patience = Patience(call=soon, until=soon, confirmed=soon, check_interval=5)
    with pytest.raises(ImageChanged, match=r"client\.7 had it open"):
        require_nobody_came(cast("LeasedImage", OpenImage()), Observation(), patience)
