# SPDX-License-Identifier: Apache-2.0
"""``python -m tests.parsers.joined``: what is good in configuration files, beside what is bad.

Each file joins good parts with bad ones at every level: monitors in one text, texts, entries, keys,
pairs of pools and clusters. It is read as the driver reads it, and every good part must be in use.
What comes of the monitors is parsed by the real librados, in a process of its own: it must neither
refuse it nor abort. The seed and the number of a file tell it again.
"""

import argparse
import json
import logging
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import structlog

from csi_addons_rbd.clusters import ClusterMap
from csi_addons_rbd.metrics import Metrics
from csi_addons_rbd.monitors import resolve_monitors
from csi_addons_rbd.replication.volume_id import VolumeId

_UUID: Final = "11111111-2222-3333-4444-555555555555"
_SLOWEST: Final = 2.0
"""Seconds that one file may take."""
_ADDRESSES: Final = {"localhost": ("127.0.0.1", "::1"), "mon.example": ("127.0.3.3",)}
"""What names stand for; others have no address."""

_BAD_PIECES: Final = (
    "[", "]", "[]", "[[", "]]", "[v2:127.0.9.9:x]", "[v2:127.0.9.9:3300", "v1:127.0.9.9:6789]",
    "v3:127.0.9.9", "127.0.9.9:99999", "127.0.9.9:-1", "256.0.0.1", "127.1", "0.0.0.0:6789", "-",
    "http://127.0.9.9", "[fe80::1%lo]:6789", "[::", "::1]", ":6789", "v2:", "/0", "é", "a" * 70,
    "no-such.example", "[v2:no-such.example:3300,v1:127.0.9.9:6789]", "[-,-]", "mon-.x",
    # what a pattern may try in very many ways
    ":" * 2000 + "/x", "1:" * 1000 + "/x", "[" + ":" * 2000, "a." * 1000 + ":",
)  # fmt: skip
_BAD_TEXTS: Final = (7, None, True, 1.5, {}, [], "\0", "\ud800", "x" * 20_000, "[" * 9_000)
_VALUES: Final = (
    7,
    -1,
    None,
    True,
    1.5,
    "",
    " ",
    "x",
    "\0",
    "\ud800",
    [],
    {},
    [[]],
    [None],
    {"": 7},
)
_BAD_BYTES: Final = (
    '{"clusterID": "bad\udcff", "monitors": ["127.0.0.1"]}',
    '{"clusterID": "\udcfcber"}',
    '{"clusterID": "bad\nbad", "\udcff": "\udcfe\t"}',
)
"""Entries with bytes that are no UTF-8, and line breaks within texts."""
_BAD_POOLS: Final = ("N/A", "", "-1", "1.5", "0x1", "9" * 30, None, True, 1.5, [], {}, -1, 10**40)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What of a good entry must be in use."""

    addresses: frozenset[str]
    namespace: str


@dataclass(slots=True, kw_only=True)
class Case:
    """The two files, and what must come of them."""

    config: list[str] = field(default_factory=list)
    """Entries, as JSON."""
    mapping: list[str] = field(default_factory=list)
    clusters: dict[str, Wanted] = field(default_factory=dict)
    spoilt: set[str] = field(default_factory=set)
    """Clusters whose entry cannot be used."""
    pairs: set[tuple[str, int, str, int]] = field(default_factory=set)
    """Pools that are mapped to each other."""


class Maker:
    """Makes files by chance."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance

    def case(self) -> Case:
        """Return a pair of files in which good and bad parts stand in any order."""
        case = Case()
        for number in range(self._chance.randint(1, 3)):
            case.config.append(self._good_entry(f"good-{number}", case))
        for number in range(self._chance.randint(0, 4)):
            case.config.append(self._bad_entry(f"bad-{number}", case))
        if self._often():
            # of two with one id the first counts, and the bad one must not take its place
            case.config.append(self._bad_entry("good-0", Case()))
        if self._often():
            case.config.append(self._chance.choice(_BAD_BYTES))
        self._chance.shuffle(case.config)
        for _ in range(self._chance.randint(0, 3)):
            case.mapping.append(self._pairs(case))
        for _ in range(self._chance.randint(0, 2)):
            case.mapping.append(_dump(self._chance.choice((*_VALUES, {"clusterIDMapping": ["a"]}))))
        self._chance.shuffle(case.mapping)
        return case

    def _often(self) -> bool:
        return self._chance.random() < 0.4

    # --- config.json ---------------------------------------------------------------------

    def _good_entry(self, name: str, case: Case) -> str:
        texts, addresses = self._monitors()
        namespace = self._chance.choice(("", "tenant"))
        case.clusters[name] = Wanted(addresses=addresses, namespace=namespace)
        pairs = [("clusterID", name), ("monitors", texts)]
        if namespace or self._often():
            pairs.append(("rbd", {"RadosNamespace": namespace or None}))
        if self._often():
            pairs.append(("replicationDestination", self._chance.choice(_VALUES)))
        return self._object(pairs)

    def _bad_entry(self, name: str, case: Case) -> str:
        kind = self._chance.randrange(5)
        if kind == 0:
            return _dump(self._chance.choice(_VALUES))
        if kind == 1:
            nameless = self._chance.choice((7, None, "", [], {}, "\0", "\ud800"))
            return self._object([("clusterID", nameless), ("monitors", ["127.0.0.1"])])
        case.spoilt.add(name)
        if kind == 2:
            monitors = self._chance.choice(("x y z??", {}, 7, [7], ["v3:x"], ["["], [], None))
            return self._object([("clusterID", name), ("monitors", monitors)])
        rbd = self._chance.choice((7, [], "x", {"radosNamespace": 7}, {"radosNamespace": "\0"}))
        return self._object([("clusterID", name), ("monitors", ["127.0.0.1"]), ("rbd", rbd)])

    def _object(self, pairs: Sequence[tuple[str, Any]]) -> str:
        """Return an object in whose keys case, order, nulls and the unknown vary."""
        members = [(self._case(key), value) for key, value in pairs]
        if self._often():
            members += [(self._case(key), None) for key, _ in pairs]
        if self._often():
            members.append((f"unknown-{self._chance.random()}", self._chance.choice(_VALUES)))
        texts = [f"{json.dumps(key)}: {_dump(value)}" for key, value in members]
        if self._chance.random() < 0.05:
            depth = self._chance.choice((70, 2000))
            texts.append(f'"deep": {"[" * depth}{"]" * depth}')
        self._chance.shuffle(texts)
        return "{" + ", ".join(texts) + "}"

    def _case(self, key: str) -> str:
        return self._chance.choice((key, key, key.lower(), key.upper(), key.title()))

    def _monitors(self) -> tuple[list[Any], frozenset[str]]:
        """Return monitors among which bad ones stand, and the addresses of the good ones."""
        pieces: list[str] = []
        addresses: set[str] = set()
        for _ in range(self._chance.randint(1, 6)):
            piece, found = self._piece()
            pieces.append(piece)
            addresses |= found
        if self._often():  # what librados aborts on
            pieces += self._chance.choices(pieces, k=self._chance.randint(1, 4))
        pieces += self._chance.choices(_BAD_PIECES, k=self._chance.choice((0, 0, 1, 2, 5)))
        self._chance.shuffle(pieces)
        texts: list[Any] = []
        while pieces:
            several = [pieces.pop() for _ in range(min(len(pieces), self._chance.randint(1, 5)))]
            texts.append(self._chance.choice((",", " ", ";", ", ", ",,", "\n")).join(several))
        texts += self._chance.choices(_BAD_TEXTS, k=self._chance.choice((0, 0, 1, 2)))
        self._chance.shuffle(texts)
        return texts, frozenset(addresses)

    def _piece(self) -> tuple[str, set[str]]:
        """Return one good monitor in any form, and its addresses."""
        host = self._chance.choice(("127.0.0.1", "127.0.0.2", "127.0.0.3", "[::1]", "mon.example"))
        port = self._chance.choice((3300, 6789, 7000, 7001))
        known = "127.0.3.3" if host == "mon.example" else host
        two = f"v2:{known}:{port}", f"v1:{known}:{port + 1}"
        nonce = self._chance.choice(("", "", "/0", "/7"))
        match self._chance.randrange(6):
            case 0:
                return f"[v2:{host}:{port}{nonce},v1:{host}:{port + 1}{nonce}]", set(two)
            case 1:
                return f"[ v1:{host}:{port + 1}{nonce} ; v2:{host}:{port} ]", set(two)
            case 2:
                return f"v2:{host}:{port}{nonce}", {two[0]}
            case 3:
                return f"v1:{host}", {f"v1:{known}:6789"}
            case 4:
                return f"any:{host}{nonce}", {f"v2:{known}:3300", f"v1:{known}:6789"}
            case _:
                kinds = {3300: ("v2",), 6789: ("v1",)}.get(port, ("v2", "v1"))
                return f"{host}:{port}{nonce}", {f"{kind}:{known}:{port}" for kind in kinds}

    # --- cluster-mapping.json ------------------------------------------------------------

    def _pairs(self, case: Case) -> str:
        """Return an entry whose good pairs stand among bad ones."""
        names = [*case.clusters, *sorted(case.spoilt), "elsewhere"]
        clusters: dict[str, Any] = {"unused": self._chance.choice((7, None, [], "\ud800", "x"))}
        left, right = self._chance.sample(names, 2)
        clusters[left] = right
        pools: list[Any] = []
        for _ in range(self._chance.randint(1, 3)):
            here, there = self._chance.randint(1, 5), self._chance.randint(6, 9)
            good = {f"{here}": self._chance.choice((there, f"{there}"))}
            bad = {f"{self._chance.randint(20, 29)}": self._chance.choice(_BAD_POOLS)}
            pools.append(good | bad if self._often() else good)
            case.pairs.add((left, here, right, there))
        pools += self._chance.choices((7, "x", None, [], {"x": "1"}), k=self._chance.choice((0, 1)))
        self._chance.shuffle(pools)
        return self._object([("clusterIDMapping", clusters), ("RBDPoolIDMapping", pools)])


