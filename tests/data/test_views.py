"""View recipes: as published, changed, refused; what a view depends on; images of any shape."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch

from co2ssl.data.batch import normalise
from co2ssl.data.operations import ColorJitter, GaussianBlur, RandomGrayscale, RandomHorizontalFlip, RandomResizedCrop
from co2ssl.data.patches import GridPatch, RandomCrop, RandomWindow, ResizeShortSide, ResizeSquare
from co2ssl.data.photometric import RandomMeanGrey, RandomPhotometric
from co2ssl.data.views import VIEW_RECIPES, draw_views, make_views, view_recipe
from co2ssl.errors import UsageError
from tests.data.photographs import photograph

FLIP = RandomHorizontalFlip(probability=0.5)
GREY = RandomGrayscale(probability=0.2)
V1_JITTER = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4, probability=1.0)
V2_JITTER = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, probability=0.8)
SIMCLR_JITTER = ColorJitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, probability=0.8)
PIRL_JITTER = ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.2, probability=1.0)
PHOTOMETRIC = RandomPhotometric(probability=0.66, bits=(4, 8), sharpness=(0.1, 1.9), threshold=(0, 256))


def crop(size: int, min_area: float) -> RandomResizedCrop:
    return RandomResizedCrop(size=size, min_area=min_area, max_area=1.0, min_aspect=3 / 4, max_aspect=4 / 3)


def blur(kernel_share: float | None) -> GaussianBlur:
    return GaussianBlur(min_sigma=0.1, max_sigma=2.0, probability=0.5, kernel_share=kernel_share)


# Typed from the papers' code: everything that makes the first view, and how many views there are.
PUBLISHED: dict[str, tuple[tuple[Any, ...], int]] = {
    "moco-v1": ((crop(224, 0.2), GREY, V1_JITTER, FLIP), 2),
    "moco-v2": ((crop(224, 0.2), V2_JITTER, GREY, blur(None), FLIP), 2),
    "simclr": ((crop(224, 0.08), FLIP, SIMCLR_JITTER, GREY, blur(0.1)), 2),
    "moco-v1-small": ((crop(32, 0.2), GREY, V1_JITTER, FLIP), 2),
    "moco-v2-small": ((crop(32, 0.2), V2_JITTER, GREY, FLIP), 2),
    "simclr-small": ((crop(32, 0.08), FLIP, V2_JITTER, GREY), 2),
    "insdisc": ((crop(224, 0.2), GREY, V1_JITTER, FLIP), 1),
    "insdisc-small": ((crop(32, 0.2), GREY, V1_JITTER), 1),
    "cmc": ((crop(224, 0.08), FLIP), 1),
    "rotation": ((crop(224, 0.08), FLIP), 1),
    "jigsaw": (
        (
            ResizeShortSide(size=256),
            FLIP,
            RandomCrop(size=255),
            RandomGrayscale(probability=0.66),
            GridPatch(grid=3, stride=85, size=64, positions=21),
        ),
        9,
    ),
    "relative-position": (
        (
            ResizeSquare(size=292),
            RandomMeanGrey(probability=0.66),
            RandomCrop(size=255),
            GridPatch(grid=3, stride=85, size=64, positions=22),
        ),
        9,
    ),
    "cpc-v2": (
        (crop(256, 0.08), FLIP, GridPatch(grid=7, stride=32, size=64), RandomWindow(size=60, colour=(124, 116, 104))),
        49,
    ),
    "pirl": ((crop(224, 0.08), PIRL_JITTER, PHOTOMETRIC, GREY, FLIP), 10),
}


@pytest.mark.parametrize("name", VIEW_RECIPES)
def test_recipes_have_the_published_operations(name: str) -> None:
    recipe = VIEW_RECIPES[name]
    steps, num_views = PUBLISHED[name]
    assert recipe.name == name
    assert recipe.steps(0) == steps
    assert recipe.num_views == num_views == len(recipe.sizes)
    assert pickle.loads(pickle.dumps(recipe)) == recipe


def test_pirls_patches_are_made_otherwise_than_its_image() -> None:
    pirl = VIEW_RECIPES["pirl"]
    assert pirl.sizes == (224, *(64,) * 9)
    for view in range(1, 10):
        cell = GridPatch(grid=3, stride=85, size=64, positions=21, cell=view - 1)
        assert pirl.steps(view) == (crop(255, 0.6), cell, PIRL_JITTER, PHOTOMETRIC, GREY, FLIP)


def test_changes_to_a_recipe() -> None:
    recipe = view_recipe("simclr", image_size=48, min_area=0.3, jitter_strength=0.5)
    assert recipe.image_size == 48
    assert recipe.operations == (crop(48, 0.3), FLIP, V2_JITTER, GREY, blur(0.1))
    assert view_recipe("moco-v2") == VIEW_RECIPES["moco-v2"]
    cmc = view_recipe("cmc", image_size=32)
    assert (cmc.operations[0], cmc.num_views, cmc.split) == (crop(32, 0.08), 1, VIEW_RECIPES["cmc"].split)
    pirl = view_recipe("pirl", image_size=224, min_area=0.5, jitter_strength=2.0)
    jitter = ColorJitter(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.4)
    assert pirl.steps(0)[:2] == (crop(224, 0.5), jitter)
    assert (pirl.steps(9)[0], pirl.steps(9)[2]) == (crop(255, 0.6), jitter)
    assert view_recipe("jigsaw", image_size=64) == VIEW_RECIPES["jigsaw"]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("moco-v3", {}, "did you mean moco-v[12]"),
        ("zzz", {}, "there are moco-v1, "),
        ("jigsaws", {}, "did you mean jigsaw"),
        ("moco-v2", {"image_size": 0}, "image size 0"),
        ("moco-v2", {"min_area": 0.0}, "smallest crop area 0.0"),
        ("moco-v2", {"min_area": 1.5}, "smallest crop area 1.5"),
        ("simclr", {"jitter_strength": 3.0}, "at most 2.5"),
        ("simclr", {"jitter_strength": -1.0}, "at least 0"),
        ("jigsaw", {"image_size": 96}, r"jigsaw have one size \(64 pixels.*leave the image size out"),
        ("pirl", {"image_size": 96}, r"pirl have one size \(64 pixels"),
        ("relative-position", {"min_area": 0.5}, "has no crop of random area"),
        ("cmc", {"jitter_strength": 0.5}, "has no colour jitter"),
    ],
)
def test_impossible_recipes_are_refused(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        view_recipe(name, **changes)


def test_views_are_a_function_of_seed_epoch_index_and_view() -> None:
    image = photograph("roofs")
    recipe = view_recipe("moco-v2", image_size=32)
    first = make_views(image, recipe, seed=0, epoch=0, index=5)
    again = make_views(image.copy(), recipe, seed=0, epoch=0, index=5)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    changed = [
        *first,
        make_views(image, recipe, seed=1, epoch=0, index=5)[0],
        make_views(image, recipe, seed=0, epoch=1, index=5)[0],
        make_views(image, recipe, seed=0, epoch=0, index=6)[0],
    ]
    assert len({view.tobytes() for view in changed}) == 5


@pytest.mark.parametrize("name", VIEW_RECIPES)
def test_one_view_is_what_it_is_among_all(name: str) -> None:
    recipe, image = VIEW_RECIPES[name], photograph("temple")
    drawn = draw_views(recipe, seed=4, epoch=2, index=7)
    together = make_views(image, recipe, seed=4, epoch=2, index=7)
    for view in range(0, recipe.num_views, 4):
        np.testing.assert_array_equal(recipe.apply(image, drawn[view], view), together[view])
        # Where there is one kind of views, what was drawn says all, even which patch it is.
        if recipe.more is None:
            np.testing.assert_array_equal(recipe.apply(image, drawn[view]), together[view])


@pytest.mark.parametrize("name", VIEW_RECIPES)
def test_images_are_drawn_by_themselves(name: str) -> None:
    recipe = VIEW_RECIPES[name]
    for view in (0, recipe.num_views - 1):
        many = recipe.draw(seed=1, epoch=2, index=np.array([9, 4, 30]), view=view)
        alone = recipe.draw(seed=1, epoch=2, index=np.array([4]), view=view)
        for step, rows, row in zip(recipe.steps(view), many, alone, strict=True):
            assert rows.shape == (3, len(step.columns))
            np.testing.assert_array_equal(rows[1], row[0])


@pytest.mark.parametrize(("name", "first"), [("jigsaw", 0), ("relative-position", 0), ("cpc-v2", 0), ("pirl", 1)])
def test_patches_share_their_picture_and_nothing_else(name: str, first: int) -> None:
    recipe = VIEW_RECIPES[name]
    shared = len((recipe.more or recipe).shared)
    drawn = draw_views(recipe, seed=0, epoch=0, index=3)[first:]
    assert all(rows[:shared] == drawn[0][:shared] for rows in drawn)
    own = [str(rows[shared:]) for rows in drawn]
    assert len(set(own)) == len(own)
    # The place within the cell too, not only the cell.
    assert len({str(rows[shared][1:]) if name != "cpc-v2" else str(rows[-1]) for rows in drawn}) > len(drawn) // 2
    if first:
        assert draw_views(recipe, seed=0, epoch=0, index=3)[0][0] != drawn[0][0]


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (2, 3), (700, 3)])
@pytest.mark.parametrize("name", VIEW_RECIPES)
def test_images_of_any_shape_give_views(name: str, shape: tuple[int, int]) -> None:
    recipe = VIEW_RECIPES[name]
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    before = image.copy()
    for index in range(2):
        for view, size in zip(make_views(image, recipe, seed=0, epoch=0, index=index), recipe.sizes, strict=True):
            assert view.shape == (size, size, 3)
            assert view.dtype == np.uint8
    np.testing.assert_array_equal(image, before)


# What a method gets: channels and sides of its views, and whether the loop still has to normalise them.
ON_DEVICE = {
    "cmc": ([(1, 224), (2, 224)], torch.float32),
    "rotation": ([(3, 224)] * 4, torch.uint8),
    "relative-position": ([(3, 64)] * 9, torch.float32),
    "pirl": ([(3, 224)] + [(3, 64)] * 9, torch.uint8),
    "moco-v2": ([(3, 224)] * 2, torch.uint8),
}


@pytest.mark.parametrize("name", ON_DEVICE)
def test_views_as_a_method_gets_them(name: str) -> None:
    recipe = VIEW_RECIPES[name]
    made = [make_views(photograph(image), recipe, seed=0, epoch=0, index=0) for image in ("temple", "petals")]
    batch = tuple(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) for images in zip(*made, strict=True))
    views = recipe.on_device(batch)
    shapes, kind = ON_DEVICE[name]
    assert [view.shape for view in views] == [(2, channels, side, side) for channels, side in shapes]
    assert {view.dtype for view in views} == {kind}
    for view in views:
        ready = normalise(view)
        assert ready.dtype == torch.float32
        assert kind == torch.uint8 or torch.equal(ready, view)
        assert torch.isfinite(ready).all()
