# SPDX-License-Identifier: Apache-2.0
"""What is said of a volume that is not found by its name, from what was seen of it."""

from dataclasses import replace
from time import sleep
from typing import TYPE_CHECKING, Final, cast

import pytest

from csi_addons_rbd.ceph.absence import (
    Namesake,
    choose,
    not_absent,
    require_none_going,
    told,
)
from csi_addons_rbd.ceph.looked import Looked
from csi_addons_rbd.ceph.mirror import CephImage
from csi_addons_rbd.ceph.sightings import IMAGE_NAME, NOT_FOUND, name_among
from csi_addons_rbd.ceph.uuid_search import Elsewhere, Gap, Trace, findings, gap_of
from csi_addons_rbd.ceph.volumes import Volumes
from csi_addons_rbd.replication.calls import (
    Call,
    Credentials,
    DemoteCall,
    DisableCall,
    EnableCall,
    FlattenMode,
    InfoCall,
    MirroringMode,
    Place,
    PromoteCall,
)
from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.errors import (
    CephFailure,
    ClusterUnreachable,
    DriverError,
    ImageBeingDeleted,
    ImageInTrash,
    PermissionDenied,
    VolumeElsewhere,
    VolumeNotFound,
)
from csi_addons_rbd.replication.image import Absent, Found, ImageSpec
from csi_addons_rbd.replication.volume_id import VolumeId

if TYPE_CHECKING:
    from csi_addons_rbd.ceph.connections import Connections
    from csi_addons_rbd.ceph.rbd_mirroring import Mirroring

UUID: Final = "0a1b2c3d-2222-3333-4444-55555555aaff"
VOLUME: Final = VolumeId(cluster="a", pool=1, uuid=UUID)
KEY: Final = Credentials(user="csi", key="secret")
PLACES: Final = tuple(
    Place(cluster="a", monitors=("v2:192.0.2.1:3300",), pool=pool, namespace="") for pool in (1, 2)
)
BACKUP: Final = Trace(raw=f"backup-{UUID}".encode())
USER: Final = Trace(raw=f"csi-vol-{UUID}".encode(), source="USER")
GOING: Final = replace(USER, source="MIRRORING")
MIRRORED: Final = replace(
    NOT_FOUND, mirroring=cast("Mirroring", object()), name=BACKUP.name, image_id="1"
)
INFO: Final = InfoCall(volume=VOLUME, credentials=KEY)
DISABLE: Final = DisableCall(volume=VOLUME, credentials=KEY, force=False)
PROMOTE: Final = PromoteCall(volume=VOLUME, credentials=KEY, force=False, schedule=None)
DEMOTE: Final = DemoteCall(volume=VOLUME, credentials=KEY)
ENABLE: Final = EnableCall(
    volume=VOLUME,
    credentials=KEY,
    mode=MirroringMode.SNAPSHOT,
    schedule=None,
    flatten=FlattenMode.NEVER,
)


def image(place: Place = PLACES[0]) -> CephImage:
    """Return the image that the handle leads to, which is not there."""
    return CephImage(
        spec=ImageSpec(
            cluster="a",
            pool=f"pool-{place.pool}",
            pool_id=place.pool,
            namespace="",
            image=f"csi-vol-{UUID}",
        ),
        uuid=UUID,
        place=place,
        credentials=KEY,
        connections=cast("Connections", None),
        found=NOT_FOUND,
    )


def nobody(_: Trace) -> bool:
    """Say that neither a journal nor a record names it."""
    return False


def everybody(_: Trace) -> bool:
    """Say that one does."""
    return True


@pytest.mark.parametrize("call", [INFO, DISABLE, PROMOTE, ENABLE])
def test_one_image_that_is_mirrored_or_named_is_the_volume(call: Call) -> None:
    """A record of a resync under way names it under its real name, whatever its mirroring is."""
    for sighting, named in ((MIRRORED, nobody), (NOT_FOUND, everybody)):
        found = choose(image(), {BACKUP: sighting}, (BACKUP, GOING), call, named)
        assert isinstance(found, CephImage)
        assert found.spec.image == BACKUP.name
        assert found.found == sighting


def test_disable_is_told_of_a_namesake_and_no_more() -> None:
    """Whether it is the volume is known only when nothing else is found."""
    found = choose(image(), {BACKUP: NOT_FOUND}, (BACKUP,), DISABLE, nobody)
    assert isinstance(found, Namesake)
    assert found.image.spec.image == BACKUP.name
    with pytest.raises(ImageBeingDeleted, match=USER.name):
        choose(image(), {BACKUP: NOT_FOUND}, (BACKUP, GOING), DISABLE, nobody)


@pytest.mark.parametrize(
    ("call", "advised"), [(INFO, False), (DEMOTE, False), (PROMOTE, True), (ENABLE, True)]
)
def test_mirroring_is_to_be_switched_on_only_where_the_image_shall_be_primary(
    call: Call, *, advised: bool
) -> None:
    """On a secondary site it would make a second primary."""
    with pytest.raises(VolumeElsewhere, match="journal") as raised:
        choose(image(), {BACKUP: NOT_FOUND}, (BACKUP,), call, nobody)
    assert ("rbd mirror image enable" in str(raised.value)) is advised


