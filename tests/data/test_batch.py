from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from co2ssl.data import batch as batch_module
from co2ssl.data.batch import IMAGENET_MEAN, IMAGENET_STD, Batch, normalise


def noise(count: int, side: int = 6) -> Tensor:
    """(N, 3, side, side) uint8, channels last."""
    pixels = np.random.default_rng(count).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def at_once(images: Tensor, dtype: torch.dtype) -> Tensor:
    mean = torch.tensor(IMAGENET_MEAN, dtype=dtype).view(1, 3, 1, 1)
    scale = torch.tensor(IMAGENET_STD, dtype=dtype).view(1, 3, 1, 1).reciprocal()
    return images.to(dtype, memory_format=torch.channels_last).sub_(mean).mul_(scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 6])
@pytest.mark.parametrize("tile", [1, 2 * 3 * 36, 100 * 3 * 36])
def test_tiles_change_no_bit(tile: int, count: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_module, "_TILE", tile)
    for images in (noise(count), noise(count).contiguous()):
        before = images.clone()
        ready, expected = normalise(images, dtype=dtype), at_once(images, dtype)
        assert torch.equal(ready, expected)
        assert (ready.dtype, ready.stride()) == (dtype, expected.stride())
        assert torch.equal(images, before)


def test_a_large_image_is_a_tile_of_its_own() -> None:
    images = noise(3, side=300)
    assert images[0].numel() > batch_module._TILE
    assert torch.equal(normalise(images), at_once(images, torch.float32))


def test_what_is_floating_point_already_is_only_cast() -> None:
    images = noise(2).double() / 7
    assert torch.equal(normalise(images), images.float())


def test_what_was_left_to_the_device_is_done_before_normalising() -> None:
    seen: list[torch.dtype] = []

    def inverted(views: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        seen.extend(view.dtype for view in views)
        return tuple(255 - view for view in views)

    index = torch.arange(4)
    crops = Batch(views=(noise(4), noise(4).flip(3)), index=index, label=None, step=3, epoch=1, finish=inverted)
    ready = crops.to(torch.device("cpu"))
    assert seen == [torch.uint8] * 2
    for view, crop in zip(ready.views, crops.views, strict=True):
        assert torch.equal(view, normalise(255 - crop))
    assert ready.finish is None
    again = ready.to(torch.device("cpu"))
    assert torch.equal(again.views[0], ready.views[0])
    assert len(seen) == 2


def test_a_split_is_done_to_finished_views_and_what_it_normalised_is_left_alone() -> None:
    def halves(views: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (view,) = views
        return view[:, :1].float() / 2, view

    made = Batch(
        views=(noise(4),),
        index=torch.arange(4),
        label=None,
        step=3,
        epoch=1,
        finish=lambda views: tuple(255 - view for view in views),
        split=halves,
    )
    ready = made.to(torch.device("cpu"))
    assert len(ready.views) == 2
    assert torch.equal(ready.views[0], (255 - noise(4))[:, :1].float() / 2)
    assert torch.equal(ready.views[1], normalise(255 - noise(4)))
    assert ready.split is None
    assert len(ready.to(torch.device("cpu")).views) == 2
