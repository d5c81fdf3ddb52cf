# SPDX-License-Identifier: Apache-2.0
"""One connect: names looked up, librados bounded, and the cause of a failure told.

``client_mount_timeout`` bounds what librados waits for the monitors, not what it does before, so
the whole connect has a bound of its own.
"""

import base64
import errno
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import rados

from csi_addons_rbd.ceph.limits import within
from csi_addons_rbd.ceph.lookups import Lookups
from csi_addons_rbd.ceph.release import release
from csi_addons_rbd.ceph.translate import errno_of, translated
from csi_addons_rbd.monitors import names_in, parse_monitors, resolve_monitors
from csi_addons_rbd.replication.errors import ClusterUnreachable, DriverError, Unauthenticated

_LOOKING_UP: Final = 0.5
"""Part of the time of a connect that names may take."""
_SLACK: Final = 1.0
"""Seconds after which librados is left alone that has not kept to its own bound."""
_DIALING: Final = 512
"""Connects at once, more than calls; one that librados does not end keeps its thread."""
_AES: Final = 1
"""Type of a cephx key that every release reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Whom to connect to, as whom."""

    cluster: str
    """Its id in config.json."""
    monitors: tuple[str, ...]
    user: str
    key: str = field(repr=False)

    def __str__(self) -> str:
        """Return it for messages."""
        return f"cluster {self.cluster} at {', '.join(self.monitors)} as client.{self.user}"


class Dialer:
    """Connects. Every method may be called from any thread.

    Args:
        seconds: Bound of one connect, with the lookup of names.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lookups = Lookups()
        self._dialing = threading.Semaphore(_DIALING)

    def dial(self, target: Target, options: Mapping[str, str]) -> rados.Rados:
        """Return a connected handle with these options.

        Raises:
            Unauthenticated: cephx refuses user or key, or librados cannot read the key.
            ClusterUnreachable: no monitor answered in time, or has an address.
        """
        until = time.monotonic() + self._seconds
        mon_host = self._mon_host(target)
        left = max(1, math.ceil(until - time.monotonic()))
        conf = {
            **options,
            "mon_host": mon_host,
            "key": target.key,
            "client_mount_timeout": str(left),
        }
        late = _late(target)
        return within(left + _SLACK, lambda: _connected(target, conf), late, most=self._dialing)

    def _mon_host(self, target: Target) -> str:
        """Return the monitors by their addresses.

        Raises:
            ClusterUnreachable: none has one.
        """
        monitors = parse_monitors(target.monitors).texts
        names = names_in(monitors)
        looked = self._lookups.look_up(names, self._seconds * _LOOKING_UP)
        found = resolve_monitors(monitors, lambda name: looked.found.get(name, ()))
        if not found:
            failed = "; ".join(f"{name}: {why}" for name, why in looked.failed.items())
            raise ClusterUnreachable(
                f"connecting to {target}: no name of a monitor has an address ({failed}); see the "
                "DNS that the driver's pod uses, and the names in config.json"
            )
        return ",".join(found)


def _connected(target: Target, conf: dict[str, str]) -> rados.Rados:
    try:
        cluster = rados.Rados(rados_id=target.user, conf=conf)
        try:
            cluster.connect()
        except rados.Error:
            cluster.shutdown()
            raise
    except rados.Error as exc:
        raise _failure(exc, target) from exc
    return cluster


def _late(target: Target) -> ClusterUnreachable:
    return ClusterUnreachable(
        f"connecting to {target}: no monitor answered in time (ETIMEDOUT); see whether they run "
        "there, and the route to them"
    )


def _failure(exc: rados.Error, target: Target) -> DriverError:
    """Return our error; what else EINVAL may come from is sorted out before librados is asked."""
    doing = f"connecting to {target}"
    match errno_of(exc):
        case errno.EINVAL:
            return Unauthenticated(f"{doing}: {_unreadable(target.key)}")
        case errno.ENOENT:
            return ClusterUnreachable(f"{doing}: librados knows no monitor (ENOENT)")
        case errno.ETIMEDOUT:
            return _late(target)
    return translated(exc, doing)


def _unreadable(key: str) -> str:
    kind = int.from_bytes(base64.b64decode(key)[:2], "little")
    client = f"the Ceph client of this driver's image, {release()},"
    if kind > _AES:
        name = {2: "aes256k"}.get(kind, "newer")
        return (
            f"userKey is of type {kind} ({name}), which {client} cannot read (EINVAL); use an "
            "image with the cluster's release of Ceph, or give the user a key of type aes"
        )
    return (
        f"{client} cannot read userKey (EINVAL); correct the secret: it must hold what "
        "'ceph auth get-key' prints"
    )
