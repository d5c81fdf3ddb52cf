# SPDX-License-Identifier: Apache-2.0
"""When the record of a resync may go, and that one written meanwhile stays."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, cast

import pytest
from test_promotion_rules import DEMOTED, REPLAYING, SPEC, status, view
from test_promotion_rules import PRIMARY as IS_PRIMARY

from csi_addons_rbd.replication.calls import Credentials, ResyncCall
from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.errors import ImageChanged, ImageRecreating
from csi_addons_rbd.replication.image import (
    MirroredImage,
    MirrorState,
    MirrorView,
    ResyncRecord,
)
from csi_addons_rbd.replication.observations import Observation
from csi_addons_rbd.replication.patience import Patience
from csi_addons_rbd.replication.replicator import _is_primary, _require_no_recreation
from csi_addons_rbd.replication.resync import Resync, forget_resync, is_done, is_over
from csi_addons_rbd.replication.volume_id import VolumeId

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


FOLLOWING: Final = view(status("", REPLAYING), status("a", IS_PRIMARY))


@dataclass
class Following:
    """A healthy secondary, and what is done to it; asking librbd may come too late."""

    record: ResyncRecord | None = None
    late: bool = False
    asked: int = 0
    announced: int = 0
    spec = SPEC

    @contextmanager
    def lease(self, _: Deadline) -> Iterator["Following"]:
        """Be the only driver."""
        yield self

    def view(self) -> MirrorView:
        """Read the image."""
        return FOLLOWING

    def resync_record(self) -> ResyncRecord | None:
        """Read the record."""
        return self.record

    def record_resync(self, record: ResyncRecord | None, *, standing: ResyncRecord | None) -> None:
        """Change it."""
        assert standing == self.record
        self.record = record

    def resync_requested(self) -> bool:
        """Tell whether librbd's request stands."""
        return False

    def resync(self, image_id: str) -> None:
        """Ask librbd."""
        assert image_id == FOLLOWING.image_id
        if self.late:
            raise ImageChanged("in this moment")
        self.asked += 1

    def announce(self, view: MirrorView) -> None:
        """Tell rbd-mirror."""
        assert view == FOLLOWING
        self.announced += 1


def always(image: Following) -> None:
    """Ask for a resync of what is healthy."""
    deadline = Deadline.after(5)
    Resync(
        image=cast("MirroredImage", image),
        call=ResyncCall(
            volume=VolumeId(cluster="a", pool=2, uuid="11111111-2222-3333-4444-555555555555"),
            credentials=Credentials(user="csi", key="secret"),
            force=True,
            always=True,
        ),
        observation=Observation(),
        patience=Patience(call=deadline, until=deadline, confirmed=deadline, check_interval=5),
    ).run(FOLLOWING)


@pytest.mark.parametrize(
    ("record", "asked", "announced"),
    [
        (None, 1, 0),
        (replace(SENT, sent=False), 1, 0),
        (replace(SENT, mirroring="another"), 1, 0),
        (replace(SENT, mirroring=FOLLOWING.mirroring), 0, 1),
        (replace(SENT, done=True, image_id="another"), 0, 0),
    ],
)
def test_a_record_bars_a_resync_while_it_speaks_of_one(
    record: ResyncRecord | None, asked: int, announced: int
) -> None:
    """Not one that was never asked for, nor one of a mirroring that was switched off since."""
    image = Following(record)
    always(image)
    assert (image.asked, image.announced) == (asked, announced)
    assert (image.record is not None and image.record.mirroring) == (
        FOLLOWING.mirroring if asked else getattr(record, "mirroring", None)
    )


def test_a_request_that_came_too_late_leaves_no_record() -> None:
    """librbd was not asked; the next call is to judge anew."""
    image = Following(late=True)
    with pytest.raises(ImageChanged):
        always(image)
    assert image.record is None
