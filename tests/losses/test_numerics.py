"""16-bit inputs, extreme temperatures, NaN, tiny and odd shapes, rows without a negative."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from co2ssl.losses import Contrast, Dot, contrastive_loss, info_nce, operator, sweep
from co2ssl.losses.engine import Implementation
from co2ssl.losses.options import Direction
from co2ssl.losses.settings import Settings
from tests.losses.cases import CASES, leaves, tiny_blocks, unit

IMPLEMENTATIONS = ["reference", "blocked"]


def example(dtype: torch.dtype, *, rows: int = 9, negatives: int = 40, width: int = 13) -> Contrast:
    return Contrast(
        query=unit(rows, width, seed=1, dtype=dtype),
        positive=unit(rows, width, seed=2, dtype=dtype),
        negatives=unit(negatives, width, seed=3, dtype=dtype),
    )


def in_double(contrast: Contrast) -> Contrast:
    wide = {name: getattr(contrast, name).double() for name in ("query", "positive", "negatives")}
    return replace(contrast, **wide)


@pytest.mark.parametrize("constant_table", [True, False])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("temperature", [0.01, 0.04, 1.0, 10.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_within_rounding_of_float64_at_any_temperature(
    dtype: torch.dtype, temperature: float, implementation: Implementation, constant_table: bool
) -> None:
    """Inputs of 16 bits are computed with in float32: the loss of the rounded vectors, to float32's precision."""
    contrast, vectors = leaves(example(dtype), negatives=not constant_table)
    truth, wide_vectors = leaves(in_double(example(dtype)), negatives=not constant_table)
    results = []
    with tiny_blocks():
        for one, of, how in ((contrast, vectors, implementation), (truth, wide_vectors, "reference")):
            loss = contrastive_loss(
                one,
                temperature=temperature,
                consistency_weight=1.0,
                consistency_temperature=temperature,
                implementation=how,
            )
            results.append((loss, torch.autograd.grad(loss.total, of)))
    (ours, gradients), (exact, of_exact) = results
    assert ours.total.dtype == torch.float32
    # A logit of 1 / temperature is rounded in its seventh figure, and the loss by as much.
    bound = 4e-6 * (1 + 1 / temperature)
    for name in ("total", "instance", "consistency"):
        value, expected = getattr(ours, name).double(), getattr(exact, name)
        torch.testing.assert_close(value, expected, rtol=bound, atol=bound)
    gradient_bound = bound + {torch.float32: 0, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype]
    for gradient, expected in zip(gradients, of_exact, strict=True):
        assert gradient.dtype == dtype
        assert float((gradient.double() - expected).abs().max() / expected.abs().max()) < gradient_bound


def test_query_in_float32_against_a_queue_in_bfloat16() -> None:
    mixed = replace(example(torch.float32), negatives=example(torch.bfloat16).negatives)
    ours, (query, _) = leaves(mixed, negatives=False)
    with tiny_blocks():
        loss = contrastive_loss(ours, temperature=0.1, consistency_weight=1)
    exact = contrastive_loss(in_double(mixed), temperature=0.1, consistency_weight=1, implementation="reference")
    torch.testing.assert_close(loss.total.double(), exact.total, rtol=1e-5, atol=1e-5)
    assert torch.autograd.grad(loss.total, query)[0].dtype == torch.float32


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_the_sweep_at_the_edge_of_float32(scale: float) -> None:
    """An anti-parallel and a parallel row at the coldest temperature that needs no maximum, and just beyond it."""
    query = unit(4, 8, seed=1, dtype=torch.float32)
    table = torch.cat([query[:1] + 1e-3 * unit(200, 8, seed=2, dtype=torch.float32)])
    table = torch.nn.functional.normalize(table, dim=1)
    query = torch.cat([-query[:1], query[:1], query[2:]])
    contrast = Contrast(query=query, positive=query.roll(1, 0), negatives=table)
    edge = 1 / (math.log(torch.finfo(torch.float32).max) - 8.7 - math.log(200))
    temperature = edge * 1.0001 / scale
    assert Settings.of(contrast, temperature=edge * 1.0001).needs_no_maximum(200, torch.float32)
    assert not Settings.of(contrast, temperature=edge * 0.9999).needs_no_maximum(200, torch.float32)
    given, vectors = leaves(contrast, negatives=False)
    truth, wide_vectors = leaves(in_double(contrast), negatives=False)
    results = []
    with tiny_blocks():
        for one, of, how in ((given, vectors, "blocked"), (truth, wide_vectors, "reference")):
            loss = contrastive_loss(
                one,
                temperature=temperature,
                consistency_weight=1.0,
                consistency_temperature=temperature,
                implementation=how,  # type: ignore[arg-type]
            )
            results.append((loss.total.detach(), *torch.autograd.grad(loss.total, of)))
    for ours, exact in zip(*results, strict=True):
        assert ours.isfinite().all()
        assert float((ours.double() - exact).abs().max() / exact.abs().max()) < 1e-6 / temperature


