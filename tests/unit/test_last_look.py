# SPDX-License-Identifier: Apache-2.0
"""What a change rests on is compared with what is there once the image is open."""

from dataclasses import replace

import pytest
from test_promotion_rules import DEMOTED, PRIMARY, REPLAYING, SPEC, status, view

from csi_addons_rbd.ceph.last_look import LastLook
from csi_addons_rbd.replication.errors import ImageChanged
from csi_addons_rbd.replication.image import Epoch, MirrorState, MirrorView

SEEN = view(status("", REPLAYING), status("dr1", PRIMARY))
SPLIT = view(status("", REPLAYING), status("dr1", PRIMARY), epoch=Epoch.PRIMARY_DEMOTED)
HALF_OFF = replace(view(None, epoch=Epoch.NONE), state=MirrorState.DISABLING)
"""Switched off halfway; our note that it is being switched makes it read torn."""
OWN = view(status("", PRIMARY), epoch=Epoch.PRIMARY)


def looked(seen: MirrorView) -> LastLook:
    """Return a look that saw this."""
    look = LastLook()
    look.saw(seen)
    return look


def marked(seen: MirrorView, mark: int, *, began: int = 0, first: int = 0) -> MirrorView:
    """Return the same with another newest snapshot, or another term, as far as that shows."""
    history = replace(seen.history, mark=mark, began=began, first=first)
    return replace(seen, history=history)


@pytest.mark.parametrize(
    ("seen", "now"),
    [
        (SEEN, replace(SEEN, primary=True)),
        (SEEN, replace(SEEN, image_id="another")),
        (SEEN, replace(SEEN, mirroring="another")),
        (SEEN, replace(SEEN, state=MirrorState.DISABLING)),
        (SEEN, view(status("", REPLAYING), epoch=Epoch.NON_PRIMARY_DEMOTED)),
        (SPLIT, marked(SPLIT, 9)),
        (marked(OWN, 4, first=2), marked(OWN, 9, first=5)),
        (marked(OWN, 4), marked(OWN, 6, first=6)),
    ],
)
def test_another_role_or_history_is_refused(seen: MirrorView, now: MirrorView) -> None:
    """Whoever changed it, with or without a lease."""
    with pytest.raises(ImageChanged, match=r"image pool/csi-vol-1 .* the controller retries"):
        looked(seen).confirm(SPEC, now, peers=False)


@pytest.mark.parametrize(
    ("seen", "now"),
    [
        (SEEN, SEEN),
        (SEEN, marked(SEEN, 9)),
        (marked(OWN, 4, first=2), marked(OWN, 9, first=2)),
        # the first of the term are there no longer
        (marked(OWN, 4, began=2, first=2), marked(OWN, 5, began=4)),
        (SEEN, view(status("", REPLAYING), status("dr1", DEMOTED))),
        (HALF_OFF, replace(HALF_OFF, state=MirrorState.TORN)),
    ],
)
def test_replay_and_scheduled_snapshots_change_nothing(seen: MirrorView, now: MirrorView) -> None:
    """Neither does what peers say, for what does not rest on it."""
    looked(seen).confirm(SPEC, now, peers=False)


@pytest.mark.parametrize(
    "peer", [status("dr1", DEMOTED), status("dr1", PRIMARY, up=False), status("dr3", PRIMARY)]
)
def test_other_primary_peers_are_refused(peer: object) -> None:
    """A promotion without force, and a resync, rest on which peers are primary."""
    now = replace(SEEN, peers=(peer,))
    with pytest.raises(ImageChanged, match="what its peers are"):
        looked(SEEN).confirm(SPEC, now, peers=True)


def test_nothing_is_compared_after_a_change_of_our_own() -> None:
    """The next reading begins anew."""
    look = looked(SEEN)
    look.forget()
    look.confirm(SPEC, replace(SEEN, primary=True), peers=True)
    LastLook().confirm(SPEC, SEEN, peers=True)
