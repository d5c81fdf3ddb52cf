# SPDX-License-Identifier: Apache-2.0
"""The RBD journal of a journal-mode image: who owns its newest entries, who has read them.

Each change of ownership starts a new *tag* in the omap of ``journal.<image id>``. librbd
accepts a promotion exactly when the newest tag is an orphan's, as it is after a demotion, and
the tag's predecessor tells whose demotion that was. The bindings do not show tags, hence the
decoding here of ``cls::journal::Tag`` with ``librbd::journal::TagData``, and of
``cls::journal::Client`` (unchanged in every release from Ceph 10 to 20).
"""

from dataclasses import dataclass
from typing import Final

import rados

from csi_addons_rbd.ceph.encoding import Encoded, decoding
from csi_addons_rbd.ceph.omaps import read_omap
from csi_addons_rbd.replication.image import Epoch

_LOCAL: Final = ""
_ORPHAN: Final = "<orphan>"
OWN_CLIENT: Final = ""
"""Name of the image itself among the clients of its journal."""
_CLIENT: Final = "client_"
_PEER: Final = 1
"""``librbd::journal::MIRROR_PEER_CLIENT_META_TYPE``."""


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
    tags = (decode_tag(value) for value in _entries(ioctx, image_id, "tag_").values())
    return tuple(sorted(tags, key=lambda tag: tag.number))


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """One that reads the journal: the image itself, or a peer."""

    position: tuple[int, int] | None
    """Tag and entry of the newest position it committed; ``None`` before it committed any."""
    copied: bool
    """Whether this peer once copied the whole image, rather than begin with the journal alone."""


def read_clients(ioctx: rados.Ioctx, image_id: str) -> dict[str, Client]:
    """Read the clients by name: the image itself is empty, a peer is its mirror uuid.

    Raises:
        rados.ObjectNotFound: the image has no journal.
    """
    return {
        key.removeprefix(_CLIENT): decode_client(value)
        for key, value in _entries(ioctx, image_id, _CLIENT).items()
    }


def read_resync_request(ioctx: rados.Ioctx, image_id: str) -> bool:
    """Read whether the image's own client asks for a resync (``ImageClientMeta``)."""
    try:
        entries = _entries(ioctx, image_id, _CLIENT)
    except rados.ObjectNotFound:
        return False
    return _CLIENT in entries and asks_for_resync(entries[_CLIENT])


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


def promotion_tag(tags: tuple[Tag, ...]) -> int:
    """Return the tag of the promotion that began the present epoch, 0 when it is not there.

    It goes once every client has left it behind; an image that was created here has none.
    """
    start = epoch_start(tags)
    promoted = (tag.number == start and tag.predecessor != _LOCAL for tag in tags)
    return start if any(promoted) else 0


def journal_object(image_id: str) -> str:
    """Return the object that has tags and clients, and that readers of the journal watch."""
    return f"journal.{image_id}"


def _entries(ioctx: rados.Ioctx, image_id: str, prefix: str) -> dict[str, bytes]:
    return read_omap(ioctx, journal_object(image_id), prefix)


# --- the encoded structs ------------------------------------------------------------------


def decode_tag(value: bytes) -> Tag:
    """Read one tag.

    Raises:
        CephFailure: these bytes are none.
    """
    with decoding("a tag of an image's journal"):
        tag = Encoded(value).structure(1)
        number, _class = tag.number("Q"), tag.number("Q")
        data = Encoded(tag.raw())
        return Tag(number=number, owner=data.text(), predecessor=data.text())


def decode_client(value: bytes) -> Client:
    """Read one client.

    Raises:
        CephFailure: these bytes are none.
    """
    with decoding("a client of an image's journal"):
        client = Encoded(value).structure(1)
        _name, data = client.raw(), client.raw()
        positions = client.structure(1)
        return Client(
            position=max((_position(positions) for _ in range(positions.number())), default=None),
            copied=_copied(data),
        )


def asks_for_resync(value: bytes) -> bool:
    """Read from the image's own client whether a resync was requested (``ImageClientMeta``).

    Raises:
        CephFailure: these bytes are no client.
    """
    with decoding("the image's own client of its journal"):
        client = Encoded(value).structure(1)
        _name, data = client.raw(), client.raw()
        meta = Encoded(data).structure(1)
        _kind, _class = meta.number(), meta.number("Q")
        return bool(meta.number("B"))


def _position(positions: Encoded) -> tuple[int, int]:
    """Return tag and entry of a commit position; there is one for each splayed object."""
    position = positions.structure(1)
    _object, tag, entry = position.number("Q"), position.number("Q"), position.number("Q")
    return tag, entry


def _copied(data: bytes) -> bool:
    """Tell from ``MirrorPeerClientMeta`` whether objects were ever counted to copy them all."""
    meta = Encoded(data).structure(1)
    if meta.number() != _PEER:
        return False
    _image_id, _state, objects = meta.raw(), meta.number(), meta.number("Q")
    return bool(objects)
