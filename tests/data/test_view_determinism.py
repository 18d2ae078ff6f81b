"""The same bytes whatever the number of workers, processes and restarts, for each kind of view recipe."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from co2ssl.data.batch import Batch, normalise
from co2ssl.data.loader import Loader
from co2ssl.data.sources import open_source
from co2ssl.data.views import VIEW_RECIPES, ViewRecipe, make_views, view_recipe
from co2ssl.distributed import rank
from tests.data.photographs import photograph
from tests.processes import NUM_PROCESSES, ProcessPair

# What DataLoader says of three workers on two cores: advice, and these tests are about bytes.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

NUM_IMAGES = 26
BATCH = 6
STEPS = NUM_IMAGES // BATCH
SEED = 5
EPOCHS = (0, 3)

# Two views alone; one view with a split; patches that share a crop, also with a split, and many; views of two sizes.
NAMES = ["moco-v2", "simclr", "cmc", "jigsaw", "relative-position", "cpc-v2", "pirl"]


def recipe(name: str) -> ViewRecipe:
    patches = VIEW_RECIPES[name].shared or VIEW_RECIPES[name].more
    return view_recipe(name, image_size=None if patches else 40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of many sizes, one of them cut off in the middle."""
    root = tmp_path_factory.mktemp("photographs")
    picture = photograph("china")
    for number in range(NUM_IMAGES):
        top, left = 13 * number % 200, 29 * number % 300
        region = picture[top : top + 90 + 3 * number, left : left + 150 - 2 * number]
        Image.fromarray(region).save(root / f"{number:02}.{'jpg' if number % 2 else 'png'}")
    whole = (root / "09.jpg").read_bytes()
    (root / "09.jpg").write_bytes(whole[: len(whole) // 2])
    return root


Row: TypeAlias = tuple[int, int, int, str, str]
"""Step, epoch, image, and hashes of its views: as the workers made them, and as a method gets them."""
Rows: TypeAlias = list[Row]
Straight: TypeAlias = dict[tuple[str, int], list[Rows]]


def digest(views: tuple[Tensor, ...], row: int) -> str:
    return hashlib.sha256(b"".join(view[row].contiguous().numpy().tobytes() for view in views)).hexdigest()


def rows_of(batch: Batch, name: str) -> Rows:
    """A batch image by image, so that batches cut otherwise can be compared."""
    ready = recipe(name).on_device(batch.views)
    return [
        (batch.step, batch.epoch, int(index), digest(batch.views, row), digest(ready, row))
        for row, index in enumerate(batch.index)
    ]


def batches(folder: Path, name: str, workers: int, epoch: int, first_step: int = 0) -> Iterator[Rows]:
    source = open_source(str(folder))
    loader = Loader(source, recipe(name), batch_size=BATCH, seed=SEED, workers=workers)
    try:
        for batch in loader.epoch(epoch, first_step=first_step):
            yield rows_of(batch, name)
    finally:
        loader.close()


def in_this_process(folder: str, name: str, epoch: int, first_step: int) -> tuple[int, list[Rows]]:
    """For a process of the pair: its rank, and its share of the batches."""
    return rank(), list(batches(Path(folder), name, 0, epoch, first_step))


@pytest.fixture(scope="module")
def straight(folder: Path) -> Straight:
    """Every batch of two epochs, made in one process without workers."""
    return {(name, epoch): list(batches(folder, name, 0, epoch)) for name in NAMES for epoch in EPOCHS}


def test_there_is_something_to_compare(straight: Straight) -> None:
    for name in NAMES:
        rows = [row for epoch in EPOCHS for batch in straight[name, epoch] for row in batch]
        assert len(rows) == len(EPOCHS) * STEPS * BATCH
        # The image that cannot be read is replaced by another, which then comes twice in an epoch.
        assert 9 not in {index for _, _, index, _, _ in rows}
        for place in (3, 4):
            assert len({row[place] for row in rows}) >= len(rows) - len(EPOCHS)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_workers_change_nothing(folder: Path, straight: Straight, name: str, workers: int) -> None:
    assert list(batches(folder, name, workers, 3)) == straight[name, 3]


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_change_nothing(folder: Path, straight: Straight, name: str, two_processes: ProcessPair) -> None:
    shares = two_processes(in_this_process, str(folder), name, 3, 0)
    assert [share[0] for share in shares] == list(range(NUM_PROCESSES))
    joined = [first + second for first, second in zip(shares[0][1], shares[1][1], strict=True)]
    assert joined == straight[name, 3]
    assert shares[0][1] != shares[1][1]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("first_step", [1, STEPS - 1])
def test_resumed_in_mid_epoch(folder: Path, straight: Straight, first_step: int, workers: int) -> None:
    assert list(batches(folder, "moco-v2", workers, 3, first_step)) == straight["moco-v2", 3][first_step:]


def test_resumed_in_mid_epoch_by_two_processes(folder: Path, straight: Straight, two_processes: ProcessPair) -> None:
    """A run of one process goes on with two."""
    shares = two_processes(in_this_process, str(folder), "jigsaw", 3, 2)
    joined = [first + second for first, second in zip(shares[0][1], shares[1][1], strict=True)]
    assert joined == straight["jigsaw", 3][2:]


@pytest.mark.parametrize("name", NAMES)
def test_views_are_those_of_each_image_by_itself(folder: Path, name: str) -> None:
    """Whatever is done once for several views, and whatever their sizes are."""
    source = open_source(str(folder))
    loader = Loader(source, recipe(name), batch_size=BATCH, seed=SEED, workers=0)
    batch = next(loader.epoch(3))
    assert tuple(view.shape[2] for view in batch.views) == recipe(name).sizes
    for row, index in enumerate(batch.index.tolist()):
        alone = make_views(source.load(index), recipe(name), seed=SEED, epoch=3, index=index)
        for view, image in zip(batch.views, alone, strict=True):
            np.testing.assert_array_equal(view[row].permute(1, 2, 0).numpy(), image)


@pytest.mark.parametrize("name", NAMES)
def test_a_method_gets_the_views_of_its_recipe(folder: Path, name: str) -> None:
    loader = Loader(open_source(str(folder)), recipe(name), batch_size=BATCH, seed=SEED, workers=0)
    batch = next(loader.epoch(0))
    expected = recipe(name).on_device(batch.views)
    ready = batch.to(torch.device("cpu")).views
    assert len(ready) == len(expected) == (2 if name == "cmc" else recipe(name).num_views)
    for view, other in zip(ready, expected, strict=True):
        assert torch.equal(view, normalise(other))


def test_other_draws_are_noticed(straight: Straight) -> None:
    """The comparison sees a view that changed in a single pixel, and a neighbour's epoch."""
    assert straight["moco-v2", 0] != straight["moco-v2", 3]
    view = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    view[1, 1, 2, 3] = 1
    assert digest((view,), 0) != digest((view,), 1)


@pytest.mark.parametrize("name", VIEW_RECIPES)
def test_draws_do_not_depend_on_how_many_are_asked_for(name: str) -> None:
    made = VIEW_RECIPES[name]
    for view in range(0, made.num_views, 5):
        one = [made.draw(seed=3, epoch=4, index=np.array([index]), view=view) for index in range(6)]
        together = made.draw(seed=3, epoch=4, index=np.arange(6), view=view)
        for step, rows in enumerate(together):
            np.testing.assert_array_equal(rows, np.concatenate([each[step] for each in one]))
