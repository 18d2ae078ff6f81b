from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch

from co2ssl.evaluate import logistic
from co2ssl.evaluate.features import EvaluationError, Features
from co2ssl.evaluate.linear import LBFGS_PROTOCOL, PENALTIES, held_out_tenth, linear_lbfgs


def planted(num: int, *, num_classes: int = 5, dim: int = 12, seed: int = 0, noise: float = 1.5) -> Features:
    """Gaussian clusters on features of very different scales and offsets."""
    fixed = torch.Generator().manual_seed(1234)
    centres = torch.randn(num_classes, dim, generator=fixed)
    scale = 10 ** (4 * torch.rand(dim, generator=fixed) - 2)
    labels = torch.arange(num) % num_classes
    noisy = centres[labels] + noise * torch.randn(num, dim, generator=torch.Generator().manual_seed(seed))
    return Features(
        features=noisy * scale + 3 * scale,
        labels=labels,
        index=torch.arange(num),
        classes=tuple(f"class {label}" for label in range(num_classes)),
        source=f"planted {seed}",
    )


def slow_classifier(train: Features, penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradient descent in float64 on the written-out objective, to the bottom."""
    assert train.labels is not None
    mean, scale = train.features.double().mean(0), train.features.double().std(0, correction=0)
    images = (train.features.double() - mean) / scale
    weights = torch.zeros(images.shape[1], 5, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    for _ in range(4000):
        logits = images @ weights + bias
        own = logits.gather(1, train.labels.unsqueeze(1))[:, 0]
        loss = (logits.exp().sum(dim=1).log() - own).mean() + penalty / 2 * (weights**2).sum()
        grads = torch.autograd.grad(loss, [weights, bias])
        with torch.no_grad():
            weights -= 0.5 * grads[0]
            bias -= 0.5 * grads[1]
    return weights.detach() / scale.unsqueeze(1), (bias - (mean / scale) @ weights).detach()


def test_against_slow_gradient_descent_on_the_same_objective() -> None:
    train, val = planted(200), planted(400, seed=1)
    result = linear_lbfgs(train, val)
    penalty = result["penalty"]
    assert isinstance(penalty, float)
    weights, bias = slow_classifier(train, penalty)
    predicted = (val.features.double() @ weights + bias).argmax(dim=1)
    assert val.labels is not None
    expected = float((predicted == val.labels).double().mean())
    # The two stop at slightly different places: at most one image in 400 may fall on the other side.
    assert result["top1"] == pytest.approx(expected, abs=1 / 400)
    assert 0.5 < expected < 1


def test_reaches_the_best_possible_accuracy_of_planted_data() -> None:
    train, val = planted(3000), planted(2000, seed=1)
    centres = torch.randn(5, 12, generator=torch.Generator().manual_seed(1234))
    fixed = torch.Generator().manual_seed(1234)
    torch.randn(5, 12, generator=fixed)
    scale = 10 ** (4 * torch.rand(12, generator=fixed) - 2)
    # Bayes' rule for equal spherical clusters is the nearest centre.
    nearest = torch.cdist(val.features / scale - 3, centres).argmin(dim=1)
    assert val.labels is not None
    best = float((nearest == val.labels).double().mean())
    top1 = linear_lbfgs(train, val)["top1"]
    assert isinstance(top1, float)
    assert best - 0.02 < top1 < best + 0.01


def test_the_penalty_is_chosen_without_reading_val() -> None:
    train = planted(300, noise=3)
    first, second = linear_lbfgs(train, planted(50, seed=1)), linear_lbfgs(train, planted(90, seed=2, noise=9))
    assert first["penalty"] == second["penalty"]
    assert first["held_out"] == second["held_out"]


def test_noise_asks_for_a_stronger_penalty() -> None:
    val = planted(50, seed=1)
    clear = linear_lbfgs(planted(300, noise=0.3, dim=12), val)["penalty"]
    noisy = linear_lbfgs(planted(300, noise=9, dim=12), val)["penalty"]
    assert isinstance(clear, float)
    assert isinstance(noisy, float)
    assert noisy > 10 * clear


def test_the_chosen_penalty_has_the_lowest_held_out_loss() -> None:
    result = linear_lbfgs(planted(300), planted(50, seed=1))
    tried = result["held_out"]
    assert isinstance(tried, dict)
    assert min(tried, key=lambda penalty: tried[penalty]) == f"{result['penalty']:g}"
    assert list(tried) == [f"{penalty:g}" for penalty in PENALTIES[: len(tried)]]


def test_twice_the_same_is_the_same() -> None:
    train, val = planted(200), planted(100, seed=1)
    first, second = linear_lbfgs(train, val, seed=3), linear_lbfgs(train, val, seed=3)
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_two_classes_and_a_constant_feature() -> None:
    train, val = planted(100, num_classes=2), planted(60, num_classes=2, seed=1)
    for features in (train, val):
        features.features[:, 3] = 7.0
    result = linear_lbfgs(train, val)
    assert isinstance(result["top1"], float)
    assert result["top1"] > 0.8
    assert result["top5"] == 1.0


def test_the_result_says_what_was_done_and_is_json() -> None:
    result = linear_lbfgs(planted(100), planted(30, seed=1), seed=7)
    assert json.loads(json.dumps(result)) == result
    assert result["protocol"] == LBFGS_PROTOCOL == "linear (L-BFGS on cached features)"
    assert result["converged"] is True
    assert (result["seed"], result["num_train"], result["num_held_out"], result["num_val"]) == (7, 100, 10, 30)


def test_a_fit_that_runs_out_of_steps_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logistic, "MOST_STEPS", 2)
    assert linear_lbfgs(planted(100), planted(30, seed=1))["converged"] is False


def test_progress_is_shown_where_it_is_wanted_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("co2ssl.evaluate.progress.LINE_EVERY", 0.0)
    train, val = planted(100), planted(30, seed=1)
    quiet = linear_lbfgs(train, val, quiet=True)
    assert capsys.readouterr() == ("", "")
    result = linear_lbfgs(train, val, quiet=False)
    assert {**result, "seconds": 0} == {**quiet, "seconds": 0}
    text = capsys.readouterr().err
    assert text.startswith("linear classifier: 0 of 18 fits, 0 fits/s  penalty 100, step 1\n")
    tried = result["held_out"]
    assert isinstance(tried, dict)
    lines = text.splitlines()
    for number, (penalty, loss) in enumerate(tried.items(), start=1):
        said = f"penalty {penalty}, held-out loss {loss:.4g}, "
        (line,) = (line for line in lines if said in line)
        assert line.startswith(f"linear classifier: {number} of 18 fits, ")
    # However many penalties were tried, what is left then is one fit.
    assert f"linear classifier: 17 of 18 fits, 0 fits/s  all images, penalty {result['penalty']:g}, step 1\n" in text
    assert lines[-1].startswith("linear classifier: 18 of 18 fits, ")


def test_the_held_out_tenth_is_drawn_class_by_class() -> None:
    labels = np.array([0] * 50 + [1] * 20 + [2] * 2 + [3])
    fitted, held_out = held_out_tenth(labels, seed=0)
    assert sorted([*fitted, *held_out]) == list(range(73))
    assert np.bincount(labels[held_out], minlength=4).tolist() == [5, 2, 1, 0]
    other = held_out_tenth(labels, seed=1)[1]
    assert held_out.tolist() != other.tolist()
    assert held_out.tolist() == held_out_tenth(labels, seed=0)[1].tolist()


def test_single_images_cannot_choose_a_penalty() -> None:
    with pytest.raises(EvaluationError, match="single image"):
        linear_lbfgs(planted(5), planted(10, seed=1))


def test_the_size_of_the_demo_takes_seconds() -> None:
    train, val = (
        planted(4000, dim=128, num_classes=10, noise=4),
        planted(1000, dim=128, num_classes=10, seed=1, noise=4),
    )
    started = time.process_time()
    linear_lbfgs(train, val)
    # Under two on an idle core; the limit is for a loaded one.
    assert time.process_time() - started < 8
