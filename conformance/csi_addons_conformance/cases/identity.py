# SPDX-License-Identifier: Apache-2.0
"""Identity, health and reflection."""

from csi_addons_conformance._proto import identity_pb2
from csi_addons_conformance.case import SNAPSHOT, Kind, case, expect, require
from csi_addons_conformance.stage import Stage

_CONTROLLER = identity_pb2.Capability.Service.CONTROLLER_SERVICE
_REPLICATION = {
    identity_pb2.Capability.VolumeReplication.VOLUME_REPLICATION,
    identity_pb2.Capability.VolumeReplication.GET_REPLICATION_DESTINATION_INFO,
}


@case(
    "identity/identity",
    kind=Kind.SPEC,
    row="Identity: name, version, manifest",
    modes=SNAPSHOT,
)
def identity(stage: Stage) -> None:
    """A name and a version that are not empty, the same at each call."""
    ask = stage.here.client.identity.GetIdentity
    answer = ask(identity_pb2.GetIdentityRequest(), timeout=10)
    require(answer.name and answer.vendor_version, "name and version", answer)
    require(answer == ask(identity_pb2.GetIdentityRequest(), timeout=10), "the same", answer)
    stage.say(f"{answer.name} {answer.vendor_version} {dict(answer.manifest)}")


@case(
    "identity/capabilities",
    kind=Kind.SPEC,
    row="Capabilities: CONTROLLER_SERVICE, VOLUME_REPLICATION, GET_REPLICATION_DESTINATION_INFO",
    modes=SNAPSHOT,
)
def capabilities(stage: Stage) -> None:
    """The controller service and both capabilities of volume replication."""
    answer = stage.here.client.identity.GetCapabilities(
        identity_pb2.GetCapabilitiesRequest(), timeout=10
    )
    services = {each.service.type for each in answer.capabilities if each.HasField("service")}
    replication = {
        each.volume_replication.type
        for each in answer.capabilities
        if each.HasField("volume_replication")
    }
    require(_CONTROLLER in services, "CONTROLLER_SERVICE", services)
    require(replication >= _REPLICATION, "both of replication", replication)


@case(
    "identity/probe",
    kind=Kind.SPEC,
    row="Probe: ready=true once the server serves",
    modes=SNAPSHOT,
)
def probe(stage: Stage) -> None:
    """Ready, at once."""
    answer = stage.here.client.probe()
    expect(answer, "OK", within=1)
    require(answer.response.ready.value, "ready=true", answer.response)
