from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from co2ssl.data.batch import Batch, normalise
from co2ssl.data.loader import Loader
from co2ssl.data.operations import RandomHorizontalFlip, RandomResizedCrop
from co2ssl.data.sources import ArraySource
from co2ssl.encoders.resnet import resnet
from co2ssl.errors import UsageError
from co2ssl.evaluate import label_draws as module
from co2ssl.evaluate.features import EvaluationError
from co2ssl.evaluate.finetune import finetune, finetune_settings
from co2ssl.evaluate.label_draws import Draw, batch_that_fits, over_draws, train_draws
from co2ssl.evaluate.label_subsets import LabelSubset, draw_subset
from co2ssl.evaluate.label_training import LabelTraining, TrainingSettings, with_head
from co2ssl.evaluate.resumable import Saved
from co2ssl.train.stop import Interrupted
from tests.evaluate.fakes import Images, Net
from tests.evaluate.planted import SIDE, stripes
from tests.processes import ProcessPair

CPU = torch.device("cpu")


def network() -> nn.Module:
    torch.manual_seed(0)
    return resnet("resnet10", width=0.125, stem="small")


def settings(**changed: Any) -> TrainingSettings:
    return finetune_settings(SIDE, **{"epochs": 3, "batch_size": 12, **changed})


def subsets(train: ArraySource, *seeds: int, labels: str = "50%") -> list[LabelSubset]:
    return [draw_subset(train, labels, seed=seed) for seed in seeds]


def tiny() -> nn.Module:
    """A linear backbone on mean colours: fast, and simple enough to be written out."""
    torch.manual_seed(1)
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))


def batches(source: ArraySource, chosen: TrainingSettings, seed: int, epochs: int) -> Iterator[Batch]:
    loader = Loader(source, chosen.crops, batch_size=chosen.batch_size, seed=seed, workers=0)
    for epoch in range(epochs):
        yield from loader.epoch(epoch)


def trained(
    backbone: nn.Module, source: ArraySource, chosen: TrainingSettings, *, seed: int = 0
) -> tuple[LabelTraining, list[tuple[float, ...]]]:
    """The training at its end, and the learning rates of each step."""
    steps = len(source) // chosen.batch_size
    training = LabelTraining(with_head(backbone, 3, chosen, seed=seed), chosen, steps_per_epoch=steps, seed=seed)
    rates: list[tuple[float, ...]] = []
    for batch in batches(source, chosen, seed, chosen.epochs):
        training.take(batch)
        rates.append(tuple(group["lr"] for group in training.optimizer.param_groups))
    return training, rates


def test_it_learns_what_can_be_learnt() -> None:
    train, val = stripes(240), stripes(200, seed=1, name="val", mislabelled=0.2)
    usual = settings(epochs=15, batch_size=20, backbone_lr=0.1, head_lr=0.3)
    result = finetune(network(), train, val, subsets(train, 0), usual)
    top1 = result["top1"]
    assert isinstance(top1, float)
    # Four in five labels are right, and guessing gives one in three.
    assert 0.72 < top1 <= 0.8
    assert result["top5"] == 1.0
    assert (result["num_train"], result["num_val"], result["num_classes"]) == (120, 200, 3)


def test_batch_norm_learns_and_the_given_backbone_is_left_as_it_was() -> None:
    train, backbone = stripes(24), network().eval().requires_grad_(False)
    before = copy.deepcopy(backbone.state_dict())
    draws = [Draw(seed=0, source=train, backbone=lambda: copy.deepcopy(backbone))]
    kept: list[nn.Module] = []
    train_draws(draws, train, settings(), title="t", keep=lambda _, own: kept.append(own))
    finetune(backbone, train, train, subsets(train, 0), settings())
    assert not any(part.training for part in backbone.modules())
    assert not any(value.requires_grad or value.grad is not None for value in backbone.parameters())
    after = kept[0].state_dict()
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name]), name
        # Every weight and every statistic of the copy has moved.
        assert not torch.equal(value, after[name]), name


