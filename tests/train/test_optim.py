"""LARS against the formula written out element by element, and who gets decay."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from co2ssl.errors import UsageError
from co2ssl.train.optim import LARS, build_optimizer


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4)).double()


def gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(10 + step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def slow_lars(w: list[float], g: list[float], v: list[float], *, lr: float, decay: float, adapt: bool) -> None:
    """google-research/simclr, lars_optimizer.py, classic momentum, in plain floats and in place."""
    g = [gi + decay * wi for gi, wi in zip(g, w, strict=True)]
    w_norm, g_norm = math.sqrt(sum(x * x for x in w)), math.sqrt(sum(x * x for x in g))
    ratio = 0.001 * w_norm / g_norm if adapt and w_norm > 0 and g_norm > 0 else 1.0
    for i in range(len(w)):
        v[i] = 0.9 * v[i] + lr * ratio * g[i]
        w[i] -= v[i]


def test_lars_is_the_published_update() -> None:
    model = network()
    optimizer = build_optimizer("lars", model, lr=9.0, momentum=0.9, weight_decay=0.1)
    slow = {name: (p.flatten().tolist(), [0.0] * p.numel()) for name, p in model.named_parameters()}
    for step, lr in enumerate([4.8, 4.8, 1.0]):
        for group in optimizer.param_groups:
            group["lr"] = lr
        gradients(model, step)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            matrix = name in ("0.weight", "3.weight")
            weights, velocity = slow[name]
            slow_lars(weights, parameter.grad.flatten().tolist(), velocity, lr=lr, decay=0.1 * matrix, adapt=matrix)
        optimizer.step()
        for name, parameter in model.named_parameters():
            assert parameter.flatten().tolist() == pytest.approx(slow[name][0], rel=1e-12, abs=1e-14), (step, name)


@pytest.mark.parametrize("zero", ["weight", "gradient"])
def test_lars_takes_a_plain_step_where_a_norm_is_zero(zero: str) -> None:
    weight = nn.Parameter(torch.zeros(2, 2) if zero == "weight" else torch.ones(2, 2))
    weight.grad = torch.zeros(2, 2) if zero == "gradient" else torch.full((2, 2), 3.0)
    before = weight.detach().clone()
    LARS([weight], lr=0.5).step()
    assert torch.equal(weight.detach(), before - 0.5 * weight.grad)


def test_lars_leaves_gradients_and_parameters_without_one_alone() -> None:
    first, second = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(3, 3))
    first.grad = torch.ones(2, 2)
    LARS([first, second], lr=1.0, weight_decay=0.5).step()
    assert torch.equal(first.grad, torch.ones(2, 2))
    assert torch.equal(second.detach(), torch.ones(3, 3))


def test_lars_goes_on_from_its_state_to_the_bit() -> None:
    def steps(model: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
        for number in numbers:
            gradients(model, number)
            optimizer.step()

    straight = network()
    steps(straight, build_optimizer("lars", straight, lr=1.0, momentum=0.9, weight_decay=0.1), range(4))

    first, second = network(), network()
    before = build_optimizer("lars", first, lr=1.0, momentum=0.9, weight_decay=0.1)
    steps(first, before, range(2))
    second.load_state_dict(first.state_dict())
    after = build_optimizer("lars", second, lr=1.0, momentum=0.9, weight_decay=0.1)
    after.load_state_dict(before.state_dict())
    steps(second, after, range(2, 4))
    for one, other in zip(straight.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_sgd_decays_every_parameter_as_moco_does() -> None:
    model = network()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = build_optimizer("sgd", model, lr=0.1, momentum=0.9, weight_decay=0.5)
    velocities = [torch.zeros_like(parameter) for parameter in before]
    for step in range(2):
        gradients(model, step)
        for weight, velocity, parameter in zip(before, velocities, model.parameters(), strict=True):
            assert parameter.grad is not None
            velocity.mul_(0.9).add_(parameter.grad + 0.5 * weight)
            weight.sub_(0.1 * velocity)
        optimizer.step()
    assert all(torch.allclose(w, p, rtol=1e-13) for w, p in zip(before, model.parameters(), strict=True))


def test_only_what_takes_a_gradient_is_trained() -> None:
    model = network()
    frozen: Tensor = next(model.parameters())
    frozen.requires_grad_(False)
    optimizer = build_optimizer("sgd", model, lr=0.1, momentum=0.9, weight_decay=0.5)
    assert all(parameter is not frozen for group in optimizer.param_groups for parameter in group["params"])
    with pytest.raises(UsageError, match="nothing to train"):
        build_optimizer("sgd", model.requires_grad_(False), lr=0.1, momentum=0.9, weight_decay=0.5)
    with pytest.raises(UsageError, match="sgd, lars"):
        build_optimizer("adam", network(), lr=0.1, momentum=0.9, weight_decay=0.5)  # type: ignore[arg-type]
