# SPDX-License-Identifier: Apache-2.0
"""When the record of a resync may go, and that one written meanwhile stays."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, cast

import pytest
from test_promotion_rules import DEMOTED, SPEC, status, view

from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.errors import ImageRecreating
from csi_addons_rbd.replication.image import (
    MirroredImage,
    MirrorState,
    MirrorView,
    ResyncRecord,
)
from csi_addons_rbd.replication.replicator import _is_primary, _require_no_recreation
from csi_addons_rbd.replication.resync import forget_resync, is_done, is_over

SENT: Final = ResyncRecord(image_id="abc", requested=1, sent=True)
SECONDARY: Final = view(status("", DEMOTED))
PRIMARY: Final = replace(SECONDARY, primary=True)
OFF: Final = replace(SECONDARY, state=MirrorState.DISABLED)


@dataclass
class Image:
    """An image and its record."""

    record: ResyncRecord = SENT
    seen: MirrorView = SECONDARY
    requested: bool = False
    trashed: bool = False
    forgotten: list[str] = field(default_factory=list)
    spec = SPEC

    @contextmanager
    def lease(self, _: Deadline) -> Iterator["Image"]:
        """Be the only driver."""
        yield self

    def view(self) -> MirrorView:
        """Read the image."""
        return self.seen

    def resync_record(self) -> ResyncRecord:
        """Read the record."""
        return self.record

    def resync_requested(self) -> bool:
        """Tell whether librbd's request stands."""
        return self.requested

    def is_trashed(self, image_id: str) -> bool:
        """Tell whether the trash has it."""
        return self.trashed and image_id == "abc"

    def forget_resync(self, standing: str) -> None:
        """Remove it."""
        self.forgotten.append(standing)


@pytest.mark.parametrize(
    ("image", "is_void", "goes"),
    [
        (Image(seen=PRIMARY), _is_primary, True),
        (Image(seen=SECONDARY), _is_primary, False),
        (Image(), is_over, False),
        (Image(replace(SENT, done=True)), is_over, True),
        (Image(replace(SENT, sent=False)), is_over, True),
        (Image(replace(SENT, sent=False), requested=True), is_over, False),
        (Image(replace(SENT, done=True), seen=PRIMARY), is_over, False),
        (Image(), is_done, False),
        (Image(replace(SENT, done=True)), is_done, True),
    ],
)
def test_a_record_goes_only_when_it_is_void(image: Image, is_void: object, *, goes: bool) -> None:
    """As the image shows under the lease: another driver may have asked for a resync since."""
    forget_resync(
        cast("MirroredImage", image),
        "read before",
        Deadline.after(5),
        is_void=is_void,  # type: ignore[arg-type]
    )
    assert image.forgotten == (["read before"] if goes else [])


@pytest.mark.parametrize("image", [Image(trashed=True), Image(replace(SENT, image_id="other"))])
def test_force_waits_for_a_resync_that_may_go_on(image: Image) -> None:
    """rbd-mirror is just deleting the image, or filling the new one."""
    with pytest.raises(ImageRecreating, match="copied anew"):
        _require_no_recreation(cast("MirroredImage", image), disabling=OFF, force=True)


def test_a_resync_that_cannot_happen_is_let_go_by_force() -> None:
    """The image is there, the very one of the record, and nobody mirrors it any more."""
    image = cast("MirroredImage", Image())
    with pytest.raises(ImageRecreating, match="force=true"):
        _require_no_recreation(image, disabling=OFF)
    with pytest.raises(ImageRecreating, match="copied anew"):
        _require_no_recreation(image)
    _require_no_recreation(image, disabling=OFF, force=True)
