from __future__ import annotations

import errno
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from co2ssl.data.sources import Subset, open_source
from co2ssl.errors import UserError
from co2ssl.evaluate.feature_key import FeatureKey, FeatureType, feature_key, network_hash
from co2ssl.evaluate.feature_store import FeatureStore
from co2ssl.evaluate.features import EvaluationError, extract, feature_batches, shared_feature_batches
from co2ssl.evaluate.knn import knn
from co2ssl.evaluate.linear import linear_lbfgs
from tests.evaluate.fakes import Images, Net
from tests.images import write_classes
from tests.processes import ProcessPair

CLASSES = ("a", "b", "c")


def images(**changed: object) -> Images:
    return Images([0, 1, 2] * 20, CLASSES, **changed)  # type: ignore[arg-type]


def key_of(net: Net, source: Images, dtype: FeatureType = "float32") -> FeatureKey:
    return feature_key(net.backbone, source, image_size=8, resize=None, dtype=dtype)


def batches_of(net: Net, source: Images) -> Iterator[tuple[Tensor, Tensor]]:
    return feature_batches(net.backbone, source, image_size=8, batch_size=7)


@pytest.mark.parametrize("unreadable", [(), (0,), (59,), (3, 30)])
def test_what_is_kept_is_what_is_extracted(tmp_path: Path, unreadable: tuple[int, ...]) -> None:
    net, source, store = Net(), images(unreadable=unreadable), FeatureStore(tmp_path / "features")
    key, alone = key_of(net, source), extract(net.backbone, source, image_size=8, batch_size=7)
    assert store.load(key, source) is None
    for found in (store.save(key, source, batches_of(net, source)), store.load(key, source)):
        assert found is not None
        assert torch.equal(found.features, alone.features)
        assert torch.equal(found.index, alone.index)
        assert found.labels is not None
        assert alone.labels is not None
        assert torch.equal(found.labels, alone.labels)
        assert (found.classes, found.source) == (CLASSES, "images")
    assert sorted(path.name for path in store.folder.iterdir()) == [f"{key.hash}.json", f"{key.hash}.npy"]
    # An array that any program can read.
    np.testing.assert_array_equal(np.load(store.folder / f"{key.hash}.npy"), alone.features.numpy())


def test_features_are_mapped_and_the_file_is_safe_from_its_readers(tmp_path: Path) -> None:
    net, source, store = Net(), images(), FeatureStore(tmp_path)
    key = key_of(net, source)
    first = store.save(key, source, batches_of(net, source))
    before = first.features.clone()
    first.features.fill_(7)
    again = store.load(key, source)
    assert again is not None
    assert torch.equal(again.features, before)
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert f"{key.hash}.npy" in maps.read_text()


