# SPDX-License-Identifier: Apache-2.0
"""Moving a volume between two live sites: nothing forced, nothing lost, never early."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import rbd
from driver import Driver, Outcome, mirror_status, poll, settled
from workload import checksum, move, read, write

from lab import Site, Volume

MIB = 1 << 20


def test_back_and_forth_at_once(dr1: Driver, dr2: Driver, mirrored: Volume) -> None:
    """Each move follows the last without a pause; every byte written before it is there."""
    sites = [dr1, dr2]
    for number in range(4):
        old, new = sites[number % 2], sites[(number + 1) % 2]
        write(old.site, mirrored, os.urandom(MIB), offset=number * MIB)
        written = checksum(old.site, mirrored)
        move(old, new, mirrored)
        assert checksum(new.site, mirrored) == written
    assert mirror_status(dr1.site, mirrored.image)["description"] != "split-brain"


@contextmanager
def open_writer(site: Site, volume: Volume) -> Iterator[rbd.Image]:
    """Hold the image as a workload does: open, with the exclusive lock."""
    with site.ioctx() as ioctx, rbd.Image(ioctx, volume.image) as image:
        image.write(b"held", 0)
        yield image


def test_demote_under_an_open_writer_is_refused(dr1: Driver, dr2: Driver, mirrored: Volume) -> None:
    """The holder is named, nothing changes, and once it has closed everything arrives."""
    with open_writer(dr1.site, mirrored) as image:
        refused = dr1.demote(mirrored.handle)
        assert refused.short == ("FAILED_PRECONDITION", "IMAGE_IN_USE")
        assert "client." in refused.message
        image.write(b"written after the refusal", 0)
        image.flush()
    move(dr1, dr2, mirrored)
    assert read(dr2.site, mirrored, 25) == b"written after the refusal"


def test_a_demoted_site_waits_for_the_word_of_the_others(
    dr1: Driver, dr2: Driver, mirrored: Volume
) -> None:
    """librbd would promote at once; the driver first sees that nobody was primary since."""
    poll(lambda: dr1.info(mirrored.handle).code == "OK", 90)
    assert settled(lambda: dr1.demote(mirrored.handle)).code == "OK"
    promoted = settled(lambda: dr1.promote(mirrored.handle))
    assert promoted.seconds >= 5
    assert mirror_status(dr1.site, mirrored.image)
    assert read(dr1.site, mirrored, 5) == b"first"
    assert dr2.demote(mirrored.handle).code == "OK"


def test_ready_only_when_the_last_data_is_there(dr1: Driver, dr2: Driver, mirrored: Volume) -> None:
    """Relocation as Ramen does it: polled from before the demotion, ready with every byte."""
    poll(lambda: dr1.info(mirrored.handle).code == "OK", 90)
    write(dr1.site, mirrored, os.urandom(4 * MIB), offset=MIB)
    expected = checksum(dr1.site, mirrored)
    assert dr2.resync(mirrored.handle).response.ready is False
    with dr2.site.ioctx() as ioctx:
        key = f"csi.volume.{mirrored.uuid}"
        assert key not in {each.key for each in ioctx.list_objects()}
    settled(lambda: dr1.demote(mirrored.handle))
    ready_there = poll(lambda: _ready(dr2, mirrored), 120)
    assert ready_there
    assert checksum(dr2.site, mirrored) == expected
    assert poll(lambda: _ready(dr1, mirrored), 120)
    with dr2.site.ioctx() as ioctx:
        assert key not in {each.key for each in ioctx.list_objects()}
    settled(lambda: dr2.promote(mirrored.handle))


def _ready(driver: Driver, volume: Volume) -> bool:
    outcome = driver.resync(volume.handle)
    assert outcome.code in ("OK", "ABORTED", "UNAVAILABLE"), outcome
    return outcome.code == "OK" and bool(outcome.response.ready)


def test_two_handles_of_one_image_exclude_each_other(
    dr1: Driver, dr2: Driver, steady: Volume
) -> None:
    """A call in progress is joined by its like and named to any other, by whatever handle."""
    local = dr1.destination(steady.handle).response.replication_destination.volume.volume_id
    outcomes: list[Outcome] = []
    callers = [
        threading.Thread(target=lambda: outcomes.append(dr2.promote(steady.handle)))
        for _ in range(2)
    ]
    for caller in callers:
        caller.start()
    in_flight = 'calls_in_flight{method="/replication.Controller/PromoteVolume"} 2.0'
    poll(lambda: in_flight in dr2.metrics(), 10, every=0.05)
    other = poll(lambda: _conflict(dr2.demote(local)), 10, every=0.05)
    assert other.short == ("ABORTED", "OPERATION_RUNNING")
    assert "promote has been running" in other.message
    for caller in callers:
        caller.join()
    first, second = outcomes
    assert first.short == second.short
    assert first.message == second.message


def _conflict(outcome: Outcome) -> Outcome | None:
    return None if outcome.code == "OK" else outcome
