# SPDX-License-Identifier: Apache-2.0
"""What a driver's processes hold, read from /proc: threads, descriptors, memory, connections."""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_GONE: Final = (FileNotFoundError, ProcessLookupError)
_ESTABLISHED: Final = "01"
_WORKER: Final = b"spawn_main"
"""In the command line of a process that ``multiprocessing`` spawned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one process holds at one moment."""

    rss: int
    """Bytes of memory that are resident."""
    threads: int
    descriptors: int
    connections: int
    """TCP connections that are established."""


def family(pid: int) -> Iterator[tuple[str, int]]:
    """Yield a driver's processes, each by a name that stays: ``driver``, ``worker 1``.

    Children that are no workers, such as the resource tracker of ``multiprocessing``, are called
    ``child``; several are numbered in the order of their birth.
    """
    yield "driver", pid
    counted: dict[str, int] = {}
    for child in sorted(_children(pid)):
        try:
            kind = "worker" if _WORKER in Path(f"/proc/{child}/cmdline").read_bytes() else "child"
        except _GONE:
            continue
        counted[kind] = counted.get(kind, 0) + 1
        yield f"{kind} {counted[kind]}", child


def usage(pid: int) -> Usage | None:
    """Look at one process; ``None`` when it is gone."""
    process = Path(f"/proc/{pid}")
    try:
        status = _status(process)
        targets = _targets(process / "fd")
        established = _established(process)
    except _GONE:
        return None
    if "VmRSS" not in status:  # a zombie has none
        return None
    return Usage(
        rss=int(status["VmRSS"].split()[0]) * 1024,
        threads=int(status["Threads"]),
        descriptors=len(targets),
        connections=sum(target in established for target in targets),
    )


def _children(pid: int) -> list[int]:
    """List the children of every thread: a worker belongs to the one that spawned it."""
    children: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(*_GONE):
            children += map(int, task.read_text().split())
    return children


def _status(process: Path) -> Mapping[str, str]:
    lines = (process / "status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _targets(directory: Path) -> list[str]:
    targets = []
    for descriptor in os.listdir(directory):  # noqa: PTH208 - Path.iterdir hides what vanishes
        with suppress(*_GONE):
            targets.append(os.readlink(directory / descriptor))  # noqa: PTH115 - often, and fast
    return targets


def _established(process: Path) -> set[str]:
    """Return the connections of the process's network namespace, as descriptors name them."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in (process / "net" / table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _ESTABLISHED:
                found.add(f"socket:[{fields[9]}]")
    return found
