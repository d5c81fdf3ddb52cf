# SPDX-License-Identifier: Apache-2.0
"""Mirror snapshot schedules of one image, through the ceph-mgr's ``rbd_support`` module.

The module adds each new interval beside the old ones and never takes one away by itself, so
a schedule is *kept*: what is wanted is added, everything else on the image is removed.
"""

import errno
import json
from datetime import datetime, time
from typing import Any, Final

import rados

from csi_addons_rbd.ceph.fault_points import step
from csi_addons_rbd.ceph.namespaces import default_namespace
from csi_addons_rbd.ceph.translate import translating
from csi_addons_rbd.replication.calls import Schedule
from csi_addons_rbd.replication.errors import ManagerUnavailable, PermissionDenied
from csi_addons_rbd.replication.image import ImageSpec

_PREFIX: Final = "rbd mirror snapshot schedule"
_RECORD: Final = "rbd_mirror_snapshot_schedule"
"""The object, in the pool's default namespace, in which the manager keeps what it was asked for."""
_UNREADABLE: Final = (KeyError, TypeError, ValueError, AttributeError)
"""What reading an entry of that record may raise that is of another form."""
_SECONDS: Final = {"m": 60, "h": 60 * 60, "d": 24 * 60 * 60}


def keep_schedule(cluster: rados.Rados, spec: ImageSpec, wanted: Schedule | None) -> None:
    """Leave exactly the wanted schedule on the image, or none.

    Only the image's own level counts: schedules of its pool or namespace are the
    administrator's.

    Raises:
        ManagerUnavailable: the manager does not answer or refuses.
    """
    standing = _list(cluster, spec)
    if wanted is not None and not any(_same(item, wanted) for item in standing):
        with step("adding to the schedule of"):
            _command(cluster, spec, "add", _arguments(wanted))
    for item in standing:
        if wanted is None or not _same(item, wanted):
            with step("removing from the schedule of"):
                _command(cluster, spec, "remove", item)


def is_recorded(ioctx: rados.Ioctx, spec: ImageSpec, image_id: str, wanted: Schedule) -> bool:
    """Tell whether this schedule stands alone in the manager's record of the image itself.

    Read from the pool, it costs one operation and waits for no manager. Where that cannot be read
    the answer is yes: the next call that asks the manager finds out.
    """
    try:
        with default_namespace(ioctx), rados.ReadOpCtx() as operation:
            key = f"{spec.pool_id}/{spec.namespace}/{image_id}"
            entries, _ = ioctx.get_omap_vals_by_keys(operation, (key,))
            ioctx.operate_read_op(operation, _RECORD)
            texts = [value for _, value in entries]
    except rados.ObjectNotFound:
        return False
    except rados.PermissionError:
        return True
    if not texts:
        return False
    try:
        standing = json.loads(texts[0])
        return len(standing) == 1 and _same(standing[0], wanted)
    except _UNREADABLE:
        return True


def _list(cluster: rados.Rados, spec: ImageSpec) -> list[dict[str, str]]:
    """Return the image's own terms as the manager writes them, without empty values."""
    levels = json.loads(_command(cluster, spec, "list", {}) or "{}")
    return [
        {key: value for key, value in item.items() if value}
        for level in levels.values()
        if level["name"] == spec.path
        for item in level["schedule"]
    ]


def _command(cluster: rados.Rados, spec: ImageSpec, verb: str, extra: dict[str, str]) -> str:
    doing = f"{_PREFIX} {verb} for {spec}"
    command: dict[str, Any] = {"prefix": f"{_PREFIX} {verb}", "level_spec": spec.path, **extra}
    with translating(doing):
        code, out, status = cluster.mgr_command(json.dumps(command), b"")
    require_done(code, status, doing)
    return out.decode()


def require_done(code: int, status: str, doing: str) -> None:
    """Raise when the manager did not do what a command asked for.

    Raises:
        PermissionDenied: the caps for the manager are missing.
        ManagerUnavailable: anything else.
    """
    if code in (-errno.EACCES, -errno.EPERM):
        raise PermissionDenied(
            f"{doing}: the user's caps do not allow it; needed is 'profile rbd' for mgr"
        )
    if code != 0:
        raise ManagerUnavailable(
            f"{doing}: the manager answered {code}, {status.strip()!r}; the controller retries; if "
            "it comes again, see 'ceph mgr stat' and the manager's log"
        )


def _arguments(schedule: Schedule) -> dict[str, str]:
    arguments = {"interval": schedule.interval}
    if schedule.start_time is not None:
        arguments["start_time"] = schedule.start_time
    return arguments


def _same(item: dict[str, str], wanted: Schedule) -> bool:
    interval = item["interval"]
    seconds = int(interval[:-1]) * _SECONDS[interval[-1]]
    return seconds == wanted.seconds and _start_minute(item.get("start_time")) == _start_minute(
        wanted.start_time
    )


def _start_minute(start: str | None) -> int | None:
    """Return the minute of the day as the manager counts it, which keeps nothing else.

    It adds the offset of the time zone where a clock would subtract it; what is compared
    here is what it stores, so the same is done here.
    """
    if start is None:
        return None
    try:
        moment: time | datetime = time.fromisoformat(start)
    except ValueError:
        moment = datetime.fromisoformat(start)
    offset = moment.utcoffset()
    return moment.hour * 60 + moment.minute + (offset.seconds // 60 if offset else 0)
