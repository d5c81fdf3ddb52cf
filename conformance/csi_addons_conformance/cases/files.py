# SPDX-License-Identifier: Apache-2.0
"""Configuration files as people have them: monitors in every form, bad parts beside good ones."""

import base64
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from csi_addons_conformance.case import SNAPSHOT, Kind, case, expect, require
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage
from lab.volumes import handle_of

_CONFIG: Final = "config.json"
_MAPPING: Final = "cluster-mapping.json"
_NEVER_AN_ENTRY: Final[tuple[Any, ...]] = (7, None, "x", [])


@case(
    "files/monitors-in-every-form",
    kind=Kind.CONTRACT,
    row="Monitors are parsed and normalised before librados sees them (plain, bracketed vectors, "
    "several in one string, /0, IPv6, DNS names) and duplicates are merged: librados aborts",
    modes=SNAPSHOT,
    alone=True,
)
def monitors_in_every_form(stage: Stage) -> None:
    """Whichever form the monitor has, and however often it stands there, the call is OK."""
    volume = stage.volume()
    (monitor,) = stage.here.site.monitors
    plain = monitor.removeprefix("v2:")
    port = plain.rpartition(":")[2]
    vector = f"[{monitor}/0,v1:127.0.0.1:1/0]"
    for monitors in (
        [plain],
        [f"{monitor}/0"],
        [f"localhost:{port}"],
        [f"[v2:localhost:{port},v1:localhost:1]"],
        [f"v2:[::ffff:127.0.0.1]:{port}"],
        ["[v2:[::1]:1,v1:[::1]:2]", monitor],
        [f"v1:127.0.0.1:1;{plain} [v2:127.0.0.2:1]"],
        [monitor, vector],
        [vector, vector],
        [f"{vector},[v2:127.0.0.2:1,{monitor}]"],
        [f"v2:localhost:{port}", vector, plain],
        ["no-such-name.invalid:6789", "v3:x", monitor],
        [f"[v2:127.0.0.2:1,v1:127.0.0.2:2,[{monitor}],]"],
    ):
        with _written(stage.here, config=_with_monitors(stage.here, monitors)):
            expect(stage.here.client.enable(volume.handle), "OK", within=20)


@case(
    "files/monitors-that-do-not-parse",
    kind=Kind.CONTRACT,
    row="Monitors that do not parse: Promote: UNAVAILABLE (FAILED_PRECONDITION would be answered "
    "with a force); the other calls: FAILED_PRECONDITION. Always naming what to change",
    modes=SNAPSHOT,
    alone=True,
)
def monitors_that_do_not_parse(stage: Stage) -> None:
    """The entry and what stands there are named, and the file is what there is to change."""
    volume, client = stage.volume(), stage.here.client
    named = (_CONFIG, stage.here.site.cluster_id, "v3:x")
    with _written(stage.here, config=_with_monitors(stage.here, ["v3:x"])):
        expect(client.promote(volume.handle), "UNAVAILABLE", saying=named)
        expect(client.promote(volume.handle, force=True), "UNAVAILABLE", saying=named)
        for answer in (client.enable(volume.handle), client.disable(volume.handle)):
            expect(answer, "FAILED_PRECONDITION", saying=named)
    expect(client.enable(volume.handle), "OK")


@case(
    "files/one-bad-entry",
    kind=Kind.CONTRACT,
    row="One bad entry disables itself and nothing else; a volume whose own cluster and pool are "
    "right needs no mapping",
    modes=SNAPSHOT,
    alone=True,
)
def one_bad_entry(stage: Stage) -> None:
    """With bad parts in both files the good ones are in use, the mapped handle included."""
    volume, site = stage.volume(), stage.here.site
    config, mapping = _read(stage.here, _CONFIG), _read(stage.here, _MAPPING)
    bad: tuple[Any, ...] = (
        {"monitors": []},
        {"clusterID": "bad", "monitors": {}},
        {"clusterID": "b", "rbd": 7},
    )
    handles = (volume.handle, handle_of(stage.there.site, volume.uuid))
    spoilt = [{**each, "RBDPoolIDMapping": [*_pools(each), {"77": "N/A"}, 7]} for each in mapping]
    for more in (*bad, *_NEVER_AN_ENTRY):
        with _written(stage.here, config=[more, *config], mapping=[more, *spoilt]):
            for handle in handles:
                expect(stage.here.client.enable(handle), "OK")
    for text in ("", "{}", "[{", json.dumps([{"clusterIDMapping": {site.cluster_id: 7}}])):
        with _written(stage.here, mapping_text=text):
            stage.here.restart_driver()
            expect(stage.here.client.enable(volume.handle), "OK")
    stage.here.restart_driver()


