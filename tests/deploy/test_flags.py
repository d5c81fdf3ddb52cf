# SPDX-License-Identifier: Apache-2.0
"""The programs know every flag, variable and parameter that the manifests give them."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from rendering import DEPLOY, TREES, container, pod, rendered, with_components

from csi_addons_rbd.api import parameters
from csi_addons_rbd.command_line import _PREFIX, _PROBE, _SERVE, parse
from csi_addons_rbd.config import Config, ProbeConfig
from csi_addons_rbd.replication.calls import FlattenMode, MirroringMode

SIDECAR_FLAGS = {
    "node-id",
    "csi-addons-address",
    "controller-port",
    "pod",
    "namespace",
    "pod-uid",
}
"""Those of kubernetes-csi-addons' sidecar/main.go, v0.14, that are needed."""

PREFIX = "replication.storage.openshift.io/"
RESERVED = {f"{PREFIX}replication-secret-name", f"{PREFIX}replication-secret-namespace"}
EXAMPLES = sorted((DEPLOY / "examples").glob("*.yaml"))
CLASSES = [path for path in EXAMPLES if path.name.startswith("volumereplicationclass-")]
ADDRESSES = ("10.244.1.7", "fd00:10:244::7")


def environment(each: dict[str, Any], address: str) -> dict[str, str]:
    """Return a container's variables, with the pod's address filled in."""
    return {entry["name"]: entry.get("value", address) for entry in each["env"]}


def filled_in(arguments: list[str], variables: dict[str, str]) -> list[str]:
    """Fill in $(NAME) as the kubelet does."""
    return [re.sub(r"\$\((\w+)\)", lambda found: variables[found[1]], each) for each in arguments]


@pytest.mark.parametrize("address", ADDRESSES)
@pytest.mark.parametrize("tree", TREES)
def test_serve_accepts_its_arguments(tree: str, address: str) -> None:
    """The parser takes them, on IPv4 and on IPv6, and the metrics' port is the container's."""
    driver = container(rendered(tree), "csi-addons-rbd")
    variables = environment(driver, address)
    config = parse(filled_in(driver["args"], variables), variables)
    assert isinstance(config, Config)
    assert config.metrics_address is not None
    assert config.metrics_address.host == address
    assert {"name": "metrics", "containerPort": config.metrics_address.port} in driver["ports"]
    mounts = {each["mountPath"] for each in driver["volumeMounts"]}
    assert {str(config.config_dir), str(config.endpoint.parent)} <= mounts
    assert config.grace < pod(rendered(tree)).get("terminationGracePeriodSeconds", 30)


@pytest.mark.parametrize("tree", TREES)
def test_probes_accept_their_arguments_and_end_in_time(tree: str) -> None:
    """Each probe ends by itself before the kubelet ends it."""
    driver = container(rendered(tree), "csi-addons-rbd")
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        program, *arguments = driver[name]["exec"]["command"]
        assert program == "csi-addons-rbd"
        config = parse(arguments, environment(driver, ADDRESSES[0]))
        assert isinstance(config, ProbeConfig)
        assert config.timeout < driver[name]["timeoutSeconds"] <= driver[name]["periodSeconds"] * 3


@pytest.mark.parametrize("tree", TREES)
def test_variables_are_the_programs(tree: str) -> None:
    """A misspelt variable would be ignored without a word."""
    driver = container(rendered(tree), "csi-addons-rbd")
    ours = {each["name"] for each in driver["env"] if each["name"].startswith(_PREFIX)}
    assert ours <= {option.variable for option in (*_SERVE, *_PROBE)}
    others = {each["name"] for each in driver["env"]} - ours
    assert others == set(re.findall(r"\$\((\w+)\)", " ".join(driver["args"])))


@pytest.mark.parametrize("tree", TREES)
def test_the_clusters_of_a_site_are_the_users_to_name(tree: str) -> None:
    """No id is right everywhere, and without the config map the flag is not set."""
    driver = container(rendered(tree), "csi-addons-rbd")
    (named,) = (e for e in driver["env"] if e["name"] == f"{_PREFIX}LOCAL_CLUSTERS")
    assert named["valueFrom"] == {
        "configMapKeyRef": {"name": "csi-addons-rbd", "key": "local-clusters", "optional": True}
    }