def test_what_is_in_the_trash_is_neither_renamed_nor_purged_while_it_may_be_the_volume() -> None:
    """Such an image cannot be renamed; it can be restored under another name."""
    with pytest.raises(VolumeElsewhere, match="rbd trash restore --image") as raised:
        choose(image(), {BACKUP: MIRRORED}, (BACKUP, USER), INFO, nobody)
    assert "purge" not in str(raised.value)
    with pytest.raises(VolumeElsewhere, match="rename those in use") as raised:
        choose(image(), {BACKUP: MIRRORED, replace(USER, source=""): MIRRORED}, (), INFO, nobody)
    assert "trash" not in str(raised.value)
    several = told(image().spec, (USER, replace(USER, raw=BACKUP.raw)))
    assert "purge" not in several
    assert "rbd trash restore --image" in several
    assert "purge" in told(image().spec, (USER,))
    with pytest.raises(ImageBeingDeleted, match=USER.name):
        require_none_going(image().spec, (USER, GOING))


def test_a_journal_without_an_entry_names_nothing() -> None:
    """The default name is a guess, and proves nothing."""
    assert name_among((), UUID) == ""
    assert name_among(((IMAGE_NAME, b""),), UUID) == ""
    assert name_among(((IMAGE_NAME, b"team-a-1"),), UUID) == "team-a-1"


def test_what_comes_back_or_goes_elsewhere_is_found() -> None:
    """A resync has deleted it, or rbd-mirror is about to: either way it was the volume's."""
    (deleted,) = findings((GOING,), (), "pool", 7)
    assert "rbd-mirror is deleting it" in deleted.text
    assert "pool id 7" in deleted.text
    assert "passes by itself" in deleted.advice
    assert "rename" not in deleted.advice
    for seen in ((), (GOING,)):
        (coming,) = findings(seen, (USER.name,), "pool", 7)
        assert "copied anew by a resync" in coming.text
        assert "map the handle" in coming.advice
    (back,) = findings((BACKUP,), (BACKUP.name,), "pool", 7)
    assert "rename" in back.advice
    (kept,) = findings((USER,), (), "pool", 7)
    assert "purge" not in kept.text + kept.advice
    assert "another name with 'rbd trash restore --image'" in kept.advice
    assert "rename" not in kept.advice


class Rest(Elsewhere):
    """What a search of the rest of the cluster is said to find."""

    def __init__(self, *found: Trace, gaps: tuple[Gap, ...] = ()) -> None:
        super().__init__(cast("Connections", None), KEY, UUID, Deadline.after(5))
        self.found += findings(found, (), "other", 3)
        self.unfinished += gaps
        self.cluster = "a"
        self.runs = 0

    def run(self, places: tuple[Place, ...]) -> None:
        """Count."""
        assert sorted(places, key=lambda each: each.pool) == list(PLACES)
        self.runs += 1


UNREADABLE: Final = gap_of("pool p", PermissionDenied("EPERM"))
SILENT: Final = gap_of("pool q", ClusterUnreachable("ETIMEDOUT"))
BROKEN: Final = gap_of("pool r", CephFailure("EIO"))


@pytest.mark.parametrize(
    ("gaps", "caps", "revive", "more"),
    [
        ((UNREADABLE,), True, False, False),
        ((SILENT,), False, True, False),
        ((BROKEN,), False, False, False),
        ((UNREADABLE, SILENT, BROKEN), True, True, False),
    ],
)
def test_only_what_helps_is_advised(
    gaps: tuple[Gap, ...], *, caps: bool, revive: bool, more: bool
) -> None:
    """Caps where the key may not read, and so on; {user} in a name is no place for the user."""
    rest = Rest(gaps=(*gaps, Gap(what="pool {user}", remedy="")))
    said = str(not_absent(INFO, rest, "pool 1"))
    assert ("let client.csi read these pools" in said) is caps
    assert ("bring back" in said) is revive
    assert ("--call-timeout" in said) is more
    assert "pool {user}" in said


def test_time_is_advised_when_it_ran_out() -> None:
    """And nothing else."""
    rest = Rest()
    rest.end_before("pool p")
    said = str(not_absent(INFO, rest, "pool 1"))
    assert "ended at pool p" in said
    assert "--call-timeout" in said
    assert "profile rbd-read-only" not in said
    assert "bring back" not in said


