"""The GPU kernels through Triton's interpreter, on the CPU, within stated bounds of float64.

Run by ``test_triton.py`` in a process of its own: Triton looks at TRITON_INTERPRET when it is imported.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from co2ssl.losses import Contrast, Dot, contrastive_loss, triton_loss
from co2ssl.losses.options import Direction
from tests.losses.cases import leaves, unit

# Largest error against float64, as a share of the largest value or gradient entry.
BOUNDS = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks and splits in a small example."""
    monkeypatch.setattr(triton_loss, "BLOCK_ROWS", 16)
    monkeypatch.setattr(triton_loss, "BLOCK_NEGATIVES", 16)
    monkeypatch.setattr(triton_loss, "PROGRAMS", 6)


def example(dtype: torch.dtype, *, width: int = 12, ids: bool = True) -> Contrast:
    contrast = Contrast(
        query=unit(20, width, seed=1, dtype=dtype),
        positive=unit(20, width, seed=2, dtype=dtype),
        negatives=unit(70, width, seed=3, dtype=dtype),
    )
    if not ids:
        return contrast
    return replace(contrast, row_id=torch.arange(20), negative_id=torch.arange(70) // 2)


def compare(contrast: Contrast, bound: float, **options: object) -> None:
    """Values and gradients against the textbook in float64, on the same (rounded) vectors."""
    ours, vectors = leaves(contrast)
    wide = replace(
        contrast,
        query=contrast.query.double(),
        positive=contrast.positive.double(),
        negatives=contrast.negatives.double(),
    )
    truth, wide_vectors = leaves(wide)
    settings = {"temperature": 0.2, "consistency_temperature": 0.1} | options
    loss = contrastive_loss(ours, implementation="triton", **settings)  # type: ignore[arg-type]
    expected = contrastive_loss(truth, implementation="reference", normalise=False, **settings)  # type: ignore[arg-type]
    for name in ("total", "instance", "consistency", "top1", "top5"):
        torch.testing.assert_close(getattr(loss, name).double(), getattr(expected, name), rtol=bound, atol=bound)
    weight = torch.linspace(0.5, 2, len(ours.query)) if loss.total.dim() else torch.ones(())
    gradients = torch.autograd.grad((loss.total * weight).sum(), vectors)
    of_truth = torch.autograd.grad((expected.total * weight.double()).sum(), wide_vectors)
    for gradient, exact in zip(gradients, of_truth, strict=True):
        assert gradient.dtype == contrast.query.dtype
        assert float((gradient.double() - exact).abs().max() / exact.abs().max()) < bound


@pytest.mark.parametrize("direction", ["symmetric", "forward", "reverse"])
def test_directions(direction: Direction) -> None:
    compare(example(torch.float32), BOUNDS[torch.float32], consistency_weight=3.0, direction=direction)


@pytest.mark.parametrize("dtype", BOUNDS)
def test_bounds_by_dtype(dtype: torch.dtype) -> None:
    compare(example(dtype), BOUNDS[dtype], consistency_weight=3.0)


@pytest.mark.parametrize("options", [{}, {"consistency_weight": 2.0, "detach_positive": True}, {"reduction": "none"}])
def test_options(options: dict[str, object]) -> None:
    compare(example(torch.float32, ids=False, width=33), BOUNDS[torch.float32], **options)


def test_rows_weighted_one_by_one() -> None:
    compare(example(torch.float32), BOUNDS[torch.float32], consistency_weight=3.0, reduction="none")


def test_cold_temperatures_and_a_scaled_score() -> None:
    compare(example(torch.float32), 1e-4, consistency_weight=3.0, temperature=0.01, consistency_temperature=0.005)
    scaled = replace(example(torch.float32), score=Dot(20.0))
    compare(scaled, 1e-4, consistency_weight=3.0, temperature=1.0, consistency_temperature=1.0)


def test_a_constant_table_gets_no_gradient_and_a_constant_positive_none() -> None:
    contrast, vectors = leaves(example(torch.float32), negatives=False, positive=False)
    loss = contrastive_loss(contrast, temperature=0.2, consistency_weight=3.0, implementation="triton")
    textbook = contrastive_loss(contrast, temperature=0.2, consistency_weight=3.0, implementation="reference")
    gradient, expected = (torch.autograd.grad(one.total, vectors)[0] for one in (loss, textbook))
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-5)


def test_nan_gives_nan_and_no_hit() -> None:
    contrast = example(torch.float32)
    broken = contrast.query.clone()
    broken[2, 3] = torch.nan
    loss = contrastive_loss(
        replace(contrast, query=broken),
        temperature=0.2,
        consistency_weight=1.0,
        reduction="none",
        implementation="triton",
    )
    assert loss.total.isnan().nonzero().flatten().tolist() == [2]
    assert float(loss.top1[2]) == 0


@pytest.mark.parametrize("dtype", BOUNDS)
def test_a_collapsed_encoder_tells_nothing_apart(dtype: torch.dtype) -> None:
    one = unit(1, 12, seed=1, dtype=dtype)
    contrast = Contrast(query=one.repeat(20, 1), positive=one.repeat(20, 1), negatives=one.repeat(70, 1))
    loss = contrastive_loss(contrast, temperature=0.2, consistency_weight=1.0, implementation="triton")
    assert (float(loss.top1), float(loss.top5)) == (0, 0)


def test_a_tie_is_a_miss() -> None:
    contrast = example(torch.float32, ids=False)
    contrast = replace(contrast, positive=contrast.query)
    negatives = contrast.negatives.clone()
    negatives[33] = contrast.query[2]
    loss = contrastive_loss(
        replace(contrast, negatives=negatives), temperature=0.2, reduction="none", implementation="triton"
    )
    assert (loss.top1 == 0).nonzero().flatten().tolist() == [2]
    assert loss.top5.all()


def test_a_row_without_negatives_is_refused() -> None:
    contrast = replace(example(torch.float32), negative_id=torch.full((70,), 3))
    with pytest.raises(ValueError, match="row 3 has no negative"):
        contrastive_loss(contrast, temperature=0.2, implementation="triton")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"valid": torch.ones(20, 70, dtype=torch.bool)}, "mask"),
        ({"positive": unit(20, 2, 12, seed=4, dtype=torch.float32)}, "several positives"),
        ({"negative_index": torch.zeros(20, 3, dtype=torch.int64)}, "negatives of its own"),
    ],
)
def test_what_it_cannot_take_is_refused_with_the_reason(change: dict[str, torch.Tensor], reason: str) -> None:
    contrast = replace(example(torch.float32), **change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=reason):
        contrastive_loss(contrast, temperature=0.2, implementation="triton")
