from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from co2ssl.data import hashing, pixels
from co2ssl.data import loader as loader_module
from co2ssl.data.batch import Batch
from co2ssl.data.decoding import BadImage
from co2ssl.data.loader import Loader, evaluation_batches
from co2ssl.data.sources import ArraySource, DataError, FolderSource
from co2ssl.data.views import make_views, view_recipe
from co2ssl.data.workers import WorkerError, Workers
from co2ssl.errors import UsageError
from tests.processes import ProcessPair

RECIPE = view_recipe("moco-v2", image_size=16)

# What DataLoader says of three workers on two cores: advice, and these tests are about bytes.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


def array_source(count: int, *, labelled: bool = True) -> ArraySource:
    images = np.random.default_rng(0).integers(0, 256, (count, 20, 24, 3), dtype=np.uint8)
    if not labelled:
        return ArraySource("noise", images, None, None)
    return ArraySource("noise", images, np.arange(count) % 3, ("a", "b", "c"))


class Spoiled(ArraySource):
    """Noise in which some images cannot be read."""

    def __init__(self, count: int, spoiled: set[int]) -> None:
        images = array_source(count).images
        super().__init__("spoiled", images, np.arange(count), tuple(str(number) for number in range(count)))
        self.spoiled = spoiled

    def load(self, index: int) -> NDArray[np.uint8]:
        if index in self.spoiled:
            raise BadImage(self.describe(index), "spoiled")
        return super().load(index)


def flat(batches: list[Batch]) -> list[tuple[object, ...]]:
    return [
        (
            batch.step,
            batch.epoch,
            batch.index.tolist(),
            None if batch.label is None else batch.label.tolist(),
            [view.numpy().tobytes() for view in batch.views],
        )
        for batch in batches
    ]


def run(workers: int, epochs: tuple[int, ...] = (0, 1), first_step: int = 0) -> list[tuple[object, ...]]:
    loader = Loader(array_source(23), RECIPE, batch_size=4, seed=7, workers=workers)
    made = [batch for epoch in epochs for batch in loader.epoch(epoch, first_step=first_step)]
    loader.close()
    return flat(made)


@pytest.fixture(scope="module")
def straight() -> list[tuple[object, ...]]:
    return run(0)


def test_a_batch_is_what_its_parts_say() -> None:
    source = array_source(23)
    loader = Loader(source, RECIPE, batch_size=4, seed=7, workers=0)
    assert loader.steps_per_epoch == 5
    for epoch in (0, 1):
        order = hashing.permutation(7, epoch=epoch, length=23)
        batches = list(loader.epoch(epoch))
        assert [batch.step for batch in batches] == [5 * epoch + i for i in range(5)]
        for i, batch in enumerate(batches):
            assert batch.epoch == epoch
            assert batch.index.tolist() == order[4 * i : 4 * i + 4].tolist()
            assert batch.label is not None
            assert batch.label.tolist() == (order[4 * i : 4 * i + 4] % 3).tolist()
            for row, index in enumerate(batch.index.tolist()):
                expected = make_views(source.load(index), RECIPE, seed=7, epoch=epoch, index=index)
                for view, image in zip(batch.views, expected, strict=True):
                    assert view.dtype == torch.uint8
                    assert view.is_contiguous(memory_format=torch.channels_last)
                    np.testing.assert_array_equal(view[row].permute(1, 2, 0).numpy(), image)


@pytest.mark.parametrize("workers", [1, 3])
def test_same_bytes_for_any_number_of_workers(straight: list[tuple[object, ...]], workers: int) -> None:
    assert run(workers) == straight


@pytest.mark.parametrize("workers", [0, 2])
def test_resumed_in_the_middle_of_an_epoch(straight: list[tuple[object, ...]], workers: int) -> None:
    assert run(workers, epochs=(1,), first_step=3) == straight[5 + 3 :]
    assert run(workers, epochs=(1,), first_step=5) == []


