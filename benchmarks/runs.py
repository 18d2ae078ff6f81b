"""Training runs that outlive their process, and one JSON for each: what accuracy studies are made of.

A run that is there already is not done again, one that was broken off goes on from its last checkpoint, and what a
finished one has not been measured by is made up for. Nothing is chosen here: settings come from the study, accuracy is
that of the last epoch.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.evaluate.surroundings import surroundings
from co2ssl.api import evaluate

CURVE = ("epoch", "instance", "consistency", "top1", "learning_rate", "images_per_second")
"""What is kept of each epoch in the JSON: both parts of the loss, pretext accuracy, learning rate, speed."""


MEASURES: dict[str, tuple[str, dict[str, Any]]] = {
    "knn": ("knn", {"neighbours": 20}),
    "knn_200": ("knn", {"neighbours": 200}),
    "linear_fast": ("linear", {"fast": True}),
}
"""What a finished run is measured by: name in the JSON, protocol and its options."""


@dataclass(frozen=True)
class Planned:
    """One run of a study.

    Attributes:
        name: of its folder and JSON.
        recipe: as ``--recipe`` takes it.
        options: further options of ``co2ssl pretrain``, by field name.
    """

    name: str
    recipe: str
    options: Mapping[str, object] = field(default_factory=dict)

    def words(self, data: Path, folder: Path) -> list[str]:
        """The command line after ``co2ssl``."""
        words = ["pretrain", str(data), "--out", str(folder), "--recipe", self.recipe]
        for name, value in self.options.items():
            option = f"--{name.replace('_', '-')}"
            words += [option] if value is True else [option, str(value)]
        return words


def carry_out(
    planned: Planned, *, data: Path, runs: Path, results: Path, module: str, on_val: bool = True
) -> dict[str, Any]:
    """Train what is missing, measure it, and write ``results/<name>.json``.

    Args:
        planned: the run.
        data: a folder with train and val in it.
        runs: where run folders go; may be deleted when the JSON is there.
        results: where the JSON goes.
        module: the study, for the command in the JSON.
        on_val: False leaves val alone: a run that tunes something is judged by its probes.

    Returns:
        What the JSON holds.

    Raises:
        subprocess.CalledProcessError: training failed or was interrupted; call again to go on.
        ValueError: a result of that name is there, of other settings.
    """
    path = results / f"{planned.name}.json"
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text())
        asked = json.loads(json.dumps({"recipe": planned.recipe, **planned.options}))
        if found["asked"] != asked:
            raise ValueError(f"{path} is of other settings ({found['asked']}); move it away to run {asked}")
        if not on_val or all(name in found for name in MEASURES):
            return found
        found |= measure(str(runs / planned.name), data)
        return write(path, found, {runs / planned.name: "RUN", data: "DATA"})
    folder = runs / planned.name
    # As they are when training begins, or goes on: what is committed meanwhile did not train this run.
    where = surroundings(module, ["DATA"])
    # A run that tunes something is not even given a folder that has val in it.
    train(planned, data=data if on_val else data / "train", folder=folder)
    result = {"name": planned.name, "asked": {"recipe": planned.recipe, **planned.options}}
    result |= where
    result |= {"pretrain": shlex.join(["co2ssl", *planned.words(Path("DATA"), Path("RUN"))]), **curves(folder)}
    if on_val:
        result |= measure(str(folder), data)
    return write(path, result, {folder: "RUN", data: "DATA"})


def write(path: Path, result: Mapping[str, Any], places: Mapping[Path, str]) -> dict[str, Any]:
    """The JSON, with a word for each of this machine's places, and what it then holds; longer paths come first."""
    text = json.dumps(result, indent=1)
    for place, word in places.items():
        text = text.replace(str(place), word)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
    written: dict[str, Any] = json.loads(text)
    return written


def stands(planned: Planned, *, runs: Path, results: Path) -> str:
    """Where a run stands, in words."""
    if (results / f"{planned.name}.json").is_file():
        return "done"
    if not (runs / planned.name / "metrics.jsonl").is_file():
        return "to be run"
    epochs = [event["epoch"] for event in read_events(runs / planned.name) if event["event"] == "epoch"]
    return f"broken off after {max(epochs, default=0):g} epochs"


def train(planned: Planned, *, data: Path, folder: Path) -> None:
    """Start the run, or go on with it, in a process of its own."""
    if (folder / "backbone.safetensors").is_file() and _finished(folder):
        return
    resumed = (folder / "checkpoints").is_dir() and any((folder / "checkpoints").iterdir())
    words = ["pretrain", "--resume", str(folder)] if resumed else planned.words(data, folder)
    subprocess.run([sys.executable, "-m", "co2ssl", *words], check=True)


def measure(representation: str, data: Path) -> dict[str, Any]:
    """Every one of :data:`MEASURES` on val; the classes come from train."""
    return {
        name: evaluate(protocol, representation, str(data), str(data), quiet=True, **options)
        for name, (protocol, options) in MEASURES.items()
    }


def curves(folder: Path) -> dict[str, Any]:
    """Per epoch what :data:`CURVE` names, the probes, and the seconds spent training."""
    events = read_events(folder)
    epochs = [event for event in events if event["event"] == "epoch"]
    return {
        "train_seconds": round(epochs[-1]["seconds"], 1),
        "epochs": [{name: _short(event[name]) for name in CURVE} for event in epochs],
        "probes": [
            {name: _short(value) for name, value in event.items() if name != "event"}
            for event in events
            if event["event"] == "probe"
        ],
    }


def read_events(folder: Path) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl``."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def accuracy(results: Sequence[Mapping[str, Any]], protocol: str) -> list[float]:
    """Top-1 of each result, in percent."""
    return [100 * result[protocol]["top1"] for result in results]


def _finished(folder: Path) -> bool:
    from co2ssl.api.runs import read_run

    epochs = read_run(folder).config.resolved.recipe.epochs
    return any(event["event"] == "epoch" and event["epoch"] >= epochs for event in read_events(folder))


def _short(value: object) -> object:
    return float(f"{value:.5g}") if isinstance(value, float) else value
