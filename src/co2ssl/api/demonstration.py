"""``demo``: MoCo v2 without and with CO2 on embedded images, one table, one page."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from co2ssl.api import runs
from co2ssl.api.backbones import PIXELS, UNTRAINED, Representation, representation
from co2ssl.api.machine import build_device
from co2ssl.api.pretraining import pretrain
from co2ssl.api.reporting import hardware, summary
from co2ssl.api.runs import Run
from co2ssl.config import RunOptions, duration, resolve_options, usable_cores
from co2ssl.data.sources import Source, open_source
from co2ssl.errors import UsageError
from co2ssl.evaluate.features import Features
from co2ssl.evaluate.knn import knn
from co2ssl.evaluate.linear import linear_lbfgs
from co2ssl.report.neighbours import NeighbourGrid, choose_queries, neighbour_grid
from co2ssl.report.page import TableRow, write_report
from co2ssl.train.checkpoint import write_atomically
from co2ssl.version import __version__

RECIPE = "moco-v2-demo"
RESULTS = "demo.json"
QUERIES = 6
IMAGES_NOTE = (
    "Images are drawn by co2ssl: each is crowded with copies of one of ten shapes, whose colour, position, scale and "
    "light say nothing about the class. No label was used in training."
)
ACCURACY_NOTE = (
    "Accuracy is on {num_val:,} images that were not trained on, at the last epoch, from one seed: another seed moves "
    "each number, so this table alone does not say which method is better."
)
NAMES = {RECIPE: "MoCo v2", f"{RECIPE}+co2": "MoCo v2 + CO2"}


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What the demo leaves.

    Attributes:
        rows: (name, kNN, linear) for raw pixels, the untrained encoder and both methods; shares from 0 to 1.
        report: the page.
        seconds: from start to page.
    """

    rows: tuple[tuple[str, float, float], ...]
    report: Path
    seconds: float


def demo(out: str | Path, *, seed: int = 0, quiet: bool = False, say: Callable[[str], None] = print) -> Demo:
    """Train twice on drawn shapes, measure four representations, and write ``demo.json`` and ``report.html``.

    Args:
        out: a folder; one that an earlier demo left is replaced, any other that is not empty is refused.
        seed: of both trainings.
        quiet: no progress.
        say: where lines for a person go.

    Raises:
        UsageError: ``out`` holds something else.
    """
    began = time.perf_counter()
    # Refused before anything is removed.
    resolve_options({"seed": seed})
    folder = _cleared(Path(out))
    train, val = open_source("demo", "train"), open_source("demo", "val")
    say(f"{len(train):,} drawn images of {len(train.classes or ())} classes, labels used only to measure, seed {seed}")
    trained = []
    for number, (recipe, name) in enumerate(NAMES.items(), start=1):
        say(f"{number} of {len(NAMES)}: training {name}")
        trained.append(
            pretrain(
                "demo", out=folder / recipe, recipe=recipe, seed=seed, quiet=quiet, say=lambda _: None, probe_every=3
            )
        )
    say("measuring")
    measured = {
        "raw pixels": representation(f"{PIXELS}{trained[0].folder}"),
        "untrained encoder": representation(f"{UNTRAINED}{trained[0].folder}"),
        **{name: representation(run.folder) for name, run in zip(NAMES.values(), trained, strict=True)},
    }
    rows, grids = _measure(measured, train, val)
    seconds = time.perf_counter() - began
    _write_results(folder / RESULTS, rows, trained, seed=seed, seconds=seconds)
    _write_page(folder / runs.REPORT, rows, trained, grids, num_val=len(val))
    return Demo(
        rows=tuple((row.name, _top1(row, 0), _top1(row, 1)) for row in rows),
        report=folder / runs.REPORT,
        seconds=time.perf_counter() - began,
    )


def _measure(
    measured: dict[str, Representation], train: Source, val: Source
) -> tuple[list[TableRow], list[NeighbourGrid]]:
    device, workers = build_device(RunOptions()), usable_cores()
    rows, grids = [], []
    places: list[int] = []
    for name, representation_ in measured.items():
        bank = representation_.features(train, device=device, workers=workers)
        queries = representation_.features(val, device=device, workers=workers)
        places = places or choose_queries(queries, count=QUERIES)
        rows.append(TableRow(name=name, results=[knn(bank, queries, device=device), linear_lbfgs(bank, queries)]))
        grids.append(_grid(name, bank, queries, train, val, places))
    return rows, grids


def _grid(name: str, bank: Features, queries: Features, train: Source, val: Source, places: list[int]) -> NeighbourGrid:
    return neighbour_grid(name, bank, queries, bank_source=train, query_source=val, places=places)


def _write_results(path: Path, rows: list[TableRow], trained: list[Run], *, seed: int, seconds: float) -> None:
    content = {
        "command": f"co2ssl demo --seed {seed}",
        "version": __version__,
        "torch": torch.__version__,
        "hardware": hardware(),
        "seed": seed,
        "seconds": round(seconds, 1),
        "runs": {run.config.resolved.name: run.config.hash for run in trained},
        "results": {row.name: list(row.results) for row in rows},
    }
    write_atomically(path, lambda file: file.write(json.dumps(content, indent=2).encode() + b"\n"))


def _write_page(
    path: Path, rows: list[TableRow], trained: list[Run], grids: list[NeighbourGrid], *, num_val: int
) -> None:
    write_report(
        path,
        title="Learning to see without labels",
        runs=[summary(run, name=NAMES[run.config.resolved.name]) for run in trained],
        rows=rows,
        neighbours=grids,
        notes=[IMAGES_NOTE, ACCURACY_NOTE.format(num_val=num_val)],
    )


def _cleared(folder: Path) -> Path:
    """The folder, empty of what an earlier demo left."""
    if folder.is_dir() and any(folder.iterdir()):
        found = {entry.name for entry in folder.iterdir()}
        other = sorted(found - {RESULTS, runs.REPORT, *NAMES})
        # A page alone may be anybody's.
        if other or found == {runs.REPORT}:
            raise UsageError(
                f"{folder} holds other than an earlier demo ({', '.join(other[:3] or found)}): nothing was removed. "
                "Give another --out."
            )
        shutil.rmtree(folder)
    return runs.new_folder(folder)


def _top1(row: TableRow, place: int) -> float:
    return float(str(row.results[place]["top1"]))


def in_words(result: Demo) -> str:
    """The table the command prints."""
    lines = [f"{'':<20}{'kNN':>8}{'linear':>9}"]
    lines += [f"{name:<20}{100 * by_knn:>7.1f}%{100 * by_linear:>8.1f}%" for name, by_knn, by_linear in result.rows]
    return "\n".join([*lines, "", f"{duration(result.seconds)} in all. The page: {result.report}"])
