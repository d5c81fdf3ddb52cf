# SPDX-License-Identifier: Apache-2.0
"""A peer whose rbd-mirror lives, but whose cluster is lost: its words say so only in time."""

from collections.abc import Iterable
from typing import Final

from csi_addons_rbd.replication.errors import PeerUnreachable
from csi_addons_rbd.replication.image import ImageSpec, MirrorView, SiteStatus
from csi_addons_rbd.replication.observations import LOOKED, Observation
from csi_addons_rbd.replication.patience import Hindsight
from csi_addons_rbd.replication.sync_info import Role, role, text

UNDECIDED: Final = 90
"""Seconds for which a live peer must call the image neither primary nor demoted."""


def require_decided(
    spec: ImageSpec, view: MirrorView, observation: Observation, hindsight: Hindsight
) -> None:
    """Refuse to wait for the word of a peer that has had none for 90 s.

    Raises:
        PeerUnreachable: force is the legitimate next step.
    """
    lasted = observation.undecided_for(view)
    if lasted >= UNDECIDED and hindsight.age >= LOOKED:
        alive = (peer for peer in view.peers if observation.alive(peer, view))
        raise PeerUnreachable(
            f"rbd-mirror of the peer of {spec} lives, but for {lasted:.0f} s has called the image "
            f"neither primary nor demoted: {described(alive)}; its cluster seems lost; force if "
            "it is"
        )


def require_word_since(
    spec: ImageSpec, view: MirrorView, observation: Observation, hindsight: Hindsight
) -> None:
    """Do so where librbd would promote: by nothing but what was written since the call began.

    In split-brain there is no word to wait for, and yet a person decides.
    """
    alive = [peer for peer in view.peers if observation.alive(peer, view)]
    split = any(role(peer) is Role.SPLIT_BRAIN for peer in alive)
    if not split and any(map(hindsight.confirms, alive)):
        require_decided(spec, view, observation, hindsight)


def described(peers: Iterable[SiteStatus]) -> str:
    """Return what peers read, in words; empty for none."""
    return ", ".join(f"{peer.state.name.lower()} ({text(peer)!r})" for peer in peers)