def test_two_processes_share_each_batch(straight: list[tuple[object, ...]], monkeypatch: pytest.MonkeyPatch) -> None:
    loader = Loader(array_source(23), RECIPE, batch_size=4, seed=7, workers=0)
    whole = list(loader.epoch(1))
    monkeypatch.setattr(loader_module, "world_size", lambda: 2)
    halves: list[list[Batch]] = []
    for rank in (0, 1):
        monkeypatch.setattr(loader_module, "rank_slice", lambda _, rank=rank: slice(rank * 2, rank * 2 + 2))
        part = Loader(array_source(23), RECIPE, batch_size=4, seed=7, workers=rank)
        halves.append(list(part.epoch(1)))
        part.close()
    assert len(whole) == len(halves[0]) == len(halves[1])
    for both, first, second in zip(whole, *halves, strict=True):
        assert torch.equal(both.index, torch.cat([first.index, second.index]))
        for view in (0, 1):
            assert torch.equal(both.views[view], torch.cat([first.views[view], second.views[view]]))
    with pytest.raises(UsageError, match="5 images cannot be shared evenly by 2"):
        Loader(array_source(23), RECIPE, batch_size=5, seed=7, workers=0)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_abandoned_epoch_does_not_leak_into_the_next(straight: list[tuple[object, ...]], workers: int) -> None:
    loader = Loader(array_source(23), RECIPE, batch_size=4, seed=7, workers=workers)
    for _ in loader.epoch(0):
        break
    assert flat(list(loader.epoch(1))) == straight[5:]
    loader.close()


def test_torchs_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    run(2)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_image_at_most_once_an_epoch() -> None:
    loader = Loader(array_source(23, labelled=False), RECIPE, batch_size=5, seed=1, workers=0)
    batches = list(loader.epoch(0))
    seen = torch.cat([batch.index for batch in batches])
    assert len(seen) == len(set(seen.tolist())) == 20
    assert all(batch.label is None for batch in batches)
    other = torch.cat([batch.index for batch in loader.epoch(1)])
    assert set(seen.tolist()) != set(other.tolist())


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_replaced_by_others_from_anywhere(workers: int) -> None:
    spoiled = {3, 4, 19}
    loader = Loader(Spoiled(20, spoiled), RECIPE, batch_size=4, seed=0, workers=workers, max_bad_share=0.2)
    sound = Loader(Spoiled(20, set()), RECIPE, batch_size=4, seed=0, workers=0)
    replaced: dict[tuple[int, int], int] = {}
    for epoch in (0, 1):
        for batch, expected in zip(loader.epoch(epoch), sound.epoch(epoch), strict=True):
            for index, wanted in zip(batch.index.tolist(), expected.index.tolist(), strict=True):
                if wanted in spoiled:
                    replaced[epoch, wanted] = index
                else:
                    assert index == wanted
            assert batch.label is not None
            assert batch.label.tolist() == batch.index.tolist()
            for row, index in enumerate(batch.index.tolist()):
                views = make_views(sound.source.load(index), RECIPE, seed=0, epoch=epoch, index=index)
                for view, image in zip(batch.views, views, strict=True):
                    np.testing.assert_array_equal(view[row].permute(1, 2, 0).numpy(), image)
    # Part of what makes a run repeatable, like the draws.
    assert replaced == {(0, 3): 11, (0, 4): 7, (0, 19): 14, (1, 3): 1, (1, 4): 12, (1, 19): 17}
    assert sorted(loader.bad_images) == [(f"spoiled image {index}", "spoiled") for index in (19, 3, 4)]
    loader.close()


class Counted(Spoiled):
    """Knows how often each image was asked for."""

    def __init__(self, count: int, spoiled: set[int]) -> None:
        super().__init__(count, spoiled)
        self.asked: Counter[int] = Counter()

    def load(self, index: int) -> NDArray[np.uint8]:
        self.asked[index] += 1
        return super().load(index)


