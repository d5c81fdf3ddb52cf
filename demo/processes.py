# SPDX-License-Identifier: Apache-2.0
"""Processes of the demo: started aside, ended in order or by force."""

import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

_PATIENCE: Final = 20


def start(argv: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own: Ctrl-C is for the demo, which then ends it."""
    with log.open("wb") as output:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def end(process: subprocess.Popen[bytes]) -> int:
    """End a process by SIGTERM, or its session by SIGKILL if it must be; return its exit code."""
    process.send_signal(signal.SIGTERM)
    try:
        return process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def gone(process: subprocess.Popen[bytes]) -> bool:
    """Tell whether it and all of its session have ended."""
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return True
    return False
