# SPDX-License-Identifier: Apache-2.0
"""The faults: each strikes dr1 for the length of a block, and is gone after it."""

import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Final, TypeAlias

import rados
import rbd

from csi_addons_conformance.case import poll
from csi_addons_conformance.faults.cells import Cell
from csi_addons_conformance.faults.namespace import dropped
from csi_addons_conformance.sites import SiteUnderTest
from lab.site import PROVISIONER, driver_caps

Strike: TypeAlias = Callable[[SiteUnderTest, Sequence[Cell]], AbstractContextManager[None]]

_PASSING: Final = ("OK", "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One way in which a site fails."""

    name: str
    strike: Strike
    codes: tuple[str, ...] = _PASSING
    """What any call may answer while it lasts."""
    refuses: str = ""
    """The one call that may be refused as a failed precondition, too."""
    heals_in: float = 30
    """Seconds, from when the cluster answers again, after which every call works again."""
    because: str = ""
    """Why that is more than 30."""
    drops_packets: bool = False
    """Whether it needs a network namespace of its own."""
    wrong_key: bool = False
    """Whether the calls bring another key than the cluster's."""


@contextmanager
def _frozen(site: SiteUnderTest, daemon: str) -> Iterator[None]:
    with site.frozen(daemon):
        yield


@contextmanager
def _killed(site: SiteUnderTest, daemon: str) -> Iterator[None]:
    with site.without(daemon):
        yield


@contextmanager
def _no_route(site: SiteUnderTest, _: Sequence[Cell]) -> Iterator[None]:
    with dropped(_ports(site)):
        yield


def _ports(site: SiteUnderTest) -> set[int]:
    """Return the ports on which monitor, OSD and manager listen."""
    addresses = [
        *json.loads(site.site.ceph("mon", "dump", "--format", "json"))["mons"][0]["public_addrs"][
            "addrvec"
        ],
        *json.loads(site.site.ceph("osd", "dump", "--format", "json"))["osds"][0]["public_addrs"][
            "addrvec"
        ],
        *json.loads(site.site.ceph("mgr", "dump", "--format", "json"))["active_addrs"]["addrvec"],
    ]
    return {int(each["addr"].rsplit(":", 1)[1]) for each in addresses}


@contextmanager
def _blocklisted(site: SiteUnderTest, cells: Sequence[Cell]) -> Iterator[None]:
    """Fence the client with which the driver is changing images at this moment."""
    volumes = {cell.volume.image: cell for cell in cells}.values()
    read = [cell for cell in volumes if cell.call in ("resync", "info", "destination")]
    changed = [cell for cell in volumes if cell not in read]
    # the same daemons watch both, but only the driver opens the ones to change them
    with site.site.ioctx() as ioctx:
        clients = poll(
            lambda: _watchers(ioctx, changed) - _watchers(ioctx, read),
            seconds=20,
            what="the driver's client on an image",
            every=0.01,
        )
    for client in clients:
        site.site.ceph("osd", "blocklist", "add", client, "60")
    yield


def _watchers(ioctx: rados.Ioctx, cells: Sequence[Cell]) -> set[str]:
    addresses: set[str] = set()
    for cell in cells:
        with suppress(rbd.Error), rbd.Image(ioctx, cell.volume.image, read_only=True) as image:
            addresses |= {each["addr"] for each in image.watchers_list()}
    return addresses


@contextmanager
def _full(site: SiteUnderTest, _: Sequence[Cell]) -> Iterator[None]:
    _set_quota(site, 1)
    try:
        yield
    finally:
        _set_quota(site, 0)


def _set_quota(site: SiteUnderTest, objects: int) -> None:
    """Set the pool's quota, and wait until the cluster has drawn the conclusion."""
    site.site.ceph("osd", "pool", "set-quota", site.site.pool, "max_objects", str(objects))

    def concluded() -> bool:
        listed = json.loads(site.site.ceph("osd", "pool", "ls", "detail", "--format", "json"))
        (flags,) = (each["flags_names"] for each in listed if each["pool_name"] == site.site.pool)
        return ("full_quota" in flags) == bool(objects)

    poll(concluded, seconds=60, what=f"the quota of {objects} objects shows")


@contextmanager
def _locked(site: SiteUnderTest, cells: Sequence[Cell]) -> Iterator[None]:
    """Hold the exclusive lock of every image that can be written, as a workload does."""
    with ExitStack() as held:
        ioctx = held.enter_context(site.site.ioctx())
        for name in {cell.volume.image for cell in cells}:
            image = rbd.Image(ioctx, name)
            held.callback(image.close)
            try:
                image.lock_acquire(rbd.RBD_LOCK_MODE_EXCLUSIVE)
            except (rbd.ReadOnlyImage, rbd.ImageBusy, rbd.OSError):
                continue  # a secondary
        yield


@contextmanager
def _nothing(_: SiteUnderTest, __: Sequence[Cell]) -> Iterator[None]:
    yield


@contextmanager
def _read_only_caps(site: SiteUnderTest, _: Sequence[Cell]) -> Iterator[None]:
    read = {"mon": "allow r", "osd": "allow r", "mgr": "allow r"}
    _set_caps(site, read)
    try:
        yield
    finally:
        _set_caps(site, driver_caps(site.site.pool))


def _set_caps(site: SiteUnderTest, caps: dict[str, str]) -> None:
    words = [word for pair in caps.items() for word in pair]
    site.site.ceph("auth", "caps", f"client.{PROVISIONER}", *words)


FAULTS: Final = (
    Fault(name="mon frozen", strike=lambda site, _: _frozen(site, "mon")),
    Fault(name="mon killed", strike=lambda site, _: _killed(site, "mon")),
    Fault(name="OSD frozen", strike=lambda site, _: _frozen(site, "osd")),
    Fault(
        name="no route",
        strike=_no_route,
        drops_packets=True,
        heals_in=90,
        because="rbd-mirror has lost the site, too, and Promote needs its word",
    ),
    Fault(name="mgr gone", strike=lambda site, _: _killed(site, "mgr")),
    Fault(
        name="mirror daemon frozen",
        strike=lambda site, _: _frozen(site, "rbd-mirror"),
        heals_in=90,
        because="rbd-mirror reads down until its next heartbeat",
    ),
    Fault(name="clients blocklisted", strike=_blocklisted),
    Fault(name="pool quota reached", strike=_full),
    Fault(name="lock held", strike=_locked, refuses="demote"),
    Fault(
        name="wrong key",
        strike=_nothing,
        codes=("UNAUTHENTICATED",),
        wrong_key=True,
    ),
    Fault(
        name="read-only caps",
        strike=_read_only_caps,
        codes=(*_PASSING, "PERMISSION_DENIED"),
    ),
)
"""In the order in which they strike."""


def await_answers(site: SiteUnderTest, seconds: float) -> None:
    """Wait until a client of our own can write and read in the pool."""
    conf = {"client_mount_timeout": "3", "rados_mon_op_timeout": "3", "rados_osd_op_timeout": "3"}
    deadline = time.monotonic() + seconds
    while True:
        cluster = rados.Rados(conffile=str(site.site.ceph_conf), rados_id="admin", conf=conf)
        try:
            cluster.connect()
            with cluster.open_ioctx(site.site.pool) as ioctx:
                ioctx.write_full("faults.answers", b"yes")
                ioctx.remove_object("faults.answers")
        except rados.Error:
            if time.monotonic() > deadline:
                raise
        else:
            return
        finally:
            cluster.shutdown()


def thaw_all(site: SiteUnderTest) -> None:
    """Leave nothing frozen, whatever happened."""
    for daemon in site.site.pids():
        site.site.signal(daemon, signal.SIGCONT)
