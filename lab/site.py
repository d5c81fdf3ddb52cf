# SPDX-License-Identifier: Apache-2.0
"""One site: its configuration, keys and daemons."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import rados

from lab import processes
from lab.mgr_modules import module_path

DAEMONS: Final = ("mon", "osd", "mgr", "rbd-mirror")
SECOND_OSD: Final = "osd.1"
"""The daemon that a site with two OSDs has beside those."""
PROVISIONER: Final = "csi-rbd-provisioner"
_CLI_BOUND: Final = 60
_START_BOUND: Final = 60
_LOG_LINES: Final = 15

_CONF: Final = """\
[global]
fsid = {fsid}
mon host = v2:127.0.0.1:{port}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
run dir = {home}
admin socket =
log file = {home}/$name.log
pid file =
keyring = {home}/keyring
mon data = {home}/mon.data
mgr data = {home}/mgr.data
mgr module path = {modules}
osd data = {home}/osd.data
osd objectstore = memstore
memstore device bytes = 2G
# an orderly end writes the memory out; a fast one would lose it
osd fast shutdown = false
osd mon shutdown timeout = 1
# one that was frozen is marked down by hand each time: see its thaw
osd max markdown count = 10000
osd pool default pg autoscale mode = off
ms bind msgr1 = false
crash dir = {home}
# how long the monitor gathers changes before it writes them down (default 1 s)
paxos propose interval = 0.05
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon data avail warn = 1
mon data avail crit = 1
auth allow insecure global id reclaim = false
mgr initial modules = rbd_support
# a change of state shows within seconds rather than half a minute
rbd mirror pool replayers refresh interval = 2
rbd mirror image state check interval = {check_interval}
rbd mirror leader heartbeat interval = 1

# without a socket these two would never answer 'ceph tell', either
[mon]
admin socket = {home}/$name.asok
[osd]
admin socket = {home}/$name.asok
[osd.1]
osd data = {home}/osd.1.data
"""
CHECK_INTERVAL: Final = 5
"""``rbd_mirror_image_state_check_interval`` of both sites, in seconds."""

DATA_POOL: Final = "bulk"
"""A pool for the data of images, which the driver's user may use; who needs it makes it."""

_KEYS: Final = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "osd": "allow *", "mgr": "allow *"},
    "mgr.x": {"mon": "allow profile mgr", "osd": "allow *", "mds": "allow *"},
    "osd.0": {"mon": "allow profile osd", "mgr": "allow profile osd", "osd": "allow *"},
    "osd.1": {"mon": "allow profile osd", "mgr": "allow profile osd", "osd": "allow *"},
    "client.rbd-mirror": {"mon": "profile rbd-mirror", "osd": "profile rbd"},
}


def driver_caps(*pools: str) -> dict[str, str]:
    """Return what the driver needs for its pools, and no more: docs/reference/caps.md."""
    profile = ", ".join(f"profile rbd pool={pool}" for pool in pools)
    return {"mon": "profile rbd", "osd": profile, "mgr": profile}


