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
from co2ssl.losses.triton_loss import loss_by_triton, loss_by_triton_where_it_runs

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
        if implementation == "triton or blocked":
            results = loss_by_triton_where_it_runs(inputs, settings, needs, row_weight=row_weight)
            if results is not None:
                return results
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

    All are in the compute dtype, the gradients too: a sum over rows may be beyond the range of a 16-bit type whose mean
    is not. One that is not needed is empty.

    ``others`` are the fields of :class:`Inputs` named by ``OTHERS``, an empty tensor standing for None (a list that
    holds None cannot be differentiated through); ``settings`` are those of :class:`Settings`, ``needs`` of
    :class:`Needs`.
    """
    inputs = _inputs(query, positive, negatives, others)
    now = Needs(needs[0], needs[1], needs[2] and summed)
    results = compute(inputs, Settings(*settings), now, implementation)
    total = results.total.sum() if summed else results.total
    found = _gradients(results, [query.new_empty(0, dtype=inputs.dtype) for _ in range(3)])
    return (total, results.instance, results.consistency, results.above, *found)


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
        *_shapes((query, positive, negatives), (needs[0], needs[1], needs[2] and summed), dtype),
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

    What it returns has the dtypes of the vectors. It takes the vectors that need gradient also where it only scales, so
    that a second derivative is refused; a constant is then an empty tensor, and ``others`` an empty list.
    """
    if _finds_again(needs, summed):
        inputs = _inputs(query, positive, negatives, others)
        results = compute(inputs, Settings(*settings), Needs(*needs), implementation, row_weight=grad_total)
        return _gradients(results, [of.new_empty(0) for of in (query, positive, negatives)])
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


def _finds_again(needs: Sequence[bool], summed: bool) -> bool:
    """Whether the backward finds the gradients itself, from all that the forward had."""
    return needs[2] and not summed


def _inputs(query: Tensor, positive: Tensor, negatives: Tensor, others: Sequence[Tensor]) -> Inputs:
    given = {name: tensor for name, tensor in zip(OTHERS, others, strict=True) if tensor.numel()}
    return Inputs(query, positive, negatives, **given)


def _gradients(results: Results, empty: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """In the dtypes of the ``empty`` ones, which stand for those not asked for (an operator returns no None)."""
    found = (results.grad_query, results.grad_positive, results.grad_negatives)
    cast = [
        nothing if gradient is None else gradient.to(nothing.dtype)
        for gradient, nothing in zip(found, empty, strict=True)
    ]
    return cast[0], cast[1], cast[2]


def _shapes(
    tensors: Sequence[Tensor], needs: Sequence[bool], dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """As the tensors, in their own dtypes or in ``dtype``; empty where not needed."""
    shapes = [
        of.new_empty(of.shape if needed else (0,), dtype=dtype) for of, needed in zip(tensors, needs, strict=True)
    ]
    return shapes[0], shapes[1], shapes[2]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *vectors, others, settings, needs, summed, implementation = inputs
    found = output[4:]
    again = _finds_again(needs, summed)
    # What is kept must not be written to before the backward, and a queue (its ids too) often is: of a constant that
    # is not read again its empty gradient is kept instead.
    kept = [one if again or needed else nothing for one, needed, nothing in zip(vectors, needs, found, strict=True)]
    ctx.save_for_backward(*kept, *(others if again else ()), *found)
    ctx.options = settings, needs, summed, implementation
    ctx.num_others = len(others)
    ctx.mark_non_differentiable(*output[1:])


def _remembered(ctx: Any) -> tuple[Tensor, ...]:
    try:
        kept: tuple[Tensor, ...] = ctx.saved_tensors
    except RuntimeError as error:
        if "inplace operation" not in str(error):
            raise
        raise RuntimeError(
            "a tensor that the gradient of the contrastive loss needs was written to between the loss and its "
            "backward(): where the negatives carry gradient, change them after backward(), or give the loss a clone"
        ) from error
    return kept


def _differentiate(ctx: Any, grad_total: Tensor, *_: Tensor | None) -> tuple[Any, ...]:
    query, positive, negatives, *rest = _remembered(ctx)
    others, found = rest[:-3], rest[-3:]
    settings, needs, summed, implementation = ctx.options
    gradients = contrast_backward_operator(
        grad_total, query, positive, negatives, others, found, settings, needs, summed, implementation
    )
    asked = [gradient if needed else None for gradient, needed in zip(gradients, needs, strict=True)]
    return (*asked, [None] * ctx.num_others, None, None, None, None)


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
