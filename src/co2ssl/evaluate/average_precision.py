"""Average precision of a ranking, in the two forms in which Pascal VOC numbers are printed.

* 11-point: the VOC 2007 devkit (``VOCevalcls.m``).
* area: the devkits from 2010 on. It is also what the published VOC07 SVM pipelines compute, though the year is 2007
  (seen in vissl's and fair_self_supervision_benchmark's ``calculate_ap`` and in PCL's ``eval_svm_voc.py``).

Both read precision as the best one at this recall *or a higher one*, which is where they part from scikit-learn's and
torchmetrics' ``average_precision``: those take it at the recall itself, and are never higher than the area here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def precision_recall(
    scores: NDArray[np.float64], positive: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positives found and images retrieved above each threshold, one threshold per distinct score, highest first.

    Precision is found / retrieved, recall is found / found[-1]. Images of equal score are retrieved together, so the
    order in which they are given cannot matter (the devkits take them in the order of the file).

    Args:
        scores: (N,), higher is more likely positive.
        positive: (N,).

    Returns:
        found (T,) and retrieved (T,), T the number of distinct scores.

    Raises:
        ValueError: shapes that differ, a NaN among the scores, or no positive, for which there is no recall.
    """
    if scores.ndim != 1 or scores.shape != positive.shape:
        raise ValueError(f"scores of shape {scores.shape} and positives of shape {positive.shape}: both must be (N,)")
    if np.isnan(scores).any():
        raise ValueError("a score is NaN, which has no rank")
    if not positive.any():
        raise ValueError("without a positive there is no recall, and so no average precision")
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last_of_equals = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    found = np.cumsum(positive[order], dtype=np.int64)[last_of_equals]
    return found, (last_of_equals + 1).astype(np.int64)


def eleven_point_ap(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Mean over the recalls 0, 0.1, ..., 1 of the best precision at this recall or a higher one.

    Recalls are compared in whole numbers: 3 of 10 is a recall of 0.3, whatever floating point makes of 3 * 0.1.

    Source: VOC 2007 devkit, ``VOCcode/VOCevalcls.m`` (seen, npinto/VOCdevkit). Arguments and errors as for
    :func:`precision_recall`.
    """
    found, retrieved = precision_recall(scores, positive)
    best = _best_from_here_on(found / retrieved)
    return float(best[np.searchsorted(10 * found, np.arange(11) * found[-1])].mean())


def area_ap(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Area under the best precision at each recall or a higher one.

    Source: the VOC devkits from 2010 on; vissl, ``vissl/utils/svm_utils/evaluate.py`` (seen). Arguments and errors as
    for :func:`precision_recall`.
    """
    found, retrieved = precision_recall(scores, positive)
    gained = np.diff(found, prepend=0)
    return float((gained * _best_from_here_on(found / retrieved)).sum() / found[-1])


def _best_from_here_on(precision: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum.accumulate(precision[::-1])[::-1]
