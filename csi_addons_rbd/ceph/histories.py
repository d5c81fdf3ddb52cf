# SPDX-License-Identifier: Apache-2.0
"""Who wrote an image's newest history, and who has followed it: read from the image itself.

Statuses of rbd-mirror lag by up to half a minute and may be wrong; this cannot be.
"""

from collections.abc import Collection, Sequence
from typing import Final

import rados

from csi_addons_rbd.ceph.rbd_header import MirrorSnapshot
from csi_addons_rbd.ceph.rbd_journal import (
    OWN_CLIENT,
    Client,
    epoch_start,
    promotion_tag,
    read_clients,
    read_tags,
)
from csi_addons_rbd.replication.image import Epoch, History

NOTHING: Final = History(
    epoch=Epoch.NONE,
    mark=0,
    began=0,
    began_at=None,
    newest_at=None,
    awaited=False,
    copied_until=None,
    followed=False,
    delivered=False,
    complete=False,
    progress="",
)
_DEMOTIONS: Final = (Epoch.PRIMARY_DEMOTED, Epoch.NON_PRIMARY_DEMOTED)
_EVICTING: Final = 3
"""Snapshots still needed by a peer at which librbd may begin to drop the oldest
(``rbd_mirroring_max_mirroring_snapshots``: 3 in Ceph 16, 5 since 17)."""


def snapshot_history(snapshots: Sequence[MirrorSnapshot]) -> History:
    """Tell from the mirror snapshots of an image, oldest first."""
    snapshots = _without_torn(snapshots)
    if not snapshots:
        return NOTHING
    newest = snapshots[-1]
    epoch = newest.epoch
    # an incomplete copy of a demotion is still coming
    if epoch is Epoch.NON_PRIMARY_DEMOTED and not newest.complete:
        epoch = Epoch.NON_PRIMARY
    present = _present_epoch(snapshots)
    earlier = snapshots[: len(snapshots) - len(present)]
    held = _held_by_peers(earlier, present)
    awaited = any(snap.claimed for snap in snapshots[:-1])
    return History(
        epoch=epoch,
        mark=newest.number,
        began=present[0].taken_at if present else 0,
        began_at=present[0].taken_at if present else None,
        newest_at=newest.taken_at,
        awaited=awaited,
        copied_until=held.taken_at if held else None,
        followed=held is not None and _after_demotion(earlier),
        delivered=epoch is Epoch.PRIMARY_DEMOTED and not awaited,
        complete=any(snap.complete for snap in snapshots),
        progress="" if newest.complete else f"copied {newest.copied} objects",
        unfinished=newest.unfinished,
        orphaned=newest.orphan,
        hollow=bool(present) and all(snap.torn for snap in present),
        first=earlier[-1].number + 1 if present and earlier else 0,
        agreed_at=_agreed_at(earlier) if present else None,
    )


def _without_torn(snapshots: Sequence[MirrorSnapshot]) -> Sequence[MirrorSnapshot]:
    """Leave out what a crash tore, as long as it followed a whole one of the same epoch.

    Peers skip it, so nobody must wait until they have it; librbd drops it with the next one. The
    same goes for a demotion that was made anew.
    """
    kept: list[MirrorSnapshot] = []
    for snap in snapshots:
        made_anew = snap.unfinished and snap is not snapshots[-1]
        if not made_anew and not (snap.torn and kept and kept[-1].epoch is Epoch.PRIMARY):
            kept.append(snap)
    return kept


def unfinished_demotion(snapshots: Sequence[MirrorSnapshot]) -> int | None:
    """Return the number of the newest snapshot if it is that of a demotion that was cut short."""
    return snapshots[-1].number if snapshots and snapshots[-1].unfinished else None


