# SPDX-License-Identifier: Apache-2.0
"""What a site's status says: role, last sync, lag. Pure; fed by a corpus of real descriptions.

A status is a state and a free text that may carry JSON, different per Ceph release. Role and
split-brain stand only in the text: the one table that reads them is here, and a text that it
does not know means *unknown*, never primary and never split-brain.
"""

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from csi_addons_rbd.replication.image import SiteState, SiteStatus


class Role(Enum):
    """What a site was about an image when it wrote its status."""

    PRIMARY = "primary"
    DEMOTED = "demoted"
    """Neither primary nor following: it sees that the other side is not primary, either."""
    FOLLOWING = "following"
    SPLIT_BRAIN = "split-brain"
    UNKNOWN = "unknown"


_ROLES: Final = {
    (SiteState.STOPPED, "local image is primary"): Role.PRIMARY,
    (SiteState.UNKNOWN, "remote image is not primary"): Role.DEMOTED,
    (SiteState.UNKNOWN, "remote image demoted"): Role.DEMOTED,
    (SiteState.ERROR, "split-brain"): Role.SPLIT_BRAIN,
    (SiteState.ERROR, "split-brain detected"): Role.SPLIT_BRAIN,
}
_FOLLOWING: Final = (SiteState.REPLAYING, SiteState.SYNCING)


def role(status: SiteStatus) -> Role:
    """Read a site's role from its status."""
    known = _ROLES.get((status.state, text(status)))
    if known is not None:
        return known
    return Role.FOLLOWING if status.state in _FOLLOWING else Role.UNKNOWN


def text(status: SiteStatus) -> str:
    """Return the description without its JSON."""
    return status.description.partition("{")[0].rstrip(" ,")


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncReport:
    """What the JSON in a following site's description tells; absent values are ``None``."""

    copied_until: int | None
    """Snapshot mode: time of the newest snapshot the site has whole, Unix seconds of the
    primary's clock."""
    newest: int | None
    """Snapshot mode: time of the primary's newest snapshot, the same way."""
    last_bytes: int | None
    last_seconds: int | None
    syncing: bool
    """Snapshot mode: whether a snapshot is being copied at this moment."""
    position: tuple[int, int] | None
    """Journal mode: (tag, entry) the site has replayed, in the primary's journal."""
    primary_position: tuple[int, int] | None
    """Journal mode: (tag, entry) the primary has written."""
    entries_behind: int | None
    """Journal mode: how many entries lie between the two."""

    @property
    def positions_equal(self) -> bool:
        """Journal mode: whether the site had everything when it wrote the status."""
        return self.position is not None and self.position == self.primary_position


def sync_report(status: SiteStatus) -> SyncReport:
    """Parse a description tolerantly, from its first brace; garbage reads as nothing known."""
    values = _json(status.description)
    return SyncReport(
        copied_until=_number(values, "local_snapshot_timestamp") or None,
        newest=_number(values, "remote_snapshot_timestamp") or None,
        last_bytes=_number(values, "last_snapshot_bytes"),
        last_seconds=_number(values, "last_snapshot_sync_seconds"),
        syncing=values.get("replay_state") == "syncing" or status.state is SiteState.SYNCING,
        position=_position(values, "non_primary_position"),
        primary_position=_position(values, "primary_position"),
        entries_behind=_number(values, "entries_behind_primary"),
    )


def _json(description: str) -> dict[str, Any]:
    begin = description.find("{")
    if begin < 0:
        return {}
    try:
        values, _ = json.JSONDecoder().raw_decode(description, begin)
    except (ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _number(values: dict[str, Any], key: str) -> int | None:
    value = values.get(key)
    # json reads NaN and Infinity, which int() refuses
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value % 2**63:
        return None
    return int(value)


def _position(values: dict[str, Any], key: str) -> tuple[int, int] | None:
    position = values.get(key)
    if not isinstance(position, dict):
        return None
    tag, entry = _number(position, "tag_tid"), _number(position, "entry_tid")
    return None if tag is None or entry is None else (tag, entry)
