# SPDX-License-Identifier: Apache-2.0
"""Two drivers on one cluster: one at a time changes an image, and a dead one delays nobody long."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import rados
import rbd
from csi_addons_conformance.case import expect, poll, settle
from csi_addons_conformance.cases.resync import split
from csi_addons_conformance.client import Answer, Client
from csi_addons_conformance.driver_process import DriverProcess
from csi_addons_conformance.stage import Stage

from csi_addons_rbd.ceph import leases
from csi_addons_rbd.ceph.limits import in_background
from csi_addons_rbd.replication.deadline import Deadline
from csi_addons_rbd.replication.errors import LeaseHeld
from lab import Volume
from tests.driver_insides import operations
from tests.kills.lanes import Lane, lanes

pytestmark = pytest.mark.safety
_OPENINGS = 4
_COMMITTED = 6
"""Seconds within which rbd-mirror notes how far it has come in a journal: it does so every 5 s."""
LEASE = 30
"""Seconds after which a lease runs out."""


def lease_object(stage: Stage, volume: Volume) -> str:
    """Name the object that bears the lease."""
    return f"csi-addons-rbd.lock.{stage.here.image_id(volume)}"


def test_a_lease_of_another_driver_is_respected_until_it_runs_out(
    stage: Stage, volume: Volume
) -> None:
    """Disable waits a moment, then says ABORTED; nothing changes; later it works."""
    client = stage.here.client
    expect(client.enable(volume.handle), "OK")
    name = lease_object(stage, volume)
    with stage.here.site.ioctx() as ioctx:
        ioctx.lock_exclusive(name, "csi-addons-rbd", "somebody else", duration=LEASE)
        refused = client.disable(volume.handle)
        expect(refused, "ABORTED", saying=("another driver",))
        assert refused.reason == "LEASE_HELD"
        assert stage.here.mirrored(volume)
        settle(lambda: client.disable(volume.handle), seconds=LEASE + 30)
        assert not stage.here.mirrored(volume)
        with pytest.raises(rados.ObjectNotFound):
            ioctx.stat(name)


def test_nobody_renews_a_lease_that_was_never_had(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever renews uses the caller's handle, which is closed then: librados would crash."""
    started: list[threading.Thread] = []

    def start(work: Callable[[], None]) -> threading.Thread:
        started.append(in_background(work))
        return started[-1]

    monkeypatch.setattr(leases, "in_background", start)
    monkeypatch.setattr(leases, "_RENEWED", 0)  # over and over
    monkeypatch.setattr(leases, "_PATIENCE", 0.1)
    with stage.here.site.ioctx() as ioctx:
        ioctx.lock_exclusive("csi-addons-rbd.lock.abc", "csi-addons-rbd", "somebody", duration=60)
        for _ in range(20):
            lease = leases.CephLease(ioctx, "an image", "abc", client="127.0.0.1:0/1", dead=())
            with pytest.raises(LeaseHeld), lease.held(Deadline.after(60), fence=lambda _: None):
                pass
            assert not started[-1].is_alive()
        ioctx.remove_object("csi-addons-rbd.lock.abc")


def test_two_drivers_move_one_image_once(stage: Stage, second: DriverProcess) -> None:
    """Both asked at once to demote and promote, they end in one state and leave no lease."""
    volume = stage.mirrored()
    clients: tuple[Client, Client] = (stage.here.client, second.client)

    def at_once(call: str) -> None:
        with ThreadPoolExecutor() as executor:
            for answer in executor.map(
                lambda each: settle(lambda: getattr(each, call)(volume.handle)), clients
            ):
                assert answer.code == "OK"

    at_once("demote")
    assert not stage.here.primary(volume)
    at_once("promote")
    assert stage.here.primary(volume)
    with stage.here.site.ioctx() as ioctx:
        left = [each.key for each in ioctx.list_objects() if "csi-addons-rbd.lock" in each.key]
    assert left == []


