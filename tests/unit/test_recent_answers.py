# SPDX-License-Identifier: Apache-2.0
"""Answers that are kept for a moment: never for others, never beyond a change, never errors."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import stand_in
from stand_in import KEY, UUID, Pool, demote, place

from csi_addons_rbd import recent_answers
from csi_addons_rbd.clusters import Leads
from csi_addons_rbd.recent_answers import RecentAnswers
from csi_addons_rbd.replication.calls import Answer, Call, Credentials, InfoCall
from csi_addons_rbd.replication.errors import NotPrimary
from csi_addons_rbd.replication.volume_id import VolumeId
from csi_addons_rbd.worker_process import Wait

PLACE = place(Pool.ANSWER)
INFO = InfoCall(
    volume=VolumeId(cluster="here", pool=Pool.ANSWER, uuid=UUID),
    credentials=Credentials(user="csi", key=KEY),
)


class Counting:
    """Stands for the clusters: answers at once, and counts."""

    def __init__(self) -> None:
        self.asked = 0
        self.refuses = False
        self.slowly: tuple[threading.Event, threading.Event] | None = None
        """What the next question sets, and then waits for."""
        self.meanwhile: RecentAnswers | None = None
        """Through which a demotion ends while the next question is answered."""

    def ask(self, call: Call, leads: Leads, wait: Wait) -> Answer:
        """Answer as a worker does."""
        del leads, wait
        self.asked += 1
        slowly, self.slowly = self.slowly, None
        if slowly is not None:
            slowly[0].set()
            slowly[1].wait(5)
        if self.refuses:
            raise NotPrimary("it is secondary")
        answers, self.meanwhile = self.meanwhile, None
        if answers is not None:
            ask(answers, demote())
        return stand_in.answer(call, PLACE)


def ask(answers: RecentAnswers, call: Call) -> Answer:
    """Ask within our own bound."""
    return answers.ask(call, Leads(places=(PLACE,)), Wait.bounded(caller=None, own=5))


@pytest.fixture
def workers() -> Counting:
    """Workers that count."""
    return Counting()


@pytest.fixture
def answers(workers: Counting) -> RecentAnswers:
    """What stands before them."""
    return RecentAnswers(workers)  # type: ignore[arg-type]


def test_one_look_for_all(answers: RecentAnswers, workers: Counting) -> None:
    """Who asks again within the second gets the same answer."""
    assert ask(answers, INFO) is ask(answers, INFO)
    assert workers.asked == 1


def test_only_for_a_second(
    answers: RecentAnswers, workers: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Afterwards the cluster is asked."""
    monkeypatch.setattr(recent_answers, "_FRESH", 0.0)
    ask(answers, INFO)
    ask(answers, INFO)
    assert workers.asked == 2


def test_only_for_the_same_user_and_key(answers: RecentAnswers, workers: Counting) -> None:
    """What one may read is not told to another."""
    ask(answers, INFO)
    ask(answers, replace(INFO, credentials=Credentials(user="other", key=KEY)))
    ask(answers, replace(INFO, credentials=Credentials(user="csi", key="")))
    assert workers.asked == 3


def test_not_beyond_a_change_of_the_volume(answers: RecentAnswers, workers: Counting) -> None:
    """Who changed something sees it; other volumes are not concerned."""
    other = replace(INFO, volume=replace(INFO.volume, uuid=UUID.replace("1", "2")))
    ask(answers, INFO)
    ask(answers, other)
    ask(answers, demote())
    ask(answers, INFO)
    ask(answers, other)
    assert workers.asked == 4


def test_not_beyond_a_change_through_another_handle(
    answers: RecentAnswers, workers: Counting
) -> None:
    """After a failover two handles may lead to one image; both end with its uuid."""
    ask(answers, replace(INFO, volume=replace(INFO.volume, cluster="there", pool=7)))
    ask(answers, demote())
    ask(answers, replace(INFO, volume=replace(INFO.volume, cluster="there", pool=7)))
    assert workers.asked == 3


def test_not_what_was_read_before_a_change_ended(answers: RecentAnswers, workers: Counting) -> None:
    """An answer that arrives after a demotion may tell of the time before it."""
    workers.meanwhile = answers
    ask(answers, INFO)
    ask(answers, INFO)
    assert workers.asked == 3


def test_not_errors(answers: RecentAnswers, workers: Counting) -> None:
    """What is refused is looked at again."""
    workers.refuses = True
    for _ in range(2):
        with pytest.raises(NotPrimary):
            ask(answers, INFO)
    assert workers.asked == 2


def test_old_ones_are_dropped(answers: RecentAnswers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither they nor their keys stay in memory, though nobody asks about that volume again."""
    ask(answers, INFO)
    monkeypatch.setattr(recent_answers, "_FRESH", 0.0)
    other = replace(INFO, volume=replace(INFO.volume, uuid=UUID.replace("1", "2")))
    ask(answers, other)
    assert list(answers._kept) == [other.volume.uuid]


def test_a_slow_answer_does_not_replace_a_newer_one(
    answers: RecentAnswers, workers: Counting
) -> None:
    """Or time would go backwards."""
    started, go = threading.Event(), threading.Event()
    workers.slowly = (started, go)
    with ThreadPoolExecutor() as executor:
        slow = executor.submit(ask, answers, INFO)
        started.wait(5)
        newer = ask(answers, INFO)
        go.set()
        assert slow.result() is not newer
    assert ask(answers, INFO) is newer