def test_bad_images_that_lie_together_are_read_once_and_replaced_by_different_ones() -> None:
    spoiled = set(range(100, 150))
    source = Counted(200, spoiled)
    loader = Loader(source, RECIPE, batch_size=200, seed=0, workers=0, max_bad_share=0.5)
    (batch,) = loader.epoch(0)
    assert [source.asked[index] for index in sorted(spoiled)] == [1] * 50
    order = hashing.permutation(0, epoch=0, length=200).tolist()
    taken = [index for index, wanted in zip(batch.index.tolist(), order, strict=True) if wanted in spoiled]
    assert len(taken) == 50
    assert len(set(taken)) > 35


def test_the_only_good_image_is_found() -> None:
    loader = Loader(Spoiled(40, set(range(40)) - {17}), RECIPE, batch_size=20, seed=0, workers=0, max_bad_share=1.0)
    assert [batch.index.tolist() for batch in loader.epoch(0)] == [[17] * 20] * 2
    loader = Loader(Spoiled(40, set(range(40))), RECIPE, batch_size=20, seed=0, workers=0, max_bad_share=1.0)
    with pytest.raises(DataError, match=r"none of the 40 images of spoiled can be read; .* image \d+ \(spoiled\)"):
        list(loader.epoch(0))


@pytest.mark.parametrize("spoiled", [{1, 5, 6}, set(range(20))])
@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_images_stop_the_run(workers: int, spoiled: set[int]) -> None:
    loader = Loader(Spoiled(20, spoiled), RECIPE, batch_size=10, seed=0, workers=workers, max_bad_share=0.1)
    with pytest.raises(
        DataError, match=r"3 of the 20 images of spoiled cannot be read, more than 10%.*\(spoiled\).*--max-bad-share"
    ):
        list(loader.epoch(0))
    loader.close()


def last_batch(spoiled: set[int], known_bad: Sequence[tuple[str, str]] = ()) -> list[tuple[str, str]]:
    """Bad images that the last batch of an epoch meets: it wants 1, 10, 19 and 2, and of 20 images two may be bad."""
    source = Spoiled(20, spoiled)
    loader = Loader(source, RECIPE, batch_size=4, seed=0, workers=0, max_bad_share=0.1, known_bad=known_bad)
    assert len(list(loader.epoch(0, first_step=4))) == 1
    return loader.bad_images


def test_bad_images_of_earlier_parts_of_a_run_count() -> None:
    known = [("spoiled image 8", "spoiled"), ("spoiled image 5", "spoiled")]
    met = [("spoiled image 2", "spoiled")]
    assert last_batch({2, 5, 8}) == met
    with pytest.raises(DataError, match=r"3 of the 20 images of spoiled cannot be read, more than 10%"):
        last_batch({2, 5, 8}, known)
    # One that is met again is still one.
    assert last_batch({2, 8}, [*known[:1], *met]) == met
    # Whoever was told to replace them did, or they are of other images.
    assert last_batch({2}, known) == met
    assert last_batch({2}, [(f"another image {number}", "spoiled") for number in range(9)]) == met


# Three of the images that each of two processes has in the first epoch, in their first three batches.
SPREAD = {8, 13, 29, 11, 14, 30}


def epoch_of_two(share_every: int) -> tuple[int, str, list[tuple[str, str]]]:
    """For a process of the pair: batches that it had, how the epoch ended, and the bad images that it knows of."""
    loader = Loader(Spoiled(40, SPREAD), RECIPE, batch_size=8, seed=0, workers=0, max_bad_share=0.125)
    taken, said = 0, ""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loader_module, "SHARE_EVERY", share_every)
        try:
            for _ in loader.epoch(0):
                taken += 1
        except DataError as error:
            said = str(error)
    return taken, said, sorted(loader.bad_images)


