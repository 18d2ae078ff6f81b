from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from co2ssl.data.batch import normalise
from co2ssl.data.loader import Loader
from co2ssl.data.operations import RandomHorizontalFlip, RandomResizedCrop
from co2ssl.data.sources import ArraySource
from co2ssl.errors import UsageError
from co2ssl.evaluate import classifiers as classifiers_module
from co2ssl.evaluate import linear_sgd as module
from co2ssl.evaluate.classifiers import Classifiers
from co2ssl.evaluate.features import EvaluationError, Features, extract
from co2ssl.evaluate.linear import linear_lbfgs
from co2ssl.evaluate.linear_sgd import LinearSettings, crops, linear_sgd, train_classifiers
from co2ssl.evaluate.resumable import Saved
from co2ssl.train.stop import Interrupted
from tests.evaluate.fakes import Images, Net
from tests.processes import ProcessPair

CPU = torch.device("cpu")
CLASSES = ("a", "b", "c", "d", "e")
# The five lie close enough together that the best classifier errs on some images.
COLOURS = np.array([[80, 80, 80], [120, 90, 100], [100, 140, 90], [150, 130, 120], [90, 110, 150]])
SPREAD = 22.0


def colours(num: int, *, seed: int = 0, name: str = "colours", labels: Tensor | None = None) -> ArraySource:
    """Images of one colour each, drawn around the colour of their class: crops and flips do not change them."""
    random = np.random.default_rng(seed)
    own = np.arange(num) % 5 if labels is None else labels.numpy()
    drawn = COLOURS[own] + SPREAD * random.standard_normal((num, 3))
    pixels = np.broadcast_to(drawn.round().clip(0, 255).astype(np.uint8)[:, None, None], (num, 8, 8, 3))
    return ArraySource(name, np.ascontiguousarray(pixels), own.astype(np.int64), CLASSES)


def mean_colour() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def settings(**changed: object) -> LinearSettings:
    usual = LinearSettings(image_size=8, lrs=(0.5, 0.05), epochs=5, batch_size=20)
    return replace(usual, **changed)  # type: ignore[arg-type]


def fresh(network: nn.Module, count: int, *, norm: bool = False, seed: int = 0) -> Classifiers:
    with torch.no_grad():
        width = network(torch.zeros(2, 3, 8, 8)).shape[1]
    return Classifiers(width, 5, count=count, norm=norm, deviation=0.01, seed=seed)


def slow_training(network: nn.Module, source: ArraySource, lr: float, chosen: LinearSettings) -> tuple[Tensor, Tensor]:
    """The protocol written out for one classifier: momentum, no decay, a tenth after 60 % and 80 % of the epochs."""
    first = fresh(network, 1, seed=chosen.seed)
    weight, bias = (value.detach().clone().requires_grad_() for value in first.heads[0].parameters())
    velocity = [torch.zeros_like(weight), torch.zeros_like(bias)]
    loader = Loader(source, crops(8), batch_size=chosen.batch_size, seed=chosen.seed, workers=0)
    network.eval()
    for epoch in range(chosen.epochs):
        rate = lr * (1.0 if epoch < 3 else 0.1 if epoch < 4 else 0.01)
        for batch in loader.epoch(epoch):
            assert batch.label is not None
            features = network(normalise(batch.views[0])).detach()
            loss = cross_entropy(features @ weight.T + bias, batch.label)
            gradients = torch.autograd.grad(loss, [weight, bias])
            with torch.no_grad():
                for value, moved, gradient in zip((weight, bias), velocity, gradients, strict=True):
                    moved.mul_(0.9).add_(gradient)
                    value.sub_(rate * moved)
    return weight.detach(), bias.detach()


