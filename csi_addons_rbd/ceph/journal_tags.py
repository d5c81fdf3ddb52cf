# SPDX-License-Identifier: Apache-2.0
"""Who owns the newest entries of a journal-mode image: read from its RBD journal's tags.

Each change of ownership starts a new *tag* in the omap of ``journal.<image id>``. librbd
accepts a promotion exactly when the newest tag is an orphan's, as it is after a demotion, and
the tag's predecessor tells whose demotion that was. The bindings do not show tags, hence the
decoding here of ``cls::journal::Tag`` and ``librbd::journal::TagData`` (unchanged in every
release from Ceph 10 to 20).
"""

import struct
from dataclasses import dataclass
from typing import Final

import rados

from csi_addons_rbd.replication.model import Epoch

_LOCAL: Final = ""
_ORPHAN: Final = "<orphan>"
_PREFIX: Final = "tag_"
_BATCH: Final = 512


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
    tags: list[Tag] = []
    after = ""
    while True:
        with rados.ReadOpCtx() as operation:
            entries, _ = ioctx.get_omap_vals(operation, after, _PREFIX, _BATCH)
            ioctx.operate_read_op(operation, f"journal.{image_id}")
            batch = list(entries)
        tags += [_decode(value) for _, value in batch]
        if len(batch) < _BATCH:
            return tuple(sorted(tags, key=lambda tag: tag.number))
        after = batch[-1][0]


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


def _decode(value: bytes) -> Tag:
    # version, compat, length; then tid, class, length of the data
    number, _, length = struct.unpack_from("<QQI", value, 6)
    data = value[26 : 26 + length]
    owner, rest = _take_string(data)
    predecessor, _ = _take_string(rest)
    return Tag(number=number, owner=owner, predecessor=predecessor)


def _take_string(data: bytes) -> tuple[str, bytes]:
    (length,) = struct.unpack_from("<I", data)
    return data[4 : 4 + length].decode(), data[4 + length :]