@pytest.mark.parametrize(("share_every", "batches"), [(1_000, 5), (2, 4)])
def test_the_limit_is_one_for_all_processes(two_processes: ProcessPair, share_every: int, batches: int) -> None:
    everything = sorted((f"spoiled image {index}", "spoiled") for index in SPREAD)
    for taken, said, bad in two_processes(epoch_of_two, share_every):
        assert "6 of the 40 images of spoiled cannot be read, more than 12.5%" in said
        assert taken == batches
        assert bad == everything


def stopped_within_an_epoch() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """For a process of the pair: the bad images that it met in a batch, and those that both did."""
    loader = Loader(Spoiled(40, SPREAD), RECIPE, batch_size=8, seed=0, workers=0, max_bad_share=0.5)
    next(loader.epoch(0))
    own = list(loader.bad_images)
    loader.share_bad_images()
    return own, sorted(loader.bad_images)


def test_bad_images_of_all_processes_are_named(two_processes: ProcessPair) -> None:
    (first, both), (second, again) = two_processes(stopped_within_an_epoch)
    assert (first, second) == ([("spoiled image 8", "spoiled")], [("spoiled image 30", "spoiled")])
    assert both == again == sorted(first + second)


def test_files_from_disk_with_one_broken(tmp_path: Path) -> None:
    for number in range(24):
        Image.fromarray(array_source(24).images[number]).save(tmp_path / f"{number:02}.jpg")
    (tmp_path / "07.jpg").write_bytes(b"not an image")
    loader = Loader(FolderSource(str(tmp_path)), RECIPE, batch_size=8, seed=0, workers=1)
    batches = [*loader.epoch(0), *loader.epoch(1)]
    loader.close()
    assert len(batches) == 6
    assert loader.bad_images == [(str(tmp_path / "07.jpg"), "not an image in a known format")]


def test_impossible_loaders_are_refused() -> None:
    with pytest.raises(DataError, match=r"noise has 23 images, fewer than one batch of 256: .*at most 23"):
        Loader(array_source(23), RECIPE, batch_size=256, seed=0, workers=0)
    with pytest.raises(UsageError, match="batch of 0"):
        Loader(array_source(23), RECIPE, batch_size=0, seed=0, workers=0)
    with pytest.raises(UsageError, match="-1 workers"):
        Loader(array_source(23), RECIPE, batch_size=4, seed=0, workers=-1)


def collect(source: ArraySource, **options: object) -> tuple[Tensor, Tensor | None, Tensor]:
    arguments = {"image_size": 16, "resize": 18, "batch_size": 5, "workers": 0, **options}
    parts = list(evaluation_batches(source, **arguments))  # type: ignore[arg-type]
    labels = [label for _, label, _ in parts if label is not None]
    return (
        torch.cat([images for images, _, _ in parts]),
        torch.cat(labels) if labels else None,
        torch.cat([index for _, _, index in parts]),
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_keeps_order_and_is_torchvisions(workers: int) -> None:
    source = array_source(13)
    images, label, index = collect(source, workers=workers)
    assert index.tolist() == list(range(13))
    assert label is not None
    assert label.tolist() == (np.arange(13) % 3).tolist()
    for ours, image in zip(images, source.images, strict=True):
        resized = tv.resize(Image.fromarray(image), [18], InterpolationMode.BILINEAR, antialias=True)
        reference = np.asarray(tv.center_crop(resized, [16, 16])).astype(int)
        assert np.abs(ours.permute(1, 2, 0).numpy() - reference).max() <= 1


def test_evaluation_without_resizing() -> None:
    source = array_source(3, labelled=False)
    images, label, _ = collect(source, resize=None)
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1).numpy(), source.images[:, 2:18, 4:20])
    assert label is None
    enlarged, _, _ = collect(source, resize=None, image_size=40)
    assert enlarged.shape == (3, 3, 40, 40)


