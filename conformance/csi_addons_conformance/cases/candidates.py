# SPDX-License-Identifier: Apache-2.0
"""config.json lists both sites' clusters, as Rook and ODF write it: which one is asked."""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from csi_addons_conformance.case import SNAPSHOT, Kind, case, expect, poll, require, settle
from csi_addons_conformance.cases.handles import _CONFIG, _added
from csi_addons_conformance.client import METHODS, Client
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage
from lab.site import DATA_POOL, driver_caps
from lab.volumes import handle_of, make_volume

_WRITING = tuple(each for each in METHODS if not each.startswith("Get"))
_FLAG = "--local-clusters"


@contextmanager
def _both_clusters(site: SiteUnderTest, peer: SiteUnderTest) -> Iterator[None]:
    entry = {"clusterID": peer.site.cluster_id, "monitors": list(peer.site.monitors)}
    with _added(site, _CONFIG, entry):
        yield


@contextmanager
def _one_key(
    stage: Stage, name: str, caps_there: Mapping[str, str] | None = None
) -> Iterator[Client]:
    """Lend a client whose user and key are valid on both sites; the user is removed again."""
    here, there = stage.here, stage.there
    caps = driver_caps(here.site.pool, DATA_POOL)
    client = here.client_of(name, caps)
    keyring = there.site.home / f"{name}.keyring"
    lines = [f"[client.{name}]", f"key = {client.secrets['userKey']}"]
    lines += [f'caps {daemon} = "{cap}"' for daemon, cap in (caps_there or caps).items()]
    keyring.write_text("\n".join(lines) + "\n")
    there.site.ceph("auth", "import", "-i", str(keyring))
    try:
        yield client
    finally:
        keyring.unlink()
        for site in (here.site, there.site):
            site.ceph("auth", "rm", f"client.{name}")


@case(
    "handles/peer-refuses-the-key",
    kind=Kind.CONTRACT,
    row="A candidate whose cluster refuses the key, or lacks the pool, does not end the search",
    modes=SNAPSHOT,
    alone=True,
)
def peer_refuses_the_key(stage: Stage) -> None:
    """Both sites' handles of a volume work here, though the peer's cluster is asked, too."""
    client, site = stage.here.client, stage.here.site
    with _both_clusters(stage.here, stage.there):
        for own in (False, True):
            volume = stage.volume()
            handle = volume.handle if own else handle_of(stage.there.site, volume.uuid)
            expect(client.enable(handle), "OK", within=10)
            require(stage.here.mirrored(volume), "a mirrored volume", "one that is not")
            expect(client.destination(handle), "OK", within=5)
            settle(lambda handle=handle: client.demote(handle))  # type: ignore[misc]
            settle(lambda handle=handle: client.promote(handle, force=True))  # type: ignore[misc]
            expect(client.disable(handle), "OK")
            site.rbd("rm", f"{site.pool}/{volume.image}")
            expect(
                client.disable(handle),
                "UNAUTHENTICATED",
                reason="UNAUTHENTICATED",
                saying=(stage.there.site.cluster_id, _FLAG),
            )


@case(
    "handles/no-cluster-accepts-the-key",
    kind=Kind.CONTRACT,
    row="The first error is reported when none was good",
    modes=SNAPSHOT,
    alone=True,
)
def no_cluster_accepts_the_key(stage: Stage) -> None:
    """A key that is valid on neither is UNAUTHENTICATED, naming the handle's own cluster."""
    volume = stage.volume()
    handle = handle_of(stage.there.site, volume.uuid)
    wrong = {**stage.here.client.secrets, "userID": "nobody-at-all"}
    with _both_clusters(stage.here, stage.there):
        for method in METHODS:
            answer = stage.here.client.call(method, handle, secrets=wrong)
            named = f"cluster {stage.there.site.cluster_id}"
            expect(answer, "UNAUTHENTICATED", reason="UNAUTHENTICATED", saying=(named,))