@pytest.fixture
def lane(stage: Stage) -> Iterator[Lane]:
    """Another driver on dr1, in which operations can be held."""
    with ExitStack() as running:
        yield lanes(stage, 1, running).get()


def hold(lane: Lane, point: str) -> None:
    """Wait until an operation is held at the point armed, which is to be this one."""
    poll(lambda: lane.reached, seconds=60, what=point, every=0.05)
    assert lane.reached == point


def test_a_thawed_driver_notices_that_its_lease_ran_out(stage: Stage, lane: Lane) -> None:
    """Frozen before it signed, it is not fenced: the look that comes with signing tells it."""
    volume, other = stage.mirrored(), stage.here.client
    settle(lambda: other.demote(volume.handle))
    lane.arm(3)
    with ThreadPoolExecutor() as executor:
        executor.submit(lane.stage.here.client.promote, volume.handle, force=True)
        hold(lane, "before signing for promoting")
        lane.freeze()
        settle(lambda: other.promote(volume.handle, force=True))
        settle(lambda: other.demote(volume.handle))
        lane.thaw()
    poll(lambda: not operations(lane.driver), seconds=20, what="the operation ends")
    assert not stage.here.primary(volume)


def test_who_is_slow_but_lives_keeps_the_lease(stage: Stage, lane: Lane) -> None:
    """It renews its lease in the middle of a change: nobody takes it over, nobody is fenced."""
    volume, slow = stage.mirrored(), lane.stage.here.client
    expect(stage.here.client.demote(volume.handle), "OK")
    lane.arm(4)
    with ThreadPoolExecutor() as executor:
        promoting = executor.submit(slow.promote, volume.handle, force=True)
        hold(lane, "before promoting")
        until = time.monotonic() + LEASE + 10
        while time.monotonic() < until:
            refused = stage.here.client.promote(volume.handle, force=True)
            assert refused.reason == "LEASE_HELD", refused
        lane.thaw()
        assert promoting.result().reason in ("", "CLUSTER_UNREACHABLE")  # its own bound is 30 s
        poll(lambda: stage.here.primary(volume), seconds=20, what="it is promoted")
    expect(slow.info(volume.handle), "OK", "NOT_FOUND")


@contextmanager
def held_back(
    lane: Lane, call: Callable[[], Answer], point: str = "before leasing"
) -> "Iterator[Future[Answer]]":
    """Hold a call at a point, by default before it takes its lease, for the length of a block."""
    lane.arm(point)
    with ThreadPoolExecutor() as executor:
        answer = executor.submit(call)
        hold(lane, point)
        yield answer
        lane.thaw()


def test_a_disable_from_before_others_enabled_is_refused(stage: Stage, lane: Lane) -> None:
    """Mirroring that was switched off and on meanwhile is another one."""
    volume, other = stage.mirrored(), stage.here.client
    with held_back(lane, lambda: lane.stage.here.client.disable(volume.handle)) as late:
        settle(lambda: other.disable(volume.handle))
        settle(lambda: other.enable(volume.handle))
    assert late.result().reason == "IMAGE_CHANGED", late.result()
    assert stage.here.primary(volume)


def test_a_promote_from_before_others_demoted_is_refused(stage: Stage, lane: Lane) -> None:
    """By force it would make this site primary beside the one that is meant to be."""
    volume, other = stage.mirrored(), stage.here.client
    settle(lambda: other.demote(volume.handle))
    with held_back(lane, lambda: lane.stage.here.client.promote(volume.handle, force=True)) as late:
        settle(lambda: other.promote(volume.handle, force=True))
        settle(lambda: other.demote(volume.handle))
    assert late.result().reason == "IMAGE_CHANGED", late.result()
    assert not stage.here.primary(volume)


