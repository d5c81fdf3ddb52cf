# SPDX-License-Identifier: Apache-2.0
"""The cells of one fault: which call meets it at which moment, on a volume made for it."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import rbd

from csi_addons_conformance.case import settle
from csi_addons_conformance.client import Answer, Client
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage
from lab import Volume

CALLS: Final = ("enable", "disable", "promote", "force", "demote", "resync", "info", "destination")
"""Every replication call; ``force`` is a forced promotion."""
MOMENTS: Final = (-0.5, -0.05, 0.0, 2.0)
"""When calls begin, in seconds after the fault strikes: those before it meet it half-way."""
_DESTRUCTIVE: Final = ("enable", "disable", "promote", "force", "demote")
"""These have something to do only once, so that each cell has a volume of its own."""
_SIZE: Final = 2 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One call that meets one fault at one moment."""

    call: str
    mode: str
    moment: float
    volume: Volume

    def make(self, client: Client, timeout: float | None) -> Answer:
        """Make the call."""
        method, fields = _REQUESTS[self.call]
        if self.call == "enable":
            fields = {"parameters": {"mirroringMode": self.mode}}
        return client.call(method, self.volume.handle, timeout=timeout, **fields)

    def stray(self, site: SiteUnderTest) -> str:
        """Say what is not as the call leaves it when it worked; empty when all is."""
        if self.call not in _LEAVES:
            return ""
        mirrored, primary = _LEAVES[self.call]
        seen = site.mirrored(self.volume), site.primary(self.volume)
        return "" if seen == (mirrored, primary) else f"left mirrored, primary as {seen}"


_LEAVES: Final[Mapping[str, tuple[bool, bool]]] = {
    "enable": (True, True),
    "disable": (False, False),
    "promote": (True, True),
    "force": (True, True),
    "demote": (True, False),
}
"""What is a fact once a call answered OK: whether the image is mirrored, and primary."""
_REQUESTS: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "enable": ("EnableVolumeReplication", {}),
    "disable": ("DisableVolumeReplication", {}),
    "promote": ("PromoteVolume", {}),
    "force": ("PromoteVolume", {"force": True}),
    "demote": ("DemoteVolume", {}),
    "resync": ("ResyncVolume", {}),
    "info": ("GetVolumeReplicationInfo", {}),
    "destination": ("GetReplicationDestinationInfo", {}),
}


def make_cells(stage: Stage, modes: tuple[str, ...], executor: Executor) -> list[Cell]:
    """Make the volumes of all cells, each in the state in which its call has something to do."""
    making = [
        executor.submit(_make_cells_of, replace(stage, mode=mode), call, moments)
        for mode in modes
        for call in CALLS
        for moments in ([(each,) for each in MOMENTS] if call in _DESTRUCTIVE else [MOMENTS])
    ]
    return [cell for each in making for cell in each.result()]


def _make_cells_of(stage: Stage, call: str, moments: tuple[float, ...]) -> list[Cell]:
    volume = _PREPARED[call](stage)
    return [Cell(call=call, mode=stage.mode, moment=each, volume=volume) for each in moments]


def _unmirrored(stage: Stage) -> Volume:
    return stage.volume(size=_SIZE)


def _primary(stage: Stage) -> Volume:
    """Make a primary on dr1 that its peer follows."""
    volume = stage.volume(size=_SIZE)
    settle(partial(stage.here.client.enable, volume.handle, mirroringMode=stage.mode))
    stage.await_copy(volume)
    return volume


def _secondary(stage: Stage) -> Volume:
    """Make a secondary on dr1 of a primary on dr2."""
    return stage.followed(size=_SIZE)


def _demoted_there(stage: Stage) -> Volume:
    """Make a secondary on dr1 whose primary on dr2 was just demoted."""
    volume = _secondary(stage)
    settle(partial(stage.there.client.demote, volume.handle))
    return volume


_PREPARED: Final[Mapping[str, Callable[[Stage], Volume]]] = {
    "enable": _unmirrored,
    "disable": _primary,
    "promote": _demoted_there,
    "force": _secondary,
    "demote": _primary,
    "resync": _secondary,
    "info": _primary,
    "destination": _primary,
}


def remove(stage: Stage, cells: list[Cell]) -> None:
    """Remove the volumes of the cells on both sites, so that they burden no later fault."""
    volumes = {cell.volume.image for cell in cells}
    for site in (stage.here, stage.there):
        with site.site.ioctx() as ioctx:
            for name in volumes & set(rbd.RBD().list(ioctx)):
                try:
                    with rbd.Image(ioctx, name) as image:
                        image.mirror_image_disable(True)  # noqa: FBT003 - takes no keyword
                except rbd.Error:
                    continue
    time.sleep(1)
    for site in (stage.here, stage.there):
        with site.site.ioctx() as ioctx:
            for name in volumes & set(rbd.RBD().list(ioctx)):
                try:
                    rbd.RBD().remove(ioctx, name)
                except rbd.Error:
                    continue
