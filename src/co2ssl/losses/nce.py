"""Noise-contrastive estimation: the instance loss of InsDisc, CMC and PIRL."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from co2ssl.losses import reference
from co2ssl.losses.contrast import Contrast
from co2ssl.losses.options import Reduction, check_choice, check_temperature, reduce_rows


def nce(contrast: Contrast, *, temperature: float, reduction: Reduction = "mean") -> Tensor:
    """Telling each entry from noise, one binary decision an entry.

    With P(i) = exp(s_i / temperature) / Z, noise 1/num_images and J negatives of the row:

        loss = -log P(pos)/(P(pos) + J/num_images)  -  sum_i log (J/num_images)/(P(i) + J/num_images)

    Wu et al., *Unsupervised Feature Learning via Non-Parametric Instance Discrimination*, CVPR 2018, Eq. 4-6.

    Args:
        contrast: N rows whose negatives are drawn uniformly from the bank, with ``noise`` given. M positives are
            averaged.
        temperature: of the scores: 0.07.
        reduction: over rows.

    Returns:
        A scalar, or (N,) for "none".

    Raises:
        ValueError: an option out of range, no ``noise``, a row without any negative, or ``also_positive`` (it has no
            meaning here).
    """
    check_temperature("temperature", temperature)
    check_choice("reduction", reduction, Reduction)
    if contrast.noise is None:
        raise ValueError("NCE needs Contrast(noise=Noise(num_images, log_normaliser)): see estimate_log_normaliser")
    if contrast.also_positive is not None:
        raise ValueError("also_positive joins InfoNCE's numerator; NCE decides on each entry alone and has none")
    pair, logits, kept = reference.logits(contrast, temperature=temperature)
    drawn = kept.sum(dim=1, keepdim=True)  # (N, 1)
    log_noise = drawn.to(pair.dtype).log() - math.log(contrast.noise.num_images)
    log_normaliser = contrast.noise.log_normaliser
    # -log x/(x + c) = softplus(ln c - ln x) and -log c/(x + c) = softplus(ln x - ln c)
    of_pair = torch.nn.functional.softplus(log_noise - (pair - log_normaliser)).mean(dim=1)
    of_noise = torch.nn.functional.softplus(logits - log_normaliser - log_noise).masked_fill(~kept, 0).sum(dim=1)
    return reduce_rows(of_pair + of_noise, reduction)


@torch.no_grad()
def estimate_log_normaliser(contrast: Contrast, *, temperature: float, num_images: int) -> Tensor:
    """ln Z from one batch: the mean of exp(s / temperature) over its positive and negative pairs, times num_images.

    Wu et al. (CVPR 2018), Section 3.2: a Monte Carlo estimate, fixed after the first batch.

    Returns:
        A scalar.
    """
    pair, logits, kept = reference.logits(contrast, temperature=temperature)
    every = torch.cat([pair.flatten(), logits[kept]])
    return every.logsumexp(dim=0) - math.log(every.numel()) + math.log(num_images)
