# SPDX-License-Identifier: Apache-2.0
"""What a site's OSD counted, and which operations it served: by client, object class and method."""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import rados

from lab import LabError, Site

_BOUND: Final = 30
_REMEMBERED: Final = 200_000
_USUAL: Final = 20
"""Operations that an OSD remembers by default."""
_OPERATION: Final = re.compile(r"osd_op\(client\.(\d+)\.\S+ \S+ \S+:::(\S+):\w+ \[(.*?)\]")
_COUNTED: Final = ("op", "op_r", "op_w")


class Osd:
    """The one OSD of a site of the lab."""

    def __init__(self, cluster: rados.Rados) -> None:
        self._cluster = cluster

    @classmethod
    @contextmanager
    def of(cls, site: Site) -> "Iterator[Osd]":
        """Connect as administrator for the length of a block."""
        with site.connect() as cluster:
            yield cls(cluster)

    def counters(self) -> Mapping[str, int]:
        """Return how many operations it has served: all, reads, writes."""
        counted = self._ask("perf dump")["osd"]
        return {name: counted[name] for name in _COUNTED}

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Have it remember every operation for the length of a block."""
        self._remember(0)  # forgets what was
        self._remember(_REMEMBERED)
        try:
            yield
        finally:
            self._remember(_USUAL)

    def remembered(self, clients: Collection[int]) -> "Counter[str]":
        """Count what some clients had it do, as ``object: operations``."""
        counted: Counter[str] = Counter()
        for each in self._ask("dump_historic_ops")["ops"]:
            found = _OPERATION.match(each["description"])
            if found and int(found[1]) in clients:
                counted[f"{_kind(found[2])}: {_words(found[3])}"] += 1
        return counted

    def _remember(self, number: int) -> None:
        self._ask("config set", var="osd_op_history_size", val=[str(number)])

    def _ask(self, prefix: str, **arguments: Any) -> Any:
        command = json.dumps({"prefix": prefix, **arguments})
        code, output, status = self._cluster.osd_command(0, command, b"", _BOUND)
        if code:
            raise LabError(f"the OSD refuses {prefix!r}: {status}")
        return json.loads(output)


def clients_of(site: Site, user: str) -> frozenset[int]:
    """Return the numbers under which a user's clients are connected, as the monitor sees them."""
    sessions = json.loads(site.ceph("tell", "mon.a", "sessions"))
    return frozenset(
        each["global_id"] for each in sessions if each["entity_name"] == f"client.{user}"
    )


def _kind(name: str) -> str:
    """Leave out what names a single image."""
    return re.sub(r"\.[0-9a-f-]{10,}.*", ".*", name)


def _words(operations: str) -> str:
    return re.sub(r" in=\d+b| \d+~\d+|call ", "", operations)


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbering:
    """Tells how often anybody connected to a cluster, which numbers its clients as they come.

    How far the number climbs at each differs between releases, so that is seen first.
    """

    site: Site
    step: int
    first: int = field(default=0)

    @classmethod
    def begin(cls, site: Site) -> "Numbering":
        """Connect twice, and count from there."""
        earlier, later = _next(site), _next(site)
        return cls(site=site, step=later - earlier, first=later)

    def connects(self) -> int:
        """Return how often somebody else connected since."""
        return (_next(self.site) - self.first) // self.step - 1


def _next(site: Site) -> int:
    with site.connect() as cluster:
        return cluster.get_instance_id()