def test_each_classifier_against_the_protocol_written_out() -> None:
    source, network, chosen = colours(100), Net().backbone, settings()
    trained = fresh(network, 2)
    train_classifiers(trained, network, source, chosen, device=CPU)
    for head, lr in zip(trained.heads, (0.5, 0.05), strict=True):
        weight, bias = slow_training(Net().backbone, source, lr, chosen)
        assert isinstance(head, nn.Linear)
        torch.testing.assert_close(head.weight.detach(), weight, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(head.bias.detach(), bias, rtol=1e-4, atol=1e-6)


def test_classifiers_side_by_side_are_what_each_is_alone() -> None:
    source, network = colours(100), mean_colour()
    together, alone = fresh(network, 2), fresh(network, 1)
    both = train_classifiers(together, network, source, settings(), device=CPU)
    single = train_classifiers(alone, network, source, settings(lrs=(0.05,)), device=CPU)
    for one, other in zip(together.heads[1].parameters(), alone.heads[0].parameters(), strict=True):
        assert torch.equal(one, other)
    assert both.mean_losses()[1] == single.mean_losses()[0]


def best_possible(source: ArraySource) -> float:
    """Bayes' rule for equal spherical clusters is the nearest centre."""
    distance = np.linalg.norm(source.images[:, 0, 0, None].astype(float) - COLOURS, axis=2)
    return float((distance.argmin(axis=1) == source.labels).mean())


def test_both_forms_agree_and_reach_the_best_possible_accuracy() -> None:
    train, val = colours(1500), colours(1500, seed=1, name="val")
    features = extract(mean_colour(), val, image_size=8)
    full = linear_sgd(mean_colour(), train, features, settings(epochs=20, batch_size=50))
    fast = linear_lbfgs(extract(mean_colour(), train, image_size=8), features)
    best = best_possible(val)
    assert 0.6 < best < 0.95
    assert isinstance(full["top1"], float)
    assert isinstance(fast["top1"], float)
    # On images that crops do not change, both fit one and the same problem: apart by less than an image in a hundred.
    assert full["top1"] == pytest.approx(fast["top1"], abs=0.01)
    assert full["top1"] == pytest.approx(best, abs=0.015)


def test_features_that_say_nothing_score_at_chance() -> None:
    labels = torch.randint(0, 5, (3000,), generator=torch.Generator().manual_seed(0))
    noise = np.random.default_rng(0).integers(0, 256, (3000, 8, 8, 3), dtype=np.uint8)
    train = ArraySource("noise", noise[:1000], labels[:1000].numpy(), CLASSES)
    val = extract(Net().backbone, ArraySource("more", noise[1000:], labels[1000:].numpy(), CLASSES), image_size=8)
    top1 = linear_sgd(Net().backbone, train, val, settings(epochs=3))["top1"]
    assert isinstance(top1, float)
    # Four standard deviations of a guess.
    assert abs(top1 - 0.2) < 4 * math.sqrt(0.2 * 0.8 / 2000)


def test_the_backbone_is_in_evaluation_mode_and_left_as_it_was() -> None:
    source, net = colours(100), Net()
    net.train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    train_classifiers(fresh(net.backbone.eval(), 1), net.backbone.train(), source, settings(lrs=(0.1,)), device=CPU)
    assert all(part.training for part in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_the_published_values_are_the_defaults() -> None:
    usual = LinearSettings(image_size=224)
    assert (usual.learning_rates, usual.epochs, usual.drop_epochs, usual.batch_size) == ((30, 15), 100, (60, 80), 256)
    assert (module.MOMENTUM, module.DROP_FACTOR, module.INITIAL_DEVIATION) == (0.9, 0.1, 0.01)
    assert crops(224).operations == (RandomResizedCrop(size=224, min_area=0.08), RandomHorizontalFlip())
    assert LinearSettings(image_size=224, layer="res4").learning_rates == (0.01,)
    assert LinearSettings(image_size=224, epochs=28).drop_epochs == (17, 22)


def test_first_weights() -> None:
    made = Classifiers(400, 50, count=2, norm=False, deviation=0.01, seed=0)
    first, second = made.heads
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    assert float(first.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
    assert torch.equal(first.weight, second.weight)
    assert not first.bias.any()
    other = Classifiers(400, 50, count=1, norm=False, deviation=0.01, seed=1).heads[0]
    assert not torch.equal(first.weight, next(other.parameters()))


def test_maps_are_brought_to_unit_variance_with_the_statistics_of_training() -> None:
    source, network = colours(100), mean_colour()
    made = fresh(network, 1, norm=True)
    train_classifiers(made, network, source, settings(lrs=(0.01,), epochs=40), device=CPU)
    features = extract(network, source, image_size=8).features
    norm = made.norm
    assert isinstance(norm, nn.BatchNorm1d)
    assert isinstance(norm.running_mean, Tensor)
    torch.testing.assert_close(norm.running_mean, features.mean(0), rtol=0, atol=0.1)
    logits = made.scores(features, block=7)[0]
    assert torch.equal(logits, made.eval()(features)[0].detach())


def test_the_result_says_what_was_done_and_is_json() -> None:
    val = extract(mean_colour(), colours(40, seed=1, name="val"), image_size=8)
    result = linear_sgd(mean_colour(), colours(100), val, settings(lrs=(30.0, 15.0), seed=4))
    assert json.loads(json.dumps(result)) == result
    assert result["protocol"] == "linear"
    rows = result["classifiers"]
    assert isinstance(rows, list)
    assert [(row["lr"], row["origin"].split(" (")[0]) for row in rows] == [(30.0, "MoCo"), (15.0, "CO2")]
    assert (result["top1"], result["top5"]) == (rows[0]["top1"], rows[0]["top5"]) == (rows[0]["top1"], 1.0)
    assert (result["epochs"], result["drop_epochs"], result["batch_size"], result["seed"]) == (5, [3, 4], 20, 4)
    assert (result["num_train"], result["num_val"], result["num_classes"], result["num_features"]) == (100, 40, 5, 3)
    assert (result["train"], result["val"]) == ("colours", "val")


@contextmanager
def stopping_after(steps: int) -> Iterator[Callable[[], bool]]:
    asked = iter(range(1, 10**9))
    yield lambda: next(asked) >= steps


# Within an epoch, at its last step, and in the one after a drop of the learning rate.
@pytest.mark.parametrize("steps", [2, 5, 17])
def test_a_training_that_is_stopped_goes_on_to_the_bit(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, source, chosen = Net().backbone.eval(), colours(100), settings(lrs=(0.5, 0.05))
    whole, resumed = fresh(network, 2, norm=True), fresh(network, 2, norm=True)
    straight = train_classifiers(whole, network, source, chosen, device=CPU)
    saved = Saved(tmp_path / "deep" / "linear.ckpt", key="k")
    with monkeypatch.context() as patched:
        patched.setattr(module, "stop_on_signals", lambda: stopping_after(steps))
        with pytest.raises(Interrupted, match=f"after step {steps} of 25; all of it saved"):
            train_classifiers(fresh(network, 2, norm=True), network, source, chosen, device=CPU, saved=saved)
    later = train_classifiers(resumed, network, source, chosen, device=CPU, saved=saved)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert later.mean_losses() == straight.mean_losses()


def test_a_training_without_a_place_says_that_nothing_was_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "stop_on_signals", lambda: stopping_after(1))
    with pytest.raises(Interrupted, match="nothing was saved"):
        train_classifiers(fresh(mean_colour(), 2), mean_colour(), colours(100), settings(), device=CPU)


def test_it_saves_once_in_a_while_and_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifiers_module, "SAVE_EVERY", 0.0)
    saved = Saved(tmp_path / "linear.ckpt", key="k")
    train_classifiers(fresh(mean_colour(), 2), mean_colour(), colours(100), settings(), device=CPU, saved=saved)
    state = saved.load()
    assert state is not None
    assert state["step"] == 25
    val = extract(mean_colour(), colours(40, seed=1), image_size=8)
    linear_sgd(mean_colour(), colours(100), val, settings(), saved=saved)
    assert not saved.path.exists()


def test_a_state_of_another_measurement_is_not_gone_on_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Saved(tmp_path / "linear.ckpt", key="other").save({"step": 3})
    assert Saved(tmp_path / "linear.ckpt", key="k").load() is None
    assert "begins anew" in capsys.readouterr().err
    (tmp_path / "linear.ckpt").write_bytes(b"cut short")
    assert Saved(tmp_path / "linear.ckpt", key="k").load() is None
    assert "damaged" in capsys.readouterr().err


def train_together(count: int) -> list[Tensor]:
    network = Net().backbone.eval()
    made = fresh(network, 2)
    train_classifiers(made, network, colours(count), settings(), device=CPU)
    return list(made.state_dict().values())


def test_two_processes_take_the_steps_of_one(two_processes: ProcessPair) -> None:
    first, second = two_processes(train_together, 100)
    for one, own, other in zip(train_together(100), first, second, strict=True):
        torch.testing.assert_close(own, one, rtol=1e-4, atol=1e-6)
        assert torch.equal(own, other)


def test_fewer_images_than_a_batch() -> None:
    val = extract(mean_colour(), colours(10), image_size=8)
    with pytest.raises(UsageError, match=r"--batch-size of at most 15, or --fast"):
        linear_sgd(mean_colour(), colours(15), val, settings())


def test_a_loss_that_is_not_a_number_is_said() -> None:
    val = extract(mean_colour(), colours(10), image_size=8)
    with pytest.raises(EvaluationError, match=r"learning rate 1e\+38.*--lr"):
        linear_sgd(mean_colour(), colours(100), val, settings(lrs=(0.1, 1e38)))


def test_a_rate_that_the_features_are_too_large_for_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    louder = nn.Linear(3, 3)
    with torch.no_grad():
        louder.weight.copy_(30 * torch.eye(3))
    network = nn.Sequential(mean_colour(), louder)
    val = extract(network, colours(40, seed=1), image_size=8)
    rows = linear_sgd(network, colours(100), val, settings(lrs=(30.0, 1e-4)))["classifiers"]
    assert isinstance(rows, list)
    assert "learning rate 30 ended with a loss" in rows[0]["warning"]
    assert rows[1]["warning"] is None
    text = capsys.readouterr().err
    assert "The one with 0.0001 did" in text
    assert "learning rate 0.0001" not in text
    linear_sgd(network, colours(100), val, settings(lrs=(30.0, 20.0)))
    text = capsys.readouterr().err
    assert text.count("such as --lr 2 0.2") == text.count("did not converge") == 2


def test_features_that_say_nothing_are_no_fault_of_the_rate() -> None:
    guessing = math.log(3)
    assert module._doubts([30.0, 15.0], [1.05 * guessing, guessing], 3) == [None, None]
    (doubt,) = module._doubts([30.0], [1.2 * guessing], 3)
    assert doubt is not None
    assert "such as --lr 3 0.3" in doubt


def test_labels_are_looked_at_before_anything_is_trained() -> None:
    bare = Images(None, None, num_images=9)
    val = Features(
        features=torch.zeros(1, 3), labels=torch.tensor([0]), index=torch.arange(1), classes=("f",), source="val"
    )
    with pytest.raises(EvaluationError, match="no labels"):
        linear_sgd(mean_colour(), bare, val, settings())
    with pytest.raises(EvaluationError, match="lacks: 'f'"):
        linear_sgd(mean_colour(), colours(100), val, settings())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_what_the_cpu_gives() -> None:
    train, network = colours(500), mean_colour()
    val = extract(network, colours(500, seed=1), image_size=8)
    on_cpu = linear_sgd(network, train, val, settings())
    on_cuda = linear_sgd(network, train, val, settings(), device="cuda")
    assert on_cuda["top1"] == pytest.approx(on_cpu["top1"], abs=0.01)
