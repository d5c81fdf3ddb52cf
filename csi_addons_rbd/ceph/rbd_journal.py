# SPDX-License-Identifier: Apache-2.0
"""The RBD journal of a journal-mode image: who owns its newest entries, who has read them.

Each change of ownership starts a new *tag* in the omap of ``journal.<image id>``. librbd
accepts a promotion exactly when the newest tag is an orphan's, as it is after a demotion, and
the tag's predecessor tells whose demotion that was. The bindings do not show tags, hence the
decoding here of ``cls::journal::Tag`` with ``librbd::journal::TagData``, and of
``cls::journal::Client`` (unchanged in every release from Ceph 10 to 20).
"""

import struct
from dataclasses import dataclass
from typing import Final

import rados

from csi_addons_rbd.replication.image import Epoch

_LOCAL: Final = ""
_ORPHAN: Final = "<orphan>"
OWN_CLIENT: Final = "client_"
"""Key of the image itself among the clients of its journal; a peer's name follows."""
_BATCH: Final = 512
_HEADER: Final = 6
"""What each encoded struct begins with: version, compatible version, length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tag:
    """One tag: who wrote the entries under it, and who those before."""

    number: int
    owner: str
    predecessor: str

    @property
    def epoch(self) -> Epoch:
        """What the tag means while it is the newest."""
        if self.owner == _LOCAL:
            return Epoch.PRIMARY
        if self.owner != _ORPHAN:
            return Epoch.NON_PRIMARY
        return Epoch.PRIMARY_DEMOTED if self.predecessor == _LOCAL else Epoch.NON_PRIMARY_DEMOTED


def read_tags(ioctx: rados.Ioctx, image_id: str) -> tuple[Tag, ...]:
    """Read the image's tags, oldest first; tags that every client left behind are gone.

    Raises:
        rados.ObjectNotFound: the image has no journal.
    """
    tags = (_decode_tag(value) for value in _entries(ioctx, image_id, "tag_").values())
    return tuple(sorted(tags, key=lambda tag: tag.number))


def read_clients(ioctx: rados.Ioctx, image_id: str) -> dict[str, tuple[int, int] | None]:
    """Read how far each client has come: tag and entry of the newest position it committed.

    The image itself is ``OWN_CLIENT``; each peer that follows this journal is another one.
    ``None`` stands for a client that has committed nothing.

    Raises:
        rados.ObjectNotFound: the image has no journal.
    """
    return {
        key: max(_decode_positions(value), default=None)
        for key, value in _entries(ioctx, image_id, OWN_CLIENT).items()
    }


def read_resync_request(ioctx: rados.Ioctx, image_id: str) -> bool:
    """Read whether the image's own client asks for a resync (``ImageClientMeta``)."""
    try:
        entries = _entries(ioctx, image_id, OWN_CLIENT)
    except rados.ObjectNotFound:
        return False
    if OWN_CLIENT not in entries:
        return False
    _, rest = _take_bytes(entries[OWN_CLIENT][_HEADER:])
    data, _ = _take_bytes(rest)
    _, _, requested = struct.unpack_from("<IQ?", data, _HEADER)
    return bool(requested)


def epoch_start(tags: tuple[Tag, ...]) -> int:
    """Return the first tag of the present primary epoch, 0 when the newest is not local.

    Every opening for writing starts a tag too, whose predecessor is local; the promotion's
    own has another's.
    """
    start = 0
    for tag in reversed(tags):
        if tag.owner != _LOCAL:
            break
        start = tag.number
        if tag.predecessor != _LOCAL:
            break
    return start


def _entries(ioctx: rados.Ioctx, image_id: str, prefix: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    after = ""
    while True:
        with rados.ReadOpCtx() as operation:
            entries, _ = ioctx.get_omap_vals(operation, after, prefix, _BATCH)
            ioctx.operate_read_op(operation, f"journal.{image_id}")
            batch = dict(entries)
        found |= batch
        if len(batch) < _BATCH:
            return found
        after = max(batch)


def _decode_tag(value: bytes) -> Tag:
    number, _ = struct.unpack_from("<QQ", value, _HEADER)
    data, _ = _take_bytes(value[_HEADER + 16 :])
    owner, rest = _take_bytes(data)
    predecessor, _ = _take_bytes(rest)
    return Tag(number=number, owner=owner.decode(), predecessor=predecessor.decode())


def _decode_positions(value: bytes) -> list[tuple[int, int]]:
    """Return tag and entry of a client's commit position, one for each splayed object."""
    _, rest = _take_bytes(value[_HEADER:])
    _, rest = _take_bytes(rest)
    (count,) = struct.unpack_from("<I", rest, _HEADER)
    first = _HEADER + 4
    # each position: object number, tag, entry
    size = _HEADER + 24
    positions = []
    for index in range(count):
        _, tag, entry = struct.unpack_from("<QQQ", rest, first + index * size + _HEADER)
        positions.append((tag, entry))
    return positions


def _take_bytes(data: bytes) -> tuple[bytes, bytes]:
    (length,) = struct.unpack_from("<I", data)
    return data[4 : 4 + length], data[4 + length :]
