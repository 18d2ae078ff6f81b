"""Every field of ``Contrast``, in every implementation, against explicit loops: values and gradients."""

from __future__ import annotations

import pytest
import torch

from co2ssl.losses import Contrast, consistency, contrastive_loss, info_nce, nce
from co2ssl.losses.engine import Implementation
from co2ssl.losses.options import Direction
from tests.losses.cases import CASES, leaves, tiny_blocks, with_noise
from tests.reference import loop_terms

ALPHA = 3.0
WARM, COOL = 0.2, 0.1


def check_against_loops(
    contrast: Contrast, implementation: Implementation, direction: Direction, *, detach: bool = False
) -> None:
    ours, our_leaves = leaves(contrast)
    loops, loop_leaves = leaves(contrast)
    with tiny_blocks():
        loss = contrastive_loss(
            ours,
            temperature=WARM,
            consistency_weight=ALPHA,
            consistency_temperature=COOL,
            direction=direction,
            detach_positive=detach,
            reduction="none",
            implementation=implementation,
        )
        row_weight = torch.linspace(0.5, 2, contrast.num_rows, dtype=torch.float64)
        gradients = torch.autograd.grad((loss.total * row_weight).sum(), our_leaves)
    terms = loop_terms(
        loops, temperature=WARM, consistency_temperature=COOL, direction=direction, detach_positive=detach
    )
    expected = torch.autograd.grad(((terms.instance + ALPHA * terms.consistency) * row_weight).sum(), loop_leaves)
    torch.testing.assert_close(loss.instance, terms.instance.detach())
    torch.testing.assert_close(loss.consistency, terms.consistency.detach())
    torch.testing.assert_close(loss.top1, (terms.above < 1).double().mean(1))
    torch.testing.assert_close(loss.top5, (terms.above < 5).double().mean(1))
    for gradient, loop_gradient in zip(gradients, expected, strict=True):
        assert loop_gradient.abs().max() > 0
        torch.testing.assert_close(gradient, loop_gradient)


@pytest.mark.parametrize("direction", ["symmetric", "forward", "reverse"])
@pytest.mark.parametrize("implementation", ["reference", "blocked"])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_loops(
    case: str, implementation: Implementation, direction: Direction
) -> None:
    check_against_loops(CASES[case](), implementation, direction)


@pytest.mark.parametrize("implementation", ["reference", "blocked"])
@pytest.mark.parametrize("case", CASES)
def test_a_detached_positive_makes_p_a_constant_target(case: str, implementation: Implementation) -> None:
    check_against_loops(CASES[case](), implementation, "symmetric", detach=True)


@pytest.mark.parametrize("direction", ["symmetric", "forward", "reverse"])
@pytest.mark.parametrize("with_positive", [True, False])
@pytest.mark.parametrize("temperature", [WARM, 0.001])
@pytest.mark.parametrize("case", ["table", "table_with_ids", "many_positives", "masked", "joined", "dot"])
def test_the_sweep_over_a_constant_table(
    case: str, temperature: float, with_positive: bool, direction: Direction
) -> None:
    """Where the table asks for no gradient, one pass over it gives the same; 0.001 needs the running maximum."""
    contrast = CASES[case]()
    results = []
    for implementation in ("reference", "blocked"):
        given, vectors = leaves(contrast, negatives=False, positive=with_positive)
        with tiny_blocks():
            loss = contrastive_loss(
                given,
                temperature=temperature,
                consistency_weight=ALPHA,
                consistency_temperature=temperature / 2,
                direction=direction,
                implementation=implementation,
            )
        results.append((loss.instance, loss.consistency, loss.top1, *torch.autograd.grad(loss.total, vectors)))
    for ours, expected in zip(*reversed(results), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("constant_table", [True, False])
@pytest.mark.parametrize("implementation", ["reference", "blocked"])
def test_label_smoothing_is_cross_entropy_with_a_smoothed_target(
    implementation: Implementation, constant_table: bool
) -> None:
    contrast, vectors = leaves(CASES["masked"](), negatives=not constant_table)
    loops, loop_vectors = leaves(CASES["masked"](), negatives=not constant_table)
    with tiny_blocks():
        loss = info_nce(contrast, temperature=WARM, label_smoothing=0.1, implementation=implementation)
        gradients = torch.autograd.grad(loss, vectors)
    terms = loop_terms(loops, temperature=WARM, consistency_temperature=COOL, label_smoothing=0.1)
    torch.testing.assert_close(loss, terms.instance.mean())
    expected = torch.autograd.grad(terms.instance.mean(), loop_vectors)
    for gradient, loop_gradient in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, loop_gradient)