def test_without_a_learning_rate_no_weight_moves() -> None:
    backbone = network()
    before = copy.deepcopy(backbone.state_dict())
    chosen = settings(backbone_lr=0.0, head_lr=0.0)
    head = with_head(network(), 3, chosen, seed=0)[1]
    training, _ = trained(backbone, stripes(24), chosen)
    for name, value in training.network[0].named_parameters():
        assert torch.equal(value, before[name]), name
    for value, first in zip(training.network[1].parameters(), head.parameters(), strict=True):
        assert torch.equal(value, first)
    assert not torch.equal(training.network[0].state_dict()["bn1.running_mean"], before["bn1.running_mean"])


def test_the_published_learning_rates_epoch_by_epoch() -> None:
    published = finetune_settings(SIDE)
    assert (published.epochs, published.batch_size, published.momentum, published.weight_decay) == (20, 256, 0.9, 5e-4)
    assert published.drop_epochs == (12, 16)
    crops = (RandomResizedCrop(size=SIDE, min_area=0.08), RandomHorizontalFlip())
    assert published.crops.operations == crops
    _, rates = trained(tiny(), stripes(24), finetune_settings(SIDE, batch_size=12))
    backbone = np.repeat([0.01] * 12 + [0.002] * 4 + [0.0004] * 4, 2)
    np.testing.assert_allclose(rates, np.stack([backbone, 100 * backbone], axis=1), rtol=1e-12)
    assert finetune_settings(SIDE, epochs=5).drop_epochs == (3, 4)


