# SPDX-License-Identifier: Apache-2.0
"""How slow this machine is at the moment, so that a busy one does not fail a case.

Bounds on time in cases were set on a quiet machine with two cores. They are multiplied by
:func:`factor`.
"""

import statistics
import time
from functools import cache
from typing import Final

_REFERENCE: Final = 0.060
"""Seconds that the work takes where the bounds were set."""
_ROUNDS: Final = 9
_NUMBERS: Final = 2_000_000
_MOST: Final = 5.0
"""Beyond this factor a bound would prove nothing."""


@cache
def factor() -> float:
    """Return by what to multiply bounds: 1 to 5, measured at the first question."""
    return min(_MOST, max(1.0, _measured() / _REFERENCE))


def _measured() -> float:
    """Return the seconds that a fixed piece of work takes, the median of several rounds."""
    seconds = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        sum(number * number for number in range(_NUMBERS))
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
