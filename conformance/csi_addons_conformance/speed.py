# SPDX-License-Identifier: Apache-2.0
"""How slow this machine is at the moment, so that a busy one does not fail a case.

Bounds on time in cases were set on a quiet machine with two cores. They are multiplied by
:func:`factor`, which is measured before anything else loads the machine.
"""

import os
import statistics
import time
from functools import cache
from typing import Final

_REFERENCE: Final = 0.060
"""Seconds that the work takes where the bounds were set."""
_ROUNDS: Final = 9
_NUMBERS: Final = 2_000_000
_MAX: Final = 3.0
"""Beyond this factor a bound would prove nothing."""
VARIABLE: Final = "CSI_ADDONS_TIME_FACTOR"
"""What was measured when the run began, for all of its processes."""


@cache
def factor() -> float:
    """Return by what to multiply bounds: 1 to 3; measured now unless the run did it before."""
    given = os.environ.get(VARIABLE)
    return float(given) if given else min(_MAX, max(1.0, _measured() / _REFERENCE))


def _measured() -> float:
    """Return the seconds that a fixed piece of work takes, the median of several rounds."""
    seconds = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        sum(number * number for number in range(_NUMBERS))
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
