"""Patches, windows, rotations: which pixels they take, and what becomes of them on the device."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from co2ssl.data.operations import Numbers
from co2ssl.data.patches import (
    MEAN_COLOUR,
    GridPatch,
    RandomCrop,
    RandomWindow,
    ResizeShortSide,
    ResizeSquare,
    standardised_views,
)
from co2ssl.data.pixels import Image
from co2ssl.data.rotations import rotated_views
from co2ssl.data.views import VIEW_RECIPES, draw_views, make_views
from tests.data.photographs import photograph


def coordinates(height: int, width: int) -> Image:
    """An image whose pixels say where they are: (row, column, 0); up to 256 on a side."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)


def corner(image: Image) -> tuple[int, int]:
    return int(image[0, 0, 0]), int(image[0, 0, 1])


@pytest.mark.parametrize("cell", range(9))
def test_cells_run_row_by_row(cell: int) -> None:
    patch = GridPatch(grid=3, stride=85, size=64, positions=22, cell=cell)
    uniform: Numbers = np.array([[0.0, 0.0], [0.999, 0.999], [0.5, 0.25]])
    rows = patch.parameters(uniform)
    assert rows.tolist() == [[cell, 0, 0], [cell, 21, 21], [cell, 11, 5]]
    image = coordinates(255, 255)
    for row in rows.tolist():
        cut = patch.apply(image, row)
        assert cut.shape == (64, 64, 3)
        assert corner(cut) == (cell // 3 * 85 + row[1], cell % 3 * 85 + row[2])
        np.testing.assert_array_equal(cut - cut[0, 0], coordinates(64, 64))
        # It never leaves its cell.
        assert cut[-1, -1, 0] < (cell // 3 + 1) * 85


def test_the_grid_of_cpc_is_that_of_unfold() -> None:
    image = photograph("petals")[:256, :256]
    grid = torch.from_numpy(image.copy()).permute(2, 0, 1).unfold(1, 64, 32).unfold(2, 64, 32)
    assert grid.shape[1:3] == (7, 7)
    for cell in range(49):
        cut = GridPatch(grid=7, stride=32, size=64).apply(image, [float(cell), 0.0, 0.0])
        np.testing.assert_array_equal(cut, grid[:, cell // 7, cell % 7].permute(1, 2, 0).numpy())


def test_a_window_keeps_its_place_and_covers_the_rest() -> None:
    image = photograph("heart")
    window = RandomWindow(size=60)
    for row, (top, left) in (([0.0, 0.0], (0, 0)), ([0.999, 0.999], (4, 4)), ([0.5, 0.3], (2, 1))):
        seen = window.apply(image, row)
        inside = np.zeros((64, 64), dtype=bool)
        inside[top : top + 60, left : left + 60] = True
        np.testing.assert_array_equal(seen[inside], image[inside])
        assert (seen[~inside] == MEAN_COLOUR).all()


def test_a_crop_takes_every_place() -> None:
    crop = RandomCrop(size=3)
    image = coordinates(5, 4)
    places = {corner(crop.apply(image, [v, h])) for v in np.arange(0, 1, 0.1) for h in np.arange(0, 1, 0.1)}
    assert places == {(top, left) for top in range(3) for left in range(2)}
    assert crop.apply(image, [0.999, 0.999]).shape == (3, 3, 3)


def test_a_strip_is_cut_before_it_is_resized() -> None:
    strip = np.zeros((2, 5000, 3), dtype=np.uint8)
    strip[:, 2484:2516] = 200
    resized = ResizeShortSide(size=64).apply(strip, [])
    assert resized.shape == (64, 1024, 3)
    assert (resized == 200).all()
    assert ResizeShortSide(size=64).apply(strip.transpose(1, 0, 2), []).shape == (1024, 64, 3)
    assert ResizeShortSide(size=64).apply(strip[:, :30], []).shape == (64, 960, 3)
    assert ResizeShortSide(size=256).apply(np.zeros((1, 20_000, 3), np.uint8), []).shape == (256, 4096, 3)
    assert ResizeSquare(size=64).apply(strip, []).shape == (64, 64, 3)


def test_jigsaws_patches_lie_in_its_crop() -> None:
    recipe = VIEW_RECIPES["jigsaw"]
    image = photograph("china")
    drawn = draw_views(recipe, seed=0, epoch=0, index=1)
    picture = image
    for step, row in zip(recipe.shared, drawn[0], strict=False):
        picture = step.apply(picture, row)
    assert picture.shape == (255, 255, 3)
    for cell, view in enumerate(make_views(image, recipe, seed=0, epoch=0, index=1)):
        _, top, left = (int(value) for value in drawn[cell][-1])
        top, left = top + cell // 3 * 85, left + cell % 3 * 85
        np.testing.assert_array_equal(view, picture[top : top + 64, left : left + 64])


def test_standardised_patches() -> None:
    torch.manual_seed(0)
    views = (torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8), torch.full((2, 3, 4, 4), 77, dtype=torch.uint8))
    busy, flat = standardised_views(views)
    for ours, image in zip(busy, views[0], strict=True):
        values = image.double()
        expected = (values - values.mean()) / values.std(correction=0)
        torch.testing.assert_close(ours.double(), expected, atol=1e-5, rtol=0)
    assert (flat == 0).all()
    # A patch that hardly varies is not blown up: TensorFlow's floor of 1 / sqrt(values in a patch).
    almost = torch.zeros(1, 1, 40, 40, dtype=torch.uint8)
    almost[0, 0, 0, 0] = 1
    (result,) = standardised_views((almost,))
    torch.testing.assert_close(result[0, 0, 0, 0], torch.tensor((1 - 1 / 1600) * 40))


def test_rotations_are_exact_quarter_turns() -> None:
    image = photograph("temple")[:200, :200]
    batch = torch.from_numpy(np.stack([image, image[::-1].copy()])).permute(0, 3, 1, 2)
    turned = rotated_views((batch,))
    assert len(turned) == 4
    for quarter, views in enumerate(turned):
        assert views.dtype == torch.uint8
        # Sideways by numpy, one quarter turn counter-clockwise at a time.
        expected = image
        for _ in range(quarter):
            expected = expected.transpose(1, 0, 2)[::-1]
        np.testing.assert_array_equal(views[0].permute(1, 2, 0).numpy(), expected)
    assert torch.equal(turned[2], batch.flip(2, 3))
    assert len({views.numpy().tobytes() for views in turned}) == 4
    floating = rotated_views((batch.float(), batch.float()))
    assert len(floating) == 8
    assert torch.equal(floating[5], floating[1])
