"""A whole network trained on labels by SGD: what fine-tuning and the supervised baselines share.

Backbone and head are trained together, batch norm in training mode, on random-resized crops and flips; the learning
rates fall by steps; the last epoch is measured, on centre crops. The order of images, crops, first weights of the head
and whatever the network draws (dropout) follow from the seed and the step, so a training that was broken off goes on to
the same end. What an epoch leaves over after its last whole batch is dropped, other images in other epochs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from co2ssl.data.batch import Batch, normalise
from co2ssl.data.operations import RandomHorizontalFlip, RandomResizedCrop
from co2ssl.data.views import ViewRecipe
from co2ssl.distributed import all_reduce_sum, rank, world_size
from co2ssl.encoders.batch_norm import convert_batch_norm
from co2ssl.evaluate.features import EvaluationError, Precision, frozen_forward
from co2ssl.evaluate.frozen import evaluating
from co2ssl.train.schedule import learning_rate_schedule
from co2ssl.train.steps import in_parallel

MIN_AREA = 0.08
"""Smallest crop: torchvision's default, which every script named here takes."""
HEAD_DEVIATION = 0.01
"""Of the head's first weights, as in main_lincls.py; its bias begins at 0."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a network is trained on labels.

    Attributes:
        image_size: side of a crop, in training and at the test, in pixels.
        resize: short side before the centre crop of the test, in pixels; None: the loader's own choice.
        epochs: passes over the labelled images.
        batch_size: over all processes.
        backbone_lr: highest learning rate of the backbone, for ``batch_size``.
        head_lr: that of the classifier.
        weight_decay: of every parameter.
        drop_shares: shares of the epochs after which both rates are multiplied with ``drop_factor``.
        drop_factor: see there.
        momentum: of SGD.
        precision: of the network's arithmetic; losses are in float32.
    """

    image_size: int
    resize: int | None = None
    epochs: int
    batch_size: int
    backbone_lr: float
    head_lr: float
    weight_decay: float
    drop_shares: tuple[float, ...]
    drop_factor: float
    momentum: float = 0.9
    precision: Precision = "float32"

    @property
    def drop_epochs(self) -> tuple[int, ...]:
        """Epochs finished when the learning rates drop."""
        return tuple(round(share * self.epochs) for share in self.drop_shares)

    def described(self) -> dict[str, object]:
        """What of it goes into a result."""
        left_out = ("image_size", "resize", "precision", "drop_shares")
        kept = {name: value for name, value in asdict(self).items() if name not in left_out}
        return {**kept, "drop_epochs": list(self.drop_epochs)}

    @property
    def crops(self) -> ViewRecipe:
        """The training view: random-resized crop and flip."""
        operations = (RandomResizedCrop(size=self.image_size, min_area=MIN_AREA), RandomHorizontalFlip())
        return ViewRecipe(name="labels", image_size=self.image_size, operations=operations, num_views=1)


def with_head(backbone: nn.Module, num_classes: int, settings: TrainingSettings, *, seed: int) -> nn.Sequential:
    """``backbone`` and a linear classifier with first weights by ``seed``, all of it trainable, on the CPU.

    Over several processes batch norm takes its statistics over all of them, so that two train what one would.

    Args:
        backbone: (N, 3, H, W) to (N, F); taken over, not copied.
        num_classes: C.
        settings: of the training.
        seed: of the classifier's weights.

    Raises:
        EvaluationError: features that are not (N, F).
    """
    backbone = backbone.cpu()
    blank = torch.zeros(1, 3, settings.image_size, settings.image_size)
    with evaluating(backbone):
        width = frozen_forward(backbone, blank, device=torch.device("cpu"), precision="float32").shape[1]
    head = nn.Linear(width, num_classes)
    with torch.no_grad():
        head.weight.copy_(HEAD_DEVIATION * torch.randn(head.weight.shape, generator=_generator(seed)))
        head.bias.zero_()
    if world_size() > 1:
        backbone = convert_batch_norm(backbone, "sync")
    return nn.Sequential(backbone, head).requires_grad_(True).to(memory_format=torch.channels_last)


class LabelTraining:
    """A network, its optimiser, and how far they have come.

    Args:
        network: backbone and head on their device, as :func:`with_head` makes it; trained in place.
        settings: how to train.
        steps_per_epoch: whole batches in an epoch.
        seed: of what the network draws.
        state: what :meth:`state` returned, to go on from; None: from the beginning.

    Attributes:
        step: optimiser steps taken, over all restarts.
        total_steps: of the whole training.
        seconds: spent, over all restarts.
    """

    def __init__(
        self,
        network: nn.Sequential,
        settings: TrainingSettings,
        *,
        steps_per_epoch: int,
        seed: int,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self.network, self.settings, self.seed = network, settings, seed
        backbone, head = network
        self._highest = (settings.backbone_lr, settings.head_lr)
        self.optimizer = SGD(
            [
                {"params": list(part.parameters()), "lr": lr}
                for part, lr in zip((backbone, head), self._highest, strict=True)
            ],
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
        self._share = learning_rate_schedule(
            "steps",
            lr=1.0,
            epochs=settings.epochs,
            steps_per_epoch=steps_per_epoch,
            drop_epochs=settings.drop_epochs,
            drop_factor=settings.drop_factor,
        )
        self.device = next(head.parameters()).device
        self.steps_per_epoch = steps_per_epoch
        self.total_steps = settings.epochs * steps_per_epoch
        self.step, self.seconds = 0, 0.0
        self._loss = torch.zeros((), device=self.device)
        if state is not None:
            network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self._loss.copy_(state["loss"])
            self.step, self.seconds = state["step"], state["seconds"]
        self._model = in_parallel(network) if world_size() > 1 else network

    def take(self, batch: Batch) -> None:
        """One step on this process's rows of a global batch (uint8 views, with labels)."""
        began = time.perf_counter()
        if self.step % self.steps_per_epoch == 0:
            self._loss.zero_()
        for group, lr in zip(self.optimizer.param_groups, self._highest, strict=True):
            group["lr"] = lr * self._share(self.step)
        assert batch.label is not None, "matched_labels() refuses a source without labels"
        # Dropout and its like: a function of the step, not of where the training was broken off.
        torch.manual_seed(int(np.random.SeedSequence([self.seed, self.step, rank()]).generate_state(1)[0]))
        self._model.train()
        images = normalise(batch.views[0].to(self.device, non_blocking=True))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            logits = self._model(images)
        loss = cross_entropy(logits.float(), batch.label.to(self.device))
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._loss += loss.detach()
        self.step += 1
        self.seconds += time.perf_counter() - began

    def mean_loss(self) -> float:
        """Mean cross-entropy over the current epoch (the last one, once training is over), over all processes.

        Raises:
            EvaluationError: it is not finite.
        """
        steps = (self.step - 1) % self.steps_per_epoch + 1
        loss = float(all_reduce_sum(self._loss)) / (steps * world_size())
        if not math.isfinite(loss):
            raise EvaluationError(
                f"the loss is not finite at step {self.step}: lower the learning rates, "
                f"{self.settings.backbone_lr:g} of the backbone and {self.settings.head_lr:g} of the head"
            )
        return loss

    def state(self) -> dict[str, Any]:
        """Everything that the steps to come follow from; every process calls it, and gets the same."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            # Each process goes on from the mean of all: one file has no room for each one's own.
            "loss": all_reduce_sum(self._loss) / world_size(),
            "step": self.step,
            "seconds": self.seconds,
        }


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
