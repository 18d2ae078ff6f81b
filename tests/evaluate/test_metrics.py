from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import top_k_accuracy_score
from torchmetrics.functional.classification import multiclass_accuracy

from co2ssl.evaluate.metrics import accuracies, ranks, top_k_accuracy


def test_ranks_against_a_sort_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    # Few distinct values, so that most rows hold ties.
    scores = torch.randint(0, 4, (200, 7), generator=generator).double()
    labels = torch.randint(0, 7, (200,), generator=generator)
    for row, label, rank in zip(scores.tolist(), labels.tolist(), ranks(scores, labels).tolist(), strict=True):
        order = sorted(range(7), key=lambda column, row=row: (-row[column], column))  # type: ignore[misc]
        assert order.index(label) == rank


@pytest.mark.parametrize("k", [1, 2, 5])
def test_accuracy_against_scikit_learn(k: int) -> None:
    random = np.random.default_rng(k)
    scores, labels = random.standard_normal((300, 8)), random.integers(0, 8, 300)
    expected = top_k_accuracy_score(labels, scores, k=k, labels=range(8))
    assert top_k_accuracy(torch.from_numpy(scores), torch.from_numpy(labels), k=k) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_accuracies_against_torchmetrics(seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = torch.from_numpy(random.standard_normal((300, 8)))
    labels = torch.from_numpy(random.integers(0, 8, 300))
    expected = {
        f"top{k}": float(multiclass_accuracy(scores, labels, num_classes=8, average="micro", top_k=k)) for k in (1, 5)
    }
    # Theirs is a float32.
    assert accuracies(scores, labels) == pytest.approx(expected, abs=1e-6)


def test_a_constant_score_is_a_guess() -> None:
    labels = torch.arange(10).repeat(4)
    assert accuracies(torch.zeros(40, 10), labels) == {"top1": 0.1, "top5": 0.5}


def test_top5_of_three_classes_is_one() -> None:
    assert accuracies(torch.eye(3), torch.tensor([1, 2, 0]))["top5"] == 1.0


def test_scores_without_rank_are_errors() -> None:
    with pytest.raises(ValueError, match="NaN"):
        accuracies(torch.tensor([[float("nan"), 1.0]]), torch.tensor([0]))
    with pytest.raises(ValueError, match="no rows"):
        accuracies(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64))
