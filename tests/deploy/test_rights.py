# SPDX-License-Identifier: Apache-2.0
"""What the pods may do: on the node, and in the cluster. Every exception and right is listed."""

import re
from pathlib import Path

import pod_security
import pytest
from rendering import (
    OWN_PODS,
    TREES,
    Object,
    container,
    inside_csi_rbdplugin,
    pod,
    rendered,
    with_components,
)

TOKEN_DIRECTORY = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 - a path
HOST_PATH_EXCEPTIONS = {
    "volume socket-dir: hostPath",
    # the directory is root's, and root it takes to hand it over
    "socket-directory: runAsNonRoot",
    "socket-directory: runAsUser",
}
RIGHTS = {
    # sidecar/internal/csiaddonsnode: CreateOrUpdate, then a watch by name
    ("csiaddons.openshift.io", "csiaddonsnodes"): {"get", "create", "update", "watch"},
    # sidecar/internal/csiaddonsnode: the owner of its own pod
    ("", "pods"): {"get"},
    # the API server, when a blocking owner is named
    ("apps", "daemonsets/finalizers"): {"update"},
    # client-go's lease lock
    ("coordination.k8s.io", "leases"): {"create", "get", "update"},
    # internal/sidecar/service: the secret of each call
    ("", "secrets"): {"get"},
    # internal/kubernetes/token: is the caller of this cluster?
    ("authentication.k8s.io", "tokenreviews"): {"create"},
}
"""What the sidecar is allowed, and where it uses it (kubernetes-csi-addons v0.14)."""
NAMED = {"secrets", "daemonsets/finalizers"}
"""Resources of which only those that are named may be touched."""


@pytest.mark.parametrize("tree", OWN_PODS)
def test_restricted_but_for_the_hostpath(tree: str) -> None:
    """The pod fits the restricted standard except for exactly what the hostPath needs."""
    assert pod_security.of_whole(pod(rendered(tree))) == HOST_PATH_EXCEPTIONS


def test_restricted_without_exception_when_the_socket_is_private(tmp_path: Path) -> None:
    """components/private-socket is for namespaces that enforce the standard."""
    objects = with_components(tmp_path, "overlays/rook", "private-socket")
    assert pod_security.of_whole(pod(objects)) == set()


def test_inside_csi_rbdplugin_only_their_pod_has_privileges(tmp_path: Path) -> None:
    """Our two containers are restricted; the host's network and paths are ceph-csi's."""
    objects = inside_csi_rbdplugin(tmp_path)
    ours = [container(objects, name) for name in ("csi-addons-rbd", "csi-addons")]
    assert pod_security.violations(pod(objects), ours) == {
        "hostNetwork",
        "hostPID",
        "volume socket-dir: hostPath",
    }


