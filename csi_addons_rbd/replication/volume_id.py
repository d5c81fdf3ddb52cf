# SPDX-License-Identifier: Apache-2.0
"""The CSI volume handle: parse and format. Pure.

Layout, as ceph-csi composes it: ``0001-<4 hex: length>-<cluster id>-<16 hex: pool id>-<36: uuid>``,
where the length counts the bytes of the cluster id, which may itself contain dashes.
"""

import re
from dataclasses import dataclass, replace
from typing import Final, Self

from csi_addons_rbd.replication.errors import InvalidHandle, UnknownHandleVersion

_VERSION: Final = "0001"
_HEAD: Final = re.compile(r"(?P<version>[0-9a-f]{4})-(?P<length>[0-9a-f]{4})-", re.IGNORECASE)
_LATER: Final = re.compile(r"00(?!00|01)[0-9a-f]{2}-[0-9a-f]{4}-", re.IGNORECASE)
"""How a handle begins whose layout is counted on from this one."""
_TAIL: Final = re.compile(
    r"-(?P<pool>[0-9a-f]{16})-(?P<uuid>[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})",
    re.IGNORECASE,
)
_TAIL_LENGTH: Final = 1 + 16 + 1 + 36
_CLUSTER_MAX: Final = 64
_POOL_MAX: Final = 2**63 - 1
_ACCEPTED: Final = (
    "accepted is 0001-<4 hex: length>-<cluster id>-<16 hex: pool id>-<uuid>, "
    "the volumeHandle of the PersistentVolume"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeId:
    """One volume, as its handle names it."""

    cluster: str
    """Cluster id: a ``clusterID`` of config.json, on the site that made the volume."""
    pool: int
    """Pool id in that cluster."""
    uuid: str
    """The volume's uuid, the same on every site; in lower case, as ceph-csi names images."""

    @classmethod
    def parse(cls, handle: str) -> Self:
        """Read a handle.

        Raises:
            InvalidHandle: any length, separator or digit is wrong.
            UnknownHandleVersion: the version is, and it may be a handle all the same.
        """
        head = _HEAD.match(handle)
        if head is None or head["version"] != _VERSION:
            kind = UnknownHandleVersion if _may_be_of_another_version(handle) else InvalidHandle
            raise _invalid(handle, "it does not begin with 0001-<4 hex digits>-", kind)
        cluster, rest = handle[head.end() : -_TAIL_LENGTH], handle[-_TAIL_LENGTH:]
        tail = _TAIL.fullmatch(rest)
        if tail is None:
            raise _invalid(handle, "it does not end in -<16 hex digits>-<uuid>")
        length = int(head["length"], 16)
        if not 0 < length <= _CLUSTER_MAX or length != len(cluster.encode(errors="replace")):
            raise _invalid(handle, f"the cluster id is not {length} bytes long (1 to 64)")
        pool = int(tail["pool"], 16)
        if pool > _POOL_MAX:
            raise _invalid(handle, "the pool id is out of range")
        return cls(cluster=cluster, pool=pool, uuid=tail["uuid"].lower())

    def at(self, *, cluster: str, pool: int) -> Self:
        """Return the handle of the same volume in another cluster and pool."""
        return replace(self, cluster=cluster, pool=pool)

    def __str__(self) -> str:
        """Return the handle's text, as ceph-csi would compose it."""
        length = len(self.cluster.encode())
        return f"{_VERSION}-{length:04x}-{self.cluster}-{self.pool:016x}-{self.uuid}"


def _may_be_of_another_version(handle: str) -> bool:
    """Tell a handle that a later ceph-csi may compose from a name that is none of any version."""
    head = _HEAD.match(handle)
    alike = head is not None and _TAIL.fullmatch(handle[-_TAIL_LENGTH:]) is not None
    return alike or _LATER.match(handle) is not None


def _invalid(handle: str, fault: str, kind: type[InvalidHandle] = InvalidHandle) -> InvalidHandle:
    return kind(f"volume_id {handle[:160]!r} is malformed: {fault}; {_ACCEPTED}")
