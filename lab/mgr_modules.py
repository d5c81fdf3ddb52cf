# SPDX-License-Identifier: Apache-2.0
"""The modules of ceph-mgr, mended where the distribution's own do not load."""

from pathlib import Path
from typing import Final

_INSTALLED: Final = Path("/usr/share/ceph/mgr")
_NEEDLESS: Final = "\nimport bcrypt\n"


def module_path(home: Path) -> Path:
    """Return where the site's manager finds modules that load.

    In Ceph 18 they all import bcrypt, to hash the dashboard's passwords; Debian 13's bcrypt
    refuses interpreters other than a process's first, and each module has one of its own. So
    none loads there, and snapshot schedules would be missing. Ceph 20 dropped that import.
    """
    broken = _INSTALLED / "mgr_util.py"
    text = broken.read_text()
    if _NEEDLESS not in text:
        return _INSTALLED
    mended = home / "mgr.modules"
    mended.mkdir()
    for each in _INSTALLED.iterdir():
        (mended / each.name).symlink_to(each)
    (mended / broken.name).unlink()
    (mended / broken.name).write_text(text.replace(_NEEDLESS, "\n"))
    return mended
