# SPDX-License-Identifier: Apache-2.0
"""DisableVolumeReplication."""

import rbd

from csi_addons_conformance.case import SNAPSHOT, Kind, case, expect, poll, require, settle
from csi_addons_conformance.cases.enable import clone, half_disable
from csi_addons_conformance.cases.promote import called_primary
from csi_addons_conformance.client import Answer
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage
from lab import Volume

_QUICKLY = 5
"""Seconds within which what changes nothing is answered."""


@case(
    "disable/not-enabled",
    kind=Kind.SPEC,
    row="Idempotent and total: disabled → OK",
    modes=SNAPSHOT,
)
def not_enabled(stage: Stage) -> None:
    """A volume that was never mirrored is disabled already: OK, with or without force."""
    volume = stage.volume()
    for force in ("false", "true"):
        expect(stage.here.client.disable(volume.handle, force=force), "OK")


@case(
    "disable/primary",
    kind=Kind.SPEC,
    row="Primary: remove our schedule and metadata, disable, verify",
)
def primary(stage: Stage) -> None:
    """Mirroring is off, schedule and metadata are as before Enable, and repeating it is OK."""
    volume = stage.volume()
    before = _metadata(stage.here, volume)
    enable = stage.here.client.enable(
        volume.handle, mirroringMode=stage.mode, schedulingInterval="5m"
    )
    expect(enable, "OK")
    for _ in range(2):
        expect(stage.here.client.disable(volume.handle), "OK")
        require(not stage.here.mirrored(volume), "mirroring is off", "it is on")
        require(not stage.here.schedules(volume), "no schedule", stage.here.schedules(volume))
        after = _metadata(stage.here, volume)
        require(after == before, f"the image's metadata as before: {before}", after)
    require(stage.here.exists(volume), "the image stays", "it is gone")
    require(not stage.here.mirror_snapshots(volume), "no mirror snapshot", "some are left")


@case(
    "disable/gone",
    kind=Kind.SPEC,
    row="Gone → NOT_FOUND",
    modes=SNAPSHOT,
)
def gone(stage: Stage) -> None:
    """An image that was removed after it was disabled is NOT_FOUND, with or without force."""
    volume = stage.volume()
    stage.here.site.rbd("rm", f"{stage.here.site.pool}/{volume.image}")
    for force in ("false", "true"):
        expect(stage.here.client.disable(volume.handle, force=force), "NOT_FOUND")


@case(
    "disable/half-disabled",
    kind=Kind.CONTRACT,
    row="Half-disabled converges",
)
def half_disabled(stage: Stage) -> None:
    """What a dead client left half disabled is brought to the end."""
    volume = stage.enabled()
    half_disable(stage.here, volume)
    settle(lambda: stage.here.client.disable(volume.handle))
    status = stage.here.mirror_status(volume)
    require(not status, "no trace of mirroring", status)
    expect(stage.here.client.enable(volume.handle, mirroringMode=stage.mode), "OK")


@case(
    "disable/both-sites",
    kind=Kind.SPEC,
    row="Secondary that is up and replaying, with a peer seen up and primary → OK without "
    "touching it (it goes when the primary is disabled)",
)
def both_sites(stage: Stage) -> None:
    """The secondary is left until the primary is disabled; then it goes, and is NOT_FOUND."""
    volume = stage.mirrored()
    before = stage.there.image_id(volume)
    poll(lambda: called_primary(stage.there, volume), seconds=60, what="dr2 knows the primary")
    expect(stage.there.client.disable(volume.handle), "OK")
    require(stage.there.image_id(volume) == before, "an untouched copy", "another one, or none")
    require(stage.there.mirrored(volume), "an untouched copy", "one that is not mirrored")
    expect(stage.here.client.disable(volume.handle), "OK")
    poll(lambda: not stage.there.exists(volume), seconds=60, what="the copy on dr2 goes")
    expect(stage.here.client.disable(volume.handle), "OK")
    settle(lambda: stage.there.client.disable(volume.handle), "NOT_FOUND")
    require(stage.here.exists(volume), "the image on dr1 stays", "it is gone")


@case(
    "disable/forced-healthy-secondary",
    kind=Kind.SPEC,
    row="Secondary that is up and replaying, with a peer seen up and primary → OK without "
    "touching it",
)
def forced_healthy_secondary(stage: Stage) -> None:
    """Nor does force touch what was primary once and follows now; each answer is OK, quickly."""
    volume = stage.mirrored()
    stage.move(stage.here, stage.there, volume)
    poll(
        lambda: stage.here.client.disable(volume.handle).code == "OK",
        seconds=90,
        what="dr1 follows dr2, and knows of it",
    )
    features = _features(stage.here, volume)
    for _ in range(2):
        expect(stage.here.client.disable(volume.handle, force="true"), "OK", within=_QUICKLY)
    require(stage.here.mirrored(volume), "an untouched copy", "one that is not mirrored")
    after = _features(stage.here, volume)
    require(after == features, f"features {features:#x}", f"{after:#x}")


