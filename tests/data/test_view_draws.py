"""What is drawn, against torchvision's samplers: two-sample Kolmogorov-Smirnov and chi-square with fixed seeds.

The numbers are fixed, so a test either passes for ever or fails for ever. The last tests hold wrong samplers against
the same comparison, which must find them.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from math import log

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image as PilImage
from scipy import stats
from torchvision import transforms as T

from co2ssl.data.operations import JITTER_ORDERS, ColorJitter, GaussianBlur, Numbers, RandomOperation, RandomResizedCrop
from co2ssl.data.patches import GridPatch, RandomCrop, patch_orders, relative_positions
from co2ssl.data.photometric import RandomPhotometric
from co2ssl.data.recipe import ViewRecipe
from co2ssl.data.views import VIEW_RECIPES

COUNT = 3000
# Two samples of one distribution come this far apart once in ten thousand comparisons; about a hundred are made.
ALIKE = 1e-4
# What the wrong samplers must fall below.
DIFFERENT = 1e-6


def drawn(operation: RandomOperation, *, view: int = 0, count: int = COUNT) -> Numbers:
    recipe = ViewRecipe(name="one", image_size=32, operations=(operation,))
    (rows,) = recipe.draw(seed=11, epoch=3, index=np.arange(count), view=view)
    return rows


def likeness(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """Probability of samples at least this different where the distribution is one and the same."""
    return float(stats.ks_2samp(ours, theirs).pvalue)


def our_boxes(crop: RandomResizedCrop, shape: tuple[int, int], count: int = COUNT) -> NDArray[np.float64]:
    return np.array([crop.box(*shape, row) for row in drawn(crop, count=count).tolist()], dtype=np.float64)


def their_boxes(shape: tuple[int, int], scale: tuple[float, float], count: int = COUNT) -> NDArray[np.float64]:
    blank = PilImage.new("RGB", (shape[1], shape[0]))
    torch.manual_seed(0)
    boxes = [T.RandomResizedCrop.get_params(blank, list(scale), [3 / 4, 4 / 3]) for _ in range(count)]
    return np.array(boxes, dtype=np.float64)


def measures(boxes: NDArray[np.float64], shape: tuple[int, int]) -> dict[str, NDArray[np.float64]]:
    """What a crop is known by. The place is a share of the room that the crop leaves."""
    top, left, height, width = boxes.T
    room_down, room_right = shape[0] - height, shape[1] - width
    return {
        "area": height * width / (shape[0] * shape[1]),
        "aspect": np.log(width / height),
        "top": top,
        "left": left,
        "vertical": (top / np.maximum(room_down, 1))[room_down > 8],
        "horizontal": (left / np.maximum(room_right, 1))[room_right > 8],
    }


@pytest.mark.parametrize(
    ("shape", "min_area"),
    [((375, 500), 0.08), ((375, 500), 0.2), ((375, 500), 0.6), ((32, 32), 0.2), ((500, 333), 0.08), ((100, 300), 0.2)],
)
def test_crops(shape: tuple[int, int], min_area: float) -> None:
    ours = measures(our_boxes(RandomResizedCrop(size=32, min_area=min_area), shape), shape)
    theirs = measures(their_boxes(shape, (min_area, 1.0)), shape)
    for name, values in ours.items():
        if len(values) > COUNT // 10:
            assert likeness(values, theirs[name]) > ALIKE, name


@pytest.mark.parametrize("shape", [(20, 1000), (1000, 20), (1, 50)])
def test_a_crop_that_does_not_fit_is_torchvisions_central_one(shape: tuple[int, int]) -> None:
    ours = our_boxes(RandomResizedCrop(size=32, min_area=0.9), shape, count=50)
    np.testing.assert_array_equal(ours, their_boxes(shape, (0.9, 1.0), count=50))


@pytest.mark.parametrize("name", ["moco-v1", "moco-v2", "simclr", "simclr-small", "pirl"])
def test_jitter(name: str) -> None:
    jitter = next(step for step in VIEW_RECIPES[name].operations if isinstance(step, ColorJitter))
    rows = drawn(jitter)
    theirs = T.ColorJitter(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
    torch.manual_seed(1)
    ranges = theirs.brightness, theirs.contrast, theirs.saturation, theirs.hue
    samples = [theirs.get_params(*ranges) for _ in range(COUNT)]
    for place in range(1, 5):
        assert likeness(rows[:, place], np.array([sample[place] for sample in samples])) > ALIKE, jitter
    orders = np.bincount(rows[:, 5].astype(int), minlength=len(JITTER_ORDERS))
    assert stats.chisquare(orders).pvalue > ALIKE
    their_orders = np.bincount([JITTER_ORDERS.index(tuple(sample[0].tolist())) for sample in samples], minlength=24)
    assert stats.chi2_contingency([orders, their_orders]).pvalue > ALIKE


@pytest.mark.parametrize("name", ["moco-v2", "simclr"])
def test_blur(name: str) -> None:
    blur = next(step for step in VIEW_RECIPES[name].operations if isinstance(step, GaussianBlur))
    torch.manual_seed(2)
    torchvisions = [T.GaussianBlur.get_params(0.1, 2.0) for _ in range(COUNT)]
    sigma = drawn(blur)[:, 1]
    assert likeness(sigma, np.array(torchvisions)) > ALIKE
    # MoCo's loader draws with Python's generator.
    source = random.Random(3)
    assert likeness(sigma, np.array([source.uniform(0.1, 2.0) for _ in range(COUNT)])) > ALIKE


# Of every step that is done or not: how often, as published.
SHARES = {
    "moco-v1": {"RandomGrayscale": 0.2, "ColorJitter": 1.0, "RandomHorizontalFlip": 0.5},
    "moco-v2": {"ColorJitter": 0.8, "RandomGrayscale": 0.2, "GaussianBlur": 0.5, "RandomHorizontalFlip": 0.5},
    "simclr": {"ColorJitter": 0.8, "RandomGrayscale": 0.2, "GaussianBlur": 0.5, "RandomHorizontalFlip": 0.5},
    "insdisc": {"RandomGrayscale": 0.2, "ColorJitter": 1.0, "RandomHorizontalFlip": 0.5},
    "cmc": {"RandomHorizontalFlip": 0.5},
    "jigsaw": {"RandomHorizontalFlip": 0.5, "RandomGrayscale": 0.66},
    "relative-position": {"RandomMeanGrey": 0.66},
    "pirl": {"ColorJitter": 1.0, "RandomPhotometric": 0.66, "RandomGrayscale": 0.2, "RandomHorizontalFlip": 0.5},
}


def how_often(recipe: ViewRecipe, view: int) -> dict[str, int]:
    rows = recipe.draw(seed=5, epoch=0, index=np.arange(COUNT), view=view)
    return {
        type(step).__name__: int(values[:, step.columns.index("applied")].sum())
        for step, values in zip(recipe.steps(view), rows, strict=True)
        if "applied" in step.columns
    }


@pytest.mark.parametrize("name", SHARES)
def test_how_often_a_step_is_done(name: str) -> None:
    recipe = VIEW_RECIPES[name]
    for view in (0, recipe.num_views - 1):
        found = how_often(recipe, view)
        assert found.keys() == SHARES[name].keys()
        for step, share in SHARES[name].items():
            assert stats.binomtest(found[step], COUNT, share).pvalue > ALIKE, step


@pytest.mark.parametrize("name", ["moco-v2", "simclr", "pirl"])
def test_parameters_views_and_epochs_are_independent(name: str) -> None:
    recipe = VIEW_RECIPES[name]
    columns = []
    for epoch, view in ((0, 0), (0, 1), (1, 0)):
        rows = recipe.draw(seed=5, epoch=epoch, index=np.arange(COUNT), view=view)
        values = np.concatenate(rows, axis=1)
        columns += [column for column in values.T if column.min() < column.max()]
    # Neighbouring images too.
    columns += [np.roll(columns[0], 1), np.roll(columns[1], 1)]
    ranks = np.array([stats.rankdata(column) for column in columns])
    correlation = np.corrcoef(ranks)
    worst = max(abs(correlation[i, j]) for i, j in combinations(range(len(columns)), 2))
    # Of some ten thousand pairs, each normal with deviation 1 / sqrt(COUNT).
    assert worst < 5.5 / np.sqrt(COUNT)


def test_places_of_patches() -> None:
    for positions, cell in ((21, 0), (22, 7), (1, 4)):
        rows = drawn(GridPatch(grid=3, stride=85, size=64, positions=positions), view=cell)
        assert set(rows[:, 0]) == {cell}
        torch.manual_seed(4)
        for column in (1, 2):
            found = np.bincount(rows[:, column].astype(int), minlength=positions)
            theirs = np.bincount(torch.randint(0, positions, (COUNT,)).numpy(), minlength=positions)
            assert len(found) == positions
            assert positions == 1 or stats.chi2_contingency([found, theirs]).pvalue > ALIKE


@pytest.mark.parametrize("shape", [(256, 256), (256, 341), (292, 292)])
def test_places_of_a_plain_crop(shape: tuple[int, int]) -> None:
    crop = RandomCrop(size=255)
    ours = np.array([crop.box(*shape, row) for row in drawn(crop).tolist()])
    blank = PilImage.new("RGB", (shape[1], shape[0]))
    torch.manual_seed(5)
    theirs = np.array([T.RandomCrop.get_params(blank, (255, 255)) for _ in range(COUNT)])
    for column, side in enumerate(shape):
        counts = [np.bincount(boxes[:, column], minlength=side - 254) for boxes in (ours, theirs)]
        assert len(counts[0]) == len(counts[1]) == side - 254
        assert stats.chi2_contingency(counts).pvalue > ALIKE


def test_pirls_photometric_amounts() -> None:
    rows = drawn(RandomPhotometric())
    generator = np.random.default_rng(6)
    for column, low, high in ((1, 4, 8), (3, 0, 256)):
        found = np.bincount(rows[:, column].astype(int) - low, minlength=high - low + 1)
        theirs = np.bincount(generator.integers(low, high + 1, COUNT) - low, minlength=high - low + 1)
        assert len(found) == high - low + 1
        assert stats.chi2_contingency([found, theirs]).pvalue > ALIKE
    assert likeness(rows[:, 2], generator.uniform(0.1, 1.9, COUNT)) > ALIKE


def test_orders_of_patches_are_equally_likely() -> None:
    few = patch_orders(7, epoch=1, index=np.arange(COUNT), patches=4)
    found = np.array([JITTER_ORDERS.index(tuple(row)) for row in few.tolist()])
    assert stats.chisquare(np.bincount(found, minlength=24)).pvalue > ALIKE
    nine = patch_orders(7, epoch=1, index=np.arange(COUNT))
    assert (np.sort(nine, axis=1) == np.arange(9)).all()
    for place in range(9):
        assert stats.chisquare(np.bincount(nine[:, place], minlength=9)).pvalue > ALIKE
    np.testing.assert_array_equal(patch_orders(7, epoch=1, index=np.array([40])), nine[40:41])
    assert (patch_orders(7, epoch=2, index=np.arange(40)) != nine[:40]).any()
    assert relative_positions() == ((0, 4), (1, 4), (2, 4), (3, 4), (5, 4), (6, 4), (7, 4), (8, 4))


# What the comparison must not let through.


@pytest.mark.parametrize(
    ("measure", "wrong"),
    [
        ("area", RandomResizedCrop(size=32, min_area=0.26)),
        ("area", RandomResizedCrop(size=32, min_area=0.2, max_area=0.7)),
        ("aspect", RandomResizedCrop(size=32, min_area=0.2, min_aspect=0.85, max_aspect=1 / 0.85)),
    ],
)
def test_a_wrong_crop_is_noticed(measure: str, wrong: RandomResizedCrop) -> None:
    shape = (375, 500)
    theirs = measures(their_boxes(shape, (0.2, 1.0)), shape)
    assert likeness(measures(our_boxes(wrong, shape), shape)[measure], theirs[measure]) < DIFFERENT


def uniform_aspect(uniform: Numbers) -> Numbers:
    return 0.75 + uniform * (4 / 3 - 0.75)


def log_uniform_aspect(uniform: Numbers) -> Numbers:
    return np.exp(log(0.75) + uniform * log(16 / 9))


@pytest.mark.parametrize(("aspect", "noticed"), [(uniform_aspect, True), (log_uniform_aspect, False)])
def test_an_aspect_that_is_not_log_uniform_is_noticed(aspect: Callable[[Numbers], Numbers], noticed: bool) -> None:
    generator = np.random.default_rng(8)
    theirs = np.exp(measures(their_boxes((4000, 4000), (0.2, 0.3)), (4000, 4000))["aspect"])
    same = likeness(aspect(generator.random(COUNT)), theirs)
    assert same < DIFFERENT if noticed else same > ALIKE


def test_a_wrong_factor_sigma_or_order_is_noticed() -> None:
    jitter = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)
    right, wrong = drawn(jitter), drawn(replace(jitter, brightness=0.48, hue=0.12), view=1)
    assert likeness(right[:, 1], wrong[:, 1]) < DIFFERENT
    assert likeness(right[:, 4], wrong[:, 4]) < DIFFERENT
    assert likeness(right[:, 2], wrong[:, 2]) > ALIKE
    assert likeness(drawn(GaussianBlur())[:, 1], drawn(GaussianBlur(max_sigma=2.4), view=1)[:, 1]) < DIFFERENT
    orders = np.bincount(right[:, 5].astype(int), minlength=24)
    # One order in two never comes, as with a loop that fixes which of two is first.
    halved = np.repeat(orders[::2], 2) * np.tile([1, 0], 12)
    assert stats.chisquare(halved).pvalue < DIFFERENT
