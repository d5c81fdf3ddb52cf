# SPDX-License-Identifier: Apache-2.0
"""What each call does to a torn image: nothing before it is known that nothing can be lost."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, cast

import pytest
from test_promotion_rules import DEMOTED, PRIMARY, REPLAYING, SPEC, later, status, view

from csi_addons_rbd.replication.calls import (
    Call,
    Credentials,
    DemoteCall,
    DisableCall,
    EnableCall,
    FlattenMode,
    MirroringMode,
    PromoteCall,
)
from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.errors import (
    ClusterUnreachable,
    DataPending,
    DriverError,
    ImageChanged,
    ImageTorn,
    MirrorDaemonHoldsImage,
    PeerIsPrimary,
    PromotionBarred,
)
from csi_addons_rbd.replication.image import (
    Epoch,
    Found,
    Holder,
    ImageSpec,
    LeasedImage,
    MirroredImage,
    MirrorState,
    MirrorView,
    ResyncRecord,
    SiteState,
    Torn,
)
from csi_addons_rbd.replication.notes import DEMOTING, Demotion, note_demotion, noted_demotion
from csi_addons_rbd.replication.replicator import Replicator
from csi_addons_rbd.replication.volume_id import VolumeId

VOLUME: Final = VolumeId(cluster="a", pool=2, uuid="11111111-2222-3333-4444-555555555555")
KEY: Final = Credentials(user="csi", key="secret")
ENABLE: Final = EnableCall(
    volume=VOLUME,
    credentials=KEY,
    mode=MirroringMode.SNAPSHOT,
    schedule=None,
    flatten=FlattenMode.NEVER,
)
PROMOTE: Final = PromoteCall(volume=VOLUME, credentials=KEY, force=False, schedule=None)
DEMOTE: Final = DemoteCall(volume=VOLUME, credentials=KEY)
DISABLE: Final = DisableCall(volume=VOLUME, credentials=KEY, force=False)
FOLLOWED: Final = view(status("", DEMOTED), status("a", REPLAYING), epoch=Epoch.PRIMARY_DEMOTED)
CUT: Final = replace(FOLLOWED, torn=Torn.DEMOTION)
BESIDE: Final = replace(CUT, peers=(status("a", PRIMARY),))
READ_ONLY: Final = replace(
    view(status("", PRIMARY), status("a", REPLAYING), epoch=Epoch.PRIMARY),
    primary=True,
    torn=Torn.READ_ONLY,
)
HOLLOW: Final = replace(READ_ONLY, history=replace(READ_ONLY.history, hollow=True))
UNMIRRORED: Final = replace(
    view(None, epoch=Epoch.NONE), state=MirrorState.DISABLED, torn=Torn.UNMIRRORED
)


@dataclass
class Image:
    """An image under a lease, and what is done to it; at each look its statuses are newer."""

    seen: MirrorView
    becomes: MirrorView | None = None
    """What it shows from the third look on, if another driver, or rbd-mirror, changes it."""
    room: int | None = None
    held: str | None = None
    dies: bool = False
    """Whether the driver dies before it demotes."""
    done: list[str] = field(default_factory=list)
    spec: ImageSpec = SPEC
    looks: int = 0
    announced: int = 0
    marked: bool = False
    """Whether a demotion lacks nothing but its mark."""

    def view(self) -> MirrorView:
        """Look."""
        self.looks += 1
        if self.becomes is not None and self.looks > 2:
            self.seen = self.becomes
        return later(self.seen, self.looks)

    as_found = view

    @contextmanager
    def lease(self, until: Deadline) -> Iterator["Image"]:
        """Be at work."""
        del until
        yield self

    def snapshot_room(self) -> int | None:
        """Count the snapshots that may be taken."""
        return self.room

    def finish_demotion(self) -> bool:
        """Mark it complete, if nothing else is missing."""
        if self.marked:
            self._do("finish", primary=False)
        return self.marked

    def promote(self, *, force: bool) -> bool:
        """Promote."""
        self._do("promote by force" if force else "promote", primary=True)
        return True

    def demote(self) -> None:
        """Demote."""
        if self.dies:
            raise ClusterUnreachable("gone")
        self._do("demote", primary=False)

    def make_writable(self) -> None:
        """Take the feature off."""
        self._do("make writable", primary=self.seen.primary)

    def take_snapshot(self) -> int:
        """Take one."""
        self.done.append("take a snapshot")
        return 1

    def watchers(self) -> frozenset[str]:
        """Find nobody."""
        return frozenset()

    def holders(self) -> tuple[Holder, ...]:
        """Find nobody."""
        return ()

    def held_by_mirror_daemon(self) -> str | None:
        """Name it."""
        return self.held

    def resync_requested(self) -> bool:
        """Say no."""
        return False

    def announce(self, view: MirrorView) -> None:
        """Notify rbd-mirror."""
        assert view.image_id == self.seen.image_id
        self.announced += 1

    def notes(self) -> Mapping[str, str]:
        """Read them."""
        return self.seen.notes

    def note(self, key: str, value: str | None, *, only: str | None = None) -> None:
        """Write one, which is no change of the image."""
        del only
        notes = {each: text for each, text in self.seen.notes.items() if each != key}
        self.seen = replace(self.seen, notes=notes if value is None else {**notes, key: value})
        if value is None and self.seen.torn is Torn.UNPROVEN:
            self.seen = replace(self.seen, torn=None)

    def resync_record(self) -> ResyncRecord | None:
        """Find none."""
        return None

    def resync_text(self) -> str | None:
        """Find none."""
        return None

    def restore_features(self, until: Deadline) -> None:
        """Find none to switch off."""

    def _do(self, what: str, *, primary: bool) -> None:
        self.done.append(what)
        epoch = Epoch.PRIMARY if primary else Epoch.PRIMARY_DEMOTED
        history = replace(self.seen.history, epoch=epoch)
        demotion = noted_demotion(self.seen.notes)
        unproven = primary and demotion is not None and demotion.anew
        torn = Torn.UNPROVEN if unproven else None
        self.seen = replace(self.seen, primary=primary, torn=torn, history=history)


def ask(image: Image, call: Call) -> None:
    """Make a call that waits for half a second at most."""
    found = Found(image=cast("MirroredImage", image))
    Replicator(wait=1, check_interval=0).answer(call, found, Deadline.after(5.5))


@pytest.mark.parametrize(
    "seen",
    [
        READ_ONLY,
        CUT,
        UNMIRRORED,
        replace(READ_ONLY, mode=MirroringMode.JOURNAL),
        replace(CUT, mode=MirroringMode.JOURNAL),
    ],
)
def test_enable_refuses_a_torn_image(seen: MirrorView) -> None:
    """Mirrored in either mode, or not."""
    image = Image(seen)
    with pytest.raises(ImageTorn):
        ask(image, ENABLE)
    assert image.done == []


def test_enable_asks_again_where_another_driver_was_at_work() -> None:
    """It was not torn, only passed through that state."""
    image = Image(READ_ONLY, becomes=replace(READ_ONLY, torn=None), looks=1)
    with pytest.raises(ImageChanged):
        ask(image, ENABLE)


@pytest.mark.parametrize("mode", [MirroringMode.SNAPSHOT, MirroringMode.JOURNAL])
def test_a_torn_demotion_that_peers_still_follow_is_taken_back(mode: MirroringMode) -> None:
    """Demoted for a moment more it would be a primary without any evidence, when cut short."""
    image = Image(replace(CUT, mode=mode))
    ask(image, PROMOTE)
    assert image.done == ["promote"]


def test_a_demotion_that_lacks_its_mark_is_finished_and_announced() -> None:
    """The peer saw it without the mark, and is not told of the mark by anybody else."""
    image = Image(CUT, marked=True)
    ask(image, DEMOTE)
    assert (image.done, image.announced) == (["finish"], 1)


@pytest.mark.parametrize("says", [DEMOTED, PRIMARY])
@pytest.mark.parametrize("up", [True, False])
def test_a_torn_demotion_that_nobody_follows_is_not_promoted(
    *, says: tuple[object, str], up: bool
) -> None:
    """A peer may have been primary since."""
    image = Image(replace(CUT, peers=(status("a", says, up=up),)))  # type: ignore[arg-type]
    with pytest.raises(PeerIsPrimary if up and says == PRIMARY else DataPending):
        ask(image, PROMOTE)
    assert image.done == []


def test_a_peer_that_stops_to_follow_in_that_moment_ends_a_promotion() -> None:
    """The last look under the lease counts."""
    image = Image(CUT, becomes=replace(CUT, peers=(status("a", DEMOTED),)))
    with pytest.raises((ImageChanged, DataPending)):
        ask(image, PROMOTE)
    assert image.done == []


def test_a_demotion_is_made_anew() -> None:
    """No peer would get it otherwise."""
    image = Image(CUT)
    ask(image, DEMOTE)
    assert image.done == ["promote", "demote"]


@pytest.mark.parametrize(
    ("says", "refusal"), [(REPLAYING, None), (PRIMARY, PeerIsPrimary), (DEMOTED, DataPending)]
)
def test_a_demotion_that_is_cut_short_anew_leaves_no_proven_primary(
    says: tuple[SiteState, str], refusal: type[DriverError] | None
) -> None:
    """It was promoted for a moment, without a look at the peers: Promote looks at them first."""
    image = Image(CUT, dies=True)
    with pytest.raises(ClusterUnreachable):
        ask(image, DEMOTE)
    assert image.done == ["promote"]
    anew = noted_demotion(image.notes())
    assert anew is not None
    assert anew.anew
    assert image.seen.torn is Torn.UNPROVEN
    image.seen = replace(image.seen, peers=(status("a", says),))
    with pytest.raises(ImageTorn):
        ask(image, ENABLE)
    if refusal is None:
        ask(image, PROMOTE)
        assert (image.done, image.notes()) == (["promote"], {})
        return
    with pytest.raises(refusal):
        ask(image, PROMOTE)
    assert DEMOTING in image.notes()


@pytest.mark.parametrize("force", [False, True])
def test_a_demotion_made_anew_is_no_doubt_about_the_promotion_after_it(*, force: bool) -> None:
    """The note of it was left by a driver that died; by now the peers have been looked at."""
    seen = view(status("", DEMOTED), status("a", DEMOTED), epoch=Epoch.PRIMARY_DEMOTED)
    image = Image(seen)
    note_demotion(cast("LeasedImage", image), Demotion(anew=True))
    ask(image, replace(PROMOTE, force=force))
    assert image.done == ["promote by force" if force else "promote"]
    assert image.seen.torn is None
    assert DEMOTING not in image.notes()


@pytest.mark.parametrize("force", [False, True])
def test_a_primary_that_rbd_mirror_still_holds_is_not_promoted_yet(*, force: bool) -> None:
    """It cannot be written: a controller that forced comes back without force, and waits on."""
    seen = view(status("", REPLAYING), status("a", PRIMARY, up=False), epoch=Epoch.PRIMARY)
    image = Image(replace(seen, primary=True), held="client.4163")
    with pytest.raises(MirrorDaemonHoldsImage, match=r"client\.4163"):
        ask(image, replace(PROMOTE, force=force))
    image.held = None
    ask(image, replace(PROMOTE, force=force))


def test_a_demotion_is_not_made_anew_beside_a_primary() -> None:
    """For a moment there would be two, and after a crash for longer."""
    image = Image(BESIDE)
    with pytest.raises(PeerIsPrimary, match="rbd mirror image demote"):
        ask(image, DEMOTE)
    assert image.done == []


@pytest.mark.parametrize("seen", [HOLLOW, replace(HOLLOW, torn=None)])
@pytest.mark.parametrize("force", [False, True])
def test_a_snapshot_limit_leads_nobody_to_force_a_promotion(
    *, seen: MirrorView, force: bool
) -> None:
    """Where all snapshots of the epoch are torn another one is needed; nothing is changed first."""
    image = Image(seen, room=0)
    with pytest.raises(PromotionBarred, match="snapshot limit"):
        ask(image, replace(PROMOTE, force=force))
    assert image.done == []


def test_a_copy_that_rbd_mirror_begins_keeps_its_feature() -> None:
    """It has the feature for a moment before it is mirrored."""
    image = Image(UNMIRRORED, becomes=replace(view(None), state=MirrorState.CREATING))
    with pytest.raises(ImageChanged):
        ask(image, DISABLE)
    assert image.done == []


def test_what_stays_read_only_and_unmirrored_is_made_writable() -> None:
    """In two looks."""
    image = Image(UNMIRRORED)
    ask(image, DISABLE)
    assert image.done == ["make writable"]
