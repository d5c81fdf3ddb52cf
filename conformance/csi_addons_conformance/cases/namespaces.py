# SPDX-License-Identifier: Apache-2.0
"""Volumes in a RADOS namespace: mirrored through the peers of its pool, like any others."""

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from csi_addons_conformance.case import Kind, case, expect, require, settle
from csi_addons_conformance.stage import SIZE, Stage
from lab import Site

_DATA = 64 << 10


@case(
    "namespaces/early-demote",
    kind=Kind.SAFETY,
    row="A peer is up, not primary, and has not yet followed this primary epoch → wait; peers are "
    "configured on the pool, also for its namespaces",
    alone=True,
)
def early_demote(stage: Stage) -> None:
    """Demoted right after Enable it waits for the peer, which can then be promoted with all."""
    name, data = f"tenant-{uuid.uuid4().hex[:8]}", os.urandom(_DATA)
    here, there = stage.here.client, stage.there.client
    with _tenant(stage, name):
        volume = stage.lab.make_volume("dr1", SIZE, namespace=name)
        cluster = f"{name}-dr1"
        handle = f"0001-{len(cluster):04x}-{cluster}-{stage.here.site.pool_id:016x}-{volume.uuid}"
        with stage.here.image(volume, namespace=name, writing=True) as image:
            image.write(data, 0)
        expect(here.enable(handle, mirroringMode=stage.mode), "OK")
        settle(lambda: here.demote(handle))
        settle(lambda: there.promote(handle))
        with stage.there.image(volume, namespace=name) as image:
            came = image.read(0, len(data))
        require(came == data, "the data on dr2", "other data")
        expect(there.info(handle), "OK")
        expect(there.disable(handle), "OK")


@contextmanager
def _tenant(stage: Stage, name: str) -> Iterator[None]:
    """Give both sites a mirrored namespace, and a cluster id each that leads to it."""
    sites = (stage.here.site, stage.there.site)
    for site in sites:
        site.rbd("namespace", "create", f"{site.pool}/{name}")
        site.rbd("mirror", "pool", "enable", f"{site.pool}/{name}", "image")
    mapping: dict[str, object] = {
        "clusterIDMapping": {f"{name}-{sites[0].name}": f"{name}-{sites[1].name}"},
        "RBDPoolIDMapping": [{str(sites[0].pool_id): str(sites[1].pool_id)}],
    }
    files = {path: path.read_text() for site in sites for path in site.config_dir.glob("*.json")}
    for site in sites:
        _add(site.config_dir / "config.json", _entry(site, name))
        _add(site.config_dir / "cluster-mapping.json", mapping)
    try:
        yield
    finally:
        for path, text in files.items():
            _swap(path, text)


def _entry(site: Site, name: str) -> dict[str, object]:
    return {
        "clusterID": f"{name}-{site.name}",
        "monitors": list(site.monitors),
        "rbd": {"radosNamespace": name},
    }


def _add(path: Path, entry: dict[str, object]) -> None:
    _swap(path, json.dumps([*json.loads(path.read_text()), entry]))


def _swap(path: Path, text: str) -> None:
    """Swap a file at once, as a ConfigMap is swapped."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.replace(path)
