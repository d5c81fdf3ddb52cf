# SPDX-License-Identifier: Apache-2.0
"""The JUnit report of one tier: cases that passed, failed, or were unsteady.

pytest and the conformance suite both write JUnit. A case that failed at first and passed when it
was run again, alone, has a ``flakyFailure`` in place of its failure, as in the reports of Maven's
Surefire.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

DIRECTORY: Final = Path("build/tests")
"""Where each tier leaves its report, below the repository."""
FAILED: Final = ("failure", "error")
UNSTEADY: Final = "flakyFailure"
_SKIPPED: Final = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A case that did not simply pass."""

    name: str
    kind: str
    """``safety``, ``spec``, ``contract``; empty where a tier has no kinds."""
    first: str
    """What came, or came at first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one tier's report says."""

    passed: int = 0
    skipped: int = 0
    failed: Collection[Case] = ()
    unsteady: Collection[Case] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    """What the run depended on, such as the release of Ceph."""

    @property
    def counts(self) -> str:
        """How many cases ended how, in words; empty when there are none."""
        counted = {
            "passed": self.passed,
            "failed": len(self.failed),
            "unsteady": len(self.unsteady),
            "skipped": self.skipped,
        }
        return ", ".join(f"{number} {name}" for name, number in counted.items() if number)


def path_of(tier: str) -> Path:
    """Return where a tier's report lies."""
    return DIRECTORY / f"{tier}.xml"


def read(path: Path) -> Report:
    """Read a report; an empty one where there is none."""
    if not path.exists():
        return Report()
    root = ET.parse(path).getroot()
    outcomes = [(case, _outcome(case)) for case in root.iter("testcase")]
    counted = Counter(ended for _, ended in outcomes)
    return Report(
        passed=counted[""],
        skipped=counted[_SKIPPED],
        failed=[_case(case) for case, ended in outcomes if ended in FAILED],
        unsteady=[_case(case) for case, ended in outcomes if ended == UNSTEADY],
        environment={
            each.get("name", ""): each.get("value", "")
            for each in root.findall("properties/property")
        },
    )


def passed(case: ET.Element) -> bool:
    """Tell whether a case passed, and was not skipped either."""
    return not _outcome(case)


def mark_unsteady(path: Path, passed_again: Iterable[ET.Element]) -> None:
    """Write into a report that these cases, taken from other reports, passed the second time.

    Their kind is taken, too: a test that took pytest's worker with it had no time to report it.
    """
    again = {_name(case): case for case in passed_again}
    tree = ET.parse(path)
    for case in tree.getroot().iter("testcase"):
        if _name(case) in again:
            case.extend(again[_name(case)].findall("properties"))
            for child in case:
                if child.tag in FAILED:
                    child.tag = UNSTEADY
    tree.write(path, encoding="utf-8", xml_declaration=True)


def _outcome(case: ET.Element) -> str:
    """Return the tag that tells how a case ended; empty when it passed."""
    tags = {child.tag for child in case}
    return next((tag for tag in (*FAILED, UNSTEADY, _SKIPPED) if tag in tags), "")


def _name(case: ET.Element) -> tuple[str, str]:
    return case.get("classname", ""), case.get("name", "")


def _case(case: ET.Element) -> Case:
    classname, name = _name(case)
    kinds = [
        each.get("value", "")
        for each in case.findall("properties/property")
        if each.get("name") == "kind"
    ]
    # the suite's reports have the kind in the place of a class: safety.snapshot
    kind, _, mode = classname.partition(".")
    if not kinds and mode in ("snapshot", "journal"):
        kinds, classname = [kind], mode
    ended = case.find(_outcome(case))
    first = "" if ended is None else ended.get("message", "")
    return Case(name=f"{name} [{classname}]", kind=next(iter(kinds), ""), first=first)
