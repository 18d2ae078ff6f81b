"""An environment for each other library, with the versions that this one is tested with: the same torch above all."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Peers:
    """Makes an environment on first use, in a folder that may be kept for the next run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def python(self, package: str) -> Path:
        """The interpreter of an environment with ``package`` in it."""
        environment = self._folder / package
        python = environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        if not (environment / ".complete").exists():
            uv, constraints = _uv(), str(ROOT / "constraints.txt")
            subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(environment)], check=True)
            install = [uv, "pip", "install", "--quiet", "--python", str(python), "--constraint", constraints]
            subprocess.run([*install, package], check=True)
            (environment / ".complete").touch()
        return python


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise SystemExit("the other libraries are installed by uv, and there is none: pip install uv")
    return found
