# SPDX-License-Identifier: Apache-2.0
"""What a case is, and how it tells that something is not as it must be."""

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from csi_addons_conformance import speed

if TYPE_CHECKING:
    from csi_addons_conformance.client import Answer
    from csi_addons_conformance.stage import Stage

_T = TypeVar("_T")
PASSING: Final = ("ABORTED", "UNAVAILABLE")
"""Codes after which the controller makes the same call again."""


class Kind(StrEnum):
    """What it means when a case does not pass."""

    SPEC = "spec"
    """The driver breaks the CSI-Addons specification."""
    CONTRACT = "contract"
    """The driver is laxer than this project's contract."""
    SAFETY = "safety"
    """The driver can lose data."""


SNAPSHOT: Final = ("snapshot",)
JOURNAL: Final = ("journal",)
BOTH: Final = ("snapshot", "journal")
Run: TypeAlias = Callable[["Stage"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of the contract, or of the specification's error tables."""

    name: str
    kind: Kind
    row: str
    """The row, in the words of the contract."""
    modes: tuple[str, ...]
    alone: bool
    """Whether it disturbs a site, so that no other case may run beside it."""
    tags: frozenset[str]
    run: Run = field(repr=False)

    @property
    def expected(self) -> str:
        """What must come, in a sentence."""
        return " ".join((self.run.__doc__ or "").split())


CASES: Final[dict[str, Case]] = {}
"""Every case, by name."""


def case(
    name: str,
    *,
    kind: Kind,
    row: str,
    modes: tuple[str, ...] = BOTH,
    alone: bool = False,
    tags: Collection[str] = (),
) -> Callable[[Run], Run]:
    """Register a function as a case; its docstring says what must come."""

    def register(run: Run) -> Run:
        if name in CASES:
            raise ValueError(f"two cases are called {name}")
        CASES[name] = Case(
            name=name, kind=kind, row=row, modes=modes, alone=alone, tags=frozenset(tags), run=run
        )
        return run

    return register


class UnmetError(Exception):
    """Something is not as it must be; the text says what was expected and what came."""


class SkippedError(Exception):
    """This lab or command line does not offer what the case needs; the text says what."""


def require(condition: object, expected: str, came: object) -> None:
    """Raise when a fact is not as it must be."""
    if not condition:
        raise UnmetError(f"expected {expected}; came {came}")


def expect(
    answer: "Answer",
    *codes: str,
    reason: str = "",
    saying: Collection[str] = (),
    within: float = 0,
) -> None:
    """Check an answer's code, reason, words that its message must hold, and seconds it may take.

    The seconds are those of a quiet machine, here as in :func:`poll` and :func:`settle`.
    """
    require(answer.code in codes, " or ".join(codes), answer)
    token = f"[{answer.reason}]"
    require(
        not answer.reason or answer.message.endswith(f" {token}"),
        f"a message that ends {token}",
        answer,
    )
    require(not reason or answer.reason == reason, f"the reason {reason}", answer)
    for words in saying:
        require(words.lower() in answer.message.lower(), f"a message with {words!r}", answer)
    within *= speed.factor()
    require(not within or answer.seconds <= within, f"an answer within {within:g} s", answer)


def poll(
    look: Callable[[], _T],
    *,
    seconds: float,
    what: str,
    every: float = 0.5,
    instead: Callable[[], object] | None = None,
) -> _T:
    """Look until something is truthy, and return it.

    When the time is up, the error tells what was seen last, or what ``instead`` returns then.
    """
    seconds *= speed.factor()
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        if time.monotonic() > deadline:
            last = instead() if instead else repr(seen)
            raise UnmetError(f"expected within {seconds:g} s: {what}; last seen: {last}")
        time.sleep(every)
    return seen


def settle(
    call: "Callable[[], Answer]", *codes: str, seconds: float = 170, saying: Collection[str] = ()
) -> "Answer":
    """Repeat a call as the controller does, until another answer than "ask again" comes."""
    codes = codes or ("OK",)
    seconds *= speed.factor()
    deadline = time.monotonic() + seconds
    while (answer := call()).code in PASSING and answer.code not in codes:
        if time.monotonic() > deadline:
            raise UnmetError(f"expected {' or '.join(codes)} within {seconds:g} s; came {answer}")
        time.sleep(0.5)
    expect(answer, *codes, saying=saying)
    return answer
