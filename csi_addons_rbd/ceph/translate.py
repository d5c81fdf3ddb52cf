# SPDX-License-Identifier: Apache-2.0
"""rbd and rados exceptions → our errors, in one table.

The two bindings share no base class, and ``rbd.OSError`` is not the builtin one. Errors are
told apart by class, or by errno where several share a class; never by text.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import rados
import rbd

from csi_addons_rbd.replication.errors import (
    NOTHING_TO_DO,
    CephFailure,
    ClientBlocklisted,
    ClusterUnreachable,
    DriverError,
    ImageVanished,
    PermissionDenied,
    Unauthenticated,
)

FOREIGN: Final = (rbd.Error, rados.Error)

# errno → our class, and what to do next. EACCES comes from cephx, EPERM from the caps.
_TABLE: Final[dict[int, tuple[type[DriverError], str]]] = {
    errno.EACCES: (Unauthenticated, "cephx refuses userID or userKey; check the secret"),
    errno.EPERM: (
        PermissionDenied,
        "the user's caps do not allow it; needed are 'profile rbd' for mon, osd and mgr",
    ),
    errno.ETIMEDOUT: (
        ClusterUnreachable,
        (
            "the cluster does not answer in time; see its health (OSDs down, pool full) and the "
            "user's caps: from Ceph 18 on one without any for osd gets no answer"
        ),
    ),
    errno.ENOTCONN: (ClusterUnreachable, f"the connection was lost; {NOTHING_TO_DO}"),
    errno.ESHUTDOWN: (
        ClientBlocklisted,
        "the cluster fenced this client, or the connection broke; see 'ceph osd blocklist ls'",
    ),
    errno.ENOENT: (ImageVanished, f"it vanished in the middle of the call; {NOTHING_TO_DO}"),
    errno.ENOSPC: (CephFailure, "the cluster or pool is full; make room"),
    errno.EDQUOT: (CephFailure, "the pool's quota is reached; raise it, or make room"),
}
_OTHERS: Final = (
    CephFailure,
    "the controller retries; if it comes again, see the cluster's health and logs",
)


def translated(exc: Exception, doing: str) -> DriverError:
    """Return our error for one of Ceph's; ``doing`` says what failed, and where."""
    number = errno_of(exc)
    kind, advice = _TABLE.get(number, _OTHERS)
    cause = os.strerror(number) if number else type(exc).__name__
    return kind(f"{doing}: {cause} ({errno.errorcode.get(number, 'no errno')}); {advice}")


@contextmanager
def translating(doing: str) -> Iterator[None]:
    """Let only our own errors out of the block."""
    try:
        yield
    except FOREIGN as exc:
        raise translated(exc, doing) from exc


def errno_of(exc: Exception) -> int:
    """Return the positive errno of one of Ceph's errors; 0 when it has none."""
    number = getattr(exc, "errno", None)
    return abs(number) if isinstance(number, int) else 0
