# SPDX-License-Identifier: Apache-2.0
"""Identity: who the driver is, what it can do, whether it serves."""

import re
from concurrent.futures import ThreadPoolExecutor

from csi_addons_conformance._proto import identity_pb2 as pb
from csi_addons_conformance.case import SNAPSHOT, Kind, case, expect, poll, require
from csi_addons_conformance.sites import SiteUnderTest
from csi_addons_conformance.stage import Stage

_SIDECAR_BOUND = 5
"""Seconds after which a Probe must have been answered, whatever storage does."""


@case(
    "identity/name-and-version",
    kind=Kind.SPEC,
    row="Identity — name (from --driver-name), version",
    modes=SNAPSHOT,
)
def name_and_version(stage: Stage) -> None:
    """Name and version are there, and the domain of error reasons is the name."""
    who = stage.here.client.identity.GetIdentity(pb.GetIdentityRequest(), timeout=_SIDECAR_BOUND)
    require(who.name, "a name", who)
    require(who.vendor_version, "a vendor_version", who)
    refused = stage.here.client.info("no handle")
    require(refused.domain == who.name, f"the domain {who.name}", refused.domain)


@case(
    "identity/manifest",
    kind=Kind.CONTRACT,
    row="Identity — name, version, manifest (Ceph client release, build)",
    modes=SNAPSHOT,
)
def manifest(stage: Stage) -> None:
    """The manifest tells the build, and the release of the Ceph client, such as 16.2.15."""
    who = stage.here.client.identity.GetIdentity(pb.GetIdentityRequest(), timeout=_SIDECAR_BOUND)
    require(len(who.manifest) >= 2, "a manifest with build and Ceph client release", who)
    require(all(who.manifest.values()), "a value for each entry of the manifest", who)
    releases = [text for text in who.manifest.values() if re.search(r"\b\d{2}\.\d+\.\d+", text)]
    require(releases, "a Ceph release such as 16.2.15 in the manifest", dict(who.manifest))


@case(
    "identity/capabilities",
    kind=Kind.SPEC,
    row="Capabilities: CONTROLLER_SERVICE, VOLUME_REPLICATION, GET_REPLICATION_DESTINATION_INFO",
    modes=SNAPSHOT,
)
def capabilities(stage: Stage) -> None:
    """Exactly the three capabilities are announced, and none of another kind."""
    answer = stage.here.client.identity.GetCapabilities(
        pb.GetCapabilitiesRequest(), timeout=_SIDECAR_BOUND
    )
    replication = pb.Capability.VolumeReplication
    expected = (
        pb.Capability(
            service=pb.Capability.Service(type=pb.Capability.Service.Type.CONTROLLER_SERVICE)
        ),
        *(
            pb.Capability(volume_replication=replication(type=each))
            for each in (
                replication.Type.VOLUME_REPLICATION,
                replication.Type.GET_REPLICATION_DESTINATION_INFO,
            )
        ),
    )
    came = sorted(each.SerializeToString() for each in answer.capabilities)
    require(came == sorted(each.SerializeToString() for each in expected), str(expected), answer)


@case(
    "identity/probe",
    kind=Kind.SPEC,
    row="Probe: ready=true once the server serves, bindings are loaded and config.json was read",
    modes=SNAPSHOT,
)
def probe(stage: Stage) -> None:
    """Both drivers are ready, and say so at once."""
    for site in (stage.here, stage.there):
        _require_ready(site)


@case(
    "identity/probe-without-cluster",
    kind=Kind.CONTRACT,
    row="Probe is independent of any cluster's health (the sidecar exits on any Probe error)",
    modes=SNAPSHOT,
    alone=True,
)
def probe_without_cluster(stage: Stage) -> None:
    """With the site's cluster dead, Probe is ready at once, also right after a restart."""
    with stage.here.without("mon", "osd", "mgr"):
        _require_ready(stage.here)
        stage.here.restart_driver()
        _require_ready(stage.here)


@case(
    "identity/probe-without-config",
    kind=Kind.CONTRACT,
    row="Probe: ready=true once config.json was read; the sidecar exits on any Probe error",
    modes=SNAPSHOT,
    alone=True,
)
def probe_without_config(stage: Stage) -> None:
    """Before there is a config.json Probe answers OK with ready=false, then true by itself."""
    driver = stage.here.driver
    config = stage.here.site.config_dir / "config.json"
    aside = config.with_suffix(".aside")
    driver.kill()
    config.rename(aside)
    with ThreadPoolExecutor(1) as executor:
        started = executor.submit(driver.start)
        try:
            poll(lambda: _says(stage.here, ready=False), seconds=20, what="Probe says not ready")
        finally:
            aside.rename(config)
        started.result()
    _require_ready(stage.here)


def _says(site: SiteUnderTest, *, ready: bool) -> bool:
    answer = site.client.probe()
    return answer.code == "OK" and bool(answer.response.ready.value) is ready


def _require_ready(site: SiteUnderTest) -> None:
    answer = site.client.probe()
    expect(answer, "OK", within=_SIDECAR_BOUND)
    require(answer.response.ready.value, "ready=true", answer.response)