def journal_history(ioctx: rados.Ioctx, image_id: str, sites: Collection[str]) -> History:
    """Read the tags and the peers' positions in the journal of an image.

    Args:
        ioctx: Where the image lies.
        image_id: The image.
        sites: The peers that have spoken of it, which are those of today: one that is gone, as
            a site that was built anew, stays registered as a reader for ever.
    """
    try:
        tags = read_tags(ioctx, image_id)
    except rados.ObjectNotFound:
        return NOTHING
    if not tags:
        return NOTHING
    newest, began = tags[-1], epoch_start(tags)
    # a new copy starts with tag 0, and its first replay, after the whole copy, with another:
    # making that copy leaves entries in the primary's journal
    complete = newest.number > 0 or newest.epoch is Epoch.PRIMARY
    clients = read_clients(ioctx, image_id)
    own = clients.pop(OWN_CLIENT, None)
    if not clients.keys().isdisjoint(sites):
        clients = {site: client for site, client in clients.items() if site in sites}
    readers = frozenset(clients)
    # while this site only copies, the positions in its journal say nothing
    peers = tuple(clients.values()) if newest.epoch.own else ()
    # a demotion is a tag with one entry; a peer that has read that has everything, also where
    # this site did not live to commit it
    ended = [peer for peer in peers if _reached(peer, newest.number)]
    demoted = newest.epoch is Epoch.PRIMARY_DEMOTED
    return History(
        epoch=newest.epoch,
        mark=newest.number,
        began=began,
        began_at=None,
        newest_at=None,
        awaited=False,
        copied_until=None,
        followed=newest.epoch is Epoch.PRIMARY
        and bool(peers)
        and all(peer.position is not None and peer.position[0] >= began for peer in peers),
        delivered=demoted
        and bool(peers)
        and all(
            own is not None and (peer.position == own.position or peer in ended) for peer in peers
        ),
        complete=complete,
        progress="" if complete else "the first copy is being made",
        readers=readers,
        copied=frozenset(name for name, client in clients.items() if client.copied),
        unfinished=demoted and own is not None and not ended and not _reached(own, newest.number),
        first=promotion_tag(tags),
    )


def _reached(client: Client, tag: int) -> bool:
    return client.position is not None and client.position[0] >= tag


def _present_epoch(snapshots: Sequence[MirrorSnapshot]) -> Sequence[MirrorSnapshot]:
    """Return the snapshots of the present primary epoch, oldest first.

    The oldest is the promotion's own until the peer has it; librbd may drop it afterwards.
    """
    first = len(snapshots)
    while first and snapshots[first - 1].epoch is Epoch.PRIMARY:
        first -= 1
    return snapshots[first:]


def _after_demotion(earlier: Sequence[MirrorSnapshot]) -> bool:
    """Tell whether the epoch began with a planned promotion: only a demotion bears claims.

    After a forced one nothing before the epoch ever had a claim that could be given up.
    """
    return bool(earlier) and earlier[-1].epoch in _DEMOTIONS


def _agreed_at(earlier: Sequence[MirrorSnapshot]) -> int | None:
    """Return when the demotion was taken that an epoch began with, if both sides had it whole.

    A peer's is here when it is complete; this site's own is there when no claim to an earlier
    snapshot is left.
    """
    if not _after_demotion(earlier) or not earlier[-1].complete:
        return None
    own = earlier[-1].epoch is Epoch.PRIMARY_DEMOTED
    pending = own and any(snap.claimed for snap in earlier[:-1])
    return None if pending else earlier[-1].taken_at


def _held_by_peers(
    earlier: Sequence[MirrorSnapshot], present: Sequence[MirrorSnapshot]
) -> MirrorSnapshot | None:
    """Return the newest snapshot of the epoch that every peer has whole, if the claims tell.

    rbd-mirror gives up its claim to the snapshot it started from when it has the next one
    whole: so it has the oldest that it claims, once it has had any. librbd revokes claims too,
    of the oldest, when there are too many: then they prove nothing, nor do they where a peer
    never had one.
    """
    needed = [snap for snap in present if snap.claimed]
    if not 0 < len(needed) < _EVICTING or any(snap.claimed for snap in earlier):
        return None
    return needed[0]
