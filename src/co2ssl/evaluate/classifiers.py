"""Linear classifiers trained side by side on the same features, one for each learning rate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from co2ssl.evaluate.features import EvaluationError
from co2ssl.evaluate.resumable import Saved
from co2ssl.train.schedule import learning_rate_schedule
from co2ssl.train.stop import Interrupted, any_process

SAVE_EVERY = 60.0
"""Seconds between two savings of where the training stands."""
_LOOK_EVERY = 20


class Classifiers(nn.Module):
    """Linear classifiers (F to C) on the same features, with the same first weights.

    Args:
        num_features: F.
        num_classes: C.
        count: how many.
        norm: whether features are brought to zero mean and unit variance first, by a batch norm without weights.
        deviation: standard deviation of the first weights; biases are 0.
        seed: of the first weights.
    """

    def __init__(
        self, num_features: int, num_classes: int, *, count: int, norm: bool, deviation: float, seed: int
    ) -> None:
        super().__init__()
        self.norm: nn.Module = nn.BatchNorm1d(num_features, affine=False) if norm else nn.Identity()
        first = torch.randn(num_classes, num_features, generator=torch.Generator().manual_seed(seed))
        self.heads = nn.ModuleList(nn.Linear(num_features, num_classes) for _ in range(count))
        with torch.no_grad():
            for head in self.heads:
                assert isinstance(head, nn.Linear)
                head.weight.copy_(deviation * first)
                head.bias.zero_()

    def forward(self, features: Tensor) -> list[Tensor]:
        """The logits (N, C) of each classifier, of features (N, F)."""
        features = self.norm(features)
        return [head(features) for head in self.heads]

    @torch.no_grad()
    def scores(self, features: Tensor, *, block: int = 4096) -> list[Tensor]:
        """The logits (N, C) of each classifier on the CPU, in evaluation mode, block by block."""
        self.eval()
        device = next(self.parameters()).device
        blocks = [[out.cpu() for out in self(rows.to(device, torch.float32))] for rows in features.split(block)]
        return [torch.cat(own) for own in zip(*blocks, strict=True)]


class Training:
    """Classifiers, their optimiser, and how far they have come.

    Attributes:
        step: optimiser steps taken, over all restarts.
        total_steps: of the whole training.
        seconds: spent, over all restarts.

    Args:
        classifiers: on their device, one for each learning rate.
        learning_rates: at their highest.
        momentum: of SGD; there is no weight decay.
        epochs: passes over the images.
        steps_per_epoch: whole batches in an epoch.
        drop_epochs: epochs after which every learning rate is multiplied with ``drop_factor``.
        drop_factor: see there.
        saved: where to go on from, and where to save; None: nowhere.
    """

    def __init__(
        self,
        classifiers: Classifiers,
        *,
        learning_rates: Sequence[float],
        momentum: float,
        epochs: int,
        steps_per_epoch: int,
        drop_epochs: Sequence[int],
        drop_factor: float,
        saved: Saved | None,
    ) -> None:
        self.classifiers = classifiers
        self.optimizer = SGD(
            [
                {"params": list(head.parameters()), "lr": lr}
                for head, lr in zip(classifiers.heads, learning_rates, strict=True)
            ],
            momentum=momentum,
        )
        self.total_steps = epochs * steps_per_epoch
        self.step = 0
        self.seconds = 0.0
        self._learning_rates = tuple(learning_rates)
        self._epochs, self._steps_per_epoch = epochs, steps_per_epoch
        self._share = learning_rate_schedule(
            "steps",
            lr=1.0,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            drop_epochs=drop_epochs,
            drop_factor=drop_factor,
        )
        self._losses = torch.zeros(len(classifiers.heads), device=next(classifiers.parameters()).device)
        self._words = ""
        self._saved = saved
        self._began = self._last_saved = time.perf_counter()
        if saved is not None and (state := saved.load()) is not None:
            self._restore(state)

    def take(self, features: Tensor, labels: Tensor) -> None:
        """One step of every classifier on the features (N, F) and labels (N,) of a global batch."""
        if self.step % self._steps_per_epoch == 0:
            self._losses.zero_()
        for group, lr in zip(self.optimizer.param_groups, self._learning_rates, strict=True):
            group["lr"] = lr * self._share(self.step)
        self.classifiers.train()
        losses = torch.stack([cross_entropy(logits, labels) for logits in self.classifiers(features)])
        # Each classifier has its own weights: the gradient of the sum is each one's own gradient.
        losses.sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._losses += losses.detach()
        self.step += 1
        now = time.perf_counter()
        self.seconds += now - self._began
        self._began = now

    def mean_losses(self) -> list[float]:
        """Mean cross-entropy of each classifier over the current epoch (the last one, once training is over)."""
        steps = (self.step - 1) % self._steps_per_epoch + 1
        return [float(loss) / steps for loss in self._losses.cpu()]

    def in_words(self) -> str:
        """Epoch and losses, looked at once in a while: looking waits for the device."""
        if self.step % _LOOK_EVERY == 1 or self._steps_per_epoch == 1:
            self.check()
            losses = ", ".join(f"{loss:.3f}" for loss in self.mean_losses())
            epoch = (self.step - 1) // self._steps_per_epoch + 1
            self._words = f"epoch {epoch}/{self._epochs}, loss {losses}"
        return self._words

    def check(self) -> None:
        """Raise :class:`EvaluationError` where a loss is not a number."""
        for lr, loss in zip(self._learning_rates, self._losses.tolist(), strict=True):
            if not math.isfinite(loss):
                raise EvaluationError(
                    f"the loss with learning rate {lr:g} is not finite at step {self.step}: the features have "
                    "another scale than the published rate is for; give a lower --lr, or --fast"
                )

    def save_when_due(self, stop_requested: Callable[[], bool]) -> None:
        """Save a minute after the last time, and stop where that was asked for; every process calls it.

        Raises:
            Interrupted: after Ctrl-C or SIGTERM.
        """
        stop, due = any_process(stop_requested(), time.perf_counter() - self._last_saved > SAVE_EVERY)
        if self._saved is not None and (stop or due):
            self._saved.save(self._state())
            self._last_saved = time.perf_counter()
        if stop:
            where = f"stopped after step {self.step} of {self.total_steps}"
            kept = (
                "nothing was saved" if self._saved is None else "all of it saved: the same command goes on from there"
            )
            raise Interrupted(f"{where}; {kept}")

    def _state(self) -> dict[str, Any]:
        return {
            "classifiers": self.classifiers.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": self._losses,
            "step": self.step,
            "seconds": self.seconds,
        }

    def _restore(self, state: dict[str, Any]) -> None:
        self.classifiers.load_state_dict(state["classifiers"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._losses.copy_(state["losses"])
        self.step, self.seconds = state["step"], state["seconds"]