def test_the_steps_against_sgd_written_out() -> None:
    """Momentum 0.9, decay on every parameter, one rate for the backbone and one for the head."""
    source, chosen = stripes(24), settings(epochs=5, backbone_lr=0.05, head_lr=0.5, weight_decay=0.01)
    training, _ = trained(tiny(), source, chosen, seed=3)
    made = with_head(tiny(), 3, chosen, seed=3)
    weights = [value.detach().clone().requires_grad_() for value in made.parameters()]
    velocity = [torch.zeros_like(value) for value in weights]
    for step, batch in enumerate(batches(source, chosen, 3, 5)):
        share = (1.0, 1.0, 1.0, 0.2, 0.04)[step // 2]
        mean = normalise(batch.views[0]).mean(dim=(2, 3))
        assert batch.label is not None
        logits = (mean @ weights[0].T + weights[1]) @ weights[2].T + weights[3]
        gradients = torch.autograd.grad(cross_entropy(logits, batch.label), weights)
        with torch.no_grad():
            for place, (value, moved, gradient) in enumerate(zip(weights, velocity, gradients, strict=True)):
                moved.mul_(0.9).add_(gradient + 0.01 * value)
                value.sub_((0.05 if place < 2 else 0.5) * share * moved)
    for own, expected in zip(training.network.parameters(), weights, strict=True):
        torch.testing.assert_close(own.detach(), expected.detach(), rtol=1e-4, atol=1e-6)


def test_first_weights_of_the_head() -> None:
    wide = nn.Sequential(nn.AdaptiveAvgPool2d(20), nn.Flatten())
    head = with_head(wide, 50, settings(), seed=0)[1]
    assert isinstance(head, nn.Linear)
    assert (head.in_features, head.out_features) == (1200, 50)
    assert float(head.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
    assert not head.bias.any()
    assert not torch.equal(head.weight, with_head(wide, 50, settings(), seed=1)[1].state_dict()["weight"])


def test_a_seed_is_one_training_to_the_bit() -> None:
    source, chosen = stripes(24), settings()
    ends = [trained(Net().backbone, source, chosen, seed=seed)[0].network.state_dict() for seed in (4, 4, 5)]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert not torch.equal(ends[0]["0.0.weight"], ends[2]["0.0.weight"])


def test_the_random_numbers_of_the_program_are_left_alone() -> None:
    train, backbone = stripes(24), Net().backbone
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    finetune(backbone, train, train, subsets(train, 0), settings(epochs=1))
    assert torch.equal(torch.rand(3), expected)


@contextmanager
def stopping_after(steps: int) -> Iterator[Callable[[], bool]]:
    asked = iter(range(1, 10**9))
    yield lambda: next(asked) >= steps


def without_seconds(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return [{**row, "seconds": 0} for row in rows]


# Within the first draw, at its last step, and in the second. Dropout draws on each.
@pytest.mark.parametrize("steps", [2, 6, 9])
def test_a_training_that_is_stopped_goes_on_to_the_bit(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, val, chosen = stripes(24), stripes(30, seed=1), settings()
    draws = [Draw(seed=seed, source=source, backbone=lambda: Net().backbone) for seed in (0, 1)]
    whole: list[nn.Module] = []
    resumed: list[nn.Module] = []
    straight = train_draws(draws, val, chosen, title="t", keep=lambda _, own: whole.append(own))
    saved = Saved(tmp_path / "deep" / "finetune.ckpt", key="k")
    with monkeypatch.context() as patched:
        patched.setattr(module, "stop_on_signals", lambda: stopping_after(steps))
        with pytest.raises(Interrupted, match="all of it saved: the same command goes on"):
            train_draws(draws, val, chosen, title="t", saved=saved, keep=lambda _, own: resumed.append(own))
    later = train_draws(draws, val, chosen, title="t", saved=saved, keep=lambda _, own: resumed.append(own))
    assert without_seconds(later) == without_seconds(straight)
    assert len(resumed) == 2
    for one, other in zip(whole, resumed, strict=True):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert not saved.path.exists()


def test_it_saves_once_in_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[object] = []
    monkeypatch.setattr(Saved, "save", lambda _, contents: written.append(contents["training"]))
    draws = [Draw(seed=0, source=stripes(24), backbone=tiny)]
    saved = Saved(tmp_path / "x.ckpt", key="k")
    train_draws(draws, stripes(9), settings(epochs=2), title="t", saved=saved)
    assert written == [None]
    monkeypatch.setattr(module, "SAVE_EVERY", 0.0)
    train_draws(draws, stripes(9), settings(epochs=2), title="t", saved=saved)
    assert [own if own is None else own["step"] for own in written[1:]] == [1, 2, 3, 4, None]  # type: ignore[index]


def test_without_a_place_it_says_that_nothing_was_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "stop_on_signals", lambda: stopping_after(1))
    with pytest.raises(Interrupted, match=r"after step 1 of 6 of draw 1; nothing was saved"):
        train_draws([Draw(seed=0, source=stripes(24), backbone=tiny)], stripes(9), settings(), title="t")


def test_the_result_is_the_mean_of_its_draws_and_json() -> None:
    train, val = stripes(48), stripes(40, seed=1, name="val")
    result = finetune(tiny(), train, val, subsets(train, 7, 8, 9), settings(backbone_lr=0.3), seed=7)
    assert json.loads(json.dumps(result)) == result
    rows = result["draws"]
    assert isinstance(rows, list)
    assert [row["seed"] for row in rows] == [7, 8, 9]
    assert [row["subset"] for row in rows] == [f"50% drawn with seed {seed}" for seed in (7, 8, 9)]
    for name in ("top1", "top5"):
        values = np.array([row[name] for row in rows])
        assert result[name] == pytest.approx(values.mean())
        assert result[f"{name}_std"] == pytest.approx(values.std(ddof=1))
    assert (result["drop_epochs"], result["drop_factor"], result["head_lr"]) == ([2, 2], 0.2, 1.0)
    assert (result["train"], result["val"], result["num_train"], result["seed"]) == ("stripes", "val", 24, 7)
    assert over_draws([{**rows[0], "seconds": 1.5}], [None])["top1_std"] is None


def test_accuracy_is_that_of_centre_crops_with_the_trained_network() -> None:
    train, val, chosen = stripes(24), stripes(30, seed=1), settings(backbone_lr=0.3)
    kept: list[nn.Module] = []
    draws = [Draw(seed=2, source=train, backbone=network)]
    row = train_draws(draws, val, chosen, title="t", keep=lambda _, own: kept.append(own))[0]
    training, _ = trained(network(), train, chosen, seed=2)
    assert torch.equal(next(kept[0].parameters()), next(training.network.parameters()))
    pixels = torch.from_numpy(val.images).permute(0, 3, 1, 2)
    logits = training.network.eval()(normalise(pixels))
    assert val.labels is not None
    assert row["top1"] == float((logits.argmax(1) == torch.from_numpy(val.labels)).double().mean())
    assert row["train_loss"] == training.mean_loss()


def test_classes_are_matched_by_name() -> None:
    train = stripes(48)
    val = stripes(60, seed=1, name="val")
    # The same images with the classes in another order and one of them left out.
    assert val.labels is not None
    some = val.labels != 1
    renamed = np.where(val.labels[some] == 0, 1, 0)
    other = ArraySource("some", val.images[some], renamed, ("down", "across"))
    same = ArraySource("same", val.images[some], val.labels[some], val.classes)
    draws = [Draw(seed=0, source=train, backbone=network)]
    found = [train_draws(draws, own, settings(backbone_lr=0.1), title="t")[0]["top1"] for own in (other, same)]
    assert found[0] == found[1]


def train_together(seed: int) -> list[Tensor]:
    # Learning rates at which rounding is not blown up over the steps.
    training, _ = trained(network(), stripes(24), settings(backbone_lr=0.01, head_lr=0.1), seed=seed)
    return list(training.network.state_dict().values())


def test_two_processes_take_the_steps_of_one(two_processes: ProcessPair) -> None:
    first, second = two_processes(train_together, 1)
    for one, own, other in zip(train_together(1), first, second, strict=True):
        torch.testing.assert_close(own, one, rtol=1e-4, atol=1e-5)
        assert torch.equal(own, other)


def test_data_that_cannot_be_used() -> None:
    train = stripes(24)
    few = subsets(train, 0)
    with pytest.raises(UsageError, match=r"12 labelled images are fewer than one batch of 13: .*at most 12"):
        finetune(tiny(), train, train, few, settings(batch_size=13))
    with pytest.raises(UsageError, match="two images"):
        finetune(tiny(), train, train, few, settings(batch_size=1))
    with pytest.raises(UsageError, match="Flatten has no weights"):
        finetune(nn.Flatten(), train, train, few, settings())
    bare = Images(None, None, num_images=24)
    for one, other in ((bare, train), (train, bare)):
        with pytest.raises(EvaluationError, match="images has no labels"):
            finetune(tiny(), one, other, few, settings())
    with pytest.raises(EvaluationError, match="lacks: 'c'"):
        finetune(tiny(), train, Images([0, 1], ("both", "c")), few, settings())
    only = LabelSubset(places=np.flatnonzero(train.labels != 0), origin="some")
    with pytest.raises(EvaluationError, match="has no image of 'across'"):
        finetune(tiny(), train, train, [only], settings())
    with pytest.raises(EvaluationError, match="pool them over the image"):
        finetune(nn.Conv2d(3, 4, 1), train, train, few, settings())


def test_a_loss_that_is_not_a_number_is_said() -> None:
    train = stripes(24)
    with pytest.raises(EvaluationError, match=r"not finite at step .*1e\+30 of the backbone"):
        finetune(network(), train, train, subsets(train, 0), settings(backbone_lr=1e30, head_lr=1e30))


def test_fewer_images_than_the_published_batch_are_one_batch_and_it_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert batch_that_fits(256) == batch_that_fits(10_000) == 256
    assert not capsys.readouterr().err
    assert batch_that_fits(94) == 94
    assert "94 labelled images are fewer than the published batch of 256" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_cuda_learns_too(precision: Any) -> None:
    train, val = stripes(240), stripes(200, seed=1)
    usual = settings(epochs=15, batch_size=20, backbone_lr=0.1, head_lr=0.3, precision=precision)
    result = finetune(network(), train, val, subsets(train, 0), usual, device="cuda")
    assert isinstance(result["top1"], float)
    assert result["top1"] > 0.9
