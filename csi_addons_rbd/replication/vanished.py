# SPDX-License-Identifier: Apache-2.0
"""When to let go of an image that a resync deleted and that nobody brings back."""

import threading
import time
from dataclasses import replace
from typing import Final, Protocol

from csi_addons_rbd.replication.errors import NOTHING_TO_DO, ImageRecreating
from csi_addons_rbd.replication.image import Absent, ImageSpec, ResyncRecord

_GONE: Final = 600
"""Seconds for which there must be no trace of the image: rbd-mirror asks its peers every 30 s."""
_UNHEARD: Final = (
    "rbd-mirror of this site, which would copy it anew, is not known to be up: it has written no "
    "status of any image of the pool, or is down"
)

_MOST: Final = 1000
"""Beginnings that are remembered: more than images that are gone at once."""
_begun: Final[dict[tuple[ImageSpec, int], float]] = {}
"""What this process saw begin and noted in records, and when, by the monotonic clock."""
_remembering: Final = threading.Lock()


class VanishedImage(Protocol):
    """What is known of an image that a resync has deleted; see ``MirroredImage``."""

    @property
    def spec(self) -> ImageSpec: ...  # noqa: D102
    def record_resync(  # noqa: D102
        self, record: ResyncRecord | None, *, standing: ResyncRecord | None
    ) -> None: ...

    def traces(self, record: ResyncRecord) -> tuple[str, ...]:
        """Name what is left of it here: image, trash, mirroring, statuses."""
        ...

    def mirror_daemon_lives(self) -> bool:
        """Tell whether this site's rbd-mirror is up, by its status of any image of the pool."""
        ...


def let_go(absent: Absent) -> None:
    """Remove the resync record, once there has been nothing of its image for long.

    When that began is kept in the record, so that it outlives this process. Clocks are set, and
    those of two drivers differ: a process that saw the beginning counts by its own clock, too.

    Raises:
        ImageRecreating: it has not been so long yet, or there is a trace, or nobody who would
            bring the image back.
    """
    image, record = absent.image, absent.record
    traces = image.traces(record)
    lives = image.mirror_daemon_lives()
    if traces or not lives:
        if record.gone:
            image.record_resync(replace(record, gone=0), standing=record)
        cause = f"there still is {', '.join(traces)}" if traces else _unheard(image.spec)
        raise ImageRecreating(
            f"{image.spec} was deleted by a resync, and {cause}; the controller retries by itself"
        )
    now = int(time.time())
    since = record.gone if 0 < record.gone <= now else now
    if record.gone != since:
        image.record_resync(replace(record, gone=since), standing=record)
        _remember(image.spec, since)
    lasted = _lasted(image.spec, since, now)
    if lasted >= _GONE:
        image.record_resync(None, standing=record)
        return
    raise ImageRecreating(
        f"{image.spec} was deleted by a resync, and there has been no trace of it here for "
        f"{lasted} s; after {_GONE} s Disable by force lets go of it; {NOTHING_TO_DO}"
    )


def _remember(spec: ImageSpec, since: int) -> None:
    with _remembering:
        _begun[spec, since] = time.monotonic()
        if len(_begun) > _MOST:
            del _begun[next(iter(_begun))]


def _lasted(spec: ImageSpec, since: int, now: int) -> int:
    """Return how many seconds it has lasted, by the clock that says less."""
    with _remembering:
        begun = _begun.get((spec, since))
    own = now - since if begun is None else int(time.monotonic() - begun)
    return min(now - since, own)


def _unheard(spec: ImageSpec) -> str:
    namespace = f" --namespace {spec.namespace}" if spec.namespace else ""
    return (
        f"{_UNHEARD}; if no other image of the pool is mirrored, and the image is gone for good on "
        f"both sites, remove the record with 'rados --pool {spec.pool}{namespace} rmomapkey "
        f"rbd_info metadata_csi-addons-rbd/resync/{spec.image}'"
    )