def _dump(value: Any) -> str:
    return json.dumps(value)


# --- what must come of it -----------------------------------------------------------------


def judge(clusters: ClusterMap, case: Case) -> Iterator[str]:
    """Check that what is good is in use; yield the monitors of each cluster."""
    for name, wanted in case.clusters.items():
        leads = clusters.leads(VolumeId(cluster=name, pool=1, uuid=_UUID))
        own = leads.places[0]
        assert (own.cluster, own.pool, own.namespace) == (name, 1, wanted.namespace)
        monitors = resolve_monitors(own.monitors, lambda host: _ADDRESSES.get(host, ()))
        members = [each for text in monitors for each in text.removeprefix("[").split(",")]
        members = [_closed(each) for each in members]
        assert wanted.addresses <= set(members), wanted.addresses - set(members)
        assert len(members) == len(set(members))
        yield ",".join(monitors)
    for left, here, right, there in case.pairs:
        for one, pool, other, its in ((left, here, right, there), (right, there, left, here)):
            if one in case.clusters and other in case.clusters | dict.fromkeys(case.spoilt):
                leads = clusters.leads(VolumeId(cluster=one, pool=pool, uuid=_UUID))
                usable = other in case.clusters
                assert usable is (
                    (other, its) in {(each.cluster, each.pool) for each in leads.places}
                )
                assert usable or leads.doubt