@pytest.mark.parametrize("tree", TREES)
def test_sidecar_is_told_all_that_it_needs(tree: str) -> None:
    """Without any of these it ends at once."""
    sidecar = container(rendered(tree), "csi-addons")
    given = dict(re.fullmatch(r"--([\w-]+)=(.+)", each).groups() for each in sidecar["args"])  # type: ignore[union-attr]
    assert given.keys() == SIDECAR_FLAGS
    assert {"name": "csi-addons", "containerPort": int(given["controller-port"])} in sidecar[
        "ports"
    ]
    used = set(re.findall(r"\$\((\w+)\)", " ".join(sidecar["args"])))
    assert used == {each["name"] for each in sidecar["env"]}


@pytest.mark.parametrize("path", CLASSES, ids=lambda path: path.stem)
def test_classes_have_parameters_that_the_driver_accepts(path: Path) -> None:
    """The driver's own parsers read them, and none is unknown to it."""
    (example,) = yaml.safe_load_all(path.read_text())
    given = example["spec"]["parameters"]
    assert all(isinstance(value, str) for value in given.values())
    assert given.keys() >= RESERVED
    ours = {name: value for name, value in given.items() if not name.startswith(PREFIX)}
    assert ours.keys() | RESERVED == given.keys()
    assert ours.keys() <= parameters._KNOWN
    mode = parameters.choice(ours, "mirroringMode", MirroringMode.SNAPSHOT)
    assert path.stem.endswith(mode)
    planned = parameters.schedule(ours, mode)
    assert (planned is not None) == (mode is MirroringMode.SNAPSHOT)
    assert "schedulingInterval" in ours, "the controller would ask for the last sync once an hour"
    parameters.choice(ours, "flattenMode", FlattenMode.NEVER)
    parameters.choice(ours, "resyncMode", parameters.ResyncMode.SPLIT_BRAIN)
    parameters.flag(ours, "force")


def test_classes_name_the_driver_and_a_secret_that_the_sidecar_may_read() -> None:
    """As the overlay for Rook has them."""
    objects = rendered("overlays/rook")
    name = environment(container(objects, "csi-addons-rbd"), "")["CSI_ADDONS_RBD_DRIVER_NAME"]
    (role,) = (
        each
        for each in objects
        if each["kind"] == "Role" and each["metadata"]["name"] == "csi-addons-rbd-secret"
    )
    for path in CLASSES:
        spec = yaml.safe_load(path.read_text())["spec"]
        assert spec["provisioner"] == name
        secret = [
            spec["parameters"][f"{PREFIX}replication-secret-{part}"]
            for part in ("name", "namespace")
        ]
        assert secret == [*role["rules"][0]["resourceNames"], role["metadata"]["namespace"]]


def test_replications_name_a_class_of_the_examples() -> None:
    """Both modes can be applied as they are; each has the fields that its CRD requires."""
    objects = [yaml.safe_load(path.read_text()) for path in EXAMPLES]
    classes = {e["metadata"]["name"] for e in objects if e["kind"] == "VolumeReplicationClass"}
    replications = [each["spec"] for each in objects if each["kind"] == "VolumeReplication"]
    assert len(objects) == len(classes) + len(replications)
    assert {each["volumeReplicationClass"] for each in replications} == classes
    for each in replications:
        assert each.keys() == {
            "volumeReplicationClass", "replicationState", "autoResync", "dataSource",
        }  # fmt: skip
        assert each["dataSource"].keys() == {"apiGroup", "kind", "name"}
        assert each["replicationState"] in {"primary", "secondary", "resync"}


@pytest.mark.parametrize(
    ("component", "name"),
    [
        ("driver-name-of-rook", "rook-ceph.rbd.csi.ceph.com"),
        ("driver-name-of-ceph-csi", "rbd.csi.ceph.com"),
    ],
)
def test_components_change_the_driver_name(component: str, name: str, tmp_path: Path) -> None:
    """The name of ceph-csi, for orchestrators that go by it."""
    for tree in ("overlays/rook", "overlays/ceph-csi"):
        driver = container(with_components(tmp_path, tree, component), "csi-addons-rbd")
        assert environment(driver, "")["CSI_ADDONS_RBD_DRIVER_NAME"] == name