@case(
    "handles/key-valid-on-both",
    kind=Kind.SAFETY,
    row="When several do, or one does not answer → UNAVAILABLE naming the flag: a key that is "
    "valid on both sites must never hit the other's image",
    modes=SNAPSHOT,
    alone=True,
)
def key_valid_on_both(stage: Stage) -> None:
    """Without the flag nothing is written; with it this site's volume alone is touched."""
    here, there = stage.here, stage.there
    volume = stage.volume()
    twin = make_volume(there.site, 1 << 20, uuid=volume.uuid)
    handles = (volume.handle, handle_of(there.site, volume.uuid))
    forbidden = {**driver_caps(there.site.pool), "osd": "profile rbd-read-only"}
    with _both_clusters(here, there):
        for number, caps in enumerate((None, forbidden)):
            with _one_key(stage, f"both-{number}", caps) as client:
                for handle in handles:
                    for method in _WRITING:
                        answer = client.call(method, handle)
                        expect(answer, "UNAVAILABLE", reason="CLUSTER_AMBIGUOUS", saying=(_FLAG,))
        require(not here.mirrored(volume), "an untouched volume here", "a mirrored one")
        require(not there.mirrored(twin), "an untouched volume there", "a mirrored one")
        with (
            _one_key(stage, "both-named") as client,
            here.driver.with_flags(_FLAG, here.site.cluster_id),
        ):
            for handle in handles:
                expect(client.enable(handle), "OK")
            require(here.mirrored(volume), "a mirrored volume here", "one that is not")
            require(not there.mirrored(twin), "an untouched volume there", "a mirrored one")
            expect(client.disable(handles[1]), "OK")
    there.site.rbd("rm", f"{there.site.pool}/{twin.image}")


@case(
    "handles/peer-lost",
    kind=Kind.SAFETY,
    row="When one does not answer → UNAVAILABLE naming the flag; with --local-clusters only this "
    "site's are candidates",
    modes=SNAPSHOT,
    alone=True,
)
def peer_lost(stage: Stage) -> None:
    """With the peer dead or frozen, reads are answered, and writes once the flag is set."""
    here, there = stage.here, stage.there
    volume = stage.mirrored()
    handle = handle_of(there.site, volume.uuid)
    with _both_clusters(here, there):
        expect(here.client.info(handle), "OK")
        for lost in (there.without("mon"), there.frozen("mon")):
            with lost:
                here.restart_driver()
                expect(here.client.info(handle), "OK", within=15)
                for each in (handle, volume.handle):
                    expect(
                        here.client.promote(each),
                        "UNAVAILABLE",
                        reason="CLUSTER_AMBIGUOUS",
                        saying=(_FLAG, there.site.cluster_id),
                        within=35,
                    )
                with here.driver.with_flags(_FLAG, here.site.cluster_id):
                    for each in (handle, volume.handle):
                        expect(here.client.promote(each), "OK", within=15)
                        expect(here.client.info(each), "OK", within=10)
            poll(
                lambda: here.client.promote(handle).code == "OK",
                seconds=60,
                what="OK without the flag, now that the peer refuses the key again",
            )


@case(
    "handles/local-clusters",
    kind=Kind.CONTRACT,
    row="The flag --local-clusters ID,… names this site's, and then only they are candidates",
    modes=SNAPSHOT,
    alone=True,
)
def local_clusters(stage: Stage) -> None:
    """A name without an entry leaves no NOT_FOUND; no cluster left over is said with its reason."""
    here, site = stage.here, stage.here.site
    gone = handle_of(site, str(uuid.uuid4()))
    expect(here.client.disable(gone), "NOT_FOUND", reason="VOLUME_NOT_FOUND")
    with here.driver.with_flags(_FLAG, f"{site.cluster_id},no-such-cluster"):
        expect(
            here.client.disable(gone),
            "UNAVAILABLE",
            reason="CLUSTER_NOT_CONFIGURED",
            saying=(_FLAG, "no-such-cluster"),
        )
        expect(here.client.enable(stage.volume().handle), "OK")
    with here.driver.with_flags(_FLAG, "no-such-cluster"):
        for method in METHODS:
            expect(
                here.client.call(method, gone),
                "UNAVAILABLE",
                reason="CLUSTER_NOT_CONFIGURED",
                saying=(_FLAG, "no-such-cluster", site.cluster_id, stage.there.site.cluster_id),
            )


@case(
    "handles/two-ids-of-one-cluster",
    kind=Kind.CONTRACT,
    row="A writing call whose candidates lie on more than one cluster (fsid)",
    modes=SNAPSHOT,
    alone=True,
)
def two_ids_of_one_cluster(stage: Stage) -> None:
    """Two ids of one cluster, whose monitors are written differently, are one cluster."""
    site, volume = stage.here.site, stage.volume()
    (monitor,) = site.monitors
    spelt = [f"[{monitor}/0]", "v2:127.0.0.1:1"]
    extra = {"clusterID": stage.there.site.cluster_id, "monitors": spelt}
    with _added(stage.here, _CONFIG, extra):
        for handle in (volume.handle, handle_of(stage.there.site, volume.uuid)):
            expect(stage.here.client.enable(handle), "OK")
            expect(stage.here.client.promote(handle), "OK")