def _closed(member: str) -> str:
    """Return a member of a vector without the vector's bracket."""
    return member.removesuffix("]") if member.count("]") > member.count("[") else member


def run(files: int, seed: int) -> int:
    """Read so many files; return how many lists of monitors librados was given.

    Raises:
        AssertionError: naming the file.
    """
    lists: dict[str, None] = {}
    metrics = Metrics(version="0", driver_name="parsers")
    slowest = 0.0
    with tempfile.TemporaryDirectory(prefix="parsers-") as name:
        directory = Path(name)
        for number in range(files):
            case = Maker(random.Random(f"{seed}/{number}")).case()  # noqa: S311 - no secret
            config = f"[{', '.join(case.config)}]"
            (directory / "config.json").write_text(config, errors="surrogateescape")
            (directory / "cluster-mapping.json").write_text(f"[{', '.join(case.mapping)}]")
            began = time.monotonic()
            clusters = ClusterMap(directory, metrics)
            try:
                lists |= dict.fromkeys(judge(clusters, case))
                _spoil(directory, clusters, case, number)
                slowest = max(slowest, time.monotonic() - began)
                assert slowest < _SLOWEST
            except Exception:
                print(f"file {number} of seed {seed}:\n{case.config}\n{case.mapping}")
                raise
    _parse_in_librados(list(lists))
    print(
        f"{2 * files} files, the slowest read in {slowest:.3f} s; "
        f"{len(lists)} lists of monitors parsed by librados; nothing good was lost"
    )
    return len(lists)


def _spoil(directory: Path, clusters: ClusterMap, case: Case, number: int) -> None:
    """Break both files as wholes: the last good version stays in use, and leaves a doubt."""
    for file in ("config.json", "cluster-mapping.json"):
        whole = (directory / file).read_bytes()
        endless = b'["' + rb"\"" * 50_000
        ways = (b"", b"7", b'{"a": []}', whole[:-1], b"\xff" + whole, b"[" * 5_000, endless)
        (directory / file).write_bytes(ways[(number + len(whole)) % len(ways)])
    for _ in judge(clusters, case):
        pass
    doubt = clusters.leads(VolumeId(cluster="good-0", pool=1, uuid=_UUID)).doubt
    assert "config.json" in doubt
    assert "cluster-mapping.json" in doubt


def _parse_in_librados(lists: Sequence[str]) -> None:
    """Have librados parse each list in one other process."""
    command = [sys.executable, "-m", "tests.parsers.joined", "--be-librados"]
    done = subprocess.run(
        command, input="\n".join(lists), capture_output=True, text=True, check=False
    )
    parsed = done.stdout.splitlines()
    if done.returncode or len(parsed) != len(lists):
        raise AssertionError(f"librados ended with {done.returncode} at {lists[len(parsed)]!r}")
    refused = [each for each, how in zip(lists, parsed, strict=True) if how != "ObjectNotFound"]
    assert not refused, refused[:3]


def _be_librados(lists: Iterable[str]) -> None:
    """Parse lists of monitors, and say how each ended: no monitor has the name asked for."""
    import rados  # noqa: PLC0415 - it may end the process

    for each in lists:
        cluster = rados.Rados(rados_id="nobody", conf={"mon_host": each.strip()})
        try:
            cluster.ping_monitor("no-such-monitor")
        except rados.Error as exc:
            print(type(exc).__name__, flush=True)
        finally:
            cluster.shutdown()


def main() -> None:
    """Read the command line, and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.parsers.joined")
    parser.add_argument("--pairs", type=int, default=10_000, help="of files (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="for chance (%(default)s)")
    parser.add_argument("--be-librados", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be_librados:
        _be_librados(sys.stdin)
        return
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    run(options.pairs, options.seed)


if __name__ == "__main__":
    main()