def test_nothing_is_begun_when_the_caller_has_gone(stage: Stage, lane: Lane) -> None:
    """A driver that was frozen before it began does not begin when it thaws."""
    volume, client = stage.mirrored(), lane.stage.here.client
    call = partial(client.call, "DisableVolumeReplication", volume.handle, timeout=3)
    with held_back(lane, call) as gone:
        expect(gone.result(), "DEADLINE_EXCEEDED")
    poll(lambda: not operations(lane.driver), seconds=20, what="the operation ends")
    assert stage.here.primary(volume)


@pytest.mark.parametrize(
    ("call", "point"),
    [
        ("demote", "before signing for demoting"),
        ("disable", "before signing for disabling mirroring of"),
    ],
)
def test_a_primary_is_looked_at_again_once_it_is_open(
    stage: Stage, lane: Lane, call: str, point: str
) -> None:
    """Opening may take long, and an administrator's tools know no lease."""
    volume, client = stage.mirrored(), lane.stage.here.client
    with held_back(lane, lambda: getattr(client, call)(volume.handle), point) as late:
        path = f"{stage.here.site.pool}/{volume.image}"
        stage.here.site.rbd("mirror", "image", "demote", path)
        stage.here.site.rbd("mirror", "image", "promote", "--force", path)
    assert late.result().reason == "IMAGE_CHANGED", late.result()
    assert stage.here.primary(volume)


def test_tags_that_go_while_the_image_is_opened_are_no_change(stage: Stage, lane: Lane) -> None:
    """Each opening for writing adds a tag to the journal, and drops those that all have left."""
    stage = replace(stage, mode="journal")
    volume, client = stage.mirrored(), lane.stage.here.client
    call = partial(client.disable, volume.handle)
    with held_back(lane, call, "before signing for disabling mirroring of") as late:
        for number in range(_OPENINGS):
            stage.here.write(volume, b"%d" % number)
            time.sleep(_COMMITTED)
    expect(late.result(), "OK")


def test_a_secondary_is_looked_at_again_once_it_is_open(stage: Stage, lane: Lane) -> None:
    """Promoted and demoted meanwhile, it may lack what its peer was given since."""
    volume, client = stage.mirrored(), lane.stage.here.client
    settle(lambda: stage.here.client.demote(volume.handle))
    call = partial(client.promote, volume.handle, force=True)
    with held_back(lane, call, "before signing for promoting") as late:
        path = f"{stage.here.site.pool}/{volume.image}"
        stage.here.site.rbd("mirror", "image", "promote", "--force", path)
        stage.here.site.rbd("mirror", "image", "demote", path)
    assert late.result().reason == "IMAGE_CHANGED", late.result()
    assert not stage.here.primary(volume)


@pytest.mark.timeout(240)
def test_a_resync_looks_at_the_peer_again_once_the_image_is_open(stage: Stage, lane: Lane) -> None:
    """A peer that is primary no longer is no source of a copy: nothing is deleted for it."""
    volume, client = stage.mirrored(), lane.stage.here.client
    stage.move(stage.here, stage.there, volume)
    path = f"{stage.here.site.pool}/{volume.image}"
    poll(lambda: stage.here.state(volume) == "up+replaying", seconds=90, what="dr1 follows")
    image_id = stage.here.image_id(volume)

    def peer_is_primary() -> bool:
        peers = stage.here.mirror_status(volume).get("peer_sites", [])
        return any("local image is primary" in peer["description"] for peer in peers)

    poll(peer_is_primary, seconds=60, what="dr1 knows who is primary")
    call = partial(client.resync, volume.handle, force=True, resyncMode="always")
    with held_back(lane, call, "before signing for requesting a resync of") as late:
        stage.there.site.rbd("mirror", "image", "demote", path)
        poll(lambda: not peer_is_primary(), seconds=60, what="dr1 knows of the demotion")
    assert late.result().reason == "IMAGE_CHANGED", late.result()
    with stage.here.image(volume) as image:
        assert image.id() == image_id


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["snapshot", "journal"])
def test_two_drivers_request_one_resync(stage: Stage, lane: Lane, mode: str) -> None:
    """Who saw no record before the other wrote one neither asks again nor takes it away."""
    volume = split(replace(stage, mode=mode))
    logs, said = (stage.here.driver.log, lane.driver.log), "this image will be deleted"
    before = sum(log.read_text().count(said) for log in logs)
    late_call = partial(lane.stage.here.client.resync, volume.handle, force=True)
    with stage.here.frozen("rbd-mirror"):
        with held_back(lane, late_call) as late:
            expect(stage.here.client.resync(volume.handle, force=True), "OK")
        expect(late.result(), "OK")
        assert not late.result().ready
        key = f"csi-addons-rbd/resync/{volume.image}"
        with stage.here.site.ioctx() as ioctx:
            record = json.loads(rbd.RBD().pool_metadata_get(ioctx, key))
        assert (record["image_id"], record["sent"]) == (stage.here.image_id(volume), True)
    assert sum(log.read_text().count(said) for log in logs) == before + 1


