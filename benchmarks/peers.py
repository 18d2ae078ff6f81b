"""Environments of the other libraries: one that is there, or one for each, made with this package's versions."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.sides import ROOT

HELP = (
    "an environment with the other libraries (its folder, its site-packages or its python); or a folder where uv makes "
    "one for each and leaves them for the next run; default: they are made and removed again"
)
_VERSION = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"


class Peers:
    """Interpreters that have another library.

    Args:
        place: an environment that is there (its folder, its ``site-packages``, its interpreter); else a folder in
            which one is made for each library on first use, with the torch that this package is tested with.
    """

    def __init__(self, place: Path) -> None:
        self._place = place

    def python(self, package: str) -> Path:
        """The interpreter of an environment with ``package`` in it.

        Raises:
            SystemExit: the environment that was given lacks it, or there is no uv to make one with.
        """
        there = interpreter_of(self._place)
        return self._made(package) if there is None else _checked(there, package)

    def _made(self, package: str) -> Path:
        environment = self._place / package
        python = _interpreter_in(environment)
        if not (environment / ".complete").exists():
            uv, constraints = _uv(), str(ROOT / "constraints.txt")
            subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(environment)], check=True)
            install = [uv, "pip", "install", "--quiet", "--python", str(python), "--constraint", constraints]
            subprocess.run([*install, package], check=True)
            (environment / ".complete").touch()
        return python


def interpreter_of(place: Path) -> Path | None:
    """The interpreter of the environment that ``place`` is, or is in, or belongs to; None: it is none."""
    if place.is_file():
        return place.absolute()
    inside = [place, *place.absolute().parents] if place.name == "site-packages" else [place]
    found = next((folder for folder in inside if (folder / "pyvenv.cfg").is_file()), None)
    return None if found is None else _interpreter_in(found.absolute())


def _checked(python: Path, package: str) -> Path:
    done = subprocess.run([str(python), "-c", _VERSION, package], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{python} has no {package}: install it there, or give --peers another environment")
    return python


def _interpreter_in(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found is None:
        raise SystemExit("the other libraries are installed by uv, and there is none: pip install uv")
    return found
