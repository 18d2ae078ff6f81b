"""The estimate of NCE's normaliser; the loss itself is compared with loops in ``test_loops.py``."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from co2ssl.losses import Contrast, estimate_log_normaliser
from tests.losses.cases import CASES, tiny_blocks
from tests.reference import entries_of, score


def by_loops(contrast: Contrast, temperature: float, num_images: int) -> Tensor:
    exponentials = []
    for row in range(contrast.num_rows):
        positives = contrast.positive[row]
        vectors = [*(positives if positives.dim() == 2 else positives[None])]
        vectors += [vector for vector, _ in entries_of(contrast, row)]
        exponentials += [(score(contrast, contrast.query[row] @ vector) / temperature).exp() for vector in vectors]
    return (torch.stack(exponentials).mean() * num_images).log()


@pytest.mark.parametrize("case", CASES)
def test_it_is_that_of_the_loops(case: str) -> None:
    contrast = CASES[case]()
    with tiny_blocks():
        estimate = estimate_log_normaliser(contrast, temperature=0.2, num_images=40)
    torch.testing.assert_close(estimate, by_loops(contrast, 0.2, 40))


@pytest.mark.parametrize("case", ["table_with_ids", "draws"])
def test_under_autocast_it_stays_in_full_precision(case: str) -> None:
    contrast = CASES[case]()
    single = {name: getattr(contrast, name).float() for name in ("query", "positive", "negatives")}
    contrast = replace(contrast, **single)
    plain = estimate_log_normaliser(contrast, temperature=0.07, num_images=40)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = estimate_log_normaliser(contrast, temperature=0.07, num_images=40)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, plain)


def test_a_temperature_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature must be"):
        estimate_log_normaliser(CASES["draws"](), temperature=0.0, num_images=40)


# In a process of its own: what the allocator of this one has kept of other tests is no part of the measure.
# Not ru_maxrss, which a process inherits from the one that starts it.
PEAK = """
import torch
from pathlib import Path
from co2ssl.losses import Contrast, estimate_log_normaliser
from torch.nn.functional import normalize
torch.manual_seed(0)
rows, draws, width, images = 512, 4096, 128, 5000
query, positive, negatives = (normalize(torch.randn(count, width), dim=1) for count in (rows, rows, images))
index = torch.randint(0, images, (rows, draws))
def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
contrast = Contrast(query=query, positive=positive, negatives=negatives, negative_index=index)
before = peak()
estimate = estimate_log_normaliser(contrast, temperature=0.07, num_images=images)
print(float(estimate), peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux")
def test_draws_are_never_gathered_all_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    estimate, kibibytes = map(float, done.stdout.split())
    # Independent unit vectors have inner products of variance 1 / width: a normal variable's mean of exponentials.
    assert estimate == pytest.approx(math.log(5000) + 1 / (2 * 128 * 0.07**2), abs=0.05)
    # All at once they would be 1.1 GB in float32.
    assert 1024 * kibibytes < 100e6