def _features(site: SiteUnderTest, volume: Volume) -> int:
    """Read the image's features, but for one that librbd sets and clears by itself."""
    with site.image(volume) as image:
        return int(image.features()) & ~rbd.RBD_FEATURE_OPERATIONS


@case(
    "disable/secondary-of-none",
    kind=Kind.SPEC,
    row="Any other secondary → FAILED_PRECONDITION with the exact reason, or disabled when force",
)
def secondary_of_none(stage: Stage) -> None:
    """While no site is primary a secondary is refused, named as such; force disables it."""
    volume = stage.mirrored()
    settle(lambda: stage.here.client.demote(volume.handle))
    for site in (stage.here, stage.there):
        refused = _refused(site, volume, seconds=120)
        require("secondary" in refused.message, "a message that says secondary", refused)
        require(site.mirrored(volume), "an untouched image", "one that is not mirrored")
    expect(stage.here.client.disable(volume.handle, force="true"), "OK")
    require(not stage.here.mirrored(volume), "mirroring is off", "it is on")
    require(stage.here.exists(volume), "the image stays", "it is gone")


@case(
    "disable/dead-daemons",
    kind=Kind.SPEC,
    row="Secondary that is up and replaying, with a peer seen up and primary in a status less than "
    "90 s old → OK. Any other secondary → FAILED_PRECONDITION with the exact reason",
    alone=True,
    tags={"long"},
)
def dead_daemons(stage: Stage) -> None:
    """A secondary is refused while either site's rbd-mirror is dead, and OK when it is back."""
    volume = stage.mirrored()
    for site in (stage.here, stage.there):
        with site.without("rbd-mirror"):
            refused = _refused(stage.there, volume, seconds=120)
        stage.say(f"without rbd-mirror of {site.name}: {refused.message}")
        require(stage.there.mirrored(volume), "an untouched copy", "one that is not mirrored")
        poll(
            lambda: stage.there.client.disable(volume.handle).code == "OK",
            seconds=120,
            what=f"OK, since rbd-mirror of {site.name} is back",
        )
    require(stage.there.exists(volume), "an untouched copy", "none")


@case(
    "disable/lost-primary-forced",
    kind=Kind.SPEC,
    row="Any other secondary → FAILED_PRECONDITION with the exact reason, or disabled when force",
    alone=True,
    tags={"long"},
)
def lost_primary_forced(stage: Stage) -> None:
    """With the primary's site dead, the secondary is refused without force, disabled with it."""
    data = b"kept" * 1000
    volume, there = stage.mirrored(data=data), stage.there
    with stage.here.without("osd", "rbd-mirror", "mgr", "mon"):
        _refused(there, volume, seconds=150)
        stage.say(f"first answer to force: {_insist(there, volume)}")
        require(not there.mirrored(volume), "mirroring is off", "it is on")
        require(there.read(volume, len(data)) == data, "the data", "other data")


def _insist(site: SiteUnderTest, volume: Volume) -> Answer:
    """Disable by force; an rbd-mirror that hangs on the lost peer is named, and restarted."""
    answer = site.client.disable(volume.handle, force="true")
    if answer.code == "OK":
        return answer
    expect(answer, "ABORTED", "UNAVAILABLE", saying=("rbd-mirror",))
    with site.without("rbd-mirror"):
        settle(lambda: site.client.disable(volume.handle, force="true"))
    return answer


@case(
    "disable/mirrored-clone",
    kind=Kind.SPEC,
    row="Primary: refused because a mirrored clone depends on it → FAILED_PRECONDITION naming it",
)
def mirrored_clone(stage: Stage) -> None:
    """The parent of a mirrored clone is refused, naming the clone, until that is disabled."""
    parent = stage.enabled()
    child = clone(stage.here, parent)
    expect(stage.here.client.enable(child.handle, mirroringMode=stage.mode), "OK")
    refused = stage.here.client.disable(parent.handle)
    expect(refused, "FAILED_PRECONDITION", saying=(child.image,))
    require(stage.here.mirrored(parent), "a parent that stays mirrored", "one that is not")
    expect(stage.here.client.disable(child.handle), "OK")
    expect(stage.here.client.disable(parent.handle), "OK")


def _refused(site: SiteUnderTest, volume: Volume, *, seconds: float) -> Answer:
    """Ask until the site knows of the fault; OK until then, since statuses lag."""
    answers: list[Answer] = []

    def ask() -> bool:
        answers.append(site.client.disable(volume.handle))
        expect(answers[-1], "OK", "FAILED_PRECONDITION")
        return answers[-1].code == "FAILED_PRECONDITION"

    poll(ask, seconds=seconds, what="FAILED_PRECONDITION for a secondary that follows no primary")
    return answers[-1]


def _metadata(site: SiteUnderTest, volume: Volume) -> dict[str, str]:
    with site.image(volume) as image:
        return dict(image.metadata_list())
