from __future__ import annotations

import itertools
import multiprocessing
import os
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from co2ssl.api.diagnosis import pieces
from co2ssl.api.diagnosis.memory import PeakMemory
from co2ssl.data.sources import ArraySource, DataError, FolderSource
from co2ssl.data.views import view_recipe
from co2ssl.data.workers import Workers
from tests.images import write_images


def test_reading_counts_files_and_bytes(tmp_path: Path) -> None:
    write_images(tmp_path, 5)
    paths = sorted(map(str, tmp_path.iterdir()))
    found = pieces.reading(paths, readers=2, seconds=60)
    assert found.images == 5
    assert found.bytes == sum(map(os.path.getsize, paths))
    endless = pieces.reading(itertools.cycle(paths), readers=2, seconds=0.05)
    assert endless.images >= pieces.READ_AT_ONCE
    assert endless.seconds > 0.05


def test_reading_passes_over_what_went_away_and_waits_for_no_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    found = pieces.reading([str(tmp_path / "gone.png"), str(tmp_path / "pipe.png")], readers=1, seconds=1)
    assert (found.images, found.bytes) == (2, 0)


def test_images_kept_to_measure_on(tmp_path: Path) -> None:
    write_images(tmp_path, 6)
    source = FolderSource(str(tmp_path))
    (tmp_path / "002.png").unlink()
    decoders, images = pieces.kept_images(source, np.arange(6))
    assert len(decoders) == len(images) == 5
    for decode, image in zip(decoders, images, strict=True):
        np.testing.assert_array_equal(decode(), image)
    with pytest.raises(DataError, match="went away"):
        pieces.kept_images(source, np.array([2]))


def test_kept_images_are_few_and_small() -> None:
    many = ArraySource("many", np.zeros((1000, 4, 4, 3), np.uint8), None, None)
    assert pieces.KEPT_IMAGES <= len(pieces.kept_images(many, np.arange(1000))[1]) < 2 * pieces.KEPT_IMAGES
    large = ArraySource("large", np.broadcast_to(np.zeros((), np.uint8), (50, 2000, 2000, 3)), None, None)
    assert len(pieces.kept_images(large, np.arange(50))[1]) == pieces.KEPT_BYTES // 12_000_000 + 1


def test_views_of_a_few_images_fill_any_batch() -> None:
    images = [np.full((20, 20, 3), level, np.uint8) for level in (0, 255)]
    recipe = view_recipe("moco-v2-small", image_size=16, min_area=0.2)
    batch = next(pieces.batches_of(images, recipe, batch_size=10, seed=0))
    assert [view.shape for view in batch.views] == [(10, 3, 16, 16)] * 2
    assert batch.finish is None
    assert pieces.augmenting(images, recipe, seconds=0.01, seed=0).images % pieces.AUGMENTED_AT_ONCE == 0
    assert next(pieces.batches_of(images, recipe, batch_size=10, seed=0, views_on="device")).finish is not None


def test_a_pace_warms_up_and_is_of_one_at_least() -> None:
    done = []
    found = pieces.paced(lambda: done.append(len(done)), images=3, seconds=1e-9)
    assert done == [0, 1]
    assert found.images == 3


def test_threads_are_as_in_a_worker_and_given_back() -> None:
    before = torch.get_num_threads(), cv2.getNumThreads()
    with pieces.as_in_a_worker(2):
        assert torch.get_num_threads() == 1
    with pieces.as_in_a_worker(0):
        assert (torch.get_num_threads(), cv2.getNumThreads()) == before
    assert (torch.get_num_threads(), cv2.getNumThreads()) == before


HELD = 200 * 2**20
BOTH = multiprocessing.Barrier(2)


def hold(number: int) -> int:
    """In a worker: keeps so many bytes for a while, at the same time as the other one."""
    held = np.ones(HELD, np.uint8)
    BOTH.wait()
    time.sleep(1.0)
    return int(held[number])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux says how much a process holds")
def test_peak_memory_is_of_this_process_and_its_workers() -> None:
    peaks = []
    for own, workers in ((0, 0), (HELD, 0), (0, 2)):
        with PeakMemory(torch.device("cpu")) as memory:
            held = np.ones(own, np.uint8)
            time.sleep(0.2)
            del held
            pool = Workers(hold, workers)
            if workers:
                assert list(pool.run(range(2))) == [1, 1]
            pool.close()
        assert memory.host_bytes is not None
        peaks.append(memory.host_bytes)
    assert memory.device_bytes is None
    alone, holding, worked = peaks
    assert 0.9 * HELD < holding - alone < 1.3 * HELD
    assert 1.8 * HELD < worked - alone < 2.6 * HELD
