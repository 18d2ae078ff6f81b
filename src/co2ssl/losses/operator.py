"""The loss as one operator: what ``torch.compile`` sees of it, and its derivative.

The forward finds the gradient beside the value, so the backward only scales it. The one exception is per-row totals
with negatives that carry gradient: what goes back to a shared table depends on the weight of every row, so it is found
in the backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from co2ssl.losses.rows import loss_by_rows
from co2ssl.losses.settings import Inputs, Needs, Results, Settings
from co2ssl.losses.sweep import loss_by_sweep
from co2ssl.losses.triton_loss import loss_by_triton

# Up to this many scores one block holds them all, and a whole softmax is as fast as the sweep.
FEW_SCORES = 1 << 17

# The fields of Inputs that travel in a list.
OTHERS = (
    "negative_index",
    "row_id",
    "negative_id",
    "valid",
    "also_positive",
    "partner",
    "log_normaliser",
)


def compute(
    inputs: Inputs, settings: Settings, needs: Needs, implementation: str, *, row_weight: Tensor | None = None
) -> Results:
    """Values and gradients by Triton, or by the way in blocks that fits: a sweep over a constant table, else rows."""
    with torch.autocast(inputs.query.device.type, enabled=False):
        if implementation == "triton":
            return loss_by_triton(inputs, settings, needs, row_weight=row_weight)
        if not needs.negatives and fits_sweep(inputs, settings):
            return loss_by_sweep(inputs, settings, needs)
        return loss_by_rows(inputs, settings, needs, row_weight=row_weight)


def fits_sweep(inputs: Inputs, settings: Settings) -> bool:
    """Whether one pass over the table gives everything (no gradient to the table), and is worth it."""
    shared = inputs.negatives.dim() == 2 and inputs.negative_index is None and inputs.partner is None
    linear = not settings.limit and not settings.noise_images
    return shared and linear and inputs.query.shape[0] * inputs.num_negatives > FEW_SCORES


@torch.library.custom_op("co2ssl::contrast", mutates_args=())
def contrast_operator(
    query: Tensor,
    positive: Tensor,
    negatives: Tensor,
    others: Sequence[Tensor],
    settings: Sequence[float],
    needs: Sequence[bool],
    summed: bool,
    implementation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Total (a sum, or (N,)), instance (N,), consistency (N,), above (N, M), and three gradients of the sum.

    ``others`` are the fields of :class:`Inputs` named by ``OTHERS``, an empty tensor standing for None (a list that
    holds None cannot be differentiated through); ``settings`` are those of :class:`Settings`, ``needs`` of
    :class:`Needs`.
    """
    inputs = _inputs(query, positive, negatives, others)
    now = Needs(needs[0], needs[1], needs[2] and summed)
    results = compute(inputs, Settings(*settings), now, implementation)
    total = results.total.sum() if summed else results.total
    return (total, results.instance, results.consistency, results.above, *_gradients(results, inputs))


