# SPDX-License-Identifier: Apache-2.0
"""Wheel and sdist, as they lie in dist/: what is in them, and that they are enough."""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Final

import pytest

_REPOSITORY: Final = Path(__file__).parents[2]
_HATCHLING: Final = Path(sys.executable).with_name("hatchling")
_TREES: Final = ("csi_addons_rbd", "protos")
# pip asks an index
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def wheel() -> Path:
    """The wheel that was built of the sdist."""
    (found,) = (_REPOSITORY / "dist").glob("*.whl")
    return found


@pytest.fixture
def sdist() -> Path:
    """The sdist."""
    (found,) = (_REPOSITORY / "dist").glob("*.tar.gz")
    return found


def test_the_wheel_holds_the_driver_and_nothing_else(wheel: Path) -> None:
    """Every file of the package that is in git, the license, and what wheels carry."""
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
    about = wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"
    carried = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    assert names == in_git("csi_addons_rbd") | {f"{about}/{name}" for name in carried}


def test_the_sdist_holds_what_the_driver_is_made_of(sdist: Path) -> None:
    """The package, the protos its stubs come of, license, changelog; no tests, no lab."""
    with tarfile.open(sdist) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    single = {"CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml"}
    # hatchling adds what git is told to ignore
    assert names == in_git(*_TREES) | single | {"PKG-INFO", ".gitignore"}


def test_a_wheel_of_the_tree_is_that_of_the_sdist(wheel: Path, tmp_path: Path) -> None:
    """Byte by byte: whoever builds from the sdist gets what is released."""
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, _REPOSITORY)
    (again,) = tmp_path.glob("*.whl")
    assert (again.name, digest(again)) == (wheel.name, digest(wheel))


def test_the_wheel_is_enough(wheel: Path, tmp_path: Path) -> None:
    """Installed where nothing of this tree is, the driver tells the version of its wheel."""
    run("/usr/bin/python3", "-m", "venv", "--system-site-packages", tmp_path / "venv")
    run(tmp_path / "venv/bin/pip", "--quiet", "install", wheel)
    printed = run(tmp_path / "venv/bin/csi-addons-rbd", "--version")
    assert printed.split() == ["csi-addons-rbd", wheel.name.split("-")[1]]


def test_a_tag_is_the_version(tmp_path: Path) -> None:
    """Of the commit that bears it; the commits after it are on the way to the next."""
    run("git", "clone", "--quiet", _REPOSITORY, tmp_path)
    run("git", "-C", tmp_path, "tag", "v99.1.0")
    assert run(_HATCHLING, "version", cwd=tmp_path).strip() == "99.1.0"
    author = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.com")
    run("git", "-C", tmp_path, *author, "commit", "--quiet", "--allow-empty", "--message", "Go on")
    assert run(_HATCHLING, "version", cwd=tmp_path).startswith("99.1.1.dev1+g")


def test_a_tree_without_git_has_a_version_too(tmp_path: Path) -> None:
    """One that is no release's."""
    shutil.copy(_REPOSITORY / "pyproject.toml", tmp_path)
    assert run(_HATCHLING, "version", cwd=tmp_path).strip() == "0.0.0"


def in_git(*directories: str) -> set[str]:
    """Return the files of the tree that are not ignored."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", *directories)
    return set(listed.split())


def digest(file: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def run(*command: str | Path, cwd: Path = _REPOSITORY) -> str:
    """Run a command, in the repository unless told otherwise, and return what it prints."""
    done = subprocess.run(
        command, cwd=cwd, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
