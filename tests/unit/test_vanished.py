# SPDX-License-Identifier: Apache-2.0
"""When the record of a resync is let go of whose image nobody brings back."""

import time
from dataclasses import dataclass, replace
from typing import Final

import pytest
from test_promotion_rules import SPEC

from csi_addons_rbd.replication import vanished
from csi_addons_rbd.replication.errors import ImageRecreating
from csi_addons_rbd.replication.image import Absent, ImageSpec, ResyncRecord
from csi_addons_rbd.replication.vanished import let_go

RECORD: Final = ResyncRecord(image_id="abc", requested=1, sent=True)
NOW: Final = 1_700_000_000


@dataclass
class Clock:
    """The two clocks of a machine."""

    wall: float = NOW
    running: float = 5_000

    def step(self, seconds: float) -> None:
        """Set the wall clock forward."""
        self.wall += seconds

    def pass_by(self, seconds: float) -> None:
        """Let time pass."""
        self.wall += seconds
        self.running += seconds


@dataclass
class Gone:
    """An image of which there is nothing but its record."""

    record: ResyncRecord | None = RECORD
    left: tuple[str, ...] = ()
    spec: ImageSpec = SPEC

    def record_resync(self, record: ResyncRecord | None, *, standing: ResyncRecord | None) -> None:
        """Change the record."""
        assert standing == self.record
        self.record = record

    def traces(self, record: ResyncRecord) -> tuple[str, ...]:
        """Name what is left."""
        assert record == self.record
        return self.left

    def mirror_daemon_lives(self) -> bool:
        """Tell that it does."""
        return True


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Clocks that stand still, in a process that remembers nothing."""
    clock = Clock()
    monkeypatch.setattr(time, "time", lambda: clock.wall)
    monkeypatch.setattr(time, "monotonic", lambda: clock.running)
    restart()
    return clock


def restart() -> None:
    """Forget what a process remembers."""
    vanished._begun.clear()


def ask(image: Gone) -> None:
    """Disable by force."""
    assert image.record is not None
    let_go(Absent(image=image, record=image.record))


def test_an_image_that_is_gone_for_long_is_let_go(clock: Clock) -> None:
    """Not before, and anew where there was a trace meanwhile."""
    image = Gone()
    with pytest.raises(ImageRecreating, match="for 0 s"):
        ask(image)
    assert image.record == replace(RECORD, gone=NOW)
    clock.pass_by(599)
    with pytest.raises(ImageRecreating, match="for 599 s"):
        ask(image)
    image.left = ("an entry in the trash",)
    with pytest.raises(ImageRecreating, match="an entry in the trash"):
        ask(image)
    assert image.record == RECORD
    image.left = ()
    with pytest.raises(ImageRecreating, match="for 0 s"):
        ask(image)
    clock.pass_by(600)
    ask(image)
    assert image.record is None


def test_a_clock_that_is_set_forward_shortens_nothing(clock: Clock) -> None:
    """This process saw the beginning, and knows how long ago that was."""
    image = Gone()
    with pytest.raises(ImageRecreating):
        ask(image)
    clock.step(3600)
    with pytest.raises(ImageRecreating, match="for 0 s"):
        ask(image)
    clock.pass_by(600)
    ask(image)
    assert image.record is None


def test_a_clock_that_is_set_back_begins_anew(clock: Clock) -> None:
    """What is to come began at no time."""
    image = Gone()
    with pytest.raises(ImageRecreating):
        ask(image)
    clock.step(-3600)
    with pytest.raises(ImageRecreating):
        ask(image)
    assert image.record == replace(RECORD, gone=NOW - 3600)
    clock.pass_by(600)
    ask(image)
    assert image.record is None


def test_the_wait_outlives_its_process(clock: Clock) -> None:
    """What another process noted counts by the wall clock, which both have."""
    image = Gone()
    with pytest.raises(ImageRecreating):
        ask(image)
    restart()
    clock.pass_by(600)
    ask(image)
    assert image.record is None


def test_little_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest, whatever handles are asked for."""
    monkeypatch.setattr(vanished, "_MOST", 3)
    for number in range(10):
        with pytest.raises(ImageRecreating):
            ask(Gone(spec=replace(SPEC, image=f"csi-vol-{number}")))
    assert [each.image for each, _ in vanished._begun] == ["csi-vol-7", "csi-vol-8", "csi-vol-9"]
