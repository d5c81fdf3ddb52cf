# SPDX-License-Identifier: Apache-2.0
"""What came of looking for a volume in one place after another, within the time of one call."""

from collections.abc import Callable
from typing import Final

from csi_addons_rbd.ceph.absence import Namesake
from csi_addons_rbd.replication.calls import Place
from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.errors import (
    CephFailure,
    ClusterUnreachable,
    DriverError,
    ImageBeingDeleted,
    ImageInTrash,
    PermissionDenied,
    Unauthenticated,
    VolumeElsewhere,
)
from csi_addons_rbd.replication.image import Absent, Found

_UNREAD: Final = (PermissionDenied, CephFailure, ClusterUnreachable)
"""Nothing was seen of the image there, so where else it is says more."""
_OBSTACLES: Final = (
    *_UNREAD,
    Unauthenticated,
    ImageInTrash,
    ImageBeingDeleted,
    VolumeElsewhere,
)
"""What may be found in one place while another holds the image."""
_AT_ONCE: Final = 1.0
"""Seconds within which a refusal cost nothing."""


class Looked:
    """What was seen in the places of one handle, all of one cluster."""

    def __init__(self) -> None:
        self.reached: set[Place] = set()
        """Places whose cluster answered, as far as its monitors are concerned."""
        self.silent: set[Place] = set()
        self.namesakes: list[Namesake] = []
        """One of each pool or namespace."""
        self.obstacles: list[DriverError] = []
        self._places = 0
        self._dead = False
        self._silence = 0.0
        """Seconds that a place took which did not answer: the next may take as long."""
        self._late = False

    @property
    def obstacle(self) -> DriverError | None:
        """What to tell if nothing is found: the first that was seen, else the first obstacle."""
        seen = (each for each in self.obstacles if not isinstance(each, _UNREAD))
        return next(seen, next(iter(self.obstacles), None))

    def may_go_on(self, until: Deadline) -> bool:
        """Tell whether to look in another place: not if that would outlast the call."""
        if self._dead:
            return False
        self._late = self._places > 0 and until.remaining <= self._silence
        return not self._late

    def at(
        self,
        place: Place,
        until: Deadline,
        look: Callable[[], Found | Absent | Namesake | None],
    ) -> Found | Absent | None:
        """Look in one place; what is in the way there may not be elsewhere."""
        self._places += 1
        began = until.remaining
        try:
            found = look()
        except ClusterUnreachable as exc:
            self.obstacles.append(exc)
            self.silent.add(place)
            spent = began - until.remaining
            self._silence = max(self._silence, spent)
            # monitors that do not answer will not do so for the next place either
            self._dead = place not in self.reached and spent > _AT_ONCE
            return None
        except _OBSTACLES as exc:
            self.obstacles.append(exc)
            return None
        if isinstance(found, Namesake):
            self._note(found)
            return None
        return found

    def _note(self, namesake: Namesake) -> None:
        spec = namesake.image.spec
        known = {(each.image.spec.pool_id, each.image.spec.namespace) for each in self.namesakes}
        if (spec.pool_id, spec.namespace) not in known:
            self.namesakes.append(namesake)

    def require_search(self) -> None:
        """Require that it is worth looking elsewhere in the cluster.

        Raises:
            DriverError: what was in the way, which says more.
        """
        obstacle = self.obstacle
        if obstacle is None:
            return
        unread = isinstance(obstacle, _UNREAD)
        nobody = self._dead or len(self.silent) == self._places
        if not unread or self._late or nobody:
            raise obstacle
