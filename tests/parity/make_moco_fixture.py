"""Run facebookresearch/moco's own ``moco/builder.py`` on the CPU and write down the numbers it gives.

    git clone https://github.com/facebookresearch/moco /tmp/moco
    python -m tests.parity.make_moco_fixture /tmp/moco > tests/parity/moco_fixture.json

Its ``main`` is empty since February 2026, so the file is read at commit 0d6137a. Set aside, and nothing else: its
``.cuda()`` calls (made to do nothing), its NCCL process group (a gloo group of this one process), its ``randperm`` (the
permutation comes from here, so that both sides share it) and its starting queue. Only numbers are kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from tests.parity import scenario

COMMIT = "0d6137a6e66236fe8b3d6258326b51b4bb52d60f"


class TinyResNet(nn.Module):
    """The scenario's network with the last layer named ``fc``, as the original expects of its base encoder."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.backbone = scenario.backbone()
        self.fc = nn.Linear(self.backbone.num_features, num_classes, dtype=torch.float64)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.fc(self.backbone(images))
        return logits


def original_builder(clone: Path) -> types.ModuleType:
    text = subprocess.run(
        ["git", "-C", str(clone), "show", f"{COMMIT}:moco/builder.py"], check=True, capture_output=True, text=True
    ).stdout
    module = types.ModuleType("original_builder")
    exec(compile(text, "moco/builder.py", "exec"), module.__dict__)
    return module


def run(builder: types.ModuleType, *, mlp: bool) -> dict[str, Any]:
    model = builder.MoCo(
        TinyResNet, scenario.DIM, scenario.QUEUE, scenario.KEEP, scenario.TEMPERATURE, mlp=mlp
    ).double()
    scenario.fill(model.encoder_q)
    model.encoder_k.load_state_dict(model.encoder_q.state_dict())
    model.queue.copy_(scenario.start_queue().T)
    optimizer = torch.optim.SGD(
        model.encoder_q.parameters(), scenario.LR, momentum=scenario.SGD_MOMENTUM, weight_decay=scenario.WEIGHT_DECAY
    )
    steps = []
    for step in range(scenario.STEPS):
        query, key = scenario.views(step)
        with patch.object(torch, "randperm", lambda length, at=step: scenario.permutation(at, length)):
            logits, labels = model(query, key)
        loss = nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        newest = (step * scenario.ROWS) % scenario.QUEUE
        steps.append(
            {
                "logits": logits.tolist(),
                "loss": loss.item(),
                "keys": model.queue[:, newest : newest + scenario.ROWS].T.tolist(),
            }
        )
    return {
        "steps": steps,
        "queue": model.queue.T.tolist(),
        "key_weights": scenario.flat(model.encoder_k).tolist(),
    }


def main() -> None:
    builder = original_builder(Path(sys.argv[1]))
    with tempfile.NamedTemporaryFile() as rendezvous:
        torch.distributed.init_process_group("gloo", init_method=f"file://{rendezvous.name}2", rank=0, world_size=1)
        with patch.object(torch.Tensor, "cuda", lambda self, *_, **__: self):
            cases = {"moco": run(builder, mlp=False), "moco-v2": run(builder, mlp=True)}
        torch.distributed.destroy_process_group()
    header = {
        "source": "facebookresearch/moco, moco/builder.py",
        "commit": COMMIT,
        "made_by": "python -m tests.parity.make_moco_fixture",
        "torch": torch.__version__.split("+")[0],
        "dtype": "float64",
        "set_aside": [
            ".cuda() does nothing",
            "the process group is gloo, with one process",
            "randperm and the starting queue come from tests/parity/scenario.py, shared by both sides",
        ],
    }
    json.dump({"header": header, "cases": cases}, sys.stdout)


if __name__ == "__main__":
    main()
