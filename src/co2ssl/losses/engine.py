"""Choosing how a comparison is computed, and handing it over."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from co2ssl.losses import reference
from co2ssl.losses.contrast import Contrast
from co2ssl.losses.operator import FEW_SCORES, apply_operator
from co2ssl.losses.settings import Inputs, Settings, inputs_of
from co2ssl.losses.triton_loss import why_not
from co2ssl.losses.unit_length import check_unit_length

Implementation: TypeAlias = Literal["auto", "reference", "blocked", "triton"]
# The last is the choice of "auto": by the kernels, and in blocks where they turn out not to run on this machine.
Chosen: TypeAlias = Literal["blocked", "triton", "triton or blocked"]


@dataclass(frozen=True)
class Prepared:
    """A comparison that has been checked.

    Attributes:
        contrast: with unit vectors where the score asks for them.
        poison: a scalar, 1 or NaN, or None: see :func:`check_unit_length`.
        partner: (N,) of SimCLR's pairs, given or found.
    """

    contrast: Contrast
    poison: Tensor | None
    partner: Tensor | None


def prepare(contrast: Contrast, *, normalise: bool = False) -> Prepared:
    """Check, and normalise on request (which makes a copy of the table)."""
    if contrast.num_negatives == 0:
        raise ValueError("there are no negatives: K (or J) is 0")
    if normalise:
        contrast = replace(
            contrast,
            query=F.normalize(contrast.query, dim=-1),
            positive=F.normalize(contrast.positive, dim=-1),
            negatives=F.normalize(contrast.negatives, dim=-1),
        )
    poison = check_unit_length(contrast)
    partner = contrast.partner
    if partner is None:
        partner = _exchanged_halves(contrast)
    elif contrast.query.device.type == "cpu" and not torch.compiler.is_compiling():
        _check_partner(contrast, partner)
    return Prepared(contrast, poison, partner)


@dataclass(frozen=True)
class Rows:
    """What every implementation returns. Only ``total`` carries gradient."""

    total: Tensor  # a scalar, the sum over rows, or (N,)
    instance: Tensor  # (N,)
    consistency: Tensor  # (N,)
    above: Tensor  # (N, M): negatives that the positive does not outrank


def evaluate_rows(prepared: Prepared, settings: Settings, *, summed: bool, implementation: Implementation) -> Rows:
    """Compute a comparison; ``instance_weight`` or ``consistency_weight`` 0 leaves that term out (NaN)."""
    if implementation == "reference":
        total, instance, consistency, above = reference.rows(prepared.contrast, settings)
        total = total.sum() if summed else total
        instance, consistency = instance.detach(), consistency.detach()
    else:
        total, instance, consistency, above = _run_operator(prepared, settings, summed, implementation)
    if prepared.poison is not None:
        total, instance, consistency = (value * prepared.poison for value in (total, instance, consistency))
    return Rows(total, instance, consistency, above)


def choose(inputs: Inputs, settings: Settings, implementation: Implementation) -> Chosen:
    """The Triton kernels on a GPU where they can take the comparison and it is large, else blocks in PyTorch.

    Raises:
        ValueError: "triton" was asked for and cannot take it.
    """
    if implementation == "triton":
        reason = why_not(inputs, settings)
        if reason is not None:
            raise ValueError(
                f'implementation="triton" cannot take this comparison: {reason}; "auto" falls back by itself'
            )
        return "triton"
    large = inputs.query.shape[0] * inputs.num_negatives > FEW_SCORES
    wanted = implementation == "auto" and inputs.query.is_cuda and large
    return "triton or blocked" if wanted and why_not(inputs, settings) is None else "blocked"


def _run_operator(
    prepared: Prepared, settings: Settings, summed: bool, implementation: Implementation
) -> tuple[Tensor, ...]:
    contrast = prepared.contrast
    log_normaliser = None
    if settings.noise_images:
        assert contrast.noise is not None
        log_normaliser = torch.as_tensor(contrast.noise.log_normaliser, device=contrast.query.device)
    partner = prepared.partner if settings.consistency_weight else None
    inputs = inputs_of(contrast, partner=partner, log_normaliser=log_normaliser)
    settings = settings._replace(same_graph=float(contrast.partner is not None))
    return apply_operator(inputs, settings, summed=summed, implementation=choose(inputs, settings, implementation))


def _exchanged_halves(contrast: Contrast) -> Tensor | None:
    """SimCLR's pairs, where the positive is the query with its halves exchanged and partners share their negatives."""
    num_rows = contrast.num_rows
    shared = contrast.negatives.dim() == 2 and contrast.negative_index is None
    unmasked = contrast.valid is None and contrast.also_positive is None
    on_host = contrast.query.device.type == "cpu" and not torch.compiler.is_compiling()
    if not (shared and unmasked and on_host) or contrast.positive.dim() != 2 or num_rows % 2:
        return None
    half = num_rows // 2
    if not torch.equal(contrast.positive, contrast.query.roll(half, 0)):
        return None
    if contrast.row_id is not None and not torch.equal(contrast.row_id, contrast.row_id.roll(half)):
        return None
    return torch.arange(num_rows).roll(half)


def _check_partner(contrast: Contrast, partner: Tensor) -> None:
    places = torch.arange(contrast.num_rows)
    if not torch.equal(partner[partner], places) or bool((partner == places).any()):
        raise ValueError("partner must pair the rows up: partner[partner[i]] == i, and no row is its own partner")
    if not _same(contrast.positive, contrast.query[partner]):
        raise ValueError("with partner given, positive must be query[partner]")
    for name in ("row_id", "valid", "also_positive", "negative_index"):
        tensor = getattr(contrast, name)
        if tensor is not None and not torch.equal(tensor, tensor[partner]):
            raise ValueError(f"partners must have the same negatives, and {name} differs between them")


def _same(one: Tensor, other: Tensor) -> bool:
    """Equal, and NaN equal to NaN: embeddings that have diverged are not paired wrongly, and give a NaN loss."""
    return torch.equal(one, other) or bool(((one == other) | (one.isnan() & other.isnan())).all())
