# SPDX-License-Identifier: Apache-2.0
"""How old an answer may be: of what its caller changed itself, and of what somebody else did."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from csi_addons_conformance.sites import SiteUnderTest

from benchmarks.bench import Bench, case, handles
from benchmarks.cases.moves import by_librbd
from benchmarks.load import INFO, Job, each
from benchmarks.rows import Row
from lab import Volume

_VOLUMES: Final = 5
_MOVES: Final = 6
"""Of each volume; the last two by librbd, behind the driver's back."""
_BEHIND: Final = 2
_CALLERS: Final = 16
_PRIMARY: Final = frozenset({"OK", "NOT_FOUND"})
"""Codes of a primary: OK, or that its peer has nothing yet."""
_SECONDARY: Final = "FAILED_PRECONDITION"
_OLD: Final = 2.0
_BEFORE: Final = 1.0
_AFTER: Final = 3.0
"""Seconds for which others still ask after a change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A volume became primary where it was secondary, or the other way round."""

    handle: str
    primary: bool
    at: float
    """When the call that did it returned."""
    told: str = ""
    """The next answer to the same caller; empty when librbd changed the volume."""

    def denied_by(self, code: str) -> bool:
        """Tell whether an answer is of the time before."""
        return code == _SECONDARY if self.primary else code in _PRIMARY

    def told_by(self, code: str) -> bool:
        """Tell whether an answer is of the time after."""
        return code in _PRIMARY if self.primary else code == _SECONDARY


@case("freshness")
def freshness(bench: Bench) -> Iterator[Row]:
    """Volumes change sides while many ask about them."""
    volumes = bench.volumes(_VOLUMES)
    changes: list[Change] = []
    answers: list[tuple[Change, str, float]] = []
    sites = (bench.here, bench.there)
    for number in range(_MOVES):
        old, new = sites[:: -1 if number % 2 else 1]
        behind = number >= _MOVES - _BEHIND
        bench.say(f"move {number + 1} of {_MOVES}, {'behind' if behind else 'through'} the driver")
        for site, what in ((old, "Demote"), (new, "Promote")):
            made, told = _watched(bench, site, what, volumes, behind=behind)
            changes += made
            answers += told
            if what == "Demote":
                bench.await_picked_up(new, volumes)
        bench.await_followed(new, volumes)
    yield from _judged(changes, answers)


def _watched(
    bench: Bench, site: SiteUnderTest, what: str, volumes: Sequence[Volume], *, behind: bool
) -> tuple[list[Change], list[tuple[Change, str, float]]]:
    """Change one volume after another while others ask; return the changes and those answers.

    Of the answers only those after the change of their volume are kept, each with that change.
    """
    asked = Job(site=site.name, method=INFO, handles=handles(volumes), callers=_CALLERS)
    with bench.crew.asking(asked) as told:
        time.sleep(_BEFORE)
        change = _by_librbd if behind else _by_driver
        changes = [change(bench, site, what, volume) for volume in volumes]
        time.sleep(_AFTER)
    by_handle = {each.handle: each for each in changes}
    after = [
        (by_handle[handle], code, at) for handle, code, at in told if at > by_handle[handle].at
    ]
    return changes, after


def _by_driver(bench: Bench, site: SiteUnderTest, what: str, volume: Volume) -> Change:
    at, told = bench.crew.processes[0].run(_change_and_ask, site.name, what, volume.handle)
    return Change(handle=volume.handle, primary=what == "Promote", at=at, told=told)


def _change_and_ask(site: str, what: str, handle: str) -> tuple[float, str]:
    """In a load process: return when the change was answered, and the code that came next."""
    job = Job(site=site, method=f"{what}Volume", handles=[handle], callers=1)
    ended = each(job).ended
    return ended, replace(job, method=INFO).call(handle).code


def _by_librbd(bench: Bench, site: SiteUnderTest, what: str, volume: Volume) -> Change:
    changed = by_librbd(bench, site, what, [volume], 1)
    return Change(handle=volume.handle, primary=what == "Promote", at=changed.ended)


def _judged(
    changes: Sequence[Change], answers: Sequence[tuple[Change, str, float]]
) -> Iterator[Row]:
    own = [each for each in changes if each.told]
    yield Row(
        name="answers to who just promoted or demoted that do not tell of it",
        ours=f"{len(own)} changes",
        figure=sum(not each.told_by(each.told) for each in own),
        unit="answers",
        at_most=0,
        note=", ".join(
            f"{'promoted' if primary else 'demoted'}: {code} {number}"
            for (primary, code), number in sorted(
                Counter((each.primary, each.told) for each in own).items()
            )
        ),
    )
    for behind, whose in ((False, "through the driver"), (True, "behind its back")):
        some = [each for each in changes if bool(each.told) is not behind]
        yield Row(
            name=f"age of the oldest answer to others, volumes changed {whose}",
            ours=f"{len(some)} changes, {len(answers)} answers",
            figure=max((_age(change, answers) for change in some), default=0.0),
            unit="s",
            at_most=_OLD,
        )


def _age(change: Change, answers: Sequence[tuple[Change, str, float]]) -> float:
    """Return for how long after a change answers came that are of the time before; 0 for none."""
    late = (at - change.at for of, code, at in answers if of is change and of.denied_by(code))
    return max(late, default=0.0)
