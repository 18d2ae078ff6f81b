"""The scenario that the original MoCo and ours both run: weights, views, permutations and queue, from formulas."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from co2ssl.encoders.resnet import ResNet, resnet

STEPS, ROWS, QUEUE, DIM = 10, 8, 24, 8
KEEP, TEMPERATURE = 0.99, 0.07
LR, SGD_MOMENTUM, WEIGHT_DECAY = 0.03, 0.9, 0.0001


def backbone() -> ResNet:
    """A ResNet-18 that starts with one channel, in float64."""
    return resnet("resnet18", width=1 / 64, stem="small").double()


def fill(module: nn.Module) -> None:
    """Weights that depend on nothing but their place: a different sine for every parameter tensor."""
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            steps = torch.arange(parameter.numel(), dtype=torch.float64).reshape(parameter.shape)
            wave = torch.sin(steps * (1.3 + 0.1 * number) + number)
            scale = 1.0 if parameter.dim() == 1 else (2.0 / parameter[0].numel()) ** 0.5
            parameter.copy_(wave * scale * (0.2 if parameter.dim() == 1 else 1.0) + float(parameter.dim() == 1))


def views(step: int, *, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    """Two views (rows, 3, 8, 8): a wave per image, and the same wave shifted."""
    grid = torch.arange(rows * 3 * 8 * 8, dtype=torch.float64).reshape(rows, 3, 8, 8)
    return torch.sin(grid * 0.37 + step), torch.sin(grid * 0.37 + step + 0.3)


def permutation(step: int, length: int) -> Tensor:
    """An order of the batch for each step: an affine map modulo the length, which must be odd-coprime."""
    return (torch.arange(length) * 5 + step) % length


def start_queue() -> Tensor:
    """Unit rows (QUEUE, DIM)."""
    grid = torch.arange(QUEUE * DIM, dtype=torch.float64).reshape(QUEUE, DIM)
    return nn.functional.normalize(torch.sin(grid * 0.71 + 1.0), dim=1)


def flat(module: nn.Module) -> Tensor:
    """All parameters in one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
