# SPDX-License-Identifier: Apache-2.0
"""How long a call waits, and which statuses cannot be older than the call."""

import time
from dataclasses import dataclass
from typing import Final

from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.image import MirrorView, SiteStatus

POLL: Final = 0.5
"""Seconds between two looks at an image that something is awaited on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long a call waits, and for what; seconds."""

    call: Deadline
    """When the call has been answered, one way or the other: nothing is begun after that."""
    until: Deadline
    confirmed: Deadline
    """The same where a status must be newer than the call: it comes with the heartbeat after one
    state check, and a call that ends just before would begin that wait anew."""
    check_interval: int
    """rbd-mirror's ``rbd_mirror_image_state_check_interval``: a status may lag so much."""


class Hindsight:
    """Tells the statuses that cannot be older than the call: one state check has passed.

    A heartbeat repeats what rbd-mirror last found out, so for one state check after a demotion
    a site still calls itself primary, and one that is primary again may not say so yet. Only
    what is written a whole state check after the call began speaks of the time since.
    """

    def __init__(self, check_interval: int) -> None:
        self.check_interval = check_interval
        self._began = time.monotonic()
        self._before: dict[str, int] | None = None

    @property
    def age(self) -> float:
        """Seconds since the call began."""
        return time.monotonic() - self._began

    def note(self, view: MirrorView) -> None:
        """Take in one reading; readings must come oldest first."""
        if self._before is None and self.age >= self.check_interval:
            self._before = {each.site: each.last_update for each in view.statuses}

    def confirms(self, status: SiteStatus) -> bool:
        """Tell whether the status was written a whole state check after the call began."""
        return self._before is not None and status.last_update > self._before.get(status.site, 0)
