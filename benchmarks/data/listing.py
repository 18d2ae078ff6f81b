"""A folder with a million images: how long a start takes, without and with a kept listing, and what a worker holds.

    python -m benchmarks.data.listing                        # a million files, made and removed: many minutes
    python -m benchmarks.data.listing --images 100000

The files are hard links to a few tiny JPEGs, made in a temporary folder and removed again. Every start is a fresh
process, and the clock runs from after its imports. "cold" means without a kept listing: what the file system knows of
the files is in its cache, as they have just been made.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from benchmarks.evaluate.surroundings import surroundings, write
from co2ssl.data import hashing
from co2ssl.data.loader import Loader
from co2ssl.data.sources import FolderSource, open_source
from co2ssl.data.views import view_recipe

MODULE = "benchmarks.data.listing"
HERE = Path(__file__).parent
Result: TypeAlias = dict[str, Any]

PER_FOLDER = 1_000
# A file system allows a file some 65,000 names.
LINKED = 64
SIDE = 16
BATCHES_BEFORE_MEMORY = 20
# Folders that have only just changed are not trusted; see co2ssl.data.sources.listing.
SETTLE_SECONDS = 3.0


def make_images(root: Path, count: int) -> None:
    """``count`` tiny JPEGs in folders of a thousand."""
    originals = root.with_name(f"{root.name}-originals")
    originals.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(LINKED):
        pixels = random.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((SIDE, SIDE)).save(buffer, "JPEG")
        (originals / f"{number}.jpg").write_bytes(buffer.getvalue())
    for start in range(0, count, PER_FOLDER):
        folder = root / f"{start // PER_FOLDER:06d}"
        folder.mkdir(parents=True)
        for number in range(start, min(count, start + PER_FOLDER)):
            os.link(originals / f"{number % LINKED}.jpg", folder / f"photo-{number:08d}.jpg")


def start(root: Path, kept: Path, *, workers: int, batch_size: int) -> Result:
    """One start of a run, as far as its first batch, and the memory of its workers some batches later."""
    began = time.perf_counter()
    source = open_source(str(root), listing_folder=kept)
    listed = time.perf_counter() - began
    fingerprint = source.fingerprint()
    hashed = time.perf_counter() - began - listed
    loader = Loader(
        source, view_recipe("moco-v2-small", image_size=SIDE), batch_size=batch_size, seed=0, workers=workers
    )
    batches = loader.epoch(0)
    next(batches)
    first_batch = time.perf_counter() - began
    for _ in range(min(BATCHES_BEFORE_MEMORY, loader.steps_per_epoch - 1)):
        next(batches)
    memory = [worker_memory(child.pid) for child in multiprocessing.active_children() if child.pid is not None]
    loader.close()
    assert isinstance(source, FolderSource)
    return {
        "images": len(source),
        "fingerprint": fingerprint,
        "listing_seconds": listed,
        "fingerprint_seconds": hashed,
        "first_batch_seconds": first_batch,
        "worker_pss_mib": max(one["Pss"] for one in memory),
        "worker_private_mib": max(one["Private_Clean"] + one["Private_Dirty"] for one in memory),
    }


def worker_memory(process: int) -> dict[str, float]:
    """The sums of /proc/PID/smaps_rollup in MiB: Pss shares shared pages out, Private are the process's own."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    return {name: int(amount.split()[0]) / 1024 for name, _, amount in (line.partition(":") for line in lines)}


def in_fresh_process(root: Path, kept: Path, *, workers: int, batch_size: int) -> Result:
    words = [sys.executable, "-m", MODULE, "--start", str(root), str(kept), str(workers), str(batch_size)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    result: Result = json.loads(done.stdout)
    return result


def compare(folder: Path, sizes: list[int], *, repeats: int, workers: int, batch_size: int) -> Result:
    """Cold and warm starts of each size, interleaved."""
    runs: dict[int, dict[str, list[Result]]] = {size: {"cold": [], "warm": []} for size in sizes}
    for repeat in range(repeats):
        for size in sizes:
            kept = folder / f"kept-{size}-{repeat}"
            kept.mkdir()
            for kind in ("cold", "warm"):
                one = in_fresh_process(folder / str(size), kept, workers=workers, batch_size=batch_size)
                assert one["images"] == size
                runs[size][kind].append(one)
            assert len({one["fingerprint"] for one in runs[size]["cold"] + runs[size]["warm"]}) == 1
    return {
        f"{size} images": {
            kind: {name: round(statistics.median(one[name] for one in ones), 4) for name in ones[0] if name in NUMBERS}
            | {"all_first_batch_seconds": [round(one["first_batch_seconds"], 3) for one in ones]}
            for kind, ones in kinds.items()
        }
        for size, kinds in runs.items()
    }


NUMBERS = (
    "listing_seconds",
    "fingerprint_seconds",
    "first_batch_seconds",
    "worker_pss_mib",
    "worker_private_mib",
)


def permutation_seconds(length: int) -> float:
    began = time.perf_counter()
    hashing.permutation(0, epoch=0, length=length)
    return round(time.perf_counter() - began, 4)


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--start"]:
        root, kept, workers, batch_size = arguments[1:]
        print(json.dumps(start(Path(root), Path(kept), workers=int(workers), batch_size=int(batch_size))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--beside", type=int, default=10_000, help="images of the small folder it is compared with")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--folder", type=Path, help="where to make the files; default: the system's temporary folder")
    parser.add_argument("--out", type=Path, default=HERE / "listing.json")
    given = parser.parse_args(arguments)
    if given.workers < 1:
        parser.error("the memory of workers needs at least one: give --workers 1 or more")
    sizes = [given.beside, given.images]
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        folder = Path(temporary)
        for size in sizes:
            make_images(folder / str(size), size)
        time.sleep(SETTLE_SECONDS)
        results = compare(folder, sizes, repeats=given.repeats, workers=given.workers, batch_size=given.batch_size)
    small, large = (results[f"{size} images"]["warm"] for size in sizes)
    write(
        given.out,
        {
            **surroundings(MODULE, arguments),
            "seeds": "0",
            "workers": given.workers,
            "batch_size": given.batch_size,
            "permutation_seconds": permutation_seconds(given.images),
            "results": results,
            "warm_listing_within_1_s": large["listing_seconds"] <= 1.0,
            "warm_first_batch_within_5_s": large["first_batch_seconds"] <= 5.0,
            "more_private_mib_a_worker": round(large["worker_private_mib"] - small["worker_private_mib"], 2),
            "more_pss_mib_a_worker": round(large["worker_pss_mib"] - small["worker_pss_mib"], 2),
        },
    )


if __name__ == "__main__":
    main(sys.argv[1:])
