# SPDX-License-Identifier: Apache-2.0
"""What was read of an image under a lease, and whether it still holds right before a change.

A lease keeps other drivers away, not other tools, nor rbd-mirror; and opening an image for writing
knows no time limit. So the image is read again after it was opened.
"""

from typing import Final, TypeAlias

from csi_addons_rbd.replication.errors import NOTHING_TO_DO, ImageChanged
from csi_addons_rbd.replication.image import Epoch, ImageSpec, MirrorView
from csi_addons_rbd.replication.sync_info import Role, role

FRESH: Final = 5.0
"""Seconds that what a change rests on may be old."""
_DEMOTED: Final = (Epoch.PRIMARY_DEMOTED, Epoch.NON_PRIMARY_DEMOTED)
_Facts: TypeAlias = tuple[object, ...]


class LastLook:
    """The newest reading under one lease; used by one thread."""

    def __init__(self) -> None:
        self._seen: MirrorView | None = None

    def saw(self, view: MirrorView) -> None:
        """Take what the next change rests on."""
        self._seen = view

    def forget(self) -> None:
        """Begin anew, after a change of our own."""
        self._seen = None

    def confirm(self, spec: ImageSpec, now: MirrorView, *, peers: bool) -> None:
        """Compare what is there now with what was seen, if anything was.

        Args:
            spec: The image.
            now: A reading right before the change.
            peers: Whether the change rests on which peers are primary, too.

        Raises:
            ImageChanged: the change would rest on what is no longer so.
        """
        before = self._seen
        if before is None:
            return
        # where the term began is no fact to compare: old snapshots and tags go in the middle of it
        changed = _own(before) != _own(now) or now.history.first > before.history.mark
        if changed or (peers and _primary(before) != _primary(now)):
            what = "it" if changed else "what its peers are"
            raise ImageChanged(
                f"{spec} was about to be changed, but {what} changed while it was being opened: "
                f"role {_words(before)} then, {_words(now)} now; nothing was done; {NOTHING_TO_DO}"
            )


def _own(view: MirrorView) -> _Facts:
    """Pick the facts that no replay and no scheduled snapshot changes."""
    history = view.history
    mark = history.mark if history.epoch in _DEMOTED else None
    # without a history our own note that mirroring is being switched makes it another state
    state = None if history.epoch is Epoch.NONE else view.state
    own = state, view.mirroring, view.image_id
    return *own, view.primary, view.torn, history.epoch, mark


def _primary(view: MirrorView) -> frozenset[str]:
    return frozenset(peer.site for peer in view.peers if peer.up and role(peer) is Role.PRIMARY)


def _words(view: MirrorView) -> str:
    peers = len(_primary(view))
    return f"{view.history.epoch.value} ({view.state.name.lower()}, {peers} peers primary)"
