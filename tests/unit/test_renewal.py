# SPDX-License-Identifier: Apache-2.0
"""For how long a lease is renewed: a roll-back may take hours, whatever else does so hangs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pytest
import rados
from test_rollback import HALF, ORPHAN, OURS, WHOLE
from test_torn import snapshot

from csi_addons_rbd.ceph import leases
from csi_addons_rbd.ceph.leases import CephLease
from csi_addons_rbd.ceph.rbd_header import Header, MirrorSnapshot
from csi_addons_rbd.replication.errors import CephFailure
from csi_addons_rbd.replication.image import Epoch

ENOUGH = 50
"""Renewals after which the work is done."""
ROLLING_BACK = (WHOLE, replace(HALF, complete=True), OURS)
BY_LIBRBD = (*ROLLING_BACK, replace(ORPHAN, number=4))


class Lease(CephLease):
    """Counts how often it is renewed; each time the header is read it shows the next of these."""

    def __init__(self, *shown: Sequence[MirrorSnapshot] | Exception) -> None:
        super().__init__(
            cast("rados.Ioctx", None), "an image", "abc", client="127.0.0.1:0/1", dead=()
        )
        self.renewed = 0
        self._shown = list(shown)

    def read(self, _: rados.Ioctx, image_id: str) -> Header:
        """Read the header, of which the last version stays."""
        assert image_id == "abc"
        shown = self._shown.pop(0) if len(self._shown) > 1 else self._shown[0]
        if isinstance(shown, Exception):
            raise shown
        return Header(
            features=0,
            has_parent=False,
            metadata={},
            snapshots=tuple(shown),
            user_snapshots=(),
            room=None,
        )

    def _claim(self, flags: int = 0) -> None:
        del flags
        self.renewed += 1
        if self.renewed == ENOUGH:
            self._over.set()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_RENEWED", 0)
    monkeypatch.setattr(leases, "_LONGEST", 0)


def renewed(lease: Lease, monkeypatch: pytest.MonkeyPatch) -> int:
    """Count the renewals after what others may take is over."""
    monkeypatch.setattr(leases, "read_header", lease.read)
    lease._keep()
    return lease.renewed


@pytest.mark.parametrize("snapshots", [ROLLING_BACK, BY_LIBRBD, (WHOLE, HALF, OURS)])
def test_a_roll_back_keeps_its_lease(
    snapshots: Sequence[MirrorSnapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """librbd goes through all objects of the image, which may take hours."""
    assert renewed(Lease(snapshots), monkeypatch) == ENOUGH


@pytest.mark.parametrize(
    "snapshots", [(), (WHOLE,), (WHOLE, HALF), (WHOLE, ORPHAN), (snapshot(1, Epoch.PRIMARY),)]
)
def test_what_hangs_loses_its_lease(
    snapshots: Sequence[MirrorSnapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no roll-back, be it that rbd-mirror is just copying."""
    assert renewed(Lease(snapshots), monkeypatch) == 0


def test_what_hangs_after_a_roll_back_loses_its_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """The image shows that it is over."""
    promoted = (*BY_LIBRBD, snapshot(5, Epoch.PRIMARY))
    assert renewed(Lease(BY_LIBRBD, BY_LIBRBD, promoted), monkeypatch) == 2


def test_a_roll_back_outlives_a_header_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lease is not renewed as long as that lasts, which may be a moment only."""
    faults = (rados.TimedOut("silent"), CephFailure("damaged"))
    assert renewed(Lease(*faults, ROLLING_BACK), monkeypatch) == ENOUGH


def test_a_roll_back_that_hangs_loses_its_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """After hours."""
    monkeypatch.setattr(leases, "_LONGEST_ROLLBACK", 0)
    assert renewed(Lease(ROLLING_BACK), monkeypatch) == 0
