# SPDX-License-Identifier: Apache-2.0
"""Leases: of several drivers that serve one cluster, one at a time changes an image.

A lease is a lock with an end on the object ``csi-addons-rbd.lock.<image id>`` beside the image,
so that a driver that died or froze holds nobody up for long. What it cannot prevent: a driver
frozen in the very moment between its last look at the lease and librbd's first step.
"""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import rados

from csi_addons_rbd.ceph.fault_points import step
from csi_addons_rbd.replication.errors import LeaseHeld

_NAME: Final = "csi-addons-rbd"
_SECONDS: Final = 30
"""Length of a lease: long enough for the last looks before a change, not for the change."""
_MARGIN: Final = 10
"""Seconds that must be left when the change begins, or when the object is removed."""
_PATIENCE: Final = 5
"""Seconds to wait for a lease that another driver, or the schedule, holds for a moment."""
_POLL: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class CephLease:
    """A lease that was granted."""

    image: str
    until: float
    """Its end, by the monotonic clock, counted from before it was asked for."""

    @property
    def sure(self) -> bool:
        """Whether it will hold for some seconds more."""
        return self.until - time.monotonic() > _MARGIN

    def require(self) -> None:
        """Raise when the lease may be over."""
        if not self.sure:
            raise LeaseHeld(
                f"the lease on {self.image} ran out before anything was done; ask again"
            )


@contextmanager
def lease(ioctx: rados.Ioctx, *, image: str, image_id: str) -> Iterator[CephLease]:
    """Hold the image's lease for the length of a block.

    Raises:
        LeaseHeld: another driver holds it.
    """
    name, cookie = f"csi-addons-rbd.lock.{image_id}", uuid.uuid4().hex
    held = CephLease(image=image, until=_acquire(ioctx, name, cookie, image))
    try:
        yield held
    finally:
        _release(ioctx, name, cookie, held)


def _acquire(ioctx: rados.Ioctx, name: str, cookie: str, image: str) -> float:
    patience = time.monotonic() + _PATIENCE
    while True:
        asked = time.monotonic()
        try:
            with step("leasing"):
                ioctx.lock_exclusive(name, _NAME, cookie, duration=_SECONDS)
        except (rados.ObjectBusy, rados.ObjectExists):
            if asked > patience:
                raise LeaseHeld(
                    f"another driver is changing {image}, or ended while it did: its lease runs "
                    f"out after {_SECONDS} s; ask again"
                ) from None
            time.sleep(_POLL)
        else:
            return asked + _SECONDS


def _release(ioctx: rados.Ioctx, name: str, cookie: str, held: CephLease) -> None:
    """Give the lease back; the object goes with it, unless it may be another driver's by now."""
    try:
        with step("giving the lease back"):
            if held.sure:
                ioctx.remove_object(name)
            else:
                ioctx.unlock(name, _NAME, cookie)
    except rados.Error:
        # it runs out by itself
        return
