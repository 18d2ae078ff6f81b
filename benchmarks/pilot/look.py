"""Whether queries are closer to negatives of their own class, and how much of P lies on them. Labels only look.

The claim behind CO2 is that some negatives are of the query's own class and that P, the positive's view of them, knows
it. Here that is counted, in a finished run, for images whose two views are those of the epoch after the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from co2ssl.api.build import build_method, build_views
from co2ssl.api.runs import CHECKPOINTS, read_run
from co2ssl.data.loader import Loader
from co2ssl.data.sources import Source
from co2ssl.methods.moco import MoCo
from co2ssl.train.checkpoint import read_checkpoint

IMAGES = 2048
"""Queries looked at, at most: whole batches of the run's size."""


@dataclass(frozen=True)
class ClassShares:
    """Means over queries, each over the negatives of its queue that are of other images.

    Attributes:
        same: cosine of query and negative, of the query's class.
        other: of other classes.
        mass_of_p: share of P = softmax(p.n / tau_con) on negatives of the query's class.
        mass_of_q: of Q = softmax(q.n / tau_con).
        by_chance: share of the negatives that are of the query's class: the mass of a P that knows nothing.
        pair: cosine of query and positive.
    """

    same: float
    other: float
    mass_of_p: float
    mass_of_q: float
    by_chance: float
    pair: float


def class_shares(
    query: Tensor, positive: Tensor, negatives: Tensor, *, same: Tensor, counted: Tensor, temperature: float
) -> ClassShares:
    """The shares of one set of queries.

    Args:
        query: (N, D) unit rows.
        positive: (N, D) unit rows.
        negatives: (K, D) unit rows.
        same: (N, K) bool, entries of the query's class.
        counted: (N, K) bool, entries that count (of another image, with a known label).
        temperature: of P and Q, the paper's tau_con.
    """
    same, other = same & counted, ~same & counted
    of_query, of_positive = query @ negatives.T, positive @ negatives.T  # (N, K)
    usable = same.any(dim=1) & other.any(dim=1)

    def mean(values: Tensor, where: Tensor) -> float:
        rows = (values * where).sum(dim=1) / where.sum(dim=1)
        return float(rows[usable].mean())

    def mass(scores: Tensor) -> float:
        weights = (scores / temperature).masked_fill(~counted, -torch.inf).softmax(dim=1)
        return float((weights * same).sum(dim=1)[usable].mean())

    return ClassShares(
        same=mean(of_query, same),
        other=mean(of_query, other),
        mass_of_p=mass(of_positive),
        mass_of_q=mass(of_query),
        by_chance=mean(same.float(), counted),
        pair=float((query * positive).sum(dim=1)[usable].mean()),
    )


@torch.no_grad()
def look(run: Path, source: Source, *, trained: bool = True, temperature: float | None = None) -> ClassShares:
    """The shares in a finished MoCo run, with its queue and its batch-norm groups.

    Args:
        run: the run folder, with its last checkpoint.
        source: the images it was trained on, labelled.
        trained: False looks at the weights it started from, with keys of those weights in the queue.
        temperature: of P and Q; None for the recipe's.

    Raises:
        ValueError: images without labels, a run without a checkpoint, or another method than MoCo.
    """
    if source.labels is None:
        raise ValueError(f"{source.name} has no labels to look with")
    config = read_run(run).config
    recipe, seed = config.resolved.recipe, config.options.seed
    method = build_method(recipe, seed=seed)
    if not isinstance(method, MoCo):
        raise ValueError(f"{run} is a run of {recipe.method}, which has no queue to look at")
    if trained:
        method.load_state_dict(_last_checkpoint(run)["method"])
    method.train()
    loader = Loader(source, build_views(recipe, method), batch_size=recipe.batch_size, seed=seed, workers=0)
    batches = (batch.to(torch.device("cpu"), dtype=torch.float32) for batch in loader.epoch(recipe.epochs))
    if not trained:
        for _ in range(-(-method.queue.keys.shape[0] // recipe.batch_size)):
            method.queue.enqueue(**_keys(method(next(batches))))
    queries, positives, places = [], [], []
    for batch in batches:
        (contrast,) = method(batch).comparisons
        queries.append(contrast.query)
        positives.append(contrast.positive)
        places.append(batch.index)
        if sum(map(len, places)) >= IMAGES:
            break
    labels = torch.from_numpy(np.asarray(source.labels))
    index, of_queue = torch.cat(places), method.queue.index
    known = of_queue >= 0
    return class_shares(
        torch.cat(queries),
        torch.cat(positives),
        method.queue.keys,
        same=labels[index][:, None] == labels[of_queue.clamp(min=0)],
        counted=(index[:, None] != of_queue) & known,
        temperature=recipe.consistency_temperature if temperature is None else temperature,
    )


def _keys(step: Any) -> dict[str, Tensor]:
    return {"keys": step.update["keys"], "index": step.update["index"]}


def _last_checkpoint(run: Path) -> dict[str, Any]:
    paths = sorted((run / CHECKPOINTS).glob("*"), key=lambda path: path.stat().st_mtime)
    for path in reversed(paths):
        contents = read_checkpoint(path)
        if contents is not None:
            return contents
    raise ValueError(f"{run} has no whole checkpoint to look into")
