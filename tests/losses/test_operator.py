"""The operator under torch.compile, autocast, DDP and a second derivative."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from co2ssl.losses import Contrast, Dot, Objective, contrastive_loss, nt_xent, operator
from tests.losses.cases import CASES, leaves, tiny_blocks, unit
from tests.processes import ProcessPair


def loss_of(contrast: Contrast, **options: Any) -> Tensor:
    return contrastive_loss(
        contrast,
        temperature=0.1,
        consistency_weight=2,
        consistency_temperature=0.2,
        implementation="blocked",
        **options,
    ).total


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("case", ["table_with_ids", "joined", "draws_with_everything", "simclr"])
def test_compiled_without_a_break_it_gives_the_same(case: str, reduction: str) -> None:
    contrast, vectors = leaves(CASES[case]())
    fields = {name: getattr(contrast, name) for name in contrast.__dataclass_fields__}

    def total(*given: Tensor) -> Tensor:
        named = dict(zip(("query", "positive", "negatives"), given, strict=True))
        # Something for the compiler to do on both sides of the operator.
        return loss_of(Contrast(**(fields | named)), reduction=reduction).square().sum()

    compiled = torch.compile(total, fullgraph=True, backend="aot_eager")
    values = [one(*vectors) for one in (compiled, total)]
    torch.testing.assert_close(*values)
    for ours, expected in zip(*(torch.autograd.grad(value, vectors) for value in values), strict=True):
        torch.testing.assert_close(ours, expected)


def test_comparisons_may_be_made_inside_the_compiled_function() -> None:
    weight = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    images, key, queue = unit(6, 7, seed=1), unit(6, 5, seed=2), unit(11, 5, seed=3)

    def total() -> Tensor:
        query = F.normalize(images @ weight.T, dim=1)
        plain = Contrast(query=query, positive=key, negatives=queue)
        scaled = Contrast(query=query, positive=key, negatives=queue, score=Dot(2.0))
        objective = Objective(temperature=0.2, consistency_weight=1.0)
        return objective([plain]).total + loss_of(scaled) + nt_xent(query, key, temperature=0.2)

    compiled, eager = torch.compile(total, fullgraph=True, backend="aot_eager")(), total()
    torch.testing.assert_close(compiled, eager)
    torch.testing.assert_close(*(torch.autograd.grad(one, weight)[0] for one in (compiled, eager)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("needs_negatives", [True, False])
def test_its_registration_is_sound(needs_negatives: bool, dtype: torch.dtype) -> None:
    """Schema, fake tensors and autograd registration, as PyTorch's own checker sees them."""
    case = CASES["table_with_ids"]()
    vectors = {name: getattr(case, name).to(dtype) for name in ("query", "positive", "negatives")}
    contrast, _ = leaves(replace(case, **vectors), negatives=needs_negatives)
    nothing = torch.empty(0, dtype=torch.float64)
    assert contrast.row_id is not None
    assert contrast.negative_id is not None
    others = [nothing, contrast.row_id, contrast.negative_id, nothing, nothing, nothing, nothing]
    settings = [0.1, 0.2, 1.0, 2.0, 0.5, 0.5, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    arguments = (contrast.query, contrast.positive[:, None], contrast.negatives, others, settings)
    torch.library.opcheck(
        operator.contrast_operator,
        (*arguments, [True, True, needs_negatives], True, "blocked"),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


def test_under_autocast_it_stays_in_full_precision() -> None:
    single = {name: getattr(CASES["table"](), name).float() for name in ("query", "positive", "negatives")}
    contrast, vectors = leaves(Contrast(**single))
    plain = loss_of(contrast)
    for implementation in ("reference", "blocked"):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = contrastive_loss(
                contrast,
                temperature=0.1,
                consistency_weight=2,
                consistency_temperature=0.2,
                implementation=implementation,
            ).total
        assert cast.dtype == torch.float32
        torch.testing.assert_close(cast, plain, rtol=1e-6, atol=1e-6)
        gradients, expected = (torch.autograd.grad(one, vectors, retain_graph=True) for one in (cast, plain))
        for gradient, of_plain in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, of_plain, rtol=1e-5, atol=1e-6)


def test_a_second_derivative_is_refused_also_where_it_would_only_be_missing() -> None:
    contrast, (query, *_) = leaves(CASES["table"]())
    (gradient,) = torch.autograd.grad(loss_of(contrast), query, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.backward(query.sum() + gradient.square().sum())


@pytest.mark.parametrize("needs_negatives", [True, False])
def test_a_second_derivative_is_refused_in_each_vector_that_has_a_first(needs_negatives: bool) -> None:
    contrast, vectors = leaves(CASES["table"](), negatives=needs_negatives)
    for vector in vectors:
        (gradient,) = torch.autograd.grad(loss_of(contrast), vector, create_graph=True)
        for other in vectors:
            with pytest.raises(RuntimeError, match="no second derivative"):
                torch.autograd.grad(gradient.square().sum(), other, retain_graph=True)


@pytest.mark.parametrize("blocks", [tiny_blocks, nullcontext])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("case", ["table", "table_with_ids", "masked", "draws_with_everything", "own_sets"])
def test_a_memory_may_be_written_to_between_the_loss_and_its_backward(
    case: str, reduction: str, blocks: Callable[[], AbstractContextManager[None]]
) -> None:
    """Its vectors, its ids and all that belongs to them, as in facebook's MoCo, which enqueues in its forward."""
    gradients = []
    for written_to in (False, True):
        contrast, vectors = leaves(CASES[case](), negatives=False)
        with blocks():
            loss = loss_of(contrast, reduction=reduction).mean()
        if written_to:
            contrast.negatives.zero_()
            for name in operator.OTHERS[:5]:
                tensor = getattr(contrast, name)
                if tensor is not None:
                    tensor.zero_()
        gradients.append(torch.autograd.grad(loss, vectors))
    for ours, expected in zip(*gradients, strict=True):
        assert expected.abs().max() > 0
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_table_that_carries_gradient_may_be_written_to_after_backward_only(reduction: str) -> None:
    contrast, _ = leaves(CASES["table"]())
    loss = loss_of(contrast, reduction=reduction).mean()
    with torch.no_grad():
        contrast.negatives.zero_()
    with pytest.raises(RuntimeError, match=r"change them after backward\(\)"):
        torch.autograd.backward(loss)


def test_the_reference_has_a_second_derivative() -> None:
    contrast, (query, *_) = leaves(CASES["table"]())
    loss = contrastive_loss(contrast, temperature=0.5, consistency_weight=2, implementation="reference").total
    (gradient,) = torch.autograd.grad(loss, query, create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), query)
    assert second.abs().max() > 0


def test_no_gradient_is_computed_where_none_is_asked_for() -> None:
    contrast, _ = leaves(CASES["table"]())
    with torch.no_grad():
        assert not loss_of(contrast).requires_grad
    torch.testing.assert_close(loss_of(CASES["table"]()), loss_of(contrast).detach())


def test_negatives_that_are_a_slice_of_a_larger_buffer() -> None:
    wide = F.normalize(torch.randn(11, 2, 5, dtype=torch.float64), dim=2)
    contrast = replace(CASES["table"](), negatives=wide[:, 1])
    expected = loss_of(replace(contrast, negatives=wide[:, 1].contiguous()))
    torch.testing.assert_close(loss_of(contrast), expected)


def encoder_gradient(images: Tensor, rows: slice, *, parallel: bool) -> Tensor:
    """Gradient of an encoder's weight by the mean loss over ``rows``."""
    torch.manual_seed(0)
    encoder: nn.Module = nn.Linear(7, 5).double()
    if parallel:
        encoder = DistributedDataParallel(encoder)
    query = F.normalize(encoder(images[rows]), dim=1)
    contrast = Contrast(query=query, positive=unit(6, 5, seed=2)[rows], negatives=unit(11, 5, seed=3))
    torch.autograd.backward(loss_of(contrast))
    weight = next(encoder.parameters())
    assert weight.grad is not None
    return weight.grad


def gradient_of_rank(images: Tensor) -> Tensor:
    from co2ssl.distributed import rank

    return encoder_gradient(images, slice(3 * rank(), 3 * rank() + 3), parallel=True)


def test_under_ddp_two_processes_give_the_gradient_of_one(two_processes: ProcessPair) -> None:
    images = torch.randn(6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    expected = encoder_gradient(images, slice(0, 6), parallel=False)
    for gradient in two_processes(gradient_of_rank, images):
        torch.testing.assert_close(gradient, expected)
