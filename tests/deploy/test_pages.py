# SPDX-License-Identifier: Apache-2.0
"""What the how-to pages tell an operator to write does render, and every path in them exists."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from rendering import DEPLOY, Object, container, inside_csi_rbdplugin, kubectl, one, pod

ROOT = DEPLOY.parent
PAGES = (
    DEPLOY / "README.md",
    *sorted((ROOT / "docs" / "how-to").glob("install-*.md")),
    ROOT / "docs" / "explanation" / "beside-ceph-csi.md",
)
HOW_TO = {"install-with-rook": "rook-ceph", "install-with-ceph-csi": "ceph-csi-rbd"}
NEEDS_CLUSTER = re.compile(r"kubectl( -n [\w-]+)? (?!kustomize)[a-z]")


def site(page: str, where: Path) -> list[Object]:
    """Render the kustomization that a page tells to write, in a clone."""
    text = (ROOT / "docs" / "how-to" / f"{page}.md").read_text()
    (written,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    shutil.copytree(DEPLOY, where / "deploy")
    (where / "site").mkdir()
    (where / "site" / "kustomization.yaml").write_text(written)
    return kubectl("kustomize", where / "site")


@pytest.mark.parametrize("page", HOW_TO)
def test_the_page_s_kustomization_renders(page: str, tmp_path: Path) -> None:
    """All of it in the page's namespace, bindings included."""
    objects = site(page, tmp_path)
    assert container(objects, "csi-addons-rbd")
    namespaces = {
        each["metadata"]["namespace"] for each in objects if "Cluster" not in each["kind"]
    }
    assert namespaces == {HOW_TO[page]}


def test_another_namespace_reaches_the_bindings(tmp_path: Path) -> None:
    """As the page says, the namespace is the operator's to choose."""
    site("install-with-rook", tmp_path)
    kustomization = tmp_path / "site" / "kustomization.yaml"
    kustomization.write_text(kustomization.read_text().replace("rook-ceph", "storage"))
    objects = kubectl("kustomize", tmp_path / "site")
    subjects = [
        subject
        for each in objects
        for subject in each.get("subjects", ())
        if "Bind" in each["kind"]
    ]
    assert len(subjects) == len([each for each in objects if each["kind"].endswith("Binding")])
    assert {subject["namespace"] for subject in subjects} == {"storage"}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_commands_that_need_kubernetes_are_marked(page: Path) -> None:
    """Each line of a console block has its prompt, and the right one."""
    for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.splitlines():
            prompt, _, command = line.partition("$ ")
            assert prompt in {"", "cluster"}, line
            assert (prompt == "cluster") == bool(NEEDS_CLUSTER.match(command)), line


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_paths_exist(page: Path) -> None:
    """Links and paths lead somewhere."""
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert (page.parent / target).exists(), target
    for path in re.findall(r"\bdeploy/[\w./-]+\w", text):
        assert (ROOT / path).exists(), path
    for component in re.findall(r"components? `([\w-]+)`", text):
        assert (DEPLOY / "components" / component).is_dir(), component


def test_the_way_out_of_csi_rbdplugin(tmp_path: Path) -> None:
    """The page's patch takes out both containers, and nothing of ceph-csi's."""
    merged = tmp_path / "merged.yaml"
    objects = inside_csi_rbdplugin(tmp_path)
    merged.write_text(yaml.safe_dump(one(objects, "DaemonSet")))
    text = (ROOT / "docs" / "how-to" / "install-with-ceph-csi.md").read_text()
    (patch,) = re.findall(r"patch daemonset csi-rbdplugin --patch '(.*?)'", text)
    left = kubectl("patch", "--local", f"--filename={merged}", "--patch", patch, "--output=yaml")
    assert [each["name"] for each in pod(left)["containers"]] == [
        "csi-rbdplugin",
        "driver-registrar",
    ]