@contrast_operator.register_fake
def _contrast_shapes(
    query: Tensor,
    positive: Tensor,
    negatives: Tensor,
    _others: Sequence[Tensor],
    _settings: Sequence[float],
    needs: Sequence[bool],
    summed: bool,
    _implementation: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    dtype = Inputs(query, positive, negatives).dtype
    num_rows, num_positives, _ = positive.shape
    rows = [query.new_empty(num_rows, dtype=dtype) for _ in range(3)]
    return (
        query.new_empty((), dtype=dtype) if summed else rows[0],
        rows[1],
        rows[2],
        query.new_empty(num_rows, num_positives, dtype=dtype),
        *_shapes((query, positive, negatives), (needs[0], needs[1], needs[2] and summed)),
    )


@torch.library.custom_op("co2ssl::contrast_backward", mutates_args=())
def contrast_backward_operator(
    grad_total: Tensor,
    query: Tensor,
    positive: Tensor,
    negatives: Tensor,
    others: Sequence[Tensor],
    found: Sequence[Tensor],
    settings: Sequence[float],
    needs: Sequence[bool],
    summed: bool,
    implementation: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scale the gradients that the forward ``found``, or find them with the weight of every row.

    It takes the vectors themselves also where it does not read them, so that a second derivative is refused.
    """
    inputs = _inputs(query, positive, negatives, others)
    if needs[2] and not summed:
        results = compute(inputs, Settings(*settings), Needs(*needs), implementation, row_weight=grad_total)
        return _gradients(results, inputs)
    by_row = grad_total if summed else grad_total[:, None]
    by_pair = grad_total if summed else grad_total[:, None, None]
    scaled = [
        (gradient * by).to(of.dtype) if needed else of.new_empty(0)
        for gradient, by, of, needed in zip(
            found, (by_row, by_pair, grad_total), (query, positive, negatives), needs, strict=True
        )
    ]
    return scaled[0], scaled[1], scaled[2]


@contrast_backward_operator.register_fake
def _backward_shapes(
    _grad_total: Tensor,
    query: Tensor,
    positive: Tensor,
    negatives: Tensor,
    _others: Sequence[Tensor],
    _found: Sequence[Tensor],
    _settings: Sequence[float],
    needs: Sequence[bool],
    _summed: bool,
    _implementation: str,
) -> tuple[Tensor, Tensor, Tensor]:
    return _shapes((query, positive, negatives), needs)


def _inputs(query: Tensor, positive: Tensor, negatives: Tensor, others: Sequence[Tensor]) -> Inputs:
    given = {name: tensor for name, tensor in zip(OTHERS, others, strict=True) if tensor.numel()}
    return Inputs(query, positive, negatives, **given)


def _gradients(results: Results, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """In the dtype of what they belong to; empty where not asked for (an operator returns no None)."""

    def cast(gradient: Tensor | None, of: Tensor) -> Tensor:
        return of.new_empty(0) if gradient is None else gradient.to(of.dtype)

    return (
        cast(results.grad_query, inputs.query),
        cast(results.grad_positive, inputs.positive),
        cast(results.grad_negatives, inputs.negatives),
    )


def _shapes(tensors: Sequence[Tensor], needs: Sequence[bool]) -> tuple[Tensor, Tensor, Tensor]:
    shapes = [of.new_empty(of.shape if needed else (0,)) for of, needed in zip(tensors, needs, strict=True)]
    return shapes[0], shapes[1], shapes[2]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    query, positive, negatives, others, *ctx.options = inputs
    ctx.num_others = len(others)
    ctx.save_for_backward(query, positive, negatives, *others, *output[4:])
    ctx.mark_non_differentiable(*output[1:])


def _differentiate(ctx: Any, grad_total: Tensor, *_: Tensor | None) -> tuple[Any, ...]:
    query, positive, negatives, *rest = ctx.saved_tensors
    others, found = rest[: ctx.num_others], rest[ctx.num_others :]
    settings, needs, summed, implementation = ctx.options
    gradients = contrast_backward_operator(
        grad_total, query, positive, negatives, others, found, settings, needs, summed, implementation
    )
    asked = [gradient if needed else None for gradient, needed in zip(gradients, needs, strict=True)]
    return (*asked, [None] * len(others), None, None, None, None)


def _refuse(_ctx: Any, *_: Tensor | None) -> None:
    raise RuntimeError(
        "the contrastive loss has no second derivative in this form (its backward was differentiated again, as by "
        'create_graph=True); use implementation="reference", which autograd can differentiate any number of times'
    )


contrast_operator.register_autograd(_differentiate, setup_context=_remember)
contrast_backward_operator.register_autograd(_refuse)


def apply_operator(inputs: Inputs, settings: Settings, *, summed: bool, implementation: str) -> tuple[Tensor, ...]:
    """Total (a sum, or (N,)), instance (N,), consistency (N,) and above (N, M); only the total has gradient."""
    vectors = (inputs.query, inputs.positive, inputs.negatives)
    needs = [torch.is_grad_enabled() and tensor.requires_grad for tensor in vectors]
    nothing = inputs.query.new_empty(0)
    others = [getattr(inputs, name) for name in OTHERS]
    others = [nothing if tensor is None else tensor for tensor in others]
    outputs: tuple[Tensor, ...] = contrast_operator(*vectors, others, list(settings), needs, summed, implementation)
    return outputs[:4]
