# SPDX-License-Identifier: Apache-2.0
"""What is in the image, and what is not."""

import json
import re
import stat
import struct
import subprocess
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
from container import Image
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

_REPOSITORY = Path(__file__).parents[2]
_PYC_HEADER = struct.Struct("<4sIII")
_UNCHECKED = 1


def test_it_starts_as_nobody_special(image: Image) -> None:
    """A number that is not root's, so that a pod with runAsNonRoot starts it; the bare command."""
    config = image.config
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", config["User"])
    assert config["Entrypoint"] == ["csi-addons-rbd"]
    assert config["Cmd"] == ["serve"]


def test_it_tells_what_it_is(image: Image) -> None:
    """Version and commit stand in the labels."""
    labels = {
        key.removeprefix("org.opencontainers.image."): value
        for key, value in image.config["Labels"].items()
    }
    project = tomllib.loads((_REPOSITORY / "pyproject.toml").read_text())["project"]
    assert labels["title"] == project["name"]
    assert labels["version"] == _version_inside(image)
    assert labels["licenses"] == project["license"]
    assert re.fullmatch(r"[0-9a-f]{40}", labels["revision"])
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT[\d:]{8}Z", labels["created"])


def _version_inside(image: Image) -> str:
    """Read the version that the wheel was built with, which is never that of no git at all."""
    (tree,) = image.root.glob("opt/csi-addons-rbd/lib/python*/site-packages")
    (driver,) = distributions(name="csi-addons-rbd", path=[str(tree)])
    assert driver.version != "0.0.0"
    return driver.version


@pytest.mark.parametrize(
    "pattern",
    [
        *("usr/bin/*gcc*", "usr/bin/cc", "usr/bin/pip*", "opt/csi-addons-rbd/bin/pip*"),
        *("opt/csi-addons-rbd/lib/python*/site-packages/pip", "usr/share/python-wheels/*"),
        *("var/lib/apt/lists/*_Packages*", "var/cache/apt/archives/*.deb", "root/.cache/*"),
        *("source", "wheel", "tools", "tmp/*", "run/secrets/*", "usr/share/man/man1/*"),
    ],
)
def test_what_only_the_build_needs_is_not_there(image: Image, pattern: str) -> None:
    """No compiler, no pip, no package lists, nothing of the builder's configuration."""
    assert not list(image.root.glob(pattern))


def test_nobody_can_become_somebody_else(image: Image) -> None:
    """No file has a setuid or setgid bit."""
    files = [path for path in image.root.rglob("*") if stat.S_ISREG(path.lstat().st_mode)]
    assert image.root / "usr/bin/su" in files
    assert not [path for path in files if path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID)]


def test_every_module_is_compiled(image: Image) -> None:
    """With a read-only root the interpreter would compile a stale one at each start."""
    trees = ("opt/csi-addons-rbd/lib", "usr/lib/python3.*")
    modules = [
        path
        for tree in trees
        for path in image.root.glob(f"{tree}/**/*.py")
        if not path.is_symlink()
    ]
    assert len(modules) > 500
    assert not [path for path in modules if not _is_compiled(path)]


def _is_compiled(module: Path) -> bool:
    """Tell whether the interpreter takes the compiled file: unchecked, or its source's age fits."""
    for compiled in (module.parent / "__pycache__").glob(f"{module.stem}.cpython-*.pyc"):
        with compiled.open("rb") as content:
            _, flags, seconds, size = _PYC_HEADER.unpack(content.read(_PYC_HEADER.size))
        if flags == _UNCHECKED:
            return True
        source = module.stat()
        return flags == 0 and (seconds, size) == (int(source.st_mtime), source.st_size)
    return False


def test_the_bill_of_materials_names_every_package(image: Image) -> None:
    """As many of Debian's as dpkg counts, the driver's own dependencies, and itself on top."""
    document = json.loads((image.directory / "sbom.json").read_text())
    listed = subprocess.run(
        ["dpkg-query", "--admindir", image.root / "var/lib/dpkg", "-W", "-f", "${Package}\n"],  # noqa: S607
        check=True,
        capture_output=True,
        text=True,
    )
    by_kind: dict[str, set[str]] = {"pkg:deb": set(), "pkg:pypi": set()}
    for each in document["components"]:
        by_kind[each["purl"].partition("/")[0]].add(each["name"])
    assert by_kind["pkg:deb"] == set(listed.stdout.split())
    assert {"python3-rbd", "librbd1", "libc6"} <= by_kind["pkg:deb"]
    project = tomllib.loads((_REPOSITORY / "pyproject.toml").read_text())["project"]
    needed = {each.partition(">=")[0] for each in project["dependencies"]}
    assert needed <= by_kind["pkg:pypi"]
    about = document["metadata"]["component"]
    assert (about["name"], about["version"]) == (project["name"], _version_inside(image))


def test_the_bill_of_materials_can_be_made_again(image: Image) -> None:
    """Of the unpacked root, by anybody, with the same text."""
    script = _REPOSITORY / "scripts" / "sbom"
    done = subprocess.run([script, image.root], check=True, capture_output=True, text=True)
    assert done.stdout == (image.directory / "sbom.json").read_text()


def test_the_bill_of_materials_is_valid(image: Image) -> None:
    """By the schema of CycloneDX 1.6, strictly: no field that it does not know."""
    text = (image.directory / "sbom.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
