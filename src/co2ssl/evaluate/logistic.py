"""Multinomial logistic regression by preconditioned L-BFGS: converged in tens of steps whatever the features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import linear

MOST_DIRECTIONS = 128
MOST_STEPS = 500
GRADIENT_TOLERANCE = 1e-5
# Below this, products in float32 are noise and the line search would hunt for a descent that is not there.
LOSS_TOLERANCE = 1e-7


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A linear layer.

    Attributes:
        weights: (C, F) float32.
        bias: (C,) float32, not penalised.
        converged: False where the steps ran out.
    """

    weights: Tensor
    bias: Tensor
    converged: bool

    def logits(self, images: Tensor) -> Tensor:
        """(N, F) -> (N, C)."""
        return linear(images, self.weights, self.bias)


@dataclass(frozen=True)
class Directions:
    """The directions in which features vary most, and their variances: (F, R) and (R,), largest first."""

    basis: Tensor
    variance: Tensor

    def precondition(self, weights: Tensor, penalty: float) -> Tensor:
        """(C, F) by the inverse square root of the Hessian's bound, variance / 2 + penalty (Boehning, 1992).

        What lies outside the directions is treated as the weakest of them.
        """
        scale = (self.variance / 2 + penalty).rsqrt()
        rest = scale[-1]
        return rest * weights + ((weights @ self.basis) * (scale - rest)) @ self.basis.T


def main_directions(images: Tensor, *, most: int = MOST_DIRECTIONS) -> Directions:
    """Principal directions of centred features (N, F) by a randomised range finder (Halko et al., 2011).

    Exact where F <= ``most``; elsewhere good enough to speed up the fit, which ends at the same place without.
    """
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(images.shape[1], min(most, images.shape[1]), generator=generator)
    for _ in range(2):
        basis = torch.linalg.qr(images.T @ (images @ basis)).Q
    projected = images @ basis
    variance, rotation = torch.linalg.eigh((projected.T @ projected / len(images)).double())
    return Directions((basis @ rotation.float()).flip(1), variance.clamp_min(0).float().flip(0))


def fit(
    images: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    penalty: float,
    directions: Directions,
    start: Classifier | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Classifier:
    """Minimises mean cross-entropy + penalty / 2 * sum(weights**2).

    Args:
        images: (N, F) float32, standardised.
        labels: (N,) int64.
        directions: of these images or nearly these (:func:`main_directions`); they change the way, not the end.
        start: where to begin; zero if None.
        on_step: called with the number of each step once it is taken, from 1; it has no say in where they lead.
    """
    num_features = images.shape[1]
    origin = torch.zeros(num_classes, num_features) if start is None else start.weights
    origin_bias = torch.zeros(num_classes) if start is None else start.bias
    rows = torch.arange(len(labels))

    def unpacked(point: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        moved = torch.from_numpy(point).float().view(num_classes, num_features + 1)
        return origin + directions.precondition(moved[:, :-1], penalty), origin_bias + moved[:, -1]

    def objective(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights, bias = unpacked(point)
        # The sums in float64: the line search compares values that differ in the ninth digit.
        log_share = torch.log_softmax(linear(images, weights, bias).double(), dim=1)
        loss = float(-log_share[rows, labels].mean()) + penalty / 2 * float(weights.double().square().sum())
        residual = log_share.exp()
        residual[rows, labels] -= 1
        residual = (residual / len(labels)).float()
        # Thin products are several times slower in other orders: residual.T @ images, and never images.T @ residual.
        gradient = directions.precondition(residual.T @ images + penalty * weights, penalty)
        return loss, torch.cat([gradient, residual.sum(dim=0).unsqueeze(1)], dim=1).double().flatten().numpy()

    steps = count(1)

    def after_step(_: NDArray[np.float64]) -> None:
        if on_step is not None:
            on_step(next(steps))

    found = minimize(
        objective,
        np.zeros((num_features + 1) * num_classes),
        jac=True,
        method="L-BFGS-B",
        callback=after_step,
        options={"maxiter": MOST_STEPS, "gtol": GRADIENT_TOLERANCE, "ftol": LOSS_TOLERANCE, "maxcor": 10},
    )
    weights, bias = unpacked(found.x)
    return Classifier(weights=weights, bias=bias, converged=found.nit < MOST_STEPS)