def test_a_file_larger_than_memory_is_mapped_for_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system counts what might be copied as memory; here it refuses to."""
    net, source, store = Net(), images(), FeatureStore(tmp_path)
    key = key_of(net, source)
    modes: list[str] = []
    opened = np.lib.format.open_memmap

    def open_memmap(path: Path, mode: str) -> object:
        modes.append(mode)
        if mode == "c":
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return opened(path, mode=mode)

    monkeypatch.setattr("numpy.lib.format.open_memmap", open_memmap)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = store.save(key, source, batches_of(net, source))
    assert modes == ["c", "r"]
    assert torch.equal(found.features, extract(net.backbone, source, image_size=8).features)
    assert knn(found, found, k=1)["top1"] == 1


def test_images_that_can_be_read_by_now_are_not_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net, source, store = Net(), images(unreadable=(3, 30)), FeatureStore(tmp_path)
    key = key_of(net, source)
    assert len(store.save(key, source, batches_of(net, source))) == 58
    assert store.load(key, source) is not None
    mended = images(unreadable=(3,))
    assert store.load(key, mended) is None
    assert "can be read now" in capsys.readouterr().err
    found = store.save(key, mended, batches_of(net, mended))
    assert len(found) == 59
    assert store.load(key, mended) is not None


def test_a_file_that_was_replaced_makes_other_features(tmp_path: Path) -> None:
    """A sample of 32 images in 80 need not hold it; the sizes of the files do."""
    write_classes(tmp_path / "images", each=40)
    net = Net()

    def keys() -> list[str]:
        source = open_source(str(tmp_path / "images"))
        parts = source, Subset(source, np.arange(0, 80, 7))
        return [feature_key(net.backbone, part, image_size=8, resize=None).hash for part in parts]

    before = keys()
    assert keys() == before
    for number in range(1, 4):
        path = tmp_path / "images" / "class-0" / f"{number:03}.png"
        kept = path.read_bytes()
        path.write_bytes(kept + b"\0")
        assert not set(keys()) & set(before)
        path.write_bytes(kept)
    assert keys() == before


def test_float16_is_half_the_file_and_serves_every_protocol(tmp_path: Path) -> None:
    net, source, other = Net(), images(), images(seed=1, name="other")
    store = FeatureStore(tmp_path)
    halves = [store.save(key_of(net, each, "float16"), each, batches_of(net, each)) for each in (source, other)]
    wholes = [extract(net.backbone, each, image_size=8) for each in (source, other)]
    for half, whole in zip(halves, wholes, strict=True):
        assert half.features.dtype == torch.float16
        torch.testing.assert_close(half.features.float(), whole.features, rtol=1e-3, atol=1e-3)
    for protocol in (knn, linear_lbfgs):
        assert protocol(*halves)["top1"] == pytest.approx(protocol(*wholes)["top1"], abs=1 / 60)


def test_what_float16_cannot_hold_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    source = images()
    batches = [(torch.full((60, 4), 1e5), torch.arange(60))]
    with pytest.raises(EvaluationError, match="float32"):
        FeatureStore(tmp_path).save(key_of(Net(), source, "float16"), source, batches)
    assert not list(tmp_path.iterdir())


def test_the_key_follows_everything_that_features_follow_from() -> None:
    net, source = Net(), images()
    key = key_of(net, source)
    assert key_of(Net(), images()).hash == key.hash
    changed, statistics = Net(), Net()
    bias = changed.backbone.get_parameter("0.bias")
    with torch.no_grad():
        bias[0] = torch.nextafter(bias[0], torch.tensor(9.0))
    statistics.backbone.get_buffer("1.running_mean")[2] = 0.25
    architecture = Net()
    architecture.backbone[2] = torch.nn.LeakyReLU()
    others = {
        "weight": key_of(changed, source),
        "buffer": key_of(statistics, source),
        "architecture": key_of(architecture, source),
        # Fingerprints may be of names alone: the same names with other pixels, or with one more image.
        "pixels": key_of(net, images(seed=5)),
        "size": key_of(net, images(size=9)),
        "name": key_of(net, images(name="elsewhere")),
        "image_size": feature_key(net.backbone, source, image_size=6, resize=None),
        "resize": feature_key(net.backbone, source, image_size=8, resize=9),
        "layer": feature_key(net.backbone, source, image_size=8, resize=None, layer="res4"),
        "precision": feature_key(net.backbone, source, image_size=8, resize=None, precision="bf16"),
        "dtype": key_of(net, source, "float16"),
        "version": replace(key, version="0"),
    }
    hashes = {name: other.hash for name, other in others.items()} | {"itself": key.hash}
    assert len(set(hashes.values())) == len(hashes), hashes


def test_the_hash_of_a_network_does_not_follow_from_where_or_how_it_lies() -> None:
    net = Net()
    before = network_hash(net)
    assert network_hash(net.to(memory_format=torch.channels_last)) == before
    net.double()
    assert network_hash(net) != before


def test_features_of_other_weights_are_never_used(tmp_path: Path) -> None:
    source, store = images(), FeatureStore(tmp_path)
    own, other = key_of(Net(seed=0), source), key_of(Net(seed=1), source)
    store.save(own, source, batches_of(Net(seed=0), source))
    assert store.load(other, source) is None
    for ending in ("npy", "json"):
        (tmp_path / f"{own.hash}.{ending}").rename(tmp_path / f"{other.hash}.{ending}")
    with pytest.raises(EvaluationError, match=r"other weights.*--no-cache"):
        store.load(other, source)


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[:-100])
    elif how == "bit":
        path.write_bytes(content[:-50] + bytes([content[-50] ^ 1]) + content[-49:])
    elif how == "gone":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.write_bytes(content.replace(b'"shape"', b'"shade"') if path.suffix == ".json" else b"no array" * 40)


@pytest.mark.parametrize(
    ("ending", "how"),
    [("npy", how) for how in ("cut", "bit", "gone", "empty", "other")] + [("json", how) for how in ("empty", "other")],
)
def test_damaged_features_are_said_and_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str, how: str
) -> None:
    net, source, store = Net(), images(), FeatureStore(tmp_path)
    key = key_of(net, source)
    before = store.save(key, source, batches_of(net, source)).features.clone()
    spoil(tmp_path / f"{key.hash}.{ending}", how)
    assert store.load(key, source) is None
    assert f"{key.hash}.npy is damaged" in capsys.readouterr().err
    assert torch.equal(store.save(key, source, batches_of(net, source)).features, before)


def test_labels_are_read_from_the_images_and_not_from_the_file(tmp_path: Path) -> None:
    net, source, store = Net(), images(), FeatureStore(tmp_path)
    key = key_of(net, source)
    store.save(key, source, batches_of(net, source))
    assert source.labels is not None
    source.labels = (source.labels + 1) % 3
    found = store.load(key, source)
    assert found is not None
    assert found.labels is not None
    assert found.labels.tolist() == [1, 2, 0] * 20


def broken_off(net: Net, source: Images) -> Iterator[tuple[Tensor, Tensor]]:
    yield next(batches_of(net, source))
    raise KeyboardInterrupt


def test_an_extraction_that_is_broken_off_leaves_nothing(tmp_path: Path) -> None:
    net, source = Net(), images()
    with pytest.raises(KeyboardInterrupt):
        FeatureStore(tmp_path).save(key_of(net, source), source, broken_off(net, source))
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed_a_day_later(tmp_path: Path) -> None:
    net, source = Net(), images()
    for name, age in (("old", 90_000), ("new", 60)):
        (tmp_path / f"{name}.1.partial").touch()
        os.utime(tmp_path / f"{name}.1.partial", (time.time() - age,) * 2)
    FeatureStore(tmp_path).save(key_of(net, source), source, batches_of(net, source))
    assert [path.name for path in tmp_path.glob("*.partial")] == ["new.1.partial"]


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    net, source = Net(), images()
    with pytest.raises(UserError, match="cannot write features"):
        FeatureStore(tmp_path / "file" / "features").save(key_of(net, source), source, batches_of(net, source))


def test_no_images_is_an_error(tmp_path: Path) -> None:
    source = Images([], CLASSES)
    with pytest.raises(EvaluationError, match="no images"):
        FeatureStore(tmp_path).save(key_of(Net(), source), source, batches_of(Net(), source))


def save_together(folder: str) -> Tensor:
    net, source = Net(), images(unreadable=(2, 40))
    batches = shared_feature_batches(net.backbone, source, image_size=8, batch_size=7)
    return FeatureStore(folder).save(key_of(net, source), source, batches).features.clone()


def test_two_processes_fill_one_file(two_processes: ProcessPair, tmp_path: Path) -> None:
    first, second = two_processes(save_together, str(tmp_path))
    alone = extract(Net().backbone, images(unreadable=(2, 40)), image_size=8).features
    torch.testing.assert_close(first, alone, rtol=1e-5, atol=1e-6)
    assert torch.equal(first, second)
    assert len(list(tmp_path.glob("*.npy"))) == 1