def _pools(entry: dict[str, Any]) -> list[Any]:
    return list(entry["RBDPoolIDMapping"])


@case(
    "files/no-absence-beside-a-bad-part",
    kind=Kind.SAFETY,
    row="NOT_FOUND only when every candidate proved absent: on Disable the controller drops its "
    "finalizers",
    modes=SNAPSHOT,
    alone=True,
)
def no_absence_beside_a_bad_part(stage: Stage) -> None:
    """While a part that may say where the volume lies cannot be read, it is not called absent."""
    site, client = stage.here.site, stage.here.client
    handle = handle_of(site, str(uuid.uuid4()))
    config, mapping = _read(stage.here, _CONFIG), _read(stage.here, _MAPPING)
    pair = {
        "clusterIDMapping": {site.cluster_id: "bad"},
        "RBDPoolIDMapping": [{str(site.pool_id): "1"}],
    }
    without_pool = {**pair, "RBDPoolIDMapping": [{str(site.pool_id): "N/A"}]}
    expect(client.disable(handle), "NOT_FOUND")
    unusable: tuple[Any, ...] = (["v3:x"], [], {})
    for monitors in unusable:
        entry = {"clusterID": "bad", "monitors": monitors}
        with _written(stage.here, config=[*config, entry], mapping=[*mapping, pair]):
            expect(client.disable(handle), "UNAVAILABLE", saying=("bad", _CONFIG))
    for more in (without_pool, 7):
        with _written(stage.here, mapping=[*mapping, more]):
            expect(client.disable(handle), "UNAVAILABLE", saying=(_MAPPING,))
    with _written(stage.here, mapping_text="[{"):
        expect(client.disable(handle), "UNAVAILABLE", saying=(_MAPPING,))
    expect(client.disable(handle), "NOT_FOUND")


@case(
    "files/secrets",
    kind=Kind.CONTRACT,
    row="Secrets that librados cannot read → UNAUTHENTICATED, naming what is wrong, never the key",
    modes=SNAPSHOT,
)
def secrets(stage: Stage) -> None:
    """client. before the name, and a key encoded twice or in lines, are told apart."""
    volume, client, site = stage.volume(), stage.here.client, stage.here.site
    user, key = site.secrets["userID"], site.secrets["userKey"]
    twice = base64.b64encode(f"{key}\n".encode()).decode()
    for wrong, said in (
        ({"userID": f"client.{user}", "userKey": key}, "client."),
        ({"userID": user, "userKey": twice}, "twice"),
        ({"userID": user, "userKey": base64.encodebytes(twice.encode()).decode()}, "3 times"),
        ({"userID": user, "userKey": f"[client.{user}]\n\tkey = {key}"}, "keyring"),
    ):
        answer = client.call("EnableVolumeReplication", volume.handle, secrets=wrong)
        expect(answer, "UNAUTHENTICATED", saying=(said,))
        require(key not in answer.message, "a message without the key", "one that has it")
    lines = {"userID": f" {user}\n", "userKey": f"{key[:20]}\n{key[20:]}\r\n"}
    expect(client.call("EnableVolumeReplication", volume.handle, secrets=lines), "OK")


# --- the files -------------------------------------------------------------------------------


def _read(site: SiteUnderTest, name: str) -> list[Any]:
    found: list[Any] = json.loads((site.site.config_dir / name).read_text())
    return found


def _with_monitors(site: SiteUnderTest, monitors: list[str]) -> list[Any]:
    return [
        {**each, "monitors": monitors} if each["clusterID"] == site.site.cluster_id else each
        for each in _read(site, _CONFIG)
    ]


@contextmanager
def _written(
    site: SiteUnderTest, *, config: Any = None, mapping: Any = None, mapping_text: str | None = None
) -> Iterator[None]:
    """Write either file for the length of a block; each is swapped at once."""
    texts = {
        _CONFIG: None if config is None else json.dumps(config),
        _MAPPING: mapping_text if mapping is None else json.dumps(mapping),
    }
    good = {
        site.site.config_dir / name: (text, (site.site.config_dir / name).read_text())
        for name, text in texts.items()
        if text is not None
    }
    try:
        for path, (text, _) in good.items():
            new = path.with_name(f"{path.name}.new")
            new.write_text(text)
            new.replace(path)
        yield
    finally:
        for path, (_, text) in good.items():
            path.write_text(text)