def test_label_smoothing_is_torchs_on_a_plain_table() -> None:
    contrast = CASES["table"]()
    logits = torch.cat(
        [(contrast.query * contrast.positive).sum(1, keepdim=True), contrast.query @ contrast.negatives.T], 1
    )
    expected = torch.nn.functional.cross_entropy(logits / WARM, torch.zeros(6, dtype=torch.int64), label_smoothing=0.1)
    torch.testing.assert_close(info_nce(contrast, temperature=WARM, label_smoothing=0.1), expected)


@pytest.mark.parametrize("implementation", ["reference", "blocked"])
@pytest.mark.parametrize("case", ["table", "many_positives", "masked", "draws", "draws_with_everything", "own_sets"])
def test_nce(case: str, implementation: Implementation) -> None:
    contrast, vectors = leaves(with_noise(CASES[case]()))
    loops, loop_vectors = leaves(with_noise(CASES[case]()))
    with tiny_blocks():
        loss = nce(contrast, temperature=WARM, implementation=implementation, reduction="none")
        gradients = torch.autograd.grad(loss.mean(), vectors)
    terms = loop_terms(loops, temperature=WARM, consistency_temperature=COOL, nce=True)
    torch.testing.assert_close(loss, terms.instance)
    expected = torch.autograd.grad(terms.instance.mean(), loop_vectors)
    for gradient, loop_gradient in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, loop_gradient)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("implementation", ["reference", "blocked"])
@pytest.mark.parametrize("case", ["table", "simclr", "draws"])
def test_reductions_agree_with_the_rows(case: str, implementation: Implementation, reduction: str) -> None:
    contrast, vectors = leaves(CASES[case]())
    options = {"temperature": WARM, "consistency_weight": ALPHA, "consistency_temperature": COOL}
    rows = contrastive_loss(contrast, **options, reduction="none", implementation=implementation)  # type: ignore[arg-type]
    reduced = contrastive_loss(contrast, **options, reduction=reduction, implementation=implementation)  # type: ignore[arg-type]
    expected = getattr(rows.total, reduction)()
    torch.testing.assert_close(reduced.total, expected)
    gradients = torch.autograd.grad(reduced.total, vectors)
    for gradient, of_rows in zip(gradients, torch.autograd.grad(expected, vectors), strict=True):
        torch.testing.assert_close(gradient, of_rows)
    for name in ("instance", "consistency", "top1", "top5"):
        torch.testing.assert_close(getattr(reduced, name), getattr(getattr(rows, name), reduction)())


@pytest.mark.parametrize("implementation", ["reference", "blocked"])
@pytest.mark.parametrize("case", CASES)
def test_the_terms_alone_are_those_of_the_pair(case: str, implementation: Implementation) -> None:
    """``info_nce`` and ``consistency`` on their own, values and gradients, add up to ``contrastive_loss``."""
    contrast, vectors = leaves(CASES[case]())
    with tiny_blocks():
        alone = info_nce(contrast, temperature=WARM, implementation=implementation)
        divergence = consistency(contrast, temperature=COOL, implementation=implementation)
        both = contrastive_loss(
            contrast,
            temperature=WARM,
            consistency_weight=ALPHA,
            consistency_temperature=COOL,
            implementation=implementation,
        )
        gradients = torch.autograd.grad(both.total, vectors)
        of_terms = torch.autograd.grad(alone + ALPHA * divergence, vectors, materialize_grads=True)
    torch.testing.assert_close(both.instance, alone.detach())
    torch.testing.assert_close(both.consistency, divergence.detach())
    for gradient, of_term in zip(gradients, of_terms, strict=True):
        torch.testing.assert_close(gradient, of_term)
