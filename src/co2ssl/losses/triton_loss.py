"""The loss by GPU kernels: what they can take, their launch, and what follows from their sums."""

from __future__ import annotations

import importlib.util
import os
import warnings
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from co2ssl.errors import UserError
from co2ssl.losses.options import NO_NEGATIVE
from co2ssl.losses.scores import outranked_below
from co2ssl.losses.settings import Inputs, Needs, Results, Settings, allocate

MAX_WIDTH = 256
BLOCK_ROWS = 64
BLOCK_NEGATIVES = 64
# Programs to aim for: a few for each multiprocessor of a large card.
PROGRAMS = 512

# Asked once, here, as neither question can be asked inside a function that torch.compile traces. Triton, too, decides
# when it is imported whether its interpreter stands in for a GPU.
_INSTALLED = importlib.util.find_spec("triton") is not None
_INTERPRETED = os.environ.get("TRITON_INTERPRET", "").lower() in ("1", "on", "true")

# What the kernels depend on (device, dtypes, D), where they did not run.
_Kind: TypeAlias = tuple[torch.device, tuple[torch.dtype, ...], int]
_failed: set[_Kind] = set()


class LaunchError(RuntimeError):
    """A kernel could not be compiled or launched on this machine."""


def why_not(inputs: Inputs, settings: Settings) -> str | None:
    """Why the kernels cannot take a comparison; None where they can."""
    if inputs.negatives.dim() != 2 or inputs.negative_index is not None:
        return "each row has negatives of its own"
    if inputs.positive.shape[1] != 1:
        return "there are several positives a row"
    if inputs.valid is not None or inputs.also_positive is not None:
        return "there is a mask (valid or also_positive)"
    if settings.limit or settings.noise_images or settings.label_smoothing:
        return "the score is clipped, the loss is NCE, or the label is smoothed"
    if inputs.query.shape[1] > MAX_WIDTH:
        return f"D is {inputs.query.shape[1]}, more than {MAX_WIDTH}"
    if inputs.dtype == torch.float64:
        return "it is in float64"
    if not _INSTALLED:
        return "triton is not installed"
    if not inputs.query.is_cuda and not _INTERPRETED:
        return "it is not on a CUDA device (and Triton's interpreter, TRITON_INTERPRET=1, is off)"
    return None