class Looking(Volumes):
    """Volumes of which it is told what is seen in each place."""

    def __init__(self, rest: Elsewhere, *seen: object) -> None:
        super().__init__(cast("Connections", None))
        self.rest = rest
        self.seen = list(seen)

    def _look(self, *_: object) -> Found | Absent | Namesake | None:
        seen = self.seen.pop(0)
        if isinstance(seen, DriverError):
            raise seen
        return cast("Found | Absent | Namesake | None", seen)

    def _search(self, *_: object) -> Elsewhere:
        return self.rest

    def told(self, call: Call, seconds: float = 5) -> Found | Absent:
        """Resolve the handle."""
        return self.resolve(call, PLACES, Deadline.after(seconds))


FIRST: Final = Namesake(image=image())
SECOND: Final = Namesake(image=image(PLACES[1]))
THERE: Final = Found(image=image(PLACES[1]))
DENIED: Final = PermissionDenied("may not be read")
MUTE: Final = ClusterUnreachable("does not answer")


@pytest.mark.parametrize("obstacle", [MUTE, DENIED, CephFailure("EIO"), ImageInTrash("trash")])
def test_an_obstacle_in_one_place_does_not_end_the_search(obstacle: DriverError) -> None:
    """The image may be in the next place, and is then as good as without the obstacle."""
    assert Looking(Rest(), obstacle, THERE).told(INFO) is THERE
    with pytest.raises(type(obstacle)):
        Looking(Rest(), obstacle, None).told(INFO)
    with pytest.raises(type(obstacle)):
        Looking(Rest(), None, obstacle).told(DISABLE)


@pytest.mark.parametrize("obstacle", [MUTE, DENIED])
def test_what_is_found_elsewhere_is_told_with_the_obstacle(obstacle: DriverError) -> None:
    """The volume may be either there or in the place that could not be read."""
    with pytest.raises(VolumeElsewhere, match="other/backup-") as raised:
        Looking(Rest(BACKUP), obstacle, None).told(INFO)
    assert obstacle.message in str(raised.value)


def test_all_obstacles_are_told() -> None:
    """Each is to be removed."""
    with pytest.raises(VolumeElsewhere, match=MUTE.message) as raised:
        Looking(Rest(BACKUP), DENIED, MUTE).told(INFO)
    assert DENIED.message in str(raised.value)


def test_two_places_that_do_not_answer_tell_so() -> None:
    """Nobody is left to ask for the rest of the cluster."""
    rest = Rest(BACKUP)
    with pytest.raises(ClusterUnreachable):
        Looking(rest, MUTE, MUTE).told(INFO)
    assert not rest.runs


def test_no_other_place_is_looked_at_when_the_time_is_over() -> None:
    """An answer comes in time, and says what is not known."""
    looking = Looking(rest := Rest(), None, THERE)
    rest.end_before("the other pools")
    with pytest.raises(VolumeElsewhere, match="--call-timeout"):
        looking.told(INFO, 0)
    assert looking.seen == [THERE]
    with pytest.raises(ClusterUnreachable):
        Looking(Rest(), MUTE, THERE).told(INFO, 0)


def test_a_namesake_is_disabled_only_if_there_is_nothing_else() -> None:
    """The real volume, mirrored at the next place or in another pool, would stay mirrored."""
    assert Looking(Rest(), FIRST, THERE).told(DISABLE) is THERE
    for seen in ((FIRST, None), (None, FIRST), (FIRST, FIRST)):
        found = Looking(rest := Rest(), *seen).told(DISABLE)
        assert isinstance(found, Found)
        assert found.image is FIRST.image
        assert rest.runs == 1
    with pytest.raises(VolumeNotFound):
        Looking(Rest(), None, None).told(DISABLE)


@pytest.mark.parametrize(
    ("rest", "seen", "saying"),
    [
        (Rest(BACKUP), (FIRST, None), "other/backup-"),
        (Rest(gaps=(UNREADABLE,)), (FIRST, None), "profile rbd-read-only"),
        (Rest(), (FIRST, MUTE), "does not answer"),
        (Rest(), (DENIED, FIRST), "may not be read"),
        (Rest(), (FIRST, SECOND), "pool-2/"),
    ],
)
def test_a_namesake_beside_anything_else_is_not_disabled(
    rest: Rest, seen: tuple[object, ...], saying: str
) -> None:
    """It is told of both."""
    with pytest.raises(VolumeElsewhere, match=saying) as raised:
        Looking(rest, *seen).told(DISABLE)
    assert "pool-1/" in str(raised.value)


@pytest.mark.parametrize("answering", [True, False])
def test_monitors_that_do_not_answer_are_waited_for_once(
    monkeypatch: pytest.MonkeyPatch, *, answering: bool
) -> None:
    """Each place would wait for them anew; a pool that is silent says nothing of the next."""
    monkeypatch.setattr("csi_addons_rbd.ceph.looked._AT_ONCE", 0.01)
    until, looked = Deadline.after(5), Looked()

    def look() -> None:
        if answering:
            looked.reached.add(PLACES[0])
        sleep(0.02)
        raise MUTE

    assert looked.at(PLACES[0], until, look) is None
    assert looked.may_go_on(until) is answering
    # another like it would outlast the call
    assert not looked.may_go_on(Deadline.after(0.02))