def test_the_init_container_does_one_thing_without_capabilities() -> None:
    """Root for an instant: it mounts the socket's directory and nothing else."""
    (init,) = pod(rendered("base"))["initContainers"]
    assert [each["name"] for each in init["volumeMounts"]] == ["socket-dir"]
    assert init["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    of_pod = pod(rendered("base"))["securityContext"]
    assert init["securityContext"]["runAsGroup"] == of_pod["runAsGroup"]
    assert f"--group={of_pod['runAsGroup']}" in init["command"]


@pytest.mark.parametrize("tree", OWN_PODS)
def test_only_the_sidecar_has_a_token(tree: str) -> None:
    """The driver cannot ask the API server for anything."""
    spec = pod(rendered(tree))
    assert spec["automountServiceAccountToken"] is False
    (token,) = (
        volume["name"]
        for volume in spec["volumes"]
        if any(
            "serviceAccountToken" in each for each in volume.get("projected", {}).get("sources", ())
        )
    )
    holders = {
        each["name"]
        for each in [*spec["containers"], *spec["initContainers"]]
        if token in {mount["name"] for mount in each["volumeMounts"]}
    }
    assert holders == {"csi-addons"}
    mounts = container(rendered(tree), "csi-addons")["volumeMounts"]
    assert {"name": token, "mountPath": TOKEN_DIRECTORY, "readOnly": True} in mounts


def test_inside_csi_rbdplugin_the_token_is_hidden_from_the_driver(tmp_path: Path) -> None:
    """Kubernetes mounts no token where something else is mounted."""
    objects = inside_csi_rbdplugin(tmp_path)
    (hiding,) = (
        mount["name"]
        for mount in container(objects, "csi-addons-rbd")["volumeMounts"]
        if mount["mountPath"] == TOKEN_DIRECTORY
    )
    (volume,) = (each for each in pod(objects)["volumes"] if each["name"] == hiding)
    assert volume.keys() == {"name", "emptyDir"}


def rules(objects: list[Object]) -> list[Object]:
    """Return every rule of every role."""
    return [
        rule
        for each in objects
        if each["kind"] in {"Role", "ClusterRole"}
        for rule in each["rules"]
    ]


@pytest.mark.parametrize("tree", TREES)
def test_rights_are_exactly_those_that_the_sidecar_uses(tree: str) -> None:
    """No more, no less, and no wildcard."""
    granted: dict[tuple[str, str], set[str]] = {}
    for rule in rules(rendered(tree)):
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                granted.setdefault((group, resource), set()).update(rule["verbs"])
                assert resource not in NAMED or rule["resourceNames"]
    assert granted == RIGHTS


@pytest.mark.parametrize("tree", TREES)
def test_only_token_reviews_are_granted_in_the_whole_cluster(tree: str) -> None:
    """Secrets above all stay within the namespace."""
    (everywhere,) = (each for each in rendered(tree) if each["kind"] == "ClusterRole")
    assert [rule["resources"] for rule in everywhere["rules"]] == [["tokenreviews"]]


@pytest.mark.parametrize("tree", TREES)
def test_every_role_is_bound_once_to_the_pods_account(tree: str, tmp_path: Path) -> None:
    """A binding that names another account would show only in the cluster."""
    objects = rendered(tree) if tree in OWN_PODS else inside_csi_rbdplugin(tmp_path)
    account = pod(objects)["serviceAccountName"]
    roles = {
        (each["kind"], each["metadata"]["name"])
        for each in objects
        if each["kind"] in {"Role", "ClusterRole"}
    }
    bindings = [each for each in objects if each["kind"].endswith("Binding")]
    assert {(each["roleRef"]["kind"], each["roleRef"]["name"]) for each in bindings} == roles
    assert len(bindings) == len(roles)
    namespaces = {each["metadata"].get("namespace") for each in objects} - {None}
    for each in bindings:
        (subject,) = each["subjects"]
        assert (subject["kind"], subject["name"]) == ("ServiceAccount", account)
        assert {subject.get("namespace")} - {None} == namespaces
    own = [each for each in objects if each["kind"] == "ServiceAccount"]
    assert [each["metadata"]["name"] for each in own] == ([account] if tree in OWN_PODS else [])


def lease_of(driver_name: str) -> str:
    """Name the lease as kubernetes-csi-addons does."""
    name = re.sub(r"[^a-zA-Z0-9-]", "-", driver_name)
    return f"{name}X-csi-addons" if name.endswith("-") else f"{name}-csi-addons"


def test_the_lease_and_the_owner_are_those_of_driver_name_and_daemonset(tmp_path: Path) -> None:
    """Rights that name an object name the right one, whatever name the driver has."""
    names = ("driver-name-of-rook", "driver-name-of-ceph-csi")
    for objects in (
        *(rendered(tree) for tree in TREES),
        *(with_components(tmp_path, "overlays/rook", name) for name in names),
    ):
        driver = container(objects, "csi-addons-rbd")
        (name,) = (
            each["value"] for each in driver["env"] if each["name"] == "CSI_ADDONS_RBD_DRIVER_NAME"
        )
        (daemonset,) = (e["metadata"]["name"] for e in objects if e["kind"] == "DaemonSet")
        named = {
            rule["resources"][0]: rule["resourceNames"]
            for rule in rules(objects)
            if "resourceNames" in rule
        }
        assert named["leases"] == [lease_of(name)]
        assert named["daemonsets/finalizers"] == [daemonset]