@dataclass
class _Launch:
    """Arguments that every kernel takes."""

    vectors: tuple[Any, ...]  # query, positive, table, row_id, negative_id
    sizes: tuple[int, int, int]  # N, K, D
    scales: tuple[float, float, float]  # of the score, and both inverse temperatures
    constants: dict[str, Any]
    splits: int
    split_size: int

    @property
    def row_grid(self) -> tuple[int, int]:
        return -(-self.sizes[0] // BLOCK_ROWS), self.splits


def loss_by_triton_where_it_runs(
    inputs: Inputs, settings: Settings, needs: Needs, *, row_weight: Tensor | None = None
) -> Results | None:
    """:func:`loss_by_triton`, or None where its kernels do not run, of which the first time warns.

    A card with less shared memory than a kernel asks for, or a machine without a C compiler, shows when it is launched.
    Where that failed once it is not tried again, as each try compiles anew.

    Raises:
        ValueError: as :func:`loss_by_triton`.
    """
    vectors = (inputs.query, inputs.positive, inputs.negatives)
    kind = (inputs.query.device, tuple(tensor.dtype for tensor in vectors), inputs.query.shape[1])
    if kind in _failed:
        return None
    try:
        return loss_by_triton(inputs, settings, needs, row_weight=row_weight)
    except LaunchError as error:
        _failed.add(kind)
        warnings.warn(
            f"{error}\nThe loss is computed in PyTorch's blocks instead, to the same values but more slowly; "
            'implementation="blocked" asks for that and says nothing',
            RuntimeWarning,
            stacklevel=2,
        )
        return None


def loss_by_triton(inputs: Inputs, settings: Settings, needs: Needs, *, row_weight: Tensor | None = None) -> Results:
    """Values of every row, and the gradient of sum_r row_weight[r] * total[r] (weight 1 by default).

    Raises:
        ValueError: a row without any negative (under the interpreter; on a GPU its loss is NaN).
        LaunchError: a kernel does not run on this machine.
    """
    # Triton launches on the current device, wherever the tensors are.
    with torch.cuda.device_of(inputs.query):
        return _compute(inputs, settings, needs, row_weight)


def _compute(inputs: Inputs, settings: Settings, needs: Needs, row_weight: Tensor | None) -> Results:
    results = allocate(inputs, needs)
    launch = _prepare(inputs, settings)
    pair = (inputs.query.float() * inputs.positive[:, 0].float()).sum(dim=1) * settings.scale  # (N,)
    facts, loss_slope = _values(launch, settings, pair, results)
    if not needs:
        return results
    weight = torch.ones_like(pair) if row_weight is None else row_weight.float()
    facts = torch.cat([facts, weight[None]])
    _gradients(launch, inputs, settings, needs, facts, results)
    if settings.instance_weight:
        to_pair = (weight * loss_slope * (settings.scale / settings.temperature))[:, None]
        if results.grad_query is not None:
            results.grad_query += to_pair * inputs.positive[:, 0]
        if results.grad_positive is not None:
            results.grad_positive += (to_pair * inputs.query)[:, None]
    return results


def _prepare(inputs: Inputs, settings: Settings) -> _Launch:
    num_rows, width = inputs.query.shape
    num_negatives = inputs.num_negatives
    row_blocks = -(-num_rows // BLOCK_ROWS)
    column_blocks = -(-num_negatives // BLOCK_NEGATIVES)
    splits = max(1, min(column_blocks, PROGRAMS // row_blocks))
    blocks_a_split = -(-column_blocks // splits)
    vectors = (inputs.query, inputs.positive[:, 0], inputs.negatives)
    one_type = len({tensor.dtype for tensor in vectors}) == 1
    has_ids = inputs.row_id is not None and inputs.negative_id is not None
    # Where there are no ids, any pointer stands for them: it is never read.
    ids = (inputs.row_id, inputs.negative_id) if has_ids else (inputs.query, inputs.query)
    return _Launch(
        vectors=tuple(tensor.detach().contiguous() for tensor in (*vectors, *ids) if tensor is not None),
        sizes=(num_rows, num_negatives, width),
        scales=(settings.scale, 1 / settings.temperature, 1 / settings.consistency_temperature),
        constants={
            "has_ids": has_ids,
            "consistent": bool(settings.consistency_weight),
            # The interpreter's dot of 16-bit numbers is wrong.
            "upcast": not one_type or not inputs.query.is_cuda,
            "block_n": BLOCK_ROWS,
            "block_k": BLOCK_NEGATIVES,
            "block_d": max(16, 1 << (width - 1).bit_length()),
        },
        splits=-(-column_blocks // blocks_a_split),
        split_size=blocks_a_split * BLOCK_NEGATIVES,
    )


def _values(launch: _Launch, settings: Settings, pair: Tensor, results: Results) -> tuple[Tensor, Tensor]:
    """Fill in the values. Returns (5, N) facts of each row for the gradients, and dL_ins/d(pair logit), (N,)."""
    sums = pair.new_empty(8, launch.splits, launch.sizes[0])
    _run(
        "values_kernel",
        launch.row_grid,
        *launch.vectors,
        outranked_below(pair),
        sums,
        *launch.sizes,
        launch.split_size,
        *launch.scales,
        **launch.constants,
    )
    _, warm, cool = launch.scales
    largest_q, sum_l, sum_q, sum_q_delta, largest_p, sum_p, sum_p_delta, above = sums.unbind()

    def join(largest: Tensor, inverse: float, *parts: Tensor) -> tuple[Tensor, ...]:
        """Sums of all splits, below one maximum; and that maximum over the temperature."""
        top = largest.amax(dim=0)
        shrink = ((largest - top) * inverse).exp()
        return top * inverse, *((part * shrink).sum(dim=0) for part in parts)

    top_l, of_l = join(largest_q, warm, sum_l)
    _require_negatives(of_l)
    log_entries = (top_l + of_l.log()).masked_fill(of_l == 0, torch.nan)
    logit = pair * warm
    normaliser = torch.logaddexp(logit, log_entries)
    nothing = torch.zeros_like(pair)
    facts = [normaliser, nothing, nothing, nothing, nothing]
    results.total.zero_()
    if settings.instance_weight:
        results.instance = normaliser - logit
        results.above = above.sum(dim=0)[:, None]
        results.total += results.instance
    if settings.consistency_weight:
        top_q, of_q, of_q_delta = join(largest_q, cool, sum_q, sum_q_delta)
        top_p, of_p, of_p_delta = join(largest_p, cool, sum_p, sum_p_delta)
        log_q, log_p = top_q + of_q.log(), top_p + of_p.log()
        mean_q, mean_p = of_q_delta / of_q, of_p_delta / of_p
        forward, reverse = settings.forward_weight, settings.reverse_weight
        results.consistency = reverse * mean_q - forward * mean_p
        if forward != reverse:
            results.consistency += (forward - reverse) * (log_q - log_p)
        results.total += settings.consistency_weight * results.consistency
        facts = [normaliser, log_q, log_p, mean_q, mean_p]
    return torch.stack(facts), (logit - normaliser).exp() - 1


def _gradients(
    launch: _Launch, inputs: Inputs, settings: Settings, needs: Needs, facts: Tensor, results: Results
) -> None:
    num_rows, _, width = launch.sizes
    through = bool(settings.consistency_weight) and not settings.detach_positive
    weights = (settings.consistency_weight, settings.forward_weight, settings.reverse_weight)
    constants = launch.constants | {"instance": bool(settings.instance_weight)}
    if needs.query or needs.positive:
        through_rows = through and needs.positive
        back_q = facts.new_empty(launch.splits, num_rows, width)
        back_p = facts.new_empty(launch.splits, num_rows, width) if through_rows else back_q
        _run(
            "row_gradients_kernel",
            launch.row_grid,
            *launch.vectors,
            facts,
            back_q,
            back_p,
            *launch.sizes,
            launch.split_size,
            *launch.scales,
            *weights,
            through_p=through_rows,
            **constants,
        )
        if results.grad_query is not None:
            results.grad_query += back_q.sum(dim=0)
        if results.grad_positive is not None and through_rows:
            results.grad_positive += back_p.sum(dim=0)[:, None]
    if results.grad_negatives is not None:
        _run(
            "table_gradient_kernel",
            (-(-inputs.num_negatives // BLOCK_NEGATIVES),),
            *launch.vectors,
            facts,
            results.grad_negatives,
            *launch.sizes,
            *launch.scales,
            *weights,
            through_p=through,
            **constants,
        )


def _run(name: str, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Launch a kernel, which compiles it where that was not done before.

    Raises:
        LaunchError: either failed, whichever of its exceptions Triton gives for it.
    """
    try:
        from co2ssl.losses import triton_kernels

        getattr(triton_kernels, name)[grid](*arguments, **constants)
    except (torch.OutOfMemoryError, UserError):
        # A data worker's death may be told here: compiling takes long.
        raise
    except Exception as error:
        raise LaunchError(
            f"the loss's GPU kernel {name} could not be compiled or launched: {type(error).__name__}: {error}"
        ) from error


def _require_negatives(normaliser: Tensor) -> None:
    if normaliser.device.type == "cpu":
        empty = (normaliser == 0).nonzero()[:, 0]
        if empty.numel():
            raise ValueError(NO_NEGATIVE.format(row=int(empty[0])))
