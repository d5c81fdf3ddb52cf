# SPDX-License-Identifier: Apache-2.0
"""The manifests render, are valid, and say each thing in one place."""

import re
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from rendering import (
    DEPLOY,
    INSIDE,
    OWN_PODS,
    TREES,
    Object,
    container,
    files,
    inside_csi_rbdplugin,
    one,
    pod,
    rendered,
    with_components,
)

CHANGELOG = DEPLOY.parent / "CHANGELOG.md"
KUBERNETES = ("1.25", "1.31", "1.37")
"""The oldest with schemas, the newest, and one between."""
_FIRST = "0.1.0"
"""The version that is named until the first release."""
OLD_FIELDS = {
    "apiVersion",
    "kind",
    "namespace",
    "resources",
    "components",
    "patches",
    "images",
    "configMapGenerator",
}


def valid(each: Object, kubernetes: str) -> None:
    """Validate against the schemas of a Kubernetes release, which know no custom resources."""
    if each["apiVersion"].endswith(("monitoring.coreos.com/v1", "openshift.io/v1alpha1")):
        return
    kubernetes_validate.validate(each, kubernetes, strict=True)


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("tree", OWN_PODS)
def test_valid(tree: str, kubernetes: str) -> None:
    """Every rendered object fits its schema, and no field is unknown."""
    for each in rendered(tree):
        valid(each, kubernetes)


@pytest.mark.parametrize("kubernetes", KUBERNETES)
def test_valid_inside_csi_rbdplugin(kubernetes: str, tmp_path: Path) -> None:
    """What is added to ceph-csi's DaemonSet makes a valid one of it."""
    for each in inside_csi_rbdplugin(tmp_path):
        valid(each, kubernetes)


@pytest.mark.parametrize("kubernetes", KUBERNETES)
@pytest.mark.parametrize("component", sorted(p.name for p in (DEPLOY / "components").iterdir()))
def test_valid_with_each_component(component: str, kubernetes: str, tmp_path: Path) -> None:
    """Components go with any overlay of a pod of our own."""
    for tree in OWN_PODS[1:]:
        for each in with_components(tmp_path, tree, component):
            valid(each, kubernetes)


def test_a_wrong_field_is_seen() -> None:
    """The schemas do refuse."""
    spoilt = yaml.safe_load(yaml.safe_dump(one(rendered("base"), "DaemonSet")))
    pod([spoilt])["tolerate"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        valid(spoilt, KUBERNETES[0])


def test_daemonset_is_the_rendered_overlay_for_rook() -> None:
    """One source of truth: scripts/manifest writes the file anew."""

    def by_name(objects: list[Object]) -> dict[tuple[str, str], Object]:
        return {(each["kind"], each["metadata"]["name"]): each for each in objects}

    written = list(yaml.safe_load_all((DEPLOY / "daemonset.yaml").read_text()))
    assert by_name(written) == by_name(rendered("overlays/rook"))


def test_images_are_named_once() -> None:
    """Name and version stand in components/images, and the driver's is the newest release's."""
    sources = [path for path in files() if path != DEPLOY / "daemonset.yaml"]
    naming = {
        path.relative_to(DEPLOY)
        for path in sources
        if re.search(r"ghcr\.io|quay\.io", path.read_text())
    }
    assert naming == {Path("components/images/kustomization.yaml")}
    released, *_ = re.findall(r"^## \[([\d.]+)\]", CHANGELOG.read_text(), re.MULTILINE) or [_FIRST]
    for tree in TREES:
        driver = container(rendered(tree), "csi-addons-rbd")["image"]
        assert driver == f"ghcr.io/csi-addons-rbd/csi-addons-rbd:v{released}"
        assert re.fullmatch(
            r"quay\.io/csiaddons/k8s-sidecar:v\d+\.\d+\.\d+",
            container(rendered(tree), "csi-addons")["image"],
        )
        assert all(":" in each["image"] for each in pod(rendered(tree)).get("initContainers", ()))


@pytest.mark.parametrize("tree", TREES)
def test_no_secret(tree: str) -> None:
    """Keys are the cluster's: no manifest holds one, nor asks for one to be filled in."""
    assert not [each for each in rendered(tree) if each["kind"] == "Secret"]
    for path in files():
        assert not re.search(
            r"^kind: Secret$|userKey|userID|AQ[\w+/]{36}==", path.read_text(), re.MULTILINE
        )


def test_kustomizations_use_fields_that_the_oldest_kustomize_knows() -> None:
    """Those that kubectl 1.22 (kustomize 4.2) was seen to render."""
    for path in DEPLOY.rglob("kustomization.yaml"):
        written = yaml.safe_load(path.read_text())
        assert written.keys() <= OLD_FIELDS, path
        assert all(each.keys() <= {"path", "target"} for each in written.get("patches", ())), path


def test_no_anchors() -> None:
    """Kustomize before version 5 drops what an alias stands for, without a word."""
    for path in files():
        assert not [
            event
            for event in yaml.parse(path.read_text())
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None)
        ], path


def test_every_file_is_used_or_applied_by_hand() -> None:
    """No file is left behind that nothing renders."""
    for path in files():
        kustomization = path.parent / "kustomization.yaml"
        if path in {kustomization, DEPLOY / "daemonset.yaml"} or path.parent.name == "examples":
            continue
        assert path.name in kustomization.read_text(), path


