# SPDX-License-Identifier: Apache-2.0
"""How many cases a run may have that fail by chance, as on a busy machine.

A case that failed is run once more, alone. One that passes then is unsteady.
"""

from collections.abc import Collection
from typing import Final

from csi_addons_conformance.case import Kind

MAX_RERUNS: Final = 6
"""If more cases than these fail, it is no chance, and none is run again."""
MAX_UNSTEADY: Final = 3


def tolerable(unsteady: Collection[str]) -> bool:
    """Tell whether a run may pass although cases of these kinds were unsteady."""
    return len(unsteady) <= MAX_UNSTEADY and Kind.SAFETY not in unsteady
