# SPDX-License-Identifier: Apache-2.0
"""What the pages tell to type at Kubernetes clusters, as far as it goes without one."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubectl import Clone
from pages import PAGES, ROOT, Block, blocks, commands
from treatment import CLUSTERS, How, every_block, treatment

KUBERNETES = "1.37"
CUSTOM = yaml.safe_load(Path(__file__).with_name("custom-resources.yaml").read_text())
TYPED = [
    page
    for page in PAGES
    if any(each.prompt in CLUSTERS for block in blocks(page) for each in commands(block))
]
YAML = list(every_block("yaml"))


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    """A clone to type in."""
    return Clone(tmp_path, ROOT)


def write_files(page: Path, clone: Clone) -> None:
    """Write each file that the page shows, after a line that begins with its path."""
    for block in blocks(page):
        if block.file and block.language == "yaml":
            path = clone.where / block.file
            path.parent.mkdir(exist_ok=True)
            path.write_text(block.text)


@pytest.mark.parametrize("page", TYPED, ids=lambda page: page.stem)
def test_kubectl_understands_every_line(page: Path, clone: Clone) -> None:
    """Its arguments, and the files that they name; it fails for want of a cluster alone."""
    (clone.where / "site").mkdir()
    kustomization = "resources: [../deploy/overlays/rook]\nnamespace: rook-ceph\n"
    (clone.where / "site" / "kustomization.yaml").write_text(kustomization)
    write_files(page, clone)
    for block in blocks(page):
        for command in commands(block):
            how = treatment(command)
            if how in {How.PARSED, How.ACTED} or command.text.startswith("kubectl kustomize "):
                clone.type(command.text)


def test_a_wrong_flag_is_seen(clone: Clone) -> None:
    """And a file that is not there, and a filter that jq cannot read."""
    for wrong in (
        "kubectl get pv --output-as json",
        "kubectl apply -f deploy/no-such-file.yaml",
        "kubectl apply -k no-such-directory",
        "kubectl patch volumereplication data --path '{}'",
        "kubectl get pv x -o json | jq 'del(.status'",
    ):
        with pytest.raises(ValueError, match=r"kubectl|jq"):
            clone.type(wrong)


def test_what_goes_to_the_peer_is_valid_and_has_nothing_of_the_first_site(clone: Clone) -> None:
    """The volume and claim that the page takes over bind to each other there."""
    for block in blocks(ROOT / "docs/how-to/prepare-the-peer.md"):
        for command in commands(block):
            if command.prompt in CLUSTERS:
                clone.type(command.text)
    pv, pvc = (json.loads((clone.where / f"{kind}.json").read_text()) for kind in ("pv", "pvc"))
    for each in (pv, pvc):
        kubernetes_validate.validate(each, KUBERNETES, strict=True)
        assert "uid" not in json.dumps(each)
        assert "status" not in each
    assert pv["spec"]["claimRef"]["name"] == pvc["metadata"]["name"]
    assert pvc["spec"]["volumeName"] == pv["metadata"]["name"]


def wrong_fields(given: Any, accepted: Any, path: str) -> Iterator[str]:
    """Say what of a custom resource is not accepted."""
    if isinstance(accepted, list):
        if given not in accepted:
            yield f"{path}: {given}"
    elif isinstance(accepted, str):
        if type(given).__name__ != accepted:
            yield f"{path}: {given!r} is no {accepted}"
    else:
        for key, value in given.items():
            if key not in accepted:
                yield f"{path}.{key}"
            else:
                yield from wrong_fields(value, accepted[key], f"{path}.{key}")


@pytest.mark.parametrize("block", YAML, ids=lambda block: block.name)
def test_manifests_are_valid(block: Block, clone: Clone) -> None:
    """Whole objects against their schemas; parts of one at least parse."""
    for each in yaml.safe_load_all(block.text):
        kind = each.get("kind")
        if kind == "Kustomization":
            (clone.where / "site").mkdir()
            (clone.where / "site" / "kustomization.yaml").write_text(block.text)
            assert clone.type("kubectl kustomize site")
        elif kind in CUSTOM:
            assert not list(wrong_fields(each["spec"], CUSTOM[kind], kind))
        elif kind:
            kubernetes_validate.validate(each, KUBERNETES, strict=True)


@pytest.mark.parametrize("block", list(every_block("json")), ids=lambda block: block.name)
def test_json_parses(block: Block) -> None:
    """As it stands."""
    json.loads(block.text)