@pytest.mark.timeout(240)  # rbd-mirror may take half a minute for each copy
def test_two_drivers_keep_one_schedule(stage: Stage, second: DriverProcess) -> None:
    """An interval in seconds is kept once, whoever of those asked takes the snapshots."""
    volume = stage.mirrored(schedulingInterval="10s")
    expect(second.client.info(volume.handle), "OK")
    first, *rest = _sync_times(second.client, volume, 4)
    gaps = [later - earlier for earlier, later in pairwise(rest)]
    # later only while the peer still lacks the one before
    assert all(9 <= gap <= 45 for gap in gaps), (first, rest)


def test_the_newest_interval_counts_for_every_driver(stage: Stage, second: DriverProcess) -> None:
    """A driver that keeps an interval reads from the image that another one was asked for."""
    volume = stage.mirrored(schedulingInterval="10s")
    before = newest_snapshot(stage, volume)
    poll(lambda: newest_snapshot(stage, volume) > before, seconds=45, what="a snapshot")
    expect(second.client.enable(volume.handle, schedulingInterval="300s"), "OK")
    before = newest_snapshot(stage, volume)
    time.sleep(32)  # three of the old intervals: what must not happen takes its time
    taken = [snap for snap in stage.here.mirror_snapshots(volume) if snap["id"] > before]
    assert len(taken) <= 1, taken  # one may have been under way


def test_a_schedule_in_seconds_ends_with_its_image(stage: Stage) -> None:
    """Removed by somebody else, it is looked for once more, and then forgotten."""
    volume, log = stage.enabled(schedulingInterval="10s"), stage.here.driver.log
    with stage.here.image(volume, writing=True) as image:
        image.mirror_image_disable(True)  # noqa: FBT003 - takes no keyword
    with stage.here.site.ioctx() as ioctx:
        rbd.RBD().remove(ioctx, volume.image)

    def warnings() -> int:
        lines = log.read_text().splitlines()
        return sum("no mirror snapshot taken" in line and volume.image in line for line in lines)

    poll(lambda: warnings() >= 2, seconds=60, what="it is missed")
    time.sleep(12)  # longer than it takes to the next look
    assert warnings() == 2


def newest_snapshot(stage: Stage, volume: Volume) -> int:
    """Return the id of the newest mirror snapshot on dr1."""
    return max(int(each["id"]) for each in stage.here.mirror_snapshots(volume))


def _sync_times(client: Client, volume: Volume, count: int) -> list[int]:
    """Wait for so many different last sync times, in Unix seconds."""
    seen: list[int] = []

    def look() -> bool:
        newest = int(client.info(volume.handle).response.last_sync_time.seconds)
        if newest not in seen:
            seen.append(newest)
        return len(seen) >= count

    poll(look, seconds=180, what=f"{count} copies")
    return seen
