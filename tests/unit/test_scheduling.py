# SPDX-License-Identifier: Apache-2.0
"""A schedule that one driver removes while another one asks for it is put back."""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

import pytest

from csi_addons_rbd.replication import scheduling
from csi_addons_rbd.replication.calls import Schedule
from csi_addons_rbd.replication.errors import ClusterUnreachable, DriverError
from csi_addons_rbd.replication.image import ImageSpec, MirroredImage
from csi_addons_rbd.replication.notes import ENDED, SCHEDULE
from csi_addons_rbd.replication.scheduling import Scheduler

if TYPE_CHECKING:
    from csi_addons_rbd.replication.keeper import SnapshotKeeper

SPEC: Final = ImageSpec(cluster="a", pool="b", pool_id=1, namespace="", image="c")
FIVE: Final = Schedule(seconds=300, by_driver=False, start_time=None)


@dataclass
class Image:
    """One image and the manager's schedule of it, with another driver on the same image."""

    asked_for_meanwhile: str
    """The note that the other driver writes while this one is at the manager."""
    spec: ImageSpec = SPEC
    noted: str = ENDED
    scheduled: Schedule | None = FIVE
    failing: list[DriverError] = field(default_factory=list)
    restored: threading.Event = field(default_factory=threading.Event)

    def notes(self) -> Mapping[str, str]:
        """Read the notes, if the cluster answers."""
        if self.noted != ENDED and self.failing:
            raise self.failing.pop()
        return {SCHEDULE: self.noted}

    def note(self, key: str, value: str | None, *, only: str | None = None) -> None:
        """Fail: the other driver's note is not this one's to change."""
        raise AssertionError(key, value, only)

    def keep_schedule(self, wanted: Schedule | None) -> None:
        """Change what the manager has."""
        self.scheduled, self.noted = wanted, self.asked_for_meanwhile
        if wanted is not None:
            self.restored.set()


@pytest.mark.parametrize("failures", [0, 1, 3])
def test_a_late_removal_is_taken_back(monkeypatch: pytest.MonkeyPatch, failures: int) -> None:
    """Also when the cluster does not answer at first after it, as after a freeze."""
    monkeypatch.setattr(scheduling, "_RETRY", 0.01)
    noted = {"seconds": 300, "by_driver": False, "start_time": None, "placed": True}
    image = Image(json.dumps(noted), failing=[ClusterUnreachable("silent")] * failures)
    Scheduler(cast("SnapshotKeeper", None)).drop(cast("MirroredImage", image))
    assert image.restored.wait(5)
    assert image.scheduled == FIVE
