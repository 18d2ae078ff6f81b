"""Run the kernels' tests under Triton's interpreter, and check what is said where there is no GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from co2ssl.losses import contrastive_loss
from tests.losses.cases import table

HERE = Path(__file__).parent


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_kernels_under_the_interpreter() -> None:
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, str(HERE / "interpreted_triton.py")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_refused_by_name_and_not_chosen() -> None:
    contrast = table()
    contrast = type(contrast)(query=contrast.query.float(), positive=contrast.positive, negatives=contrast.negatives)
    with pytest.raises(ValueError, match=r"float64|not on a CUDA device|not installed"):
        contrastive_loss(contrast, temperature=0.2, implementation="triton")
    assert contrastive_loss(contrast, temperature=0.2).total.isfinite()
