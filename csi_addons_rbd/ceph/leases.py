# SPDX-License-Identifier: Apache-2.0
"""Leases: of several drivers that serve one cluster, one at a time changes an image.

A lease is a lock with an end on the object ``csi-addons-rbd.lock.<image id>`` beside the image.
Its holder renews it, so it runs out when that driver has died, or is frozen. Before each change
the holder signs: it looks whether it still holds the lease, and writes the address of the client
that makes the change beside it, both at once in the cluster. Whoever takes over a lease that ran
out has the cluster fence who signed first. So a driver that thaws in the middle of a change, be it
between its last look at the lease and librbd's first message, cannot bring it to its end any more.

The lease of a process that is known to be dead, and fenced, is not waited for: it is broken.
"""

import errno
import struct
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, TypeAlias

import rados
import structlog

from csi_addons_rbd.ceph.encoding import Encoded, decoding, structure, text
from csi_addons_rbd.ceph.fault_points import step
from csi_addons_rbd.ceph.limits import in_background
from csi_addons_rbd.ceph.rbd_header import read_header
from csi_addons_rbd.ceph.rollback import is_needed
from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.errors import (
    NOTHING_TO_DO,
    CallOver,
    CephFailure,
    ClientBlocklisted,
    LeaseHeld,
    LeaseLost,
    PoolFull,
)

_NAME: Final = "csi-addons-rbd"
_SECONDS: Final = 30
"""Length of a lease: for so long a driver that died or froze is in the others' way."""
_RENEWED: Final = 10
"""Seconds between two renewals."""
_LONGEST: Final = 300
"""Seconds for which a lease is renewed: what takes longer is taken to hang for good."""
_LONGEST_ROLLBACK: Final = 6 * 60 * 60
"""The same while librbd takes an image back to its last whole copy, object by object."""
_PATIENCE: Final = 5
"""Seconds to wait for a lease that another driver, or the schedule, holds for a moment."""
_POLL: Final = 0.2
_EXCLUSIVE: Final = 1
_RENEW: Final = 2
"""``LOCK_FLAG_MUST_RENEW``: no lock but one that is held already."""
_FULL_TRY: Final = 64
"""``LIBRADOS_OPERATION_FULL_TRY``: in a full pool, fail at once instead of waiting for room."""
_FULL: Final = (errno.EDQUOT, errno.ENOSPC)
_ENTITY: Final = 9
"""Bytes of an encoded ``entity_name_t``: kind and number."""
_MOST: Final = 1000
"""Entries to read at once: more than ever stand there."""

Fence: TypeAlias = Callable[[Iterable[str]], None]
_log = structlog.get_logger()