class LabError(Exception):
    """The lab cannot do what was asked; the text says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One site of a lab that is up."""

    name: str
    home: Path
    ceph_conf: Path
    monitors: tuple[str, ...]
    fsid: str
    cluster_id: str
    pool: str
    pool_id: int
    config_dir: Path
    secrets: dict[str, str] = field(repr=False)
    """What the driver gets: ``userID`` and ``userKey`` of a least-privilege user."""

    def ceph(self, *arguments: str) -> str:
        """Run ``ceph`` with an administrator's rights and return what it prints."""
        return run(self.home, "ceph", *arguments)

    def rbd(self, *arguments: str) -> str:
        """Run ``rbd`` with an administrator's rights and return what it prints."""
        return run(self.home, "rbd", *arguments)

    @contextmanager
    def connect(self) -> Iterator[rados.Rados]:
        """Lend an administrator's connection, independent of every driver's."""
        cluster = rados.Rados(conffile=str(self.ceph_conf), rados_id="admin")
        cluster.connect()
        try:
            yield cluster
        finally:
            cluster.shutdown()

    @contextmanager
    def ioctx(self, namespace: str = "") -> Iterator[rados.Ioctx]:
        """Lend the site's mirrored pool."""
        with self.connect() as cluster, cluster.open_ioctx(self.pool) as ioctx:
            ioctx.set_namespace(namespace)
            yield ioctx

    def pids(self) -> dict[str, int | None]:
        """Return each daemon's pid, ``None`` when it does not run."""
        return {daemon: processes.pid_of(self.home, daemon) for daemon in daemons_of(self.home)}

    def osd_of(self, name: str) -> str:
        """Return the daemon that keeps an object of the mirrored pool."""
        placed = json.loads(self.ceph("osd", "map", self.pool, name, "--format", "json"))
        return SECOND_OSD if placed["acting_primary"] == 1 else "osd"

    def signal(self, daemon: str, number: signal.Signals) -> None:
        """Send a signal to one daemon, such as SIGSTOP and SIGCONT to freeze and thaw it."""
        processes.send(self.home, daemon, number)

    def kill(self, *daemons: str) -> None:
        """End daemons (all of them by default) as a lost site would, but for the OSD.

        memstore keeps its data in memory and writes it out only on an orderly end, so the
        OSD gets SIGTERM, and gets it first: what comes back is what was there.
        """
        chosen = daemons or daemons_of(self.home)[::-1]
        for daemon in sorted(chosen, key=lambda each: not each.startswith("osd")):
            first = signal.SIGTERM if daemon.startswith("osd") else signal.SIGKILL
            processes.end(self.home, daemon, first=first, patience=20)

    def stop(self, *daemons: str) -> None:
        """End daemons in order, as who restarts them does."""
        for daemon in daemons:
            processes.end(self.home, daemon, first=signal.SIGTERM, patience=20)

    def start(self, *daemons: str) -> None:
        """Start daemons (all of them by default) and wait until the site serves."""
        for daemon in daemons or daemons_of(self.home):
            if processes.pid_of(self.home, daemon) is None:
                start_daemon(self.home, daemon)
        wait_until(self.home, self._serves, "serve")

    def _serves(self) -> bool:
        """Tell whether every placement group is there: a restarted OSD needs a moment.

        One that trims snapshots serves, and may do so for minutes.
        """
        groups = json.loads(self.ceph("pg", "stat", "--format", "json"))["pg_summary"]
        states = groups["num_pg_by_state"]
        return bool(states) and all(state["name"].startswith("active+clean") for state in states)


def daemons_of(home: Path) -> tuple[str, ...]:
    """Return the daemons that a site has, running or not."""
    mon, osd, *others = DAEMONS
    second = (SECOND_OSD,) if (home / f"{SECOND_OSD}.data").exists() else ()
    return (mon, osd, *second, *others)


def build(home: Path, *, name: str, pool: str, extra_pool: bool, osds: int = 1) -> Site:
    """Make one site from nothing: monitor, one or two OSDs, manager and a pool to be mirrored."""
    home.mkdir(parents=True, mode=0o700)
    fsid, port = str(uuid.uuid4()), free_port()
    conf = {"fsid": fsid, "port": port, "modules": module_path(home)}
    (home / "ceph.conf").write_text(_CONF.format(home=home, check_interval=CHECK_INTERVAL, **conf))
    key = _make_keys(home, driver_caps(pool, DATA_POOL))
    _make_monitor(home, fsid, port)
    start_daemon(home, "mon")
    for number in range(osds):
        _make_osd(home, number)
        start_daemon(home, SECOND_OSD if number else "osd")
    start_daemon(home, "mgr")
    wait_until(home, lambda: "HEALTH_OK" in run(home, "ceph", "health"), "become healthy")
    if extra_pool:
        run(home, "ceph", "osd", "pool", "create", "other")
    run(home, "ceph", "osd", "pool", "create", pool)
    run(home, "rbd", "pool", "init", pool)
    run(home, "rbd", "mirror", "pool", "enable", pool, "image", "--site-name", name)
    pools = {
        each["poolname"]: each["poolnum"]
        for each in json.loads(run(home, "ceph", "osd", "lspools", "--format", "json"))
    }
    return Site(
        name=name,
        home=home,
        ceph_conf=home / "ceph.conf",
        monitors=(f"v2:127.0.0.1:{port}",),
        fsid=fsid,
        cluster_id=f"site-{name}",
        pool=pool,
        pool_id=pools[pool],
        config_dir=home / "ceph-csi-config",
        secrets={"userID": PROVISIONER, "userKey": key},
    )


def start_daemon(home: Path, daemon: str) -> None:
    """Start one daemon of a site in the foreground mode, so that its pid is known."""
    conf = str(home / "ceph.conf")
    argv = {
        "mon": ["ceph-mon", "-f", "-c", conf, "-i", "a"],
        "osd": ["ceph-osd", "-f", "-c", conf, "-i", "0"],
        SECOND_OSD: ["ceph-osd", "-f", "-c", conf, "-i", "1"],
        "mgr": ["ceph-mgr", "-f", "-c", conf, "-i", "x"],
        "rbd-mirror": ["rbd-mirror", "-f", "-c", conf, "-n", "client.rbd-mirror"],
    }[daemon]
    # rbd-mirror finds its own cluster only through the environment, whatever -c says
    processes.start(argv, home=home, name=daemon, env={"CEPH_CONF": conf})


