"""Noise-contrastive estimation: the instance loss of InsDisc, CMC and PIRL."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from co2ssl.losses.contrast import Contrast
from co2ssl.losses.engine import Implementation, evaluate_rows, prepare
from co2ssl.losses.options import Reduction, check_choice, check_temperature
from co2ssl.losses.rows import scores_by_rows
from co2ssl.losses.settings import Settings, inputs_of


def nce(
    contrast: Contrast,
    *,
    temperature: float,
    reduction: Reduction = "mean",
    implementation: Implementation = "auto",
) -> Tensor:
    """Telling each entry from noise, one binary decision an entry.

    With P(i) = exp(s_i / temperature) / Z, noise 1/num_images and J negatives of the row:

        loss = -log P(pos)/(P(pos) + J/num_images)  -  sum_i log (J/num_images)/(P(i) + J/num_images)

    Wu et al., *Unsupervised Feature Learning via Non-Parametric Instance Discrimination*, CVPR 2018, Eq. 4-6.

    Args:
        contrast: N rows whose negatives are drawn uniformly from the bank, with ``noise`` given. M positives are
            averaged.
        temperature: of the scores: 0.07.
        reduction: over rows.
        implementation: see :func:`contrastive_loss`.

    Returns:
        A scalar, or (N,) for "none".

    Raises:
        ValueError: an option out of range, no ``noise``, a row without any negative, or ``also_positive`` (it has no
            meaning here).
    """
    check_temperature("temperature", temperature)
    check_choice("reduction", reduction, Reduction)
    check_choice("implementation", implementation, Implementation)
    settings = Settings.of(contrast, temperature=temperature, noise_images=noise_images(contrast))
    summed = reduction != "none"
    total = evaluate_rows(prepare(contrast), settings, summed=summed, implementation=implementation).total
    return total / contrast.num_rows if reduction == "mean" else total


def noise_images(contrast: Contrast) -> int:
    """Images that NCE's noise is uniform over.

    Raises:
        ValueError: the comparison is not one for NCE.
    """
    if contrast.also_positive is not None:
        raise ValueError("also_positive joins InfoNCE's numerator; NCE decides on each entry alone and has none")
    if contrast.noise is None:
        raise ValueError("NCE needs Contrast(noise=Noise(num_images, log_normaliser)): see estimate_log_normaliser")
    return contrast.noise.num_images


@torch.no_grad()
def estimate_log_normaliser(contrast: Contrast, *, temperature: float, num_images: int) -> Tensor:
    """ln Z from one batch: the mean of exp(s / temperature) over its positive and negative pairs, times num_images.

    Wu et al. (CVPR 2018), Section 3.2: a Monte Carlo estimate, fixed after the first batch. Computed in float32 or
    wider, under autocast too, in blocks of rows: draws are never gathered to N x J x D.

    Args:
        contrast: N rows, with as many draws a row as there will be in training.
        temperature: of the scores: 0.07.
        num_images: in the bank. InsDisc's n.

    Returns:
        A scalar.

    Raises:
        ValueError: an option out of range.
    """
    check_temperature("temperature", temperature)
    settings = Settings.of(contrast, temperature=temperature)
    # A number that grows, not a list: what is kept between blocks would split the memory that they leave free.
    log_sum = torch.full((), -torch.inf, device=contrast.query.device)
    left_out = torch.zeros((), dtype=torch.int64, device=contrast.query.device)
    with torch.autocast(contrast.query.device.type, enabled=False):
        inputs = inputs_of(contrast)
        for pairs, entries, kept in scores_by_rows(inputs, settings):
            if kept is not None:
                entries = entries.masked_fill(~kept, -torch.inf)
                left_out += (~kept).sum()
            log_sum = log_sum.logaddexp((torch.cat([pairs, entries], dim=1) / temperature).logsumexp(dim=(0, 1)))
        scores_a_row = inputs.positive.shape[1] + contrast.num_negatives
        count = contrast.num_rows * scores_a_row - left_out
        return log_sum - count.to(log_sum.dtype).log() + math.log(num_images)
