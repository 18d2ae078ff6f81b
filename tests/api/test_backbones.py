from __future__ import annotations

import os
import pickle
from pathlib import Path
from urllib.error import URLError

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights

from co2ssl.api.backbones import representation
from co2ssl.api.runs import load_weights
from co2ssl.api.weights import fill, fresh_backbone, read_weights, torchvision_names
from co2ssl.encoders.resnet import resnet
from co2ssl.errors import UsageError, UserError
from tests.evaluate.fakes import Images


def state_of(arch: str = "resnet18") -> dict[str, Tensor]:
    torch.manual_seed(3)
    network = torchvision.models.get_model(arch)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.1, 0.1)
    return dict(network.state_dict())


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return state_of()


@pytest.mark.parametrize("form", ["torch", "legacy", "safetensors"])
def test_a_file_with_torchvisions_keys(form: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / ("weights.safetensors" if form == "safetensors" else "weights.pth")
    if form == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form == "torch")
    found = representation(f"weights:{path}", arch="resnet18")
    assert found.found.startswith("100 of 100 weights of a resnet18 from")
    assert found.found.endswith("not used: fc.bias, fc.weight")
    assert (found.image_size, found.resize, found.precision, found.home) == (224, 256, "float32", None)
    theirs = torchvision.models.resnet18()
    theirs.load_state_dict(state)
    theirs.fc = nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(found.backbone.eval()(images), theirs.eval()(images))


def test_counters_of_batch_norm_are_no_weights(state: dict[str, Tensor], tmp_path: Path) -> None:
    kept = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(kept, tmp_path / "old.pth")
    assert "100 of 100" in representation(f"weights:{tmp_path}/old.pth", arch="resnet18").found


def test_anything_less_than_every_weight_is_an_error_that_lists_them(state: dict[str, Tensor], tmp_path: Path) -> None:
    lost = ["layer2.0.downsample.0.weight", "bn1.running_var"]
    kept = {name: value for name, value in state.items() if name not in lost}
    torch.save(kept, tmp_path / "less.pth")
    with pytest.raises(UserError) as raised:
        representation(f"weights:{tmp_path}/less.pth", arch="resnet18")
    assert "2 of 100 missing" in str(raised.value)
    assert all(name in str(raised.value) for name in lost)


def test_files_and_runs_name_every_weight_that_is_missing_or_does_not_fit(tmp_path: Path) -> None:
    backbone = resnet("resnet18", width=1 / 16, stem="small")
    state = backbone.state_dict()
    lost = [name for name in state if name.startswith(("layer3.", "layer4."))]
    bent = [name for name in state if name.startswith(("layer1.", "layer2.")) and name.endswith(".weight")]
    assert len(bent) == 18
    given = {name: torch.zeros(7) if name in bent else state[name] for name in state if name not in lost}
    given["fc.weight"] = torch.zeros(7)
    safetensors.torch.save_file(given, tmp_path / "backbone.safetensors")
    with pytest.raises(UserError) as of_file:
        fill(backbone, given, name="resnet18", where="a file")
    with pytest.raises(UserError) as of_run:
        load_weights(backbone, tmp_path / "backbone.safetensors", name="resnet18")
    # A run's own file lacks nothing at all; that others lack counters is no fault of theirs.
    without_counters = [name for name in lost if not name.endswith("num_batches_tracked")]
    assert f"50 of 100 missing: {', '.join(without_counters)}; " in str(of_file.value)
    assert f"60 of 120 missing: {', '.join(lost)}; " in str(of_run.value)
    shapes = ", ".join(f"{name} is (7,), not {tuple(state[name].shape)}" for name in bent)
    for raised in (of_file, of_run):
        assert str(raised.value).endswith(f"; 18 of another shape: {shapes}; 1 that it does not have: fc.weight.")


def test_a_deeper_network_is_not_cut_short(tmp_path: Path) -> None:
    torch.save(state_of("resnet34"), tmp_path / "r34.pth")
    with pytest.raises(UserError) as raised:
        representation(f"weights:{tmp_path}/r34.pth", arch="resnet18")
    assert "r34.pth does not hold the weights of a resnet18 but of another architecture" in str(raised.value)
    assert "80 more in the same layers (layer1.2.bn1.bias, " in str(raised.value)
    assert "Give --arch" in str(raised.value)
    assert "fc." not in str(raised.value)
    assert "180 of 180" in representation(f"weights:{tmp_path}/r34.pth", arch="resnet34").found


def test_what_lies_in_the_layers_is_of_another_network_and_what_lies_beside_them_is_not_used() -> None:
    shallow, deep = (resnet(arch, width=1 / 16, stem="small") for arch in ("resnet10", "resnet18"))
    with pytest.raises(UserError, match=r"a resnet10 but of another.*40 more.*layer1\.1\.bn1\.bias"):
        fill(shallow, deep.state_dict(), name="resnet10", where="a file")
    heads = {"fc.0.weight": torch.zeros(1), "head.layer1.1.weight": torch.zeros(1)}
    found = fill(shallow, {**shallow.state_dict(), **heads}, name="resnet10", where="a file")
    assert found == "60 of 60 weights of a resnet10 from a file; not used: fc.0.weight, head.layer1.1.weight"
    # Whatever the layers of the network are called.
    stem = nn.ModuleDict({"stem": nn.Sequential(nn.Linear(1, 1))})
    with pytest.raises(UserError, match=r"1 more in the same layers \(stem\.1\.weight\)"):
        fill(stem, {**stem.state_dict(), "stem.1.weight": torch.zeros(1)}, name="stem", where="a file")


