"""How hard each part of the loss pulls at the weights in the first steps, without and with the term.

    python -m benchmarks.pilot.pull IMAGENETTE      # writes benchmarks/pilot/pull.json; minutes

The first steps of the plan's own runs with seed 0, taken again: the gradients of L_ins and of alpha L_con with respect
to the encoder's weights, each by itself. Without the term its gradient is looked at and left out. Nothing here is an
accuracy, and no image of val is opened.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.evaluate.surroundings import surroundings, write
from benchmarks.pilot.settings import METHODS, PAIRED, paired_name, recipe_fields
from benchmarks.runs import Planned
from co2ssl.api.build import build_method, build_schedule, build_views
from co2ssl.config import Recipe, load_recipe
from co2ssl.data.loader import Loader
from co2ssl.data.sources import Source, open_source
from co2ssl.losses import Contrast, consistency, info_nce
from co2ssl.train.optim import build_optimizer

HERE = Path(__file__).parent
AVERAGED = 10
"""Steps that a value in the JSON is the mean of."""


def main(words: Sequence[str] | None = None) -> None:
    """Look at both methods, without and with the term, and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=220, help="of each run; three epochs are 219")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=HERE / "pull.json")
    options = parser.parse_args(words)
    source = open_source(str(options.data / "train"))
    by_name = {planned.name: planned for planned in PAIRED}
    names = [paired_name(method, with_term=term, seed=0) for method in METHODS for term in (False, True)]
    where = surroundings("benchmarks.pilot.pull", ["DATA", "--steps", str(options.steps)])
    seen = {name: pulls(by_name[name], source, steps=options.steps, workers=options.workers) for name in names}
    write(options.out, where | {"result": seen})


def pulls(planned: Planned, source: Source, *, steps: int, workers: int) -> list[dict[str, float]]:
    """The first steps of a run, means of ten each.

    Returns:
        By entry ``step``, the last that it is the mean of, counted from 1; ``instance`` and ``consistency``, the two
        parts of the loss; ``pull_of_instance`` and ``pull_of_term``, norms of the gradients of L_ins and alpha L_con;
        ``agreement``, the cosine of the two; ``similarity``, the mean cosine of queries with the queue.
    """
    recipe = load_recipe(planned.recipe, overrides=recipe_fields(planned.options)).recipe
    # What the term would pull with, in the run without it.
    with_term = load_recipe(
        f"{planned.recipe.removesuffix('+co2')}+co2", overrides=recipe_fields(planned.options)
    ).recipe
    method = build_method(recipe, seed=0)
    assert isinstance(method, nn.Module)
    method.to(memory_format=torch.channels_last).train()
    optimizer = build_optimizer(
        recipe.optimizer, method, lr=recipe.lr, momentum=recipe.optimizer_momentum, weight_decay=recipe.weight_decay
    )
    loader = Loader(source, build_views(recipe, method), batch_size=recipe.batch_size, seed=0, workers=workers)
    rate = build_schedule(recipe, steps_per_epoch=loader.steps_per_epoch)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    method.begin(len(source))
    seen: list[dict[str, float]] = []
    batches = (batch for epoch in range(recipe.epochs) for batch in loader.epoch(epoch))
    for step, batch in zip(range(steps), batches, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=planned.options["precision"] == "bf16"):
            made = method(batch.to(torch.device("cpu"), dtype=torch.float32))
        (contrast,) = made.comparisons
        assert isinstance(contrast, Contrast)
        values, of_instance, of_term = _parts(contrast, weights, with_term)
        seen.append(values)
        for weight, instance, term in zip(weights, of_instance, of_term, strict=True):
            weight.grad = instance + term if recipe.consistency_weight else instance
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.commit([made.update])
    return [
        {"step": start + AVERAGED, **_means(seen[start : start + AVERAGED])}
        for start in range(0, len(seen) - AVERAGED + 1, AVERAGED)
    ]


def _parts(
    contrast: Contrast, weights: Sequence[Tensor], recipe: Recipe
) -> tuple[dict[str, float], Sequence[Tensor], Sequence[Tensor]]:
    """What one step has to say, and the gradients of L_ins and of alpha L_con."""
    instance = info_nce(contrast, temperature=recipe.temperature)
    term = consistency(contrast, temperature=recipe.consistency_temperature)
    of_instance = torch.autograd.grad(instance, weights, retain_graph=True)
    of_term = torch.autograd.grad(recipe.consistency_weight * term, weights)
    one, two = (torch.cat([part.flatten() for part in parts]) for parts in (of_instance, of_term))
    values = {
        "instance": instance,
        "consistency": term,
        "pull_of_instance": one.norm(),
        "pull_of_term": two.norm(),
        "agreement": torch.cosine_similarity(one, two, dim=0),
        "similarity": (contrast.query @ contrast.negatives.T).mean(),
    }
    return {name: float(value.detach()) for name, value in values.items()}, of_instance, of_term


def _means(steps: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    return {name: float(f"{sum(step[name] for step in steps) / len(steps):.4g}") for name in steps[0]}


if __name__ == "__main__":
    main()
