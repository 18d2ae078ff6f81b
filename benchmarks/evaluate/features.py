"""Feature extraction, from JPEG files to a file of features, beside the bare forward pass of as many images.

    python -m benchmarks.evaluate.features              # ResNet-50 at 224 px, on an idle machine
    python -m benchmarks.evaluate.features --quick      # ResNet-18, a few images: whether it runs at all

Asked for: at least 0.9 of the bare forward pass. Bare is the network in evaluation mode on one batch that is ready.

Writes ``benchmarks/evaluate/features.json``.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.evaluate.surroundings import HERE, surroundings, write
from benchmarks.loss.measure import interleaved
from benchmarks.step.images import write_photographs
from co2ssl.data.batch import normalise
from co2ssl.data.sources import Source, open_source
from co2ssl.encoders.resnet import resnet
from co2ssl.evaluate.feature_key import feature_key
from co2ssl.evaluate.feature_store import FeatureStore
from co2ssl.evaluate.features import BATCH_SIZE, feature_batches

SIDE, RESIZE, IMAGE_SIZE = 320, 256, 224


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small network, few images, one repeat")
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=HERE / "features.json")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    arch, images, repeats = ("resnet18", 128, 1) if given.quick else (given.arch, given.images, given.repeats)
    torch.manual_seed(0)
    network = resnet(arch).to(given.device).eval()
    where = surroundings("benchmarks.evaluate.features", arguments)
    with tempfile.TemporaryDirectory() as folder:
        write_photographs(Path(folder) / "images", images, side=SIDE)
        source = open_source(str(Path(folder) / "images"))
        result = compare(network, source, Path(folder), device=given.device, workers=given.workers, repeats=repeats)
    write(given.out, {**where, "arch": arch, "images": images, "image_size": IMAGE_SIZE, "seed": 0, **result})


def compare(
    network: nn.Module, source: Source, folder: Path, *, device: str, workers: int, repeats: int
) -> dict[str, Any]:
    batch_size = BATCH_SIZE[torch.device(device).type]
    count = -(-len(source) // batch_size)
    ready = torch.randint(0, 256, (batch_size, 3, IMAGE_SIZE, IMAGE_SIZE), dtype=torch.uint8, device=device)
    batch = normalise(ready)

    @torch.no_grad()
    def bare() -> None:
        for number in range(count):
            network(batch[: min(batch_size, len(source) - number * batch_size)])

    def extraction(processes: int) -> None:
        key = feature_key(network, source, image_size=IMAGE_SIZE, resize=RESIZE)
        batches = feature_batches(
            network, source, image_size=IMAGE_SIZE, resize=RESIZE, device=device, workers=processes
        )
        FeatureStore(folder / "features").save(key, source, batches)

    runs = {"bare forward pass": bare, f"extraction, {workers} workers": lambda: extraction(workers)}
    runs["extraction, no workers"] = lambda: extraction(0)
    timings = interleaved(runs, repeats, device=device)
    median = {name: timing.median_ms for name, timing in timings.items()}
    shares = {name: round(median["bare forward pass"] / value, 3) for name, value in median.items()}
    return {
        "device": device,
        "batch_size": batch_size,
        "images_per_second": {name: round(1e3 * len(source) / value, 1) for name, value in median.items()},
        "share_of_the_bare_forward_pass": shares,
        "contenders": {name: timing.as_json() for name, timing in timings.items()},
    }


if __name__ == "__main__":
    main(sys.argv[1:])
