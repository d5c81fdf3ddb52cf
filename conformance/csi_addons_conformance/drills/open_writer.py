# SPDX-License-Identifier: Apache-2.0
"""Demotions asked for while an application has the volume open."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Final

from csi_addons_conformance.case import Kind, case, expect, require, settle
from csi_addons_conformance.drills.workload import Workload, Written, carry_over, start
from csi_addons_conformance.stage import Stage

_ROUNDS: Final = 10
_CALLERS: Final = 3


@case(
    "drill/open-writer",
    kind=Kind.SAFETY,
    row="Demote: a client holds it → FAILED_PRECONDITION naming the holder; librbd itself would "
    "demote under an open writer, and an acknowledged write was lost so",
    tags={"drill"},
)
def open_writer(stage: Stage) -> None:
    """Under an open writer each demotion is refused, and afterwards every byte moves over."""
    rounds = int(os.environ.get("CONFORMANCE_ROUNDS") or _ROUNDS)
    [load] = start(stage, 1)
    with load.writing(stage.here) as written:
        written.reach(1)
        slowest = max(_refused(stage, load, written) for _ in range(rounds))
    under_way = load.acknowledged
    settle(partial(stage.here.client.demote, load.handle))
    settle(partial(stage.there.client.promote, load.handle))
    load.require_whole(stage.there, "after the writer has closed and the volume was moved")
    with _idle_holder(stage, load):
        expect(stage.there.client.demote(load.handle), "FAILED_PRECONDITION", saying=("client.",))
        require(stage.there.primary(load.volume), "a primary", "a secondary")
    carry_over(stage, load, stage.there, stage.here)
    stage.say(
        f"{rounds} times {_CALLERS} demotions at once, all refused, the slowest after "
        f"{slowest:.1f} s; {under_way} writes acknowledged meanwhile, 0 of them lost"
    )


def _refused(stage: Stage, load: Workload, written: Written) -> float:
    """Ask several times at once, as controllers that were restarted do."""
    with ThreadPoolExecutor(_CALLERS) as executor:
        answers = list(
            executor.map(lambda _: stage.here.client.demote(load.handle), range(_CALLERS))
        )
    for answer in answers:
        expect(answer, "FAILED_PRECONDITION", saying=("client.",))
    require(stage.here.primary(load.volume), "a primary", "a secondary")
    written.reach(1)
    return max(answer.seconds for answer in answers)


@contextmanager
def _idle_holder(stage: Stage, load: Workload) -> Iterator[None]:
    """Hold the image open after one write, and then do nothing: a mounted, quiet volume."""
    with stage.there.image(load.volume, writing=True) as image:
        load.write_block(image)
        yield
