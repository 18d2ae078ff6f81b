"""Losses: pure functions of a ``Contrast``, and the objective that adds them up."""

from __future__ import annotations

from co2ssl.losses.consistency import consistency
from co2ssl.losses.contrast import Clipped, Contrast, Cosine, Dot, Noise, Score
from co2ssl.losses.contrastive import ContrastiveLoss, contrastive_loss
from co2ssl.losses.info_nce import info_nce
from co2ssl.losses.nce import estimate_log_normaliser, nce
from co2ssl.losses.nt_xent import nt_xent, pair_contrast
from co2ssl.losses.objective import LossSums, Objective
from co2ssl.losses.prediction import Prediction, Triplet

__all__ = [
    "Clipped",
    "Contrast",
    "ContrastiveLoss",
    "Cosine",
    "Dot",
    "LossSums",
    "Noise",
    "Objective",
    "Prediction",
    "Score",
    "Triplet",
    "consistency",
    "contrastive_loss",
    "estimate_log_normaliser",
    "info_nce",
    "nce",
    "nt_xent",
    "pair_contrast",
]
