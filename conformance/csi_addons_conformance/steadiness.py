# SPDX-License-Identifier: Apache-2.0
"""What a run may bear: cases that fail by chance on a busy machine, but not many.

A case that failed is run once more, alone. One that passes then is unsteady.
"""

from collections.abc import Collection
from typing import Final

from csi_addons_conformance.case import Kind

MOST_AGAIN: Final = 6
"""If more cases than these fail, it is no chance, and none is run again."""
MOST_UNSTEADY: Final = 3


def bearable(unsteady: Collection[str]) -> bool:
    """Tell whether a run may pass although cases of these kinds were unsteady."""
    return len(unsteady) <= MOST_UNSTEADY and Kind.SAFETY not in unsteady
