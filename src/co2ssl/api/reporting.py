"""What a finished run shows of itself: its facts, and the page."""

from __future__ import annotations

import platform

import torch

from co2ssl.api import runs
from co2ssl.api.runs import Run
from co2ssl.config import duration, usable_cores
from co2ssl.report.page import RunSummary, read_metrics, write_report
from co2ssl.version import __version__


def hardware() -> str:
    """The machine in a few words."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {usable_cores()} cores"
    return f"{usable_cores()} cores, {platform.machine()}, no GPU"


def summary(run: Run, *, name: str | None = None) -> RunSummary:
    """The run as a report shows it, read from its folder."""
    config = run.config
    events = read_metrics(run.folder / runs.METRICS)
    seconds = next((event["seconds"] for event in reversed(events) if "seconds" in event), 0.0)
    recipe = config.resolved.recipe
    return RunSummary(
        name=name or config.resolved.name,
        events=events,
        facts={
            "recipe": config.resolved.name,
            "images": f"{config.data.num_images:,} from {config.data.source}",
            "network": f"{recipe.arch}, width {recipe.width:g}, {recipe.image_size} px",
            "epochs": f"{recipe.epochs} of batch {recipe.batch_size}",
            "alpha, tau_con, tau_ins": (
                f"{recipe.consistency_weight:g}, {recipe.consistency_temperature:g}, {recipe.temperature:g}"
            ),
            "seed": str(config.options.seed),
            "training time": duration(float(str(seconds))),
            "hardware": hardware(),
            "version": f"co2ssl {__version__}, torch {torch.__version__}",
            "folder": str(run.folder),
        },
    )


def write_run_report(run: Run) -> None:
    """``report.html`` of one run: its facts and curves."""
    write_report(run.folder / runs.REPORT, title=str(run.folder.name), runs=[summary(run)], rows=[])
