# SPDX-License-Identifier: Apache-2.0
"""Break the driver in one place at a time, and see the conformance suite catch each.

A suite that was never seen to fail proves nothing. Each mutation runs only the cases named for it;
one that no case catches makes the exit code 1.
"""

import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from xml.etree import ElementTree as ET

from rich.console import Console
from rich.table import Table

from lab import Lab

ROOT: Final = Path(__file__).parents[2]
_AT_ONCE: Final = 4
_BOUND: Final = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """One way to break the driver, and the case that must notice."""

    name: str
    file: str
    """Below ``csi_addons_rbd/``."""
    old: str
    new: str
    case: str
    alone: bool = False
    """Whether that case disturbs a site."""
    mode: str = "snapshot"


MUTATIONS: Final = (
    Mutation(
        name="a silent cluster costs every caller its time",
        file="ceph/pulse.py",
        old="            if watched is None or not watched.cause:\n",
        new="            if watched is None or watched:\n",
        case="frame/silent-cluster",
        alone=True,
    ),
    Mutation(
        name="wrong code for what is not mirrored",
        file="replication/errors.py",
        old="class NotEnabled(PreconditionFailed):",
        new="class NotEnabled(NotFound):",
        case="frame/not-enabled",
    ),
    Mutation(
        name="ready as soon as there is a copy",
        file="replication/resync.py",
        old="            return self._await_ready(view)\n",
        new="            return True\n        if view.history.complete:\n            return True\n",
        case="resync/healthy-secondary",
    ),
    Mutation(
        name="resync without a primary elsewhere",
        file="replication/resync.py",
        old="    def _peer_is_primary(self, view: MirrorView) -> bool:\n",
        new="    def _peer_is_primary(self, view: MirrorView) -> bool:\n        return True\n",
        case="resync/daemons-down",
        alone=True,
    ),
    Mutation(
        name="lock released before the work",
        file="replication/operations.py",
        old="            answer = work(after)\n",
        new="            self._running.pop(key, None)\n            answer = work(after)\n",
        case="frame/one-at-a-time",
    ),
    Mutation(
        name="schedule appended instead of replaced",
        file="ceph/schedules.py",
        old="        if wanted is None or not _same(item, wanted):\n",
        new="        if wanted is None:\n",
        case="schedules/exactly-one",
    ),
    Mutation(
        name="a word older than the call is believed",
        file="replication/patience.py",
        old="        return self._before is not None and status",
        new="        return True or status",
        case="promote/planned",
    ),
    Mutation(
        name="librbd's acceptance is taken for a proof",
        file="replication/promote.py",
        old="    lasted = observation.silent_for(view, hindsight)\n",
        new="    if view:\n        return None\n    lasted = 0.0\n",
        case="promote/last-primary",
    ),
    Mutation(
        name="a peer's demotion is taken for the last word",
        file="replication/promote.py",
        old="            return self._peer_demoted_last(view)\n",
        new="            return None\n",
        case="promote/failover-cancelled",
        alone=True,
    ),
    Mutation(
        name="librbd chooses where to go back to",
        file="ceph/mirror.py",
        old="self._prepare_rollback() if force else",
        new="Rollback.NONE if force else",
        case="promote/forced-half-copied",
        alone=True,
    ),
    Mutation(
        name="promote by force what lies between two copies",
        file="replication/promote.py",
        old="        _require_way_back(image.spec, view, observation)\n",
        new="",
        case="promote/forced-half-copied-snapshots",
        alone=True,
    ),
    Mutation(
        name="wait for room in a full pool",
        file="ceph/leases.py",
        old=", flags=_FULL_TRY)",
        new=")",
        case="torn/quota",
        alone=True,
    ),
    Mutation(
        name="believe the note of a schedule",
        file="replication/replicator.py",
        old="kept = as_kept(image, view)\n",
        new="kept = view\n",
        case="schedules/lost",
    ),
    Mutation(
        name="a dead node's lock stays",
        file="replication/holders.py",
        old="    return silent or holder.grip is Grip.FENCED\n",
        new="    return holder.grip is Grip.FENCED\n",
        case="demote/dead-holder",
    ),
    Mutation(
        name="demote under an open writer",
        file="ceph/lockers.py",
        old="    return tuple(holder for holder in held if holder.client not in daemons)\n",
        new="    return ()\n",
        case="demote/open-writer",
    ),
    Mutation(
        name="demote before the peer has followed",
        file="replication/demote.py",
        old='    """Describe the first peer that has yet to follow; empty when there is none."""\n',
        new='    return ""\n',
        case="demote/peer-behind",
        alone=True,
    ),
    Mutation(
        name="demote what a pending resync would delete",
        file="replication/demote.py",
        old="    if image.resync_requested():\n",
        new="    if image is None:\n",
        case="demote/pending-resync",
        alone=True,
    ),
    Mutation(
        name="an image in the trash is not found",
        file="ceph/volumes.py",
        old="    if trashed:\n",
        new="    if not trashed and trashed:\n",
        case="handles/in-trash",
    ),
    Mutation(
        name="absence is said without a search for the uuid",
        file="ceph/volumes.py",
        old="        if rest.found or rest.unfinished:\n",
        new="        if rest.found and not rest.found:\n",
        case="handles/in-another-pool",
        alone=True,
    ),
    Mutation(
        name="where the key may not look, nothing is",
        file="ceph/uuid_search.py",
        old="    return bool(applications) and _OF_IMAGES not in applications\n",
        new="    return bool(applications)\n",
        case="handles/may-not-look",
        alone=True,
    ),
    Mutation(
        name="a short page is the end",
        file="ceph/omaps.py",
        old="    while page := _page(ioctx, name, prefix, after):\n        yield page\n",
        new="    if page := _page(ioctx, name, prefix, after):\n        yield page\n",
        case="handles/odd-names",
        alone=True,
    ),
    Mutation(
        name="a key that is valid on both sites is used on the first",
        file="candidates.py",
        old="    if len({each.fsid for each in accepting}) > 1:\n",
        new="    if not accepting:\n",
        case="handles/key-valid-on-both",
        alone=True,
    ),
    Mutation(
        name="a lost cluster is taken for one that refuses the key",
        file="candidates.py",
        old="    if silent:\n",
        new="    if silent and not silent:\n",
        case="handles/peer-lost",
        alone=True,
    ),
    Mutation(
        name="a group's id is read as a volume",
        file="api/requests.py",
        old='    if source.WhichOneof("type") == "volumegroup":\n',
        new='    if source.WhichOneof("type") == "none":\n',
        case="handles/volume-group",
    ),
    Mutation(
        name="enabled in the other mode is OK",
        file="replication/switching.py",
        old="        if view.mode is not call.mode:\n",
        new="        if view.mode is None:\n",
        case="enable/mode-mismatch",
    ),
    Mutation(
        name="any secondary may be disabled",
        file="replication/switching.py",
        old="    if fault is not None and not force:\n",
        new="    if fault is not None and not force and force:\n",
        case="disable/secondary-of-none",
    ),
    Mutation(
        name="the same handle on both sites",
        file="clusters.py",
        old="            return volume.at(cluster=there, pool=pool_there)\n",
        new="            return volume\n",
        case="destination/symmetric",
    ),
    Mutation(
        name="an address may stand twice",
        file="monitors.py",
        old="        new = tuple(each for each in dict.fromkeys(vector) if each not in seen)\n",
        new="        new = vector\n",
        case="files/monitors-in-every-form",
        alone=True,
    ),
    Mutation(
        name="monitors that do not parse ask for force",
        file="api/controller.py",
        old="            if isinstance(call, PromoteCall):\n",
        new="            if call is None:\n",
        case="files/monitors-that-do-not-parse",
        alone=True,
    ),
    Mutation(
        name="what cannot be read is no reason to doubt",
        file="api/controller.py",
        old="            if not leads.doubt:\n",
        new="            if leads.places:\n",
        case="files/no-absence-beside-a-bad-part",
        alone=True,
    ),
    Mutation(
        name="snapshots without a pause",
        file="replication/keeper.py",
        old="        left = kept.interval - kept.age(view)\n",
        new="        left = 3 - kept.age(view)\n",
        case="schedules/seconds",
    ),
    Mutation(
        name="a promote waits for the manager",
        file="replication/scheduling.py",
        old="_MANAGER_BOUND: Final = 5\n",
        new="_MANAGER_BOUND: Final = 40\n",
        case="schedules/manager-away",
        alone=True,
    ),
    Mutation(
        name="journal mode knows no last sync",
        file="replication/info.py",
        old="    return peer.last_update if report.positions_equal else None\n",
        new="    return None\n",
        case="info/healthy",
        mode="journal",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the suite said of a broken driver."""

    mutation: Mutation
    caught: bool
    words: str
    seconds: float


def main() -> None:
    """Try every mutation, or those whose names hold a word of the command line."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    chosen = [each for each in MUTATIONS if all(word in each.name for word in sys.argv[1:])]
    with TemporaryDirectory(prefix="mutations-") as directory:
        lab = Lab.up(Path(directory) / "lab", say=console.print)
        try:
            outcomes = _try_all(chosen, Path(directory), console)
        finally:
            lab.down()
    _show(outcomes, console)
    sys.exit(any(not each.caught for each in outcomes))


def _try_all(chosen: list[Mutation], directory: Path, console: Console) -> list[Outcome]:
    def attempt(mutation: Mutation) -> Outcome:
        outcome = _try(mutation, directory)
        console.print(f"{'✔' if outcome.caught else '✘'} {mutation.name}  {outcome.seconds:.0f} s")
        return outcome

    with ThreadPoolExecutor(_AT_ONCE) as executor:
        peaceful = list(executor.map(attempt, [each for each in chosen if not each.alone]))
    return peaceful + [attempt(each) for each in chosen if each.alone]


def _try(mutation: Mutation, directory: Path) -> Outcome:
    """Run the case on a broken copy of the driver."""
    began = time.monotonic()
    copy = directory / re.sub(r"\W+", "-", mutation.name)
    shutil.copytree(ROOT / "csi_addons_rbd", copy / "csi_addons_rbd")
    file = copy / "csi_addons_rbd" / mutation.file
    text = file.read_text()
    if text.count(mutation.old) != 1:
        words = f"{mutation.file} does not hold just once: {mutation.old.strip()}"
        return Outcome(mutation=mutation, caught=False, words=words, seconds=0)
    file.write_text(text.replace(mutation.old, mutation.new))
    report = copy / "report.xml"
    driver = (
        f"env PYTHONPATH={copy} {sys.executable} -m csi_addons_rbd serve "
        "--endpoint unix://{socket} --driver-name rbd.csi.ceph.com --config-dir {config_dir} "
        "--state-check-interval {check_interval}"
    )
    done = subprocess.run(
        [
            *(sys.executable, "-m", "csi_addons_conformance", "--once", "--driver", driver),
            *("--lab", str(directory / "lab" / "lab.json"), "--mode", mutation.mode),
            *("--select", mutation.case, "--junit", str(report)),
        ],
        # not the repository: its own driver would be found first
        cwd=copy,
        capture_output=True,
        text=True,
        check=False,
        timeout=_BOUND,
    )
    failure = ET.parse(report).find(".//failure") if report.exists() else None
    words = done.stdout[-200:] if failure is None else failure.attrib["message"]
    return Outcome(
        mutation=mutation,
        caught=failure is not None,
        words=words,
        seconds=time.monotonic() - began,
    )


def _show(outcomes: list[Outcome], console: Console) -> None:
    table = Table(title="Mutations", expand=True)
    for title, ratio in (("mutation", 3), ("file", 2), ("case", 2), ("what it noticed", 6)):
        table.add_column(title, ratio=ratio, overflow="fold")
    table.add_column("caught")
    for each in outcomes:
        table.add_row(
            each.mutation.name,
            each.mutation.file,
            each.mutation.case,
            each.words[:300],
            "✔" if each.caught else "✘",
        )
    console.print(table)
    console.print(f"{sum(each.caught for each in outcomes)} of {len(outcomes)} caught")


if __name__ == "__main__":
    main()
