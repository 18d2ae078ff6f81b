"""Where and when a benchmark ran: what a number means nothing without."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sklearn
import torch
import torchvision

HERE = Path(__file__).parent


def surroundings(module: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Command, commit, machine and versions."""
    commit, changed = (_git("rev-parse", "HEAD"), _git("status", "--porcelain", "--", ":/src", ":/benchmarks/*.py"))
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "command": shlex.join(["python", "-m", module, *arguments]),
        "commit": commit,
        "uncommitted_changes": bool(changed),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "scikit_learn": sklearn.__version__,
        "python": platform.python_version(),
    }


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, check=False, cwd=HERE).stdout.strip()


def write(path: Path, content: dict[str, Any]) -> None:
    """The JSON, and on the screen what it says apart from single times."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps({name: value for name, value in content.items() if name != "contenders"}, indent=1))
