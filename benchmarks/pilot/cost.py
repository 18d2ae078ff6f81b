"""What the term costs: whole training steps without and with it, in turn, in one process, on views made beforehand.

    python -m benchmarks.pilot.cost          # writes benchmarks/pilot/cost.json; nothing else may run beside it

Of three kinds: with the term; without its gradient, while its value is still computed for the log, as in every run
without it; and without either, which no run is but a loop of one's own may be.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.evaluate.surroundings import surroundings, write
from benchmarks.pilot.settings import METHODS, PAIRED, recipe_fields
from co2ssl.api.build import build_method, build_objective, build_schedule, build_views
from co2ssl.config import load_recipe
from co2ssl.data.batch import Batch
from co2ssl.data.loader import Loader
from co2ssl.data.sources import open_source
from co2ssl.train.optim import build_optimizer

HERE = Path(__file__).parent


def main(words: Sequence[str] | None = None) -> None:
    """Measure both methods and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="of each kind")
    parser.add_argument("--out", type=Path, default=HERE / "cost.json")
    options = parser.parse_args(words)
    result = {method: cost(method, options.steps) for method in METHODS}
    arguments = ["--steps", str(options.steps)]
    write(options.out, surroundings("benchmarks.pilot.cost", arguments) | {"result": result})


def cost(method: str, steps: int) -> dict[str, Any]:
    """Milliseconds of a step of each kind, medians; of each round's ratios with the term to without also quartiles."""
    pair = [planned for planned in PAIRED if planned.name.rsplit("-seed-", 1)[0] in (method, f"{method}+co2")][:2]
    recipes = [load_recipe(planned.recipe, overrides=recipe_fields(planned.options)).recipe for planned in pair]
    batch = _batch(recipes[0])
    plain, with_term = recipes
    kinds = {
        "unwatched": _step(plain, batch, watched=False),
        "without": _step(plain, batch),
        "with": _step(with_term, batch),
    }
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(steps + 5):
        # Who goes first changes each time.
        order = list(kinds)[number % 3 :] + list(kinds)[: number % 3]
        for kind in order:
            began = time.perf_counter()
            kinds[kind]()
            if number >= 5:
                times[kind].append(1000 * (time.perf_counter() - began))
    found: dict[str, Any] = {f"{kind}_ms": round(statistics.median(own), 2) for kind, own in times.items()}
    for name, beside in (("ratio", "without"), ("ratio_to_unwatched", "unwatched")):
        ratios = [two / one for one, two in zip(times[beside], times["with"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        found |= {name: round(middle, 4), f"{name}_quartiles": [round(low, 4), round(high, 4)]}
    return found


def _batch(recipe: Any) -> Batch:
    method = build_method(recipe, seed=0)
    loader = Loader(open_source("demo"), build_views(recipe, method), batch_size=recipe.batch_size, seed=0, workers=0)
    batch: Batch = next(iter(loader.epoch(0))).to(torch.device("cpu"), dtype=torch.float32)
    return replace(batch, views=tuple(view.contiguous(memory_format=torch.channels_last) for view in batch.views))


def _step(recipe: Any, batch: Batch, *, watched: bool = True) -> Callable[[], None]:
    method = build_method(recipe, seed=0)
    assert isinstance(method, nn.Module)
    method.to(memory_format=torch.channels_last).train()
    optimizer = build_optimizer(
        recipe.optimizer, method, lr=recipe.lr, momentum=recipe.optimizer_momentum, weight_decay=recipe.weight_decay
    )
    objective = build_objective(recipe, steps_per_epoch=73)
    rate = build_schedule(recipe, steps_per_epoch=73)(0)
    for group in optimizer.param_groups:
        group["lr"] = rate

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            made = method(batch)
        sums = replace(objective(0), monitor_consistency=watched)(made.comparisons)
        (sums.total / sums.count).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.commit([made.update])

    return step


if __name__ == "__main__":
    main()
