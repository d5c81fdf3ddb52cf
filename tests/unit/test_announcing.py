# SPDX-License-Identifier: Apache-2.0
"""When a call notifies rbd-mirror of what this site wrote: whenever a peer may not know of it."""

from contextlib import suppress
from dataclasses import replace
from typing import Final

import pytest
from test_promotion_rules import DEMOTED, PRIMARY, REPLAYING, status, view
from test_torn_repair import DEMOTE, ENABLE, PROMOTE, Image, ask

from csi_addons_rbd.replication.calls import Call, MirroringMode
from csi_addons_rbd.replication.errors import DriverError
from csi_addons_rbd.replication.image import Epoch, MirrorView


def lacking(seen: MirrorView) -> MirrorView:
    """Let a peer lack the newest snapshot."""
    return replace(seen, history=replace(seen.history, awaited=True))


FOLLOWED: Final = replace(
    view(status("", PRIMARY), status("a", REPLAYING), epoch=Epoch.PRIMARY), primary=True
)
ALONE: Final = replace(FOLLOWED, peers=())
GAVE_UP: Final = view(status("", DEMOTED), status("a", REPLAYING), epoch=Epoch.PRIMARY_DEMOTED)
FOLLOWS: Final = view(status("", REPLAYING), status("a", PRIMARY), epoch=Epoch.NON_PRIMARY)


@pytest.mark.parametrize("call", [ENABLE, PROMOTE, DEMOTE])
@pytest.mark.parametrize(
    ("seen", "announced"),
    [
        (FOLLOWED, 0),
        (ALONE, 1),
        (lacking(FOLLOWED), 1),
        (replace(FOLLOWED, mode=MirroringMode.JOURNAL), 1),
        (GAVE_UP, 0),
        (lacking(GAVE_UP), 1),
        (lacking(FOLLOWS), 0),
    ],
)
def test_a_call_announces_what_a_peer_may_lack(
    call: Call, seen: MirrorView, announced: int
) -> None:
    """Whatever else becomes of the call."""
    image = Image(seen)
    with suppress(DriverError):
        ask(image, call)
    assert image.announced == announced
