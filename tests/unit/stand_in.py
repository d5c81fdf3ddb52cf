# SPDX-License-Identifier: Apache-2.0
"""A worker process without Ceph: speaks the protocol, and does what the pool number says.

Not a test module: spawned processes import it by name.
"""

import contextlib
import os
import signal
import sys
import time
from enum import IntEnum
from multiprocessing.connection import Connection
from pathlib import Path

from csi_addons_rbd import __main__ as driver
from csi_addons_rbd.command_line import parse
from csi_addons_rbd.config import Config
from csi_addons_rbd.replication.calls import (
    Answer,
    Ask,
    Beat,
    Call,
    Credentials,
    DemoteCall,
    DestinationCall,
    Health,
    Identified,
    IdentifyCall,
    InfoCall,
    Located,
    Place,
    ReplicationInfo,
    Reply,
    ResyncCall,
    Resynced,
    RunningOperations,
)
from csi_addons_rbd.replication.errors import (
    DriverError,
    PermissionDenied,
    SplitBrain,
    Unauthenticated,
    VolumeNotFound,
)
from csi_addons_rbd.replication.volume_id import VolumeId

UUID = "11111111-2222-3333-4444-555555555555"
KEY = "AQAAAAAAAAAAABAAc29tZSBzZWNyZXQgc2FsdA=="
"""A well-formed key of nobody."""


class Pool(IntEnum):
    """What the worker does with a call for a volume in this pool."""

    ANSWER = 1
    ABSENT = 2
    SPLIT = 3
    CRASH = 4
    EXIT = 5
    SILENT = 6
    LATE = 7
    WRONG = 8
    GARBAGE = 9
    BEAT = 10
    FREEZE = 11
    HERITAGE = 12
    REFUSED = 13
    FORBIDDEN = 14
    DUMB = 15
    """Like a cluster whose monitors answer, and whose OSDs do not."""


_MUTE = (Pool.REFUSED, Pool.SILENT, Pool.CRASH, Pool.FORBIDDEN)
"""Pools whose cluster does not even say who it is."""
DEEDS = {
    Pool.CRASH: lambda: os.kill(os.getpid(), signal.SIGSEGV),
    Pool.FREEZE: lambda: os.kill(os.getpid(), signal.SIGSTOP),
    Pool.EXIT: lambda: sys.exit(3),
}

REFUSALS: dict[Pool, tuple[type[DriverError], str]] = {
    Pool.ABSENT: (VolumeNotFound, "nothing on cluster {}"),
    Pool.REFUSED: (Unauthenticated, "cluster {} refuses the key"),
    Pool.FORBIDDEN: (PermissionDenied, "the caps on cluster {} do not allow it"),
    Pool.SPLIT: (SplitBrain, "split-brain"),
}


def work(connection: Connection, config: Config, name: str, left_behind: tuple[str, ...]) -> None:
    """Serve one connection."""
    del config, name
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            ask: Ask = connection.recv()
        except EOFError:
            return
        act(connection, ask, left_behind)


def act(connection: Connection, ask: Ask, left_behind: tuple[str, ...]) -> None:
    """Do what the pool of the first place says, or say which cluster this is."""
    place = ask.places[0]
    if isinstance(ask.call, IdentifyCall) and place.pool not in _MUTE:
        # ids that differ in what follows a dash are one cluster
        fsid = f"fsid-{place.cluster.partition('-')[0]}"
        connection.send(Reply(number=ask.number, answer=Identified(fsid=fsid)))
        return
    match Pool(place.pool):
        case Pool.ANSWER:
            connection.send(Reply(number=ask.number, answer=answer(ask.call, place)))
        case Pool.ABSENT | Pool.REFUSED | Pool.FORBIDDEN | Pool.SPLIT as refusal:
            kind, text = REFUSALS[refusal]
            error = kind(text.format(place.cluster))
            connection.send(Reply(number=ask.number, answer=error))
        case Pool.CRASH | Pool.FREEZE | Pool.EXIT as deed:
            DEEDS[deed]()
        case Pool.LATE:
            time.sleep(0.5)
            connection.send(Reply(number=ask.number, answer=Resynced(ready=False)))
        case Pool.WRONG:
            connection.send(Reply(number=ask.number, answer=Resynced(ready=True)))
        case Pool.GARBAGE:
            connection.send_bytes(b"not a pickle")
        case Pool.BEAT:
            promotions = RunningOperations(name="promote", count=2, oldest=61.5)
            connection.send(
                Beat(
                    operations=(promotions,),
                    silent=True,
                    clients=("a", "b"),
                    connections=2,
                    answered=1_700_000_000.5,
                )
            )
            connection.send(Reply(number=ask.number, answer=None))
        case Pool.HERITAGE:
            left = Located(cluster=place.cluster, pool=" ".join(left_behind), pool_id=place.pool)
            connection.send(Reply(number=ask.number, answer=left))


def answer(call: Call, place: Place) -> Answer:
    """Answer as a worker would that found the volume."""
    if isinstance(call, ResyncCall):
        return Resynced(ready=True)
    if isinstance(call, DestinationCall):
        return Located(cluster=place.cluster, pool="replicapool", pool_id=place.pool)
    if isinstance(call, InfoCall):
        return ReplicationInfo(
            last_sync=1_700_000_000,
            last_sync_seconds=3,
            last_sync_bytes=4096,
            entries_behind=None,
            interval=60,
            schedule_in_place=True,
            daemon_here=True,
            daemon_there=False,
            health=Health.DEGRADED,
            message="the copy is 3 minutes old",
        )
    return None


def describe(connection: Connection) -> None:
    """Say what the Ceph libraries would be."""
    connection.send("librados 0.0, librbd 0.0")


def stubborn(
    connection: Connection, config: Config, name: str, left_behind: tuple[str, ...]
) -> None:
    """Hang, deaf to SIGTERM and to the end of the connection."""
    del connection, config, name, left_behind
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)


def config(directory: Path, *flags: str) -> Config:
    """Return what ``serve`` gets from these flags, with everything below ``directory``."""
    words = ("serve", "--endpoint", f"unix://{directory}/csi.sock", "--driver-name", "rbd.test")
    parsed = parse((*words, "--config-dir", str(directory), "--log-format", "json", *flags), {})
    assert isinstance(parsed, Config)
    return parsed


def place(pool: Pool, cluster: str = "here", *monitors: str) -> Place:
    """Return a place whose pool says what the worker does."""
    return Place(
        cluster=cluster, monitors=monitors or (f"{cluster}:6789",), pool=pool, namespace=""
    )


def demote(pool: int = Pool.ANSWER, cluster: str = "here") -> DemoteCall:
    """Return a call for a volume in this pool."""
    return DemoteCall(
        volume=VolumeId(cluster=cluster, pool=pool, uuid=UUID),
        credentials=Credentials(user="csi", key=KEY),
    )


def workers_of(pid: int) -> list[int]:
    """Return the processes that a process has spawned."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        # threads and processes come and go while we look
        with contextlib.suppress(OSError):
            found += (int(child) for child in children.read_text().split())
    return [child for child in found if b"spawn_main" in _command(child)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":
    # a whole driver as a process, but for Ceph
    import stand_in

    parsed_ = parse(sys.argv[1:], os.environ)
    assert isinstance(parsed_, Config)
    workers_main = stand_in.stubborn if "STUBBORN" in os.environ else stand_in.work
    sys.exit(driver.serve(parsed_, worker=workers_main, describe=stand_in.describe))
