"""The other side: MoCo v2 as ``lightly`` documents it (docs.lightly.ai, example "MoCo", PyTorch form).

What is taken from there: its transform at the input size (without blur at 32 pixels, as its benchmarks have it), its
projection head (512, 512, 128), its loss with a memory bank of 4,096 keys, both momentum updates before each step, SGD
at 0.06, a shuffled loader with 8 workers that drops the last batch, the sum of losses for the epoch's line. Runs in an
environment of its own, and imports nothing of this package.
"""

from __future__ import annotations

import copy
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightly
import numpy as np
import torch
import torchvision
from lightly.data import LightlyDataset
from lightly.loss import NTXentLoss
from lightly.models.modules import MoCoProjectionHead
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.transforms.moco_transform import MoCoV2Transform
from lightly.utils.scheduler import cosine_schedule
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.step.job import Clock, Job, main, work_done

DOCUMENTED_WORKERS = 8


class MoCo(nn.Module):
    """Backbone and head, each with its momentum copy."""

    def __init__(self, stem: str) -> None:
        super().__init__()
        resnet = torchvision.models.resnet18()
        if stem == "small":
            resnet.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            resnet.maxpool = nn.Identity()
        self.backbone = nn.Sequential(*list(resnet.children())[:-1])
        self.projection_head = MoCoProjectionHead(512, 512, 128)
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)

    def forward(self, images: Tensor) -> Tensor:
        """Queries."""
        query: Tensor = self.projection_head(self.backbone(images).flatten(start_dim=1))
        return query

    def keys(self, images: Tensor) -> Tensor:
        """Keys."""
        key: Tensor = self.projection_head_momentum(self.backbone_momentum(images).flatten(start_dim=1))
        return key.detach()


class InMemory(Dataset[Any]):
    """Images of an array, as torchvision's CIFAR-10 hands them out."""

    def __init__(self, images: Any, transform: Any) -> None:
        self._images, self._transform = images, transform

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Any:
        return self._transform(Image.fromarray(self._images[index])), 0


def run(job: Job) -> dict[str, Any]:
    """Images a second of the loop."""
    torch.manual_seed(job.seed)
    workers = DOCUMENTED_WORKERS if job.workers is None else job.workers
    loader = _loader(job, workers)
    model = MoCo(job.stem)
    layout = torch.channels_last if job.channels_last else torch.contiguous_format
    model.to(memory_format=layout)
    criterion = NTXentLoss(memory_bank_size=(job.queue_size, 128))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.06)
    momentum = cosine_schedule(0, 10, 0.996, 1)
    clock = Clock(job)
    shapes: list[torch.Size] = []
    total = torch.zeros(())
    for batch in loader:
        shapes = shapes or [view.shape for view in batch[0]]
        query_images, key_images = (view.to(memory_format=layout) for view in batch[0])
        update_momentum(model.backbone, model.backbone_momentum, m=momentum)
        update_momentum(model.projection_head, model.projection_head_momentum, m=momentum)
        with _autocast(job):
            query, key = model(query_images), model.keys(key_images)
        loss = criterion(query.float(), key.float())
        total += loss.detach()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if clock.tick():
            break
    return {
        **clock.report(),
        **work_done(parameters=trained(model), views=shapes),
        "workers": workers,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "lightly": lightly.__version__,
    }


def trained(model: MoCo) -> int:
    """Numbers that the optimiser moves."""
    return sum(tensor.numel() for tensor in model.parameters() if tensor.requires_grad)


def _loader(job: Job, workers: int) -> DataLoader[Any]:
    data: Any
    if job.images.endswith(".npy"):
        data = InMemory(np.load(job.images), MoCoV2Transform(input_size=job.image_size, gaussian_blur=0.0))
    else:
        data = LightlyDataset(job.images, transform=MoCoV2Transform(input_size=job.image_size))
    needed = job.images_for(ahead=2 * workers)
    if len(data) < needed:
        raise SystemExit(f"{len(data)} images are too few: with {workers} workers the timed steps need {needed}")
    with warnings.catch_warnings():
        # More workers than cores are what the documentation has.
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        return DataLoader(data, batch_size=job.batch_size, shuffle=True, drop_last=True, num_workers=workers)


def _autocast(job: Job) -> AbstractContextManager[None]:
    return torch.autocast("cpu", dtype=torch.bfloat16) if job.precision == "bf16" else nullcontext()


if __name__ == "__main__":
    main(run)