class CephLease:
    """The lease on one image, as one operation asks for it.

    Args:
        ioctx: Where the image lies.
        image: The words that error texts use.
        image_id: The image's id.
        client: Address of the client that holds it.
        dead: Addresses of clients that are dead and fenced.
    """

    def __init__(
        self, ioctx: rados.Ioctx, image: str, image_id: str, *, client: str, dead: Collection[str]
    ) -> None:
        self._ioctx = ioctx
        self._image = image
        self.image_id = image_id
        """Which image it is on: the same name may be another's, after a resync."""
        self._object = f"csi-addons-rbd.lock.{image_id}"
        self._cookie = f"{client} {uuid.uuid4().hex}"
        self._dead = dead
        self._signers: set[str] = set()
        self._claiming = threading.Lock()
        self._over = threading.Event()

    @contextmanager
    def held(self, until: Deadline, fence: Fence) -> Iterator[None]:
        """Hold the lease for the length of a block.

        Args:
            until: When nobody waits for the operation any more.
            fence: Keeps clients out of the cluster from now on.

        Raises:
            LeaseHeld: another driver holds it.
            PoolFull: the pool takes no more objects, and librbd would hang in the middle.
            CallOver: nobody waits any more.
            LeaseLost: another driver took it over in the middle.
        """
        renewing = in_background(self._keep)  # first: without it nothing may be begun
        try:
            self._acquire(until)
            # where this fails the lease is left to run out: given back, the names would go with it
            self._fence_others(fence)
        except BaseException:
            self._stop(renewing)
            raise
        try:
            yield
        except BaseException as exc:
            fenced = isinstance(exc, ClientBlocklisted) and bool(self._signers)
            if not self._end(renewing) or fenced:
                raise self._loss() from exc
            raise
        if not self._end(renewing):
            raise self._loss()

    def sign(self, client: str) -> None:
        """Look for the last time, and name the client that is about to change something.

        Raises:
            LeaseLost: the lease ran out.
        """
        self._signers.add(client)
        try:
            self._claim(_RENEW)
        except rados.ObjectNotFound:
            raise self._loss() from None

    def _loss(self) -> LeaseLost:
        return LeaseLost(
            f"this driver was silent for longer than its lease on {self._image}, or was fenced; "
            f"what it was doing may or may not have happened; {NOTHING_TO_DO}"
        )

    def _acquire(self, until: Deadline) -> None:
        patience = Deadline.after(_PATIENCE)
        while True:
            try:
                with step("leasing"):
                    if not until.remaining:
                        raise CallOver(
                            f"the call's time was over before {self._image} was changed; "
                            f"{NOTHING_TO_DO}"
                        )
                    self._claim()
            except rados.ObjectBusy:
                if self._break_that_of_the_dead():
                    continue
                if not patience.remaining:
                    raise LeaseHeld(
                        f"another driver is changing {self._image}, or ended while it did: its "
                        f"lease runs out after {_SECONDS} s; {NOTHING_TO_DO}"
                    ) from None
                time.sleep(_POLL)
            except rados.Error as exc:
                if getattr(exc, "errno", None) in _FULL:
                    raise PoolFull(_full(self._image)) from exc
                raise
            else:
                return

    def _break_that_of_the_dead(self) -> bool:
        """Break the lock if a dead client holds it; false when another one does."""
        if not self._dead:
            return False
        with suppress(rados.ObjectNotFound):
            _, reply = self._ioctx.execute(self._object, "lock", "get_info", structure(text(_NAME)))
            holder, cookie = _only_locker(reply)
            if cookie.partition(" ")[0] not in self._dead:
                return False
            _log.warning("broke the lease of a process that died", image=self._image)
            with step("breaking the lease of the dead on"):
                request = structure(text(_NAME), holder, text(cookie))
                self._ioctx.execute(self._object, "lock", "break_lock", request)
        return True

    def _fence_others(self, fence: Fence) -> None:
        """Keep out who signed a lease that ran out; nobody else left a name."""
        with rados.ReadOpCtx() as operation:
            entries, _ = self._ioctx.get_omap_vals(operation, "", "", _MOST)
            self._ioctx.operate_read_op(operation, self._object)
            others = {
                cookie: clients.decode() for cookie, clients in entries if cookie != self._cookie
            }
        if not others:
            return
        clients = " ".join(others.values()).split()
        _log.warning("took over a lease that ran out", image=self._image, fencing=clients)
        with step("fencing the last who changed"):
            fence(clients)
        self._forget(others)

    def _keep(self) -> None:
        """Renew the lease until it is given back, or until what is done under it hangs for good.

        Only a roll-back may take longer than five minutes without hanging: hours, where the image
        is large. If its lease ran out, another driver would fence it and begin it anew, with the
        same end. Whether one goes on is read from the image before each further renewal, so the
        lease of a thread that hangs elsewhere runs out as before. One that hangs in a roll-back
        keeps its lease for hours, but no longer than its process lives, and that is ended when
        such a thread has lived through a silence (``pulse``).
        """
        longest, longest_rollback = Deadline.after(_LONGEST), Deadline.after(_LONGEST_ROLLBACK)
        while not self._over.wait(_RENEWED) and longest_rollback.remaining:
            # what fails now is tried again: a lease that ran out cannot be renewed any more
            with suppress(rados.Error, CephFailure):
                if not longest.remaining and not self._rolls_back():
                    return
                self._claim(_RENEW)

    def _rolls_back(self) -> bool:
        """Tell whether the image is being taken back: then its newest snapshot is an orphan.

        A copy that rbd-mirror is making reads half made as well, but has no orphan above it.
        """
        snapshots = read_header(self._ioctx, self.image_id).snapshots
        return is_needed(snapshots) and snapshots[-1].orphan

    def _stop(self, renewing: threading.Thread) -> None:
        """Renew it no more, and wait for who does: the caller closes what both of them use."""
        self._over.set()
        renewing.join()

    def _end(self, renewing: threading.Thread) -> bool:
        """Give the lease back, and the object with it, unless it was lost before."""
        self._stop(renewing)
        try:
            with step("giving the lease back"), rados.WriteOpCtx() as operation:
                self._lock(operation, _RENEW)
                operation.remove()
                self._ioctx.operate_write_op(operation, self._object)
        except rados.ObjectNotFound:
            with suppress(rados.Error):
                self._forget((self._cookie,))
            return False
        except rados.Error:
            pass  # it runs out by itself
        return True

    def _claim(self, flags: int = 0) -> None:
        """Take or renew the lock and name who signed, both or neither."""
        with self._claiming, rados.WriteOpCtx() as operation:
            self._lock(operation, flags)
            if self._signers:
                signers = " ".join(self._signers)
                self._ioctx.set_omap(operation, (self._cookie,), (signers,))
            self._ioctx.operate_write_op(operation, self._object, flags=_FULL_TRY)

    def _lock(self, operation: rados.WriteOp, flags: int) -> None:
        """Add ``cls_lock``'s ``lock`` (``cls_lock_lock_op``): the binding locks by itself only."""
        tag = description = text("")
        ends = struct.pack("<IIB", _SECONDS, 0, flags)
        request = structure(
            text(_NAME), bytes([_EXCLUSIVE]), text(self._cookie), tag, description, ends
        )
        operation.execute("lock", "lock", request)

    def _forget(self, cookies: Iterable[str]) -> None:
        with rados.WriteOpCtx() as operation:
            self._ioctx.remove_omap_keys(operation, tuple(cookies))
            self._ioctx.operate_write_op(operation, self._object)


def _full(image: str) -> str:
    return (
        f"the pool of {image} is full, or has reached its quota ('ceph df', 'ceph osd pool "
        "get-quota'): it takes no write, so nothing was changed; make room or raise the quota; "
        "the controller retries by itself"
    )


def _only_locker(reply: bytes) -> tuple[bytes, str]:
    """Read who holds the lock (an encoded ``entity_name_t``), and the cookie.

    Raises:
        rados.ObjectNotFound: nobody does (any more).
    """
    with decoding("the lock of a lease"):
        lock = Encoded(reply).structure(1)
        if not lock.number():
            raise rados.ObjectNotFound("no locker")
        locker = lock.structure(1)
        return locker.take(_ENTITY), locker.text()
