"""Two numbers that tell collapse from learning without labels, and the words for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

# Ours. Spread 0.2 is an average cosine of 0.96 between different images; a healthy run is above 0.8 within an epoch.
SPREAD_FLOOR = 0.2
# Ours. Share of the directions the embeddings could use.
RANK_FLOOR = 0.05
# What to do about embeddings that lie close together.
ADVICE = "try a lower learning rate, or more negatives"
# Ours. Optimiser steps, and share of a run, before which embeddings that lie close together are no news.
FIRST_STEPS = 200
FIRST_SHARE = 0.1


def spread(embeddings: Tensor) -> float:
    """How far the embeddings of different images lie apart: 1 is uniform on the sphere, 0 is collapsed.

    The standard deviation of each dimension over the rows, averaged and multiplied by sqrt(D), as in SimSiam
    (Chen and He, 2021, Figure 2), where unit vectors without a common direction give 1/sqrt(D).

    Args:
        embeddings: (N, D), of any length; they are normalised here.

    Raises:
        ValueError: fewer than two rows.
    """
    unit = _unit_rows(embeddings)
    return float(unit.std(dim=0, correction=0).mean()) * math.sqrt(embeddings.shape[1])


def effective_rank(embeddings: Tensor) -> float:
    """How many directions the embeddings use: exp of the entropy of their singular values, normalised to sum 1.

    Roy and Vetterli, *The effective rank*, 2007; RankMe (Garrido et al., 2023, Equation 1). From 1, all on one
    line, to min(N, D), all directions alike.

    Args:
        embeddings: (N, D), of any length; they are normalised here.

    Raises:
        ValueError: fewer than two rows.
    """
    values = torch.linalg.svdvals(_unit_rows(embeddings))
    share = values / values.sum()
    return math.exp(float(torch.special.entr(share).sum()))


def collapse_advice(*, consistency_weight: float, ramp_epochs: int, epochs: int) -> str:
    """What to do about embeddings that lie close together, for a run with these settings.

    The consistency term is at its least where all embeddings are one. With its whole weight from the first step it can
    pull a fresh network there before the instance term has driven the images apart (measured: docs/pilot.md).

    Args:
        consistency_weight: The paper's alpha; 0 without the term.
        ramp_epochs: epochs over which the weight rises.
        epochs: length of the run.
    """
    if not consistency_weight:
        return ADVICE
    later = f"let its weight rise for longer (--consistency-ramp-epochs {epochs}), " if ramp_epochs < epochs else ""
    return (
        f"the consistency term may pull them together before they are apart: {later}lower --consistency-weight "
        f"({consistency_weight:g}), or {ADVICE}"
    )


def collapse_warning(spread: float, rank: float, dim: int, *, advice: str = ADVICE) -> str | None:
    """What a person should know, or None while all is well.

    Args:
        spread: of :func:`spread`.
        rank: of :func:`effective_rank`.
        dim: the highest rank possible: the smaller of rows and embedding width.
        advice: what to do, of :func:`collapse_advice`.
    """
    if spread < SPREAD_FLOOR:
        return (
            f"the embeddings of different images are almost the same (spread {spread:.2f}; 1 is uniform, 0 collapsed): "
            f"{advice}"
        )
    if rank < max(2.0, RANK_FLOOR * dim):
        return f"the embeddings use {rank:.1f} of {dim} directions: they may be collapsing; {advice}"
    return None


def embedding_health(embeddings: Tensor, *, advice: str = ADVICE) -> dict[str, float | str]:
    """What a probe reports of embeddings (N, D): ``spread``, ``effective_rank`` and, where they are bad, ``warning``.

    Args:
        embeddings: of different images, of any length.
        advice: what the warning says to do.

    Raises:
        ValueError: fewer than two rows.
    """
    apart, rank = spread(embeddings), effective_rank(embeddings)
    warning = collapse_warning(apart, rank, min(embeddings.shape), advice=advice)
    measured: dict[str, float | str] = {"spread": apart, "effective_rank": rank}
    return measured if warning is None else {**measured, "warning": warning}


class CollapseWatch:
    """A probe whose warning is passed on only once it can mean a collapse.

    Every run begins where a collapsed one ends: a network with fresh weights sends all images in nearly one direction,
    and training has to drive them apart. How long that takes goes by steps (an optimiser moves so far at a time, less
    during a warm-up) and by the length of the run, along which the schedule and the consistency term unfold. So nothing
    is said in the first ``FIRST_STEPS`` steps, nor in the first ``FIRST_SHARE`` of the run; a tenth of a run is little
    to lose. Both numbers are ours. What was measured is always passed on.

    At the last step it is said whatever came before: that is the backbone one gets.

    Args:
        probe: takes steps finished and encoder; gives ``warning`` among its values where something is wrong.
        total_steps: optimiser steps of the whole run, restarts included.

    Attributes:
        at_the_end: what there was to say at the last step; None while it has not come, or where all was well.
    """

    def __init__(self, probe: Callable[[int, nn.Module], Mapping[str, float | str]], *, total_steps: int) -> None:
        self._probe = probe
        self._total_steps = total_steps
        self.at_the_end: str | None = None

    def __call__(self, step: int, encoder: nn.Module) -> dict[str, float | str]:
        """What the probe measures, with its warning or without."""
        values = dict(self._probe(step, encoder))
        warning = values.pop("warning", None)
        if warning is None:
            return values
        if step >= self._total_steps:
            few = f"; but {step:,} steps say little: train for more --epochs first" if step < FIRST_STEPS else ""
            warning = self.at_the_end = f"at the end of the run {warning}{few}"
        elif step < max(FIRST_STEPS, FIRST_SHARE * self._total_steps):
            return values
        return {**values, "warning": warning}


def _unit_rows(embeddings: Tensor) -> Tensor:
    """The rows with unit length, in float64 (which not every device has, so on the CPU)."""
    if embeddings.dim() != 2 or embeddings.shape[0] < 2:
        raise ValueError(f"embeddings must be (N, D) with two rows or more, got {tuple(embeddings.shape)}")
    return normalize(embeddings.detach().cpu().double(), dim=1)
