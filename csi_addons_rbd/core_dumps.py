# SPDX-License-Identifier: Apache-2.0
"""No core dumps: the memory of these processes holds cephx keys, and a dump lies on a disk."""

import ctypes
import os
import resource
from typing import Final

_PR_SET_DUMPABLE: Final = 4
_NOT_DUMPABLE: Final = 0


def forbid_core_dumps() -> None:
    """Have the kernel write no dump of this process, whatever the node is set to.

    To be called in every process: ``exec`` makes a process dumpable again. The resource limit
    alone does not hold where ``core_pattern`` pipes dumps to a program, as under systemd.

    Raises:
        OSError: the kernel refuses; no key may come into this process then.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, _NOT_DUMPABLE, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_DUMPABLE): {os.strerror(number)}")
