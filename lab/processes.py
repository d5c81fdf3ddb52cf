# SPDX-License-Identifier: Apache-2.0
"""Daemons as plain child processes that outlive this one, known by their pids."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_POLL = 0.05


def start(argv: list[str], *, home: Path, name: str, env: Mapping[str, str]) -> None:
    """Start a daemon in a session of its own; its pid and output are kept below ``home``."""
    with (home / f"{name}.out").open("ab") as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # as systemd does: Debian's Ceph 18 and 20 look for the OSD's classes below lib/
            cwd="/",
            env={**os.environ, **env},
            start_new_session=True,
        )
    _pid_file(home, name).write_text(str(process.pid))
    # the lab ends it by its pid, perhaps from another process
    process.returncode = 0


def pid_of(home: Path, name: str) -> int | None:
    """Return the pid of a daemon that runs; ``None`` when it does not."""
    try:
        pid = int(_pid_file(home, name).read_text())
    except (FileNotFoundError, ValueError):
        return None
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return pid if _runs(pid, home) else None


def send(home: Path, name: str, number: signal.Signals) -> None:
    """Send a signal to a daemon, if it runs."""
    pid = pid_of(home, name)
    if pid is not None:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def end(home: Path, name: str, *, first: signal.Signals, patience: float) -> None:
    """End a daemon: the first signal, then SIGKILL after ``patience`` seconds."""
    send(home, name, first)
    # a stopped process takes no other signal before it goes on
    send(home, name, signal.SIGCONT)
    deadline = time.monotonic() + patience
    while pid_of(home, name) is not None:
        if time.monotonic() > deadline:
            send(home, name, signal.SIGKILL)
        time.sleep(_POLL)
    _pid_file(home, name).unlink(missing_ok=True)


def _pid_file(home: Path, name: str) -> Path:
    return home / f"{name}.pid"


def _runs(pid: int, home: Path) -> bool:
    """Tell a daemon of this home from a process that got the same pid later, or a zombie."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return os.fsencode(home / "ceph.conf") in words
