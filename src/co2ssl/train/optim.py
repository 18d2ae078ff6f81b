"""SGD as MoCo uses it, and LARS as SimCLR does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias, get_args, overload

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from co2ssl.errors import UsageError

OptimizerName: TypeAlias = Literal["sgd", "lars"]


def build_optimizer(
    name: OptimizerName, module: nn.Module, *, lr: float, momentum: float, weight_decay: float
) -> Optimizer:
    """The optimiser of a method's trainable parameters.

    * "sgd": momentum and weight decay on every parameter, batch norm and biases too, as MoCo (main_moco.py).
    * "lars": vectors (batch norm, biases) get neither decay nor adaptation, as google-research/simclr.

    Args:
        name: "sgd" or "lars".
        module: the method, already on its device. Parameters without gradient (a momentum copy) are left alone.
        lr: learning rate; the loop sets it anew for each step.
        momentum: weight of the old velocity.
        weight_decay: factor of the parameter that is added to its gradient.

    Raises:
        UsageError: an unknown name, or nothing to train.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not parameters:
        raise UsageError(f"{type(module).__name__} has no parameter that takes a gradient: nothing to train")
    if name == "sgd":
        # One kernel for the whole step on a GPU; on the CPU the three forms take the same time.
        fused = True if all(parameter.is_cuda for parameter in parameters) else None
        return SGD(parameters, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=fused)
    if name == "lars":
        return LARS(
            [
                {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay, "adapt": True},
                {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0, "adapt": False},
            ],
            lr=lr,
            momentum=momentum,
        )
    raise UsageError(f"unknown optimiser {name!r}: choose one of {', '.join(get_args(OptimizerName))}")


class LARS(Optimizer):
    """Layer-wise adaptive rate scaling: each tensor's step is in proportion to its own length.

    You et al., 2017 (arXiv 1708.03888), in the form of google-research/simclr (lars_optimizer.py, "classic"
    momentum: the learning rate enters the velocity):

        g <- grad + weight_decay * w
        r  = trust * |w| / |g|          1 where either norm is 0, or where the group does not adapt
        v <- momentum * v + lr * r * g
        w <- w - v

    Args:
        params: parameters, or groups of them with ``weight_decay`` and ``adapt`` of their own.
        lr: learning rate.
        momentum: weight of the old velocity.
        weight_decay: factor of the parameter that is added to its gradient.
        trust: the paper's eta.
        adapt: whether steps are scaled by r.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 0.001,
        adapt: bool = True,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": adapt}
        super().__init__(params, defaults)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step over all groups, without a host synchronisation."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        weights = [weight for weight in group["params"] if weight.grad is not None]
        if not weights:
            return
        gradients = [weight.grad for weight in weights]
        for weight in weights:
            if "velocity" not in self.state[weight]:
                self.state[weight]["velocity"] = torch.zeros_like(weight)
        velocities = [self.state[weight]["velocity"] for weight in weights]

        steps = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
        if group["adapt"]:
            weight_norms = torch.stack(torch._foreach_norm(weights))
            step_norms = torch.stack(torch._foreach_norm(steps))
            ratios = group["trust"] * weight_norms / step_norms
            ratios = torch.where((weight_norms > 0) & (step_norms > 0), ratios, torch.ones_like(ratios))
            torch._foreach_mul_(steps, list((group["lr"] * ratios).unbind()))
        else:
            torch._foreach_mul_(steps, group["lr"])
        torch._foreach_mul_(velocities, group["momentum"])
        torch._foreach_add_(velocities, steps)
        torch._foreach_sub_(weights, velocities)
