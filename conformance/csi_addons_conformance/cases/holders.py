# SPDX-License-Identifier: Apache-2.0
"""DemoteVolume, where only a closer look tells who holds the image."""

from signal import SIGCONT, SIGKILL, SIGSTOP
from typing import Final

import rbd

from csi_addons_conformance.application import application
from csi_addons_conformance.case import SNAPSHOT, Kind, case, expect, poll, require, settle
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import SIZE, Stage
from lab import Volume

_SHORT_CALL: Final = 12
"""Deadline in seconds of a call that is to be refused."""
_QUICKLY: Final = 10
"""Seconds within which an idle image is demoted, whose peer has followed."""


@case(
    "demote/open-writer-without-lock",
    kind=Kind.SAFETY,
    row="A client holds it (without exclusive-lock: a watcher that is neither rbd-mirror's nor a "
    "driver's) → FAILED_PRECONDITION naming the holder",
    modes=SNAPSHOT,
)
def open_writer_without_lock(stage: Stage) -> None:
    """The writer is named and loses nothing; the peer's rbd-mirror alone is in nobody's way."""
    volume = stage.lab.make_volume("dr1", SIZE, features=rbd.RBD_FEATURE_LAYERING)
    expect(stage.here.client.enable(volume.handle, mirroringMode=stage.mode), "OK")
    stage.await_copy(volume)
    with application(stage.here, volume) as writer:
        writer.write("before", 0)
        answer = stage.here.client.call("DemoteVolume", volume.handle, timeout=_SHORT_CALL)
        expect(answer, "FAILED_PRECONDITION", saying=(writer.client,))
        require(stage.here.primary(volume), "an untouched primary", "a secondary")
        writer.write("after the refusal", 4096)
    answer = settle(lambda: stage.here.client.demote(volume.handle))
    expect(answer, "OK", within=_QUICKLY)
    settle(lambda: stage.there.client.promote(volume.handle))
    for offset, text in ((0, b"before"), (4096, b"after the refusal")):
        came = stage.there.read(volume, len(text), offset)
        require(came == text, f"{text!r} on dr2", came)


@case(
    "demote/silent-holder",
    kind=Kind.SAFETY,
    row="A dead locker holds nothing: a managed lock whose client had no watch on the image in "
    "every reading over 60 s",
)
def silent_holder(stage: Stage) -> None:
    """One that froze for half a minute, so that its watch is gone, is not taken for dead."""
    volume = stage.mirrored()
    with application(stage.here, volume) as writer:
        writer.write("before", 0)
        writer.send(SIGSTOP)
        poll(
            lambda: not _watches(stage.here, volume, writer.client),
            seconds=60,
            what="its watch is gone",
        )
        answer = stage.here.client.call("DemoteVolume", volume.handle, timeout=_SHORT_CALL)
        writer.send(SIGCONT)
        expect(answer, "FAILED_PRECONDITION", saying=(writer.client,))
        writer.write("after the refusal", 4096)
    stage.move(stage.here, stage.there, volume)
    came = stage.there.read(volume, 17, 4096)
    require(came == b"after the refusal", "what it wrote then on dr2", came)


@case(
    "demote/dead-holder",
    kind=Kind.SAFETY,
    row="A dead locker holds nothing: a managed lock whose client had no watch on the image in "
    "every reading over 60 s; its client is blocklisted first, then the lock is broken",
    modes=SNAPSHOT,
)
def dead_holder(stage: Stage) -> None:
    """A node died: its lock is in the way for a minute, and what it wrote is on the peer."""
    volume = stage.mirrored()
    with application(stage.here, volume) as writer:
        writer.write("its last words", 0)
        address = _watching(stage.here, volume)[writer.client]
        writer.send(SIGKILL)
        expect(stage.here.client.demote(volume.handle), "FAILED_PRECONDITION")

        def demoted() -> bool:
            answer = stage.here.client.demote(volume.handle)
            expect(answer, "OK", "FAILED_PRECONDITION")
            return answer.code == "OK"

        poll(demoted, seconds=180, what="its lock is broken, and the image demoted")
    listed = stage.here.site.ceph("osd", "blocklist", "ls")
    require(address in listed, f"{address} among the fenced", listed)
    settle(lambda: stage.there.client.promote(volume.handle))
    came = stage.there.read(volume, 14)
    require(came == b"its last words", "its last words on dr2", came)


def _watches(site: SiteUnderTest, volume: Volume, client: str) -> bool:
    return client in _watching(site, volume)


def _watching(site: SiteUnderTest, volume: Volume) -> dict[str, str]:
    """Return who watches the image: client and address."""
    with site.image(volume) as image:
        return {f"client.{each['id']}": str(each["addr"]) for each in image.watchers_list()}