def test_weights_of_another_architecture(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "r18.pth")
    with pytest.raises(UserError, match=r"does not hold the weights of a resnet50.*missing.*of another shape"):
        representation(f"weights:{tmp_path}/r18.pth", arch="resnet50")
    torch.save({**state, "layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "shape.pth")
    with pytest.raises(UserError, match=r"1 of another shape: layer1\.0\.conv1\.weight is \(1,\), not \("):
        representation(f"weights:{tmp_path}/shape.pth", arch="resnet18")


def test_the_keys_of_another_library_are_shown(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save({f"module.encoder_q.{name}": value for name, value in state.items()}, tmp_path / "moco.pth")
    with pytest.raises(UserError, match=r"100 of 100 missing.*does not have: module\.encoder_q\.bn1\.bias"):
        representation(f"weights:{tmp_path}/moco.pth", arch="resnet18")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "nested.pth")
    with pytest.raises(UserError, match=r"holds 'state_dict', 'epoch'.*state dict alone"):
        representation(f"weights:{tmp_path}/nested.pth", arch="resnet18")


class Payload:
    """Runs a command when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("form", ["torch", "legacy", "pickle"])
def test_a_pickle_with_a_payload_is_refused_and_not_run(form: str, tmp_path: Path) -> None:
    path, content = tmp_path / "weights.pth", {"conv1.weight": Payload(tmp_path / "ran")}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "torch")
    with pytest.raises(UserError, match="refused"):
        read_weights(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors", "text.pth", "empty.pth", "none.pth", "folder"])
def test_a_file_that_is_no_file_of_weights(name: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "cut.pth":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:5000])
    elif name == "cut.safetensors":
        path.write_bytes(safetensors.torch.save(state)[:5000])
    elif name == "folder":
        path.mkdir()
    elif name != "none.pth":
        path.write_bytes(b"hello" if name == "text.pth" else b"")
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        read_weights(path)


def test_what_a_name_needs() -> None:
    with pytest.raises(UsageError, match="needs --arch"):
        representation("weights:somewhere.pth")
    with pytest.raises(UsageError, match="leave it out"):
        representation("torchvision:resnet18", arch="resnet18")
    with pytest.raises(UsageError, match="Did you mean resnet50"):
        representation("torchvision:resnet5O")
    with pytest.raises(UsageError, match="IMAGENET1K_V1, IMAGENET1K_V2"):
        representation("torchvision:resnet50", weights="V3")
    with pytest.raises(UsageError, match="no run folder"):
        representation("nowhere/at/all")


def test_torchvisions_weights_by_name(state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, object]] = []

    def fetched(self: ResNet18_Weights, *args: object, **how: object) -> dict[str, Tensor]:
        asked.append((self.name, how["check_hash"]))
        return state

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", fetched)
    found = representation("torchvision:resnet18")
    assert asked == [("IMAGENET1K_V1", True)]
    assert "100 of 100 weights of a resnet18 from torchvision's IMAGENET1K_V1" in found.found
    torch.testing.assert_close(found.backbone.state_dict()["conv1.weight"], state["conv1.weight"])


def test_torchvisions_weights_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(self: ResNet18_Weights, *args: object, **how: object) -> dict[str, Tensor]:
        raise URLError("no route")

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", unreachable)
    with pytest.raises(UserError, match=r"cannot be fetched from https.*weights:PATH --arch resnet18"):
        representation("torchvision:resnet18")


def test_an_untrained_network_of_torchvision_is_the_same_every_time() -> None:
    first, second = (representation("untrained:torchvision:resnet18") for _ in range(2))
    for name, value in first.backbone.state_dict().items():
        assert torch.equal(value, second.backbone.state_dict()[name])
    assert not first.found


def test_any_module_is_a_backbone() -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    found = representation(network, image_size=8)
    assert (found.name, found.image_size, found.resize) == ("Sequential", 8, 8)
    features = found.features(Images([0, 1], ("a", "b")), device=torch.device("cpu"), workers=0)
    assert features.features.shape == (2, 12)


def test_sizes_precision_and_place_can_be_given(tmp_path: Path) -> None:
    found = representation(nn.Flatten(), image_size=160, precision="bf16", out=tmp_path)
    assert (found.image_size, found.resize, found.precision, found.home) == (160, 183, "bf16", tmp_path)


def test_resnets_by_name() -> None:
    assert {"resnet18", "resnet50", "resnet152", "wide_resnet50_2", "resnext50_32x4d"} <= set(torchvision_names())
    with torch.no_grad():
        assert fresh_backbone("resnext50_32x4d").eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 2048)
        assert fresh_backbone("resnet10").eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 512)
    with pytest.raises(UsageError, match="no architecture 'vit_b_16'"):
        fresh_backbone("vit_b_16")
