# SPDX-License-Identifier: Apache-2.0
"""Did processes grow? Two looks at them while they rest, one after a warm-up, one at the end."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Final, TypeAlias

from csi_addons_conformance.load.processes import Usage, family, usage

Resting: TypeAlias = Mapping[str, Usage]
"""What each process holds, by its name."""

TOLERANCE: Final = {"rss": 32 << 20, "threads": 8, "descriptors": 8, "connections": 4}
"""Growth that is none: allocators keep what they had, and pools of threads fill up by chance."""
_QUIET: Final = 2.0
_PATIENCE: Final = 20.0


def resting(pids: Mapping[str, int]) -> Resting:
    """Look at each driver's processes once their threads are no longer coming and going.

    Calls outlive their callers, so work goes on for a while after the last answer.
    """
    deadline = time.monotonic() + _PATIENCE
    seen, since = _look(pids), time.monotonic()
    while time.monotonic() < min(deadline, since + _QUIET):
        time.sleep(0.25)
        now = _look(pids)
        if _threads(now) != _threads(seen):
            since = time.monotonic()
        seen = now
    return seen


def grown(before: Resting, after: Resting) -> Iterator[str]:
    """Yield what grew beyond the tolerance, and processes that came or went, in words."""
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after:
            yield f"{name} {'ended' if name in before else 'was started'} after the warm-up"
            continue
        old, new = asdict(before[name]), asdict(after[name])
        for what, allowed in TOLERANCE.items():
            if new[what] - old[what] > allowed:
                yield f"{what} of {name} grew from {old[what]} to {new[what]}; allowed is {allowed}"


def _look(pids: Mapping[str, int]) -> Resting:
    found = {
        f"{site} {name} (pid {pid})": usage(pid)
        for site, driver in pids.items()
        for name, pid in family(driver)
    }
    return {name: each for name, each in found.items() if each is not None}


def _threads(seen: Resting) -> Mapping[str, int]:
    return {name: each.threads for name, each in seen.items()}
