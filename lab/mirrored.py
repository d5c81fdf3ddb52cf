# SPDX-License-Identifier: Apache-2.0
"""The lab: two sites, each mirroring the other's pool, and the files a driver there reads."""

import json
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Self

from lab import processes
from lab.site import LabError, Site, build, daemons_of, require_tools, run, wait_until
from lab.volumes import Volume, make_volume

SITES: Final = ("dr1", "dr2")
_FILE: Final = "lab.json"


@dataclass(frozen=True, slots=True)
class Lab:
    """Two sites that are up, or were."""

    directory: Path
    sites: dict[str, Site]

    @classmethod
    def up(
        cls,
        directory: Path,
        *,
        pool: str = "replicapool",
        osds: int = 1,
        say: Callable[[str], None] = print,
    ) -> Self:
        """Start two sites from nothing, in about 20 seconds.

        With two ``osds`` each, a part of a site can be silent while the rest answers.

        Raises:
            LabError: something did not start; whatever did is stopped again.
        """
        directory = directory.absolute()
        require_tools()
        if any((directory / name).exists() for name in SITES):
            raise LabError(f"{directory} holds a lab already; end it and remove the directory")
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            with _step("two Ceph sites: monitor, OSD, manager, pool", say):
                sites = _build_sites(directory, pool, osds)
            with _step("rbd-mirror on both, each with the other as its peer", say):
                _mirror(directory, sites)
            for site, peer in (sites, sites[::-1]):
                _write_config(site, peer)
        except BaseException:
            _end(directory)
            raise
        lab = cls(directory, {site.name: site for site in sites})
        lab._save()
        return lab

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Return the lab that was started in a directory."""
        directory = directory.absolute()
        try:
            values = json.loads((directory / _FILE).read_text())
        except FileNotFoundError as exc:
            raise LabError(f"no lab in {directory}; start one with 'up {directory}'") from exc
        return cls(directory, {name: _load_site(site) for name, site in values["sites"].items()})

    def make_volume(self, site: str, size: int, **options: Any) -> Volume:
        """Make a volume of ``size`` bytes on a site, as ceph-csi would."""
        return make_volume(self.sites[site], size, **options)

    def down(self) -> None:
        """End every daemon of both sites; files stay. Harmless to repeat."""
        _end(self.directory)

    def _save(self) -> None:
        values = {
            "sites": {
                name: {**asdict(site), "pids": site.pids()} for name, site in self.sites.items()
            }
        }
        file = self.directory / _FILE
        file.touch(mode=0o600)
        file.write_text(json.dumps(values, indent=2, default=str) + "\n")


class _step:  # noqa: N801 - read as a statement
    """Say what begins, and in how many seconds it was done."""

    def __init__(self, what: str, say: Callable[[str], None]) -> None:
        self._what, self._say = what, say

    def __enter__(self) -> None:
        self._began = time.monotonic()
        self._say(f"{self._what} …")

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._say(f"{self._what}: done in {time.monotonic() - self._began:.1f} s")


def _load_site(values: dict[str, Any]) -> Site:
    values = {key: value for key, value in values.items() if key != "pids"}
    for key in ("home", "ceph_conf", "config_dir"):
        values[key] = Path(values[key])
    values["monitors"] = tuple(values["monitors"])
    return Site(**values)


def _build_sites(directory: Path, pool: str, osds: int) -> tuple[Site, Site]:
    # one pool more on dr2 gives the mirrored pools different ids, as in real life
    with ThreadPoolExecutor(len(SITES)) as executor:
        first, second = (
            executor.submit(
                build, directory / name, name=name, pool=pool, extra_pool=extra, osds=osds
            )
            for name, extra in zip(SITES, (False, True), strict=True)
        )
    return first.result(), second.result()


def _mirror(directory: Path, sites: tuple[Site, Site]) -> None:
    first, second = sites
    for site in sites:
        site.start("rbd-mirror")
    peer = ("mirror", "pool", "peer", "bootstrap")
    token = directory / "token"
    token.touch(mode=0o600)
    token.write_text(first.rbd(*peer, "create", "--site-name", first.name, first.pool))
    join = ("import", "--site-name", second.name, "--direction", "rx-tx", second.pool, str(token))
    second.rbd(*peer, *join)
    token.unlink()
    try:
        _await_mirroring(sites)
    except LabError:
        # on a busy machine an rbd-mirror was seen to run and never to meet its peer; which of the
        # two it is cannot be told, as what one site reads is written by the other's
        for site in sites:
            site.stop("rbd-mirror")
            site.start("rbd-mirror")
        _await_mirroring(sites)


def _await_mirroring(sites: tuple[Site, Site]) -> None:
    for site in sites:
        wait_until(site.home, lambda site=site: _mirrors(site), "mirror")  # type: ignore[misc]


def _mirrors(site: Site) -> bool:
    info = json.loads(
        run(site.home, "rbd", "mirror", "pool", "info", site.pool, "--format", "json")
    )
    status = json.loads(
        run(site.home, "rbd", "mirror", "pool", "status", site.pool, "--format", "json")
    )
    met = any(peer.get("mirror_uuid") for peer in info["peers"])
    return met and status["summary"]["daemon_health"] == "OK"


def _write_config(site: Site, peer: Site) -> None:
    """Write the files that ceph-csi's driver, and ours, read on this site.

    dr2's mapping has Rook's spelling of the keys, dr1's has ceph-csi's: both are met in life.
    """
    clusters = {site.cluster_id: peer.cluster_id}
    pools = [{str(site.pool_id): str(peer.pool_id)}]
    names = ("clusterIDMapping", "RBDPoolIDMapping")
    if site.name != SITES[0]:
        names = ("ClusterIDMapping", "RBDPoolIDMapping")
    config = {
        "clusterID": site.cluster_id,
        "monitors": list(site.monitors),
        "rbd": {"radosNamespace": ""},
    }
    site.config_dir.mkdir()
    mapping = dict(zip(names, (clusters, pools), strict=True))
    (site.config_dir / "config.json").write_text(json.dumps([config], indent=2))
    (site.config_dir / "cluster-mapping.json").write_text(json.dumps([mapping], indent=2))


def _end(directory: Path) -> None:
    for name in SITES:
        for daemon in reversed(daemons_of(directory / name)):
            processes.end(directory / name, daemon, first=signal.SIGTERM, patience=5)