def test_both_pods_say_the_same_of_driver_and_sidecar(tmp_path: Path) -> None:
    """Inside csi-rbdplugin they run as in a pod of their own, but for volumes and the name."""
    where = {"volumeMounts", "securityContext", "env"}
    inside = inside_csi_rbdplugin(tmp_path)
    for name in ("csi-addons-rbd", "csi-addons"):
        ours, theirs = (container(each, name) for each in (rendered("base"), inside))
        assert {k: v for k, v in ours.items() if k not in where} == {
            k: v for k, v in theirs.items() if k not in where
        }
        assert {each["name"] for each in ours["env"]} == {each["name"] for each in theirs["env"]}


def test_csi_rbdplugin_keeps_what_it_has(tmp_path: Path) -> None:
    """The addition takes nothing from ceph-csi's DaemonSet and changes none of its containers."""
    theirs = yaml.safe_load(Path(__file__).with_name("csi-rbdplugin.yaml").read_text())
    merged = pod(inside_csi_rbdplugin(tmp_path))
    before = theirs["spec"]["template"]["spec"]
    for key, value in before.items():
        if isinstance(value, list):
            assert all(each in merged[key] for each in value)
        else:
            assert merged[key] == value
    added = pod(rendered(INSIDE))
    for kind in ("containers", "volumes"):
        names = [{each["name"] for each in part[kind]} for part in (before, added)]
        assert not names[0] & names[1]
    known = {each["name"] for each in merged["volumes"]}
    for each in merged["containers"]:
        assert {mount["name"] for mount in each["volumeMounts"]} <= known


def test_volumes_mounts_and_sockets_fit(tmp_path: Path) -> None:
    """The sidecar calls the socket that the driver serves, in a directory that both mount."""
    for objects in (
        *(rendered(tree) for tree in OWN_PODS),
        inside_csi_rbdplugin(tmp_path),
    ):
        driver, sidecar = (container(objects, name) for name in ("csi-addons-rbd", "csi-addons"))
        environment = {each["name"]: each.get("value", "") for each in driver["env"]}
        endpoint = environment["CSI_ADDONS_RBD_ENDPOINT"]
        assert f"--csi-addons-address={endpoint}" in sidecar["args"]
        directory = str(Path(endpoint.removeprefix("unix://")).parent)
        volumes = {
            mount["name"]
            for each in (driver, sidecar)
            for mount in each["volumeMounts"]
            if mount["mountPath"] == directory
        }
        (volume,) = volumes
        assert volume in {each["name"] for each in pod(objects)["volumes"]}


def test_own_directory_on_the_node() -> None:
    """The socket never lies in a directory of ceph-csi, whose csi-addons.sock it would take."""
    (socket,) = (each for each in pod(rendered("base"))["volumes"] if each["name"] == "socket-dir")
    assert socket["hostPath"]["path"] == "/var/lib/kubelet/plugins/csi-addons-rbd"


def test_configuration_as_rook_and_ceph_csi_write_it() -> None:
    """Both files lie in the directory that the driver reads."""
    (rook,) = (
        each["projected"]["sources"]
        for each in pod(rendered("overlays/rook"))["volumes"]
        if each["name"] == "ceph-csi-config"
    )
    assert {
        (source["configMap"]["name"], item["key"], item["path"])
        for source in rook
        for item in source["configMap"]["items"]
    } == {
        ("rook-ceph-csi-config", "csi-cluster-config-json", "config.json"),
        ("rook-ceph-csi-mapping-config", "csi-mapping-config-json", "cluster-mapping.json"),
    }
    (ceph_csi,) = (
        each
        for each in pod(rendered("overlays/ceph-csi"))["volumes"]
        if each["name"] == "ceph-csi-config"
    )
    assert ceph_csi == {"name": "ceph-csi-config", "configMap": {"name": "ceph-csi-config"}}


def test_network_policy_opens_the_ports_of_the_pod(tmp_path: Path) -> None:
    """Both ports, the sidecar's to the controller alone."""
    objects = with_components(tmp_path, "overlays/rook", "network-policy")
    policy = one(objects, "NetworkPolicy")["spec"]
    labels = one(objects, "DaemonSet")["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    (sidecar,) = container(objects, "csi-addons")["ports"]
    (driver,) = container(objects, "csi-addons-rbd")["ports"]
    guarded = {port["port"]: "from" in rule for rule in policy["ingress"] for port in rule["ports"]}
    assert guarded == {sidecar["containerPort"]: True, driver["containerPort"]: False}


def test_grafana_gets_the_dashboard_that_is_tested(tmp_path: Path) -> None:
    """In a config map with the label that its loader looks for, under a name that lasts."""
    objects = with_components(tmp_path, "overlays/rook", "monitoring")
    loaded = one(objects, "ConfigMap")
    assert loaded["metadata"]["name"] == "csi-addons-rbd-dashboard"
    assert loaded["metadata"]["labels"]["grafana_dashboard"] == "1"
    dashboard = DEPLOY / "components/monitoring/dashboard.json"
    assert loaded["data"] == {"dashboard.json": dashboard.read_text()}


def test_monitoring_finds_the_metrics_of_either_pod(tmp_path: Path) -> None:
    """The PodMonitor's labels and port are those of the pods."""
    objects = with_components(tmp_path, "overlays/rook", "monitoring", namespace="rook-ceph")
    monitor = one(objects, "PodMonitor")
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    for found in (objects, inside_csi_rbdplugin(tmp_path)):
        labels = one(found, "DaemonSet")["spec"]["template"]["metadata"]["labels"]
        assert wanted <= labels.items()
        ports = container(found, "csi-addons-rbd")["ports"]
        assert endpoint["port"] in {each["name"] for each in ports}
    for kind in ("PodMonitor", "PrometheusRule", "DaemonSet"):
        assert one(objects, kind)["metadata"]["namespace"] == "rook-ceph"