def test_evaluation_leaves_bad_images_out() -> None:
    bad: list[tuple[str, str]] = []
    source = Spoiled(12, {0, 1, 2, 11})
    images, label, index = collect(source, batch_size=3, max_bad_share=0.5, bad_images=bad)
    assert index.tolist() == [3, 4, 5, 6, 7, 8, 9, 10]
    assert label is not None
    assert label.tolist() == index.tolist()
    assert len(images) == 8
    assert bad == [(f"spoiled image {number}", "spoiled") for number in (0, 1, 2, 11)]
    with pytest.raises(
        DataError, match=r"1 of the 12 images .*Remove or replace them, or allow more with --max-bad-share$"
    ):
        collect(Spoiled(12, {4}), max_bad_share=0.05)
    with pytest.raises(UsageError, match="resized to 15 pixels are too small for a crop of 16"):
        collect(source, resize=15)


@pytest.mark.parametrize("turned", [False, True])
def test_evaluation_of_a_very_long_image_cuts_its_middle(turned: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    long = np.random.default_rng(1).integers(0, 256, (1, 4, 5_001, 3), dtype=np.uint8)
    source = ArraySource("long", long.transpose(0, 2, 1, 3) if turned else long, None, None)
    resized = tv.resize(Image.fromarray(source.images[0]), [18], InterpolationMode.BILINEAR, antialias=True)
    reference = np.asarray(tv.center_crop(resized, [16, 16])).astype(int)
    most: list[int] = []
    resize = pixels.resize

    def measured(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
        most.append(height * width)
        return resize(image, height, width)

    monkeypatch.setattr(pixels, "resize", measured)
    ours, _, _ = collect(source)
    difference = np.abs(ours[0].permute(1, 2, 0).numpy() - reference)
    # The whole is rounded to 22,504 pixels where the middle is 288: a shift of under a tenth of a pixel.
    assert difference.mean() < 4
    assert max(most) < 20 * 18 * 18


def die(task: int) -> int:
    if task == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def fail(task: int) -> int:
    raise RuntimeError(f"task {task} is wrong")


def test_a_killed_worker_is_an_error_not_a_hang() -> None:
    workers: Workers[int, int] = Workers(die, 2)
    with pytest.raises(WorkerError, match="a data worker process died"):
        list(workers.run(range(20)))


def own_process(task: int) -> int:
    return os.getpid()


def compute_while_a_worker_dies() -> None:
    """As a training step does, between one batch and the next."""
    workers: Workers[int, int] = Workers(own_process, 1)
    for worker in workers.run(range(100)):
        os.kill(worker, signal.SIGKILL)
        began = time.monotonic()
        while time.monotonic() - began < 20:
            time.sleep(0.01)
        pytest.fail("nobody said so")


def test_a_worker_killed_while_the_main_process_computes_is_the_same_error() -> None:
    for _ in range(2):
        with pytest.raises(WorkerError, match=r"a data worker process died .*--shm-size"):
            compute_while_a_worker_dies()


def test_a_mistake_in_a_worker_keeps_its_name() -> None:
    workers: Workers[int, int] = Workers(fail, 1)
    with pytest.raises(RuntimeError, match="task 0 is wrong"):
        list(workers.run(range(2)))


INTERRUPTED = """
from multiprocessing import active_children
import numpy as np
from co2ssl.data.loader import Loader
from co2ssl.data.sources import ArraySource
from co2ssl.data.views import view_recipe

source = ArraySource("grey", np.full((64, 64, 64, 3), 90, np.uint8), None, None)
loader = Loader(source, view_recipe("moco-v2", image_size=64), batch_size=32, seed=0, workers=2)
try:
    for epoch in range(10**6):
        for batch in loader.epoch(epoch):
            if batch.step == 3:
                print(*(child.pid for child in active_children()), flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_stops_at_once_and_only_the_main_process_speaks() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    workers = [int(word) for word in process.stdout.readline().split()]
    assert len(workers) == 2
    began = time.monotonic()
    try:
        # As a terminal does: to every process of the group.
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert (output, errors, process.returncode) == ("interrupted\n", "", 0)
    assert time.monotonic() - began < 20
    for worker in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)