@pytest.mark.parametrize("constant_table", [True, False])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", ["query", "positive", "negatives"])
def test_nan_gives_nan_and_never_a_number(name: str, implementation: Implementation, constant_table: bool) -> None:
    vectors = {one: getattr(example(torch.float32), one).clone() for one in ("query", "positive", "negatives")}
    vectors[name][3, 4] = torch.nan
    vectors["negatives"].requires_grad_(not constant_table)
    with tiny_blocks():
        loss = contrastive_loss(
            Contrast(**vectors), temperature=0.1, consistency_weight=1, reduction="none", implementation=implementation
        )
    struck = loss.total.isnan()
    assert struck.all() if name == "negatives" else struck.nonzero().flatten().tolist() == [3]
    if name != "negatives":
        assert float(loss.top1[3]) == 0


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_the_mean_gradient_of_a_hub_is_in_range_where_the_sum_over_rows_is_not(reduction: str) -> None:
    rows, temperature = 1000, 0.01
    assert rows / temperature > torch.finfo(torch.float16).max
    axes = torch.eye(3, 16).half()
    hub = Contrast(query=axes[:1].repeat(rows, 1), positive=axes[1:2].repeat(rows, 1), negatives=axes[[0, 2]])
    gradients = []
    for contrast, how in ((hub, "blocked"), (in_double(hub), "reference")):
        given, (_, _, negatives) = leaves(contrast)
        loss = info_nce(given, temperature=temperature, reduction=reduction, implementation=how)  # type: ignore[arg-type]
        gradients.append(torch.autograd.grad(loss.mean(), negatives)[0])
    assert gradients[0].dtype == torch.float16
    assert float(gradients[1].abs().max()) == pytest.approx(1 / temperature)
    torch.testing.assert_close(gradients[0].double(), gradients[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("constant_table", [True, False])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rounded", [True, False])
def test_a_collapsed_encoder_tells_nothing_apart(
    rounded: bool, dtype: torch.dtype, implementation: Implementation, constant_table: bool
) -> None:
    # Whether two kernels may round the same product to different sides.
    one = unit(1, 129, seed=1, dtype=dtype) if rounded else torch.eye(1, 129).to(dtype)
    negatives = one.repeat(100, 1).requires_grad_(not constant_table)
    contrast = Contrast(query=one.repeat(6, 1), positive=one.repeat(6, 1), negatives=negatives)
    with tiny_blocks():
        loss = contrastive_loss(contrast, temperature=0.07, consistency_weight=1, implementation=implementation)
    assert (float(loss.top1), float(loss.top5)) == (0, 0)


@pytest.mark.parametrize("constant_table", [True, False])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_tie_is_a_miss(implementation: Implementation, constant_table: bool) -> None:
    contrast = replace(CASES["table"](), positive=CASES["table"]().query)
    negatives = contrast.negatives.clone()
    negatives[3] = contrast.query[2]
    tied = replace(contrast, negatives=negatives.requires_grad_(not constant_table))
    with tiny_blocks():
        losses = [
            contrastive_loss(one, temperature=0.1, reduction="none", implementation=implementation)
            for one in (contrast, tied)
        ]
    assert losses[0].top1.tolist() == [1, 1, 1, 1, 1, 1]
    assert losses[1].top1.tolist() == [1, 1, 0, 1, 1, 1]
    assert losses[1].top5.tolist() == [1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("constant_table", [True, False])
@pytest.mark.parametrize(("rows", "negatives", "width"), [(1, 1, 1), (1, 7, 3), (3, 1, 17), (2, 5, 100)])
def test_tiny_and_odd_shapes(
    rows: int, negatives: int, width: int, implementation: Implementation, constant_table: bool
) -> None:
    contrast = example(torch.float64, rows=rows, negatives=negatives, width=width)
    given, vectors = leaves(contrast, negatives=not constant_table)
    truth, true_vectors = leaves(contrast, negatives=not constant_table)
    with tiny_blocks():
        loss = contrastive_loss(given, temperature=0.1, consistency_weight=1, implementation=implementation)
        gradients = torch.autograd.grad(loss.total, vectors)
    exact = contrastive_loss(truth, temperature=0.1, consistency_weight=1, implementation="reference")
    torch.testing.assert_close(loss.total, exact.total)
    for gradient, expected in zip(gradients, torch.autograd.grad(exact.total, true_vectors), strict=True):
        torch.testing.assert_close(gradient, expected)


def test_one_negative_leaves_nothing_to_disagree_about() -> None:
    loss = contrastive_loss(example(torch.float64, negatives=1), temperature=0.1, consistency_weight=1)
    assert float(loss.consistency) == 0


@pytest.mark.parametrize("constant_table", [True, False])
@pytest.mark.parametrize("direction", ["symmetric", "forward"])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_row_without_any_negative_is_refused(
    implementation: Implementation, direction: Direction, constant_table: bool
) -> None:
    contrast, _ = leaves(CASES["table_with_ids"](), negatives=not constant_table)
    alone = replace(contrast, row_id=torch.tensor([0, 1, 7, 2, 3, 4]), negative_id=torch.full((11,), 7))
    with tiny_blocks(), pytest.raises(ValueError, match="row 2 has no negative"):
        contrastive_loss(
            alone, temperature=0.1, consistency_weight=1, direction=direction, implementation=implementation
        )


def test_a_row_whose_entries_all_join_the_numerator_has_nothing_to_compare() -> None:
    also = torch.zeros(6, 11, dtype=torch.bool)
    also[4] = True
    contrast = replace(CASES["table"](), also_positive=also)
    assert info_nce(contrast, temperature=0.1).isfinite()
    with pytest.raises(ValueError, match="row 4 has no negative"):
        contrastive_loss(contrast, temperature=0.1, consistency_weight=1)


def test_no_negatives_at_all_are_refused() -> None:
    with pytest.raises(ValueError, match="there are no negatives"):
        info_nce(replace(CASES["table"](), negatives=torch.zeros(0, 5, dtype=torch.float64)), temperature=0.1)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_far_apart_dot_products_do_not_overflow(implementation: Implementation) -> None:
    contrast = replace(example(torch.float32), score=Dot(1.0))
    contrast = replace(contrast, query=contrast.query * 300, positive=contrast.positive * 300)
    given, vectors = leaves(contrast, negatives=False)
    with tiny_blocks():
        loss = contrastive_loss(given, temperature=0.1, consistency_weight=1, implementation=implementation)
    exact = contrastive_loss(in_double(contrast), temperature=0.1, consistency_weight=1, implementation="reference")
    torch.testing.assert_close(loss.total.double(), exact.total, rtol=1e-5, atol=1e-3)
    assert all(one.isfinite().all() for one in torch.autograd.grad(loss.total, vectors))


def test_the_sweep_is_what_a_large_constant_table_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing of N x K numbers is ever alive in it."""
    taken: list[int] = []
    take = sweep._Tile.take

    def counted(self: sweep._Tile, inputs: object, columns: slice) -> None:
        taken.append(columns.stop - columns.start)
        take(self, inputs, columns)  # type: ignore[arg-type]

    monkeypatch.setattr(sweep._Tile, "take", counted)
    width = sweep.block_negatives(64)
    assert 64 * width <= sweep.BLOCK_ROWS * sweep.BLOCK_NEGATIVES
    contrast = example(torch.float32, rows=64, negatives=2 * width + 1)
    assert contrast.num_rows * contrast.num_negatives > operator.FEW_SCORES
    assert info_nce(contrast, temperature=0.1).isfinite()
    assert taken == [width, width, 1]
    assert sum(taken) == contrast.num_negatives
