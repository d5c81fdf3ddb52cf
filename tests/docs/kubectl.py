# SPDX-License-Identifier: Apache-2.0
"""Lines with kubectl in them, typed where no cluster answers.

The shell is real, jq and sed are, and kubectl parses its arguments and files; only then it
finds nobody to ask. What it would have been answered comes from ``answers/``.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ANSWERS: Final = Path(__file__).with_name("answers")
_SEARCHED: Final = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
_NOBODY: Final = "http://127.0.0.1:9"
_ASKED: Final = re.compile(r"connection refused|was refused", re.IGNORECASE)
_WRAPPER: Final = """\
#!/bin/sh
"{kubectl}" --server={nobody} "$@" >"{log}.out" 2>"{log}.err"
code=$?
{{ echo "kubectl $*"; cat "{log}.err"; echo "exit $code"; }} >>"{log}"
case "$*" in
kustomize*) cat "{log}.out"; exit $code ;;
*get\\ pvc\\ *-o\\ json) cat "{answers}/pvc.json" ;;
*get\\ pv\\ *-o\\ json) cat "{answers}/pv.json" ;;
*get\\ secret\\ *) printf dG9rZW4= ;;
*) printf pvc-1 ;;
esac
"""


class Clone:
    """A copy of what a reader has cloned, and a kubectl in it."""

    def __init__(self, where: Path, root: Path) -> None:
        self.where = where
        self._log = where / "kubectl.log"
        kubectl = shutil.which("kubectl", path=_SEARCHED)
        if kubectl is None:
            raise FileNotFoundError(
                "no kubectl beside this interpreter: pip install -r requirements/deploy.txt"
            )
        shutil.copytree(root / "deploy", where / "deploy")
        wrapper = where / "bin" / "kubectl"
        wrapper.parent.mkdir()
        wrapper.write_text(
            _WRAPPER.format(kubectl=kubectl, nobody=_NOBODY, log=self._log, answers=ANSWERS)
        )
        wrapper.chmod(0o755)
        self._variables = ""

    def type(self, line: str) -> str:
        """Run a line as the shell takes it, and return what it prints.

        Raises:
            ValueError: the shell, kubectl or another tool in it refuses the line.
        """
        self._log.write_text("")
        # variables stay for the lines after
        script = f"set -o pipefail; {self._variables}\n{line}"
        done = subprocess.run(
            ["bash", "-c", script],  # noqa: S607 - the reader's shell
            cwd=self.where,
            env={**os.environ, "PATH": f"{self.where}/bin:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        told = self._log.read_text() + done.stderr
        if done.returncode:
            raise ValueError(f"{line}\n{told}")
        for each in re.split(r"^kubectl ", self._log.read_text(), flags=re.MULTILINE)[1:]:
            offline = each.startswith("kustomize") and each.endswith("exit 0\n")
            if not offline and not _ASKED.search(each):
                raise ValueError(f"{line}\nkubectl {each}")
        if re.match(r"\w+=", line):
            self._variables += f"{line.split('=', 1)[0]}=pvc-1\n"
        return done.stdout
