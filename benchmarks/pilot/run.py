"""The runs of the pilot: what is missing is trained, measured and looked into; what was broken off goes on.

    python benchmarks/pilot/run.py IMAGENETTE                  # everything, whole pairs first
    python benchmarks/pilot/run.py IMAGENETTE --only moco-v2   # runs with this in their name
    python benchmarks/pilot/run.py IMAGENETTE --list           # where the study stands
    python benchmarks/pilot/run.py IMAGENETTE --best short-ramp-20    # also this short run's setting, three seeds

IMAGENETTE holds train and val. One run at a time, on all cores. Each leaves ``benchmarks/pilot/results/NAME.json``; its
folder under ``--runs`` may go then. ``python -m benchmarks.pilot.run`` does the same.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

if not __package__:
    # Started as a file, Python looks for modules beside it and not in the project.
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from benchmarks.pilot.look import look
from benchmarks.pilot.settings import PAIRED, PUBLISHED_TEMPERATURES, SHORT, best_of
from benchmarks.runs import Planned, carry_out, stands
from co2ssl.data.sources import open_source

RESULTS = Path(__file__).parent / "results"
MODULE = "benchmarks.pilot.run"


def main(words: Sequence[str] | None = None) -> None:
    """Carry out what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=Path, default=Path("runs/pilot"), help="where run folders go")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the JSON goes")
    parser.add_argument("--only", default="", help="runs with this in their name")
    parser.add_argument("--list", action="store_true", help="say where each run stands, and stop")
    parser.add_argument("--best", default="", help="a short run whose setting gets three seeds at full length")
    options = parser.parse_args(words)
    for planned in (*PAIRED, *SHORT, *(best_of(options.best) if options.best else ())):
        if options.only not in planned.name:
            continue
        if options.list:
            print(f"{planned.name:24} {stands(planned, runs=options.runs, results=options.out)}")
        elif planned in SHORT:
            carry_out(planned, data=options.data, runs=options.runs, results=options.out, module=MODULE, on_val=False)
        else:
            _measured(planned, options.data, options.runs, options.out)


def _measured(planned: Planned, data: Path, runs: Path, results: Path) -> dict[str, Any]:
    """A run of a pair, with what :mod:`benchmarks.pilot.look` sees in it."""
    result = carry_out(planned, data=data, runs=runs, results=results, module=MODULE)
    if "negatives" not in result:
        source = open_source(str(data / "train"))
        tau = PUBLISHED_TEMPERATURES["moco-v2" if planned.name.startswith("moco-v2") else "moco"]
        result["negatives"] = {
            when: asdict(look(runs / planned.name, source, trained=when == "after", temperature=tau))
            for when in ("before", "after")
        }
        (results / f"{planned.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    # The decoded images are a gigabyte and a half for each run.
    shutil.rmtree(runs / planned.name / "cache", ignore_errors=True)
    return result


if __name__ == "__main__":
    main()
