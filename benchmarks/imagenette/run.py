"""MoCo without and with CO2 on Imagenette, from images to kNN and linear accuracy, on two cores.

    python -m benchmarks.imagenette.run IMAGENETTE --runs runs/imagenette

IMAGENETTE holds train and val. What is missing is trained, what was broken off goes on. Each run leaves
``benchmarks/imagenette/NAME.json`` and ``NAME.metrics.jsonl``; ``baselines.json`` has raw pixels and the untrained
network.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from benchmarks.evaluate.surroundings import surroundings
from benchmarks.imagenette.settings import RUNS
from benchmarks.runs import MEASURES, carry_out, measure, write

HERE = Path(__file__).parent
MODULE = "benchmarks.imagenette.run"


def main() -> None:
    """Both runs, one after the other, and what they have to beat."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/imagenette"), help="where run folders go")
    parser.add_argument("--out", type=Path, default=HERE, help="where the JSON goes")
    options = parser.parse_args()
    for planned in RUNS:
        result = carry_out(planned, data=options.data, runs=options.runs, results=options.out, module=MODULE)
        metrics = options.runs / planned.name / "metrics.jsonl"
        if metrics.is_file():
            shutil.copyfile(metrics, options.out / f"{planned.name}.metrics.jsonl")
        shown = ", ".join(f"{name} {100 * result[name]['top1']:.2f} %" for name in MEASURES)
        print(f"{planned.name}: {shown}, {result['train_seconds'] / 60:.1f} min")
    first = options.runs / RUNS[0].name
    baselines = surroundings(MODULE, sys.argv[1:]) | {
        kind: measure(f"{kind}:{first}", options.data) for kind in ("pixels", "untrained")
    }
    places = {first: "RUN", options.data: "DATA", options.runs: "RUNS", options.out: "OUT"}
    write(options.out / "baselines.json", baselines, places)


if __name__ == "__main__":
    main()
