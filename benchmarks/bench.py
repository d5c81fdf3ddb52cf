# SPDX-License-Identifier: Apache-2.0
"""What a case works with: two sites, load processes, floors, and mirrored volumes."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage

from benchmarks import floor
from benchmarks.aside import Aside
from benchmarks.load import Crew, Target
from benchmarks.rows import Row
from lab import Volume
from lab.volumes import make_volumes

SIZE: Final = 1 << 20
CALLERS: Final = 100
"""What the controller sends at once."""
LOAD_PROCESSES: Final = 4
_PATIENCE: Final = 120.0
_PATIENCE_EACH: Final = 0.6
"""Seconds to wait for rbd-mirror: in any case, and more for each volume."""


@dataclass(slots=True, kw_only=True)
class Bench:
    """Everything that the cases share. Between cases all volumes are primary on dr1."""

    stage: Stage
    command: str
    """The driver's command line; empty when its socket was given."""
    rounds: int
    many: int
    """Volumes of the big cases."""
    crew: Crew
    floors: Mapping[str, Aside]
    say: Callable[[str], None]
    made: list[Volume] = field(default_factory=list)

    @classmethod
    @contextmanager
    def on(
        cls, stage: Stage, *, command: str, rounds: int, many: int, say: Callable[[str], None]
    ) -> "Iterator[Bench]":
        """Start the processes for the length of a block."""
        sites = (stage.here, stage.there)
        targets = {
            each.name: Target(endpoint=each.client.endpoint, secrets=each.client.secrets)
            for each in sites
        }
        with ExitStack() as running:
            yield cls(
                stage=stage,
                command=command,
                rounds=rounds,
                many=many,
                crew=running.enter_context(Crew.of(LOAD_PROCESSES, targets)),
                floors={
                    each.name: running.enter_context(
                        Aside(floor.connect, floor.Access.to(each.site))
                    )
                    for each in sites
                },
                say=say,
            )

    @property
    def here(self) -> SiteUnderTest:
        """dr1."""
        return self.stage.here

    @property
    def there(self) -> SiteUnderTest:
        """dr2."""
        return self.stage.there

    def volumes(self, number: int) -> Sequence[Volume]:
        """Return so many volumes that are primary on dr1, and that dr2 follows."""
        missing = number - len(self.made)
        if missing > 0:
            self.say(f"{missing} volumes are made and copied")
            fresh = make_volumes(self.here.site, SIZE, missing)
            self.crew.each(
                self.here.name,
                "EnableVolumeReplication",
                handles(fresh),
                CALLERS,
                parameters={"mirroringMode": "snapshot"},
            )
            self.await_followed(self.here, fresh)
            # of a first copy drivers, too, learn from its status only
            self._wait(self.here, floor.await_told, fresh)
            self.made += fresh
        return self.made[:number]

    def await_followed(self, site: SiteUnderTest, volumes: Sequence[Volume]) -> None:
        """Wait until the peer has what primaries on a site were when they were promoted."""
        peer = self.there if site is self.here else self.here
        self._wait(peer, floor.await_followed, volumes)

    def await_picked_up(self, site: SiteUnderTest, volumes: Sequence[Volume]) -> None:
        """Wait until a site's rbd-mirror has the last data of volumes that the peer demoted."""
        self._wait(site, floor.await_picked_up, volumes)

    def _wait(
        self,
        site: SiteUnderTest,
        wait: Callable[..., None],
        volumes: Sequence[Volume],
    ) -> None:
        names = [volume.image for volume in volumes]
        patience = _PATIENCE + _PATIENCE_EACH * len(volumes)
        self.floors[site.name].run(wait, names, patience)


def handles(volumes: Iterable[Volume]) -> list[str]:
    """Return how Kubernetes knows them."""
    return [volume.handle for volume in volumes]


Run: TypeAlias = Callable[[Bench], Iterable[Row]]
CASES: Final[dict[str, Run]] = {}
"""Every case by name, in the order in which they run: the big ones last."""


def case(name: str) -> Callable[[Run], Run]:
    """Register a case."""

    def register(run: Run) -> Run:
        CASES[name] = run
        return run

    return register
