"""kNN of 10,000 queries against 100,000 x 2,048: beside the bare product of the two, and scikit-learn's brute force.

    python -m benchmarks.evaluate.knn              # on an idle machine
    python -m benchmarks.evaluate.knn --quick      # a tenth of both: whether it runs at all

Asked for: at most 1.25 times the bare float32 product, and at least 1.6 times as fast as scikit-learn's brute force.
Both classify: search and weighted vote. scikit-learn has two ways to cosine neighbours: its default metric, Euclidean,
on unit vectors, which its compiled search knows, and metric="cosine", which it does through numpy; each is timed. The
bare product is made in the blocks of our search, or in large ones, whichever is faster.

Writes ``benchmarks/evaluate/knn.json``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.evaluate.surroundings import HERE, surroundings, write
from benchmarks.loss.measure import interleaved
from co2ssl.evaluate.knn import BANK_BLOCK, DEFAULT_TEMPERATURE, MOST_NEIGHBOURS, QUERY_BLOCK, nearest, vote

LARGE_BLOCK = 4096
CLASSES = 1000


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the queries and of the bank, one repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--neighbours", type=int, default=MOST_NEIGHBOURS)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=HERE / "knn.json")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    share = 10 if given.quick else 1
    bank, queries = clustered(100_000 // share, seed=1), clustered(10_000 // share, seed=2)
    where = surroundings("benchmarks.evaluate.knn", arguments)
    result = compare(bank, queries, k=given.neighbours, repeats=1 if given.quick else given.repeats)
    write(given.out, {**where, **result})


def clustered(rows: int, *, seed: int, width: int = 2048) -> tuple[Tensor, Tensor]:
    """What features are like: not negative, in clusters (the same for every seed). And their labels."""
    centres = torch.randn(CLASSES, width, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (rows,), generator=generator)
    made = torch.empty(rows, width)
    for start in range(0, rows, 10_000):
        part = slice(start, start + 10_000)
        noise = torch.randn(len(labels[part]), width, generator=generator)
        made[part] = (centres[labels[part]] + 2 * noise).relu_()
    return made, labels


def compare(bank: tuple[Tensor, Tensor], queries: tuple[Tensor, Tensor], *, k: int, repeats: int) -> dict[str, Any]:
    """Times of all contenders, and whether they come to the same."""
    (known, labels), (asked, _) = bank, queries
    found: dict[str, Tensor] = {}

    def ours() -> None:
        similarity, place = nearest(known, asked, k=k)
        scores = vote(similarity, labels[place], num_classes=CLASSES, temperature=DEFAULT_TEMPERATURE)
        found["ours"] = scores.argmax(dim=1)

    def product(query_block: int, bank_block: int) -> None:
        out = torch.empty(query_block, bank_block)
        for block in known.split(bank_block):
            for query in asked.split(query_block):
                torch.mm(query, block.T, out=out[: len(query), : len(block)])

    def cosine() -> None:
        theirs = classifier(k, "cosine", lambda distance: np.exp((1 - distance) / DEFAULT_TEMPERATURE))
        theirs.fit(known.numpy(), labels.numpy())
        found["cosine"] = torch.from_numpy(theirs.predict(asked.numpy()))

    def euclidean() -> None:
        theirs = classifier(k, "minkowski", lambda distance: np.exp((1 - distance**2 / 2) / DEFAULT_TEMPERATURE))
        theirs.fit(normalize(known).numpy(), labels.numpy())
        found["euclidean"] = torch.from_numpy(theirs.predict(normalize(asked).numpy()))

    timings = interleaved(
        {
            "ours": ours,
            "product, our blocks": lambda: product(QUERY_BLOCK, BANK_BLOCK),
            "product, large blocks": lambda: product(LARGE_BLOCK, LARGE_BLOCK),
            "scikit-learn, default metric on unit vectors": euclidean,
            "scikit-learn, metric cosine": cosine,
        },
        repeats,
        device="cpu",
    )
    median = {name: timing.median_ms for name, timing in timings.items()}
    bare = min(value for name, value in median.items() if name.startswith("product"))
    return {
        "queries": len(asked),
        "bank": len(known),
        "width": known.shape[1],
        "neighbours": k,
        "times_the_bare_product": round(median["ours"] / bare, 3),
        "times_as_fast_as": {
            name: round(value / median["ours"], 3) for name, value in median.items() if name.startswith("scikit")
        },
        "share_of_queries_of_the_same_class": {
            name: float((found[name] == found["ours"]).double().mean()) for name in ("euclidean", "cosine")
        },
        "seeds": "0 (centres), 1 (bank), 2 (queries)",
        "contenders": {name: timing.as_json() for name, timing in timings.items()},
    }


def classifier(
    k: int, metric: str, weights: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> KNeighborsClassifier:
    return KNeighborsClassifier(k, algorithm="brute", metric=metric, weights=weights)


if __name__ == "__main__":
    main(sys.argv[1:])
