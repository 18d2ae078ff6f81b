"""``lightly``'s loss and regulariser, in an environment of their own."""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

# Runs in the other environment. Only the first loss has a backward: the regulariser's result carries no gradient.
SCRIPT = """
import json, sys, time
import torch
from torch.nn import functional as F
from lightly import __version__
from lightly.loss import NTXentLoss
from lightly.loss.regularizer import CO2Regularizer

rows, negatives, repeats, threads = json.loads(sys.argv[1])
torch.set_num_threads(threads)
torch.manual_seed(1)
query = F.normalize(torch.randn(rows, 128), dim=1).requires_grad_()
key = F.normalize(torch.randn(rows, 128), dim=1)
loss = NTXentLoss(temperature=0.07, memory_bank_size=(negatives, 128))
regulariser = CO2Regularizer(alpha=10, t_consistency=0.04, memory_bank_size=(negatives, 128))
seconds = []
for repeat in range(repeats + 1):
    query.grad = None
    start = time.perf_counter()
    term = regulariser(query, key)
    (loss(query, key) + term).backward()
    if repeat:
        seconds.append(time.perf_counter() - start)
all_ms = [1e3 * one for one in seconds]
print(json.dumps({"version": __version__, "all_ms": all_ms, "term_has_gradient": term.requires_grad}))
"""


def time_lightly(*, repeats: int, threads: int, quick: bool) -> dict[str, Any]:
    """Install the newest lightly beside the torch that is here, and time it at MoCo's size."""
    rows, negatives = (32, 2048) if quick else (256, 65536)
    with tempfile.TemporaryDirectory() as folder:
        python = install_lightly(Path(folder))
        given = json.dumps([rows, negatives, repeats, threads])
        done = subprocess.run([str(python), "-c", SCRIPT, given], capture_output=True, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"rows": rows, "negatives": negatives, **result}


def install_lightly(folder: Path) -> Path:
    """An environment in ``folder`` that adds lightly to this one's packages; its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
    # The same build of torch: two builds would compare builds.
    (packages / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", "lightly"], check=True)
    return python
