"""Speed of evaluation: kNN, features and SVMs, one after the other, and a picture of all three.

    python -m benchmarks.evaluate.bench            # on an idle machine, three quarters of an hour
    python -m benchmarks.evaluate.bench --quick    # small sizes: whether it runs at all

Each writes ``benchmarks/evaluate/NAME.json``; ``evaluate.png`` shows them. The linear protocol needs a trained backbone
and has a command of its own: ``python -m benchmarks.evaluate.linear``.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from benchmarks.evaluate import features, knn, svm
from benchmarks.evaluate.plot import plot
from benchmarks.evaluate.surroundings import HERE


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, one repeat")
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args(arguments)
    for name, run in (("knn", knn.main), ("features", features.main), ("svm", svm.main)):
        run(["--quick"] * given.quick + ["--out", os.path.relpath(given.out / f"{name}.json")])
    plot(given.out)


if __name__ == "__main__":
    main(sys.argv[1:])