def run(home: Path, *argv: str) -> str:
    """Run a Ceph tool against a site; raises LabError with what it said."""
    try:
        done = subprocess.run(
            argv,
            check=False,
            capture_output=True,
            text=True,
            timeout=_CLI_BOUND,
            env={**os.environ, "CEPH_ARGS": "", "CEPH_CONF": str(home / "ceph.conf")},
        )
    except subprocess.TimeoutExpired as exc:
        raise LabError(
            f"{home.name}: '{' '.join(argv)}' did not end within {_CLI_BOUND} s\n{log_ends(home)}"
        ) from exc
    if done.returncode != 0:
        raise LabError(f"{home.name}: '{' '.join(argv)}' failed: {done.stderr.strip()}")
    return done.stdout


def wait_until(home: Path, done: Callable[[], bool], what: str) -> None:
    """Look until something is so; says which daemon is missing when it never comes."""
    deadline = time.monotonic() + _START_BOUND
    while not done():
        if time.monotonic() > deadline or _dead(home):
            raise LabError(f"{home.name} did not {what}\n{log_ends(home)}")
        time.sleep(0.3)


def _dead(home: Path) -> bool:
    """Tell whether a daemon that was started has ended by itself."""
    started = (each for each in daemons_of(home) if (home / f"{each}.pid").exists())
    return any(processes.pid_of(home, daemon) is None for daemon in started)


def log_ends(home: Path) -> str:
    """Return which daemons run, and the end of the logs of those that do not."""
    text = []
    for daemon in daemons_of(home):
        log = home / f"{daemon}.out"
        if processes.pid_of(home, daemon) is not None or not log.exists():
            continue
        lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        text.append(f"{home.name}: {daemon} does not run; the end of {log}:")
        text += [f"    {line}" for line in lines]
    return "\n".join(text) or f"{home.name}: all daemons started run"


def require_tools() -> None:
    """Say which packages to install when a tool is missing."""
    tools = ("ceph-mon", "ceph-osd", "ceph-mgr", "rbd-mirror", "ceph", "rbd", "monmaptool")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        raise LabError(
            f"missing here: {', '.join(missing)}; install ceph-mon ceph-osd ceph-mgr ceph-base "
            "ceph-common rbd-mirror ('make setup' does)"
        )


def ceph_version() -> str:
    """Return the release of the daemons that make a lab here, such as ``16.2.15``."""
    done = subprocess.run(["ceph-osd", "--version"], check=True, capture_output=True, text=True)
    return done.stdout.split()[2]


def _make_keys(home: Path, of_driver: dict[str, str]) -> str:
    """Make every key of the site; return the provisioner's."""
    keyring = str(home / "keyring")
    for name, caps in {**_KEYS, f"client.{PROVISIONER}": of_driver}.items():
        arguments = [part for service, cap in caps.items() for part in ("--cap", service, cap)]
        create = [] if (home / "keyring").exists() else ["--create-keyring"]
        run(home, "ceph-authtool", keyring, *create, "--gen-key", "-n", name, *arguments)
    printed = run(home, "ceph-authtool", keyring, "-n", f"client.{PROVISIONER}", "--print-key")
    return printed.strip()


def _make_monitor(home: Path, fsid: str, port: int) -> None:
    monmap, keyring, conf = str(home / "monmap"), str(home / "keyring"), str(home / "ceph.conf")
    address = f"[v2:127.0.0.1:{port}]"
    run(home, "monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, monmap)
    run(home, "ceph-mon", "-c", conf, "--mkfs", "-i", "a", "--monmap", monmap, "--keyring", keyring)


def _make_osd(home: Path, number: int) -> None:
    identity, name = str(uuid.uuid4()), f"osd.{number}"
    run(home, "ceph", "osd", "new", identity)
    run(home, "ceph", "auth", "import", "-i", str(home / "keyring"))
    (home / f"{SECOND_OSD if number else 'osd'}.data").mkdir()
    conf, numbered = str(home / "ceph.conf"), ("-i", str(number))
    run(home, "ceph-osd", "-c", conf, *numbered, "--mkfs", "--osd-uuid", identity)
    run(home, "ceph", "osd", "crush", "add", name, "1", "host=lab", "root=default")


def free_port() -> int:
    """Return a free port below the range from which the kernel takes ports by itself."""
    for _ in range(100):
        port = random.randrange(20_000, 32_000)  # noqa: S311 - spreads labs, hides nothing
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise LabError("no free port between 20000 and 32000 on 127.0.0.1")
