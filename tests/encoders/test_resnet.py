from __future__ import annotations

import pytest
import torch
import torchvision

from co2ssl.encoders.resnet import ARCHITECTURES, ResNet, resnet


def _count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# torchvision has no resnet10.
@pytest.mark.parametrize("arch", [arch for arch in ARCHITECTURES if arch != "resnet10"])
def test_equals_torchvision_to_the_bit(arch: str) -> None:
    ours = resnet(arch)
    theirs = torchvision.models.get_model(arch)
    missing = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert (set(missing.missing_keys), missing.unexpected_keys) == ({"fc.weight", "fc.bias"}, [])
    theirs.fc = torch.nn.Identity()
    images = torch.randn(3, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))  # training mode: batch statistics
        assert torch.equal(ours.eval()(images), theirs.eval()(images))
    assert ours.num_features == ours(images).shape[1]
    for name, buffer in theirs.named_buffers():
        assert torch.equal(ours.get_buffer(name), buffer), name


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_weights_are_drawn_as_torchvision_draws_them(arch: str) -> None:
    torch.manual_seed(0)
    ours = resnet(arch)
    theirs = torchvision.models.get_model(arch).state_dict()
    for name, weight in ours.state_dict().items():
        if weight.dim() == 4:
            # The same law, not the same draw: standard deviation to 5 standard errors.
            close = 5 * float(theirs[name].std()) / (2 * weight.numel()) ** 0.5
            assert float(weight.std()) == pytest.approx(float(theirs[name].std()), abs=2 * close), name
        else:
            assert torch.equal(weight, theirs[name]), name  # every batch norm at 1 and 0, the residual ones too


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
@pytest.mark.parametrize("width", [0.25, 0.5, 2.0])
def test_width_scales_every_layer(arch: str, width: float) -> None:
    with torch.device("meta"):
        plain, scaled = resnet(arch).state_dict(), resnet(arch, width=width).state_dict()
    assert list(scaled) == list(plain)
    for name, weight in scaled.items():
        expected = [int(side * width) for side in plain[name].shape[:2]] + list(plain[name].shape[2:])
        if name == "conv1.weight":
            expected[1] = 3
        assert list(weight.shape) == (expected if weight.dim() else []), name


def test_wide_resnet50_has_the_published_number_of_parameters() -> None:
    # Table 1's R50w2x and R50w3x: 93.8 and 211.0 million (methods.md section 2), without the classifier.
    with torch.device("meta"):
        counts = {width: _count(resnet("resnet50", width=width)) for width in (2.0, 3.0)}
    assert counts[2.0] == pytest.approx(93.8e6, rel=2e-3)
    assert counts[3.0] == pytest.approx(211.0e6, rel=2e-3)


@pytest.mark.parametrize(("stem", "stride"), [("imagenet", 32), ("medium", 16), ("small", 8)])
def test_stem_sets_the_total_stride(stem: str, stride: int) -> None:
    model = resnet("resnet18", width=0.125, stem=stem)
    shapes: list[tuple[int, ...]] = []
    model.layer4.register_forward_hook(lambda _module, _input, output: shapes.append(tuple(output.shape)))
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, model.num_features)
    assert shapes == [(2, 64, 64 // stride, 64 // stride)]


def test_channels_last_gives_the_same_features() -> None:
    model = resnet("resnet18", width=0.25, stem="small").double()
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    expected = model(images)
    features = model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(features, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        ("resnet19", {}, "resnet18, resnet34, resnet50"),
        ("resnet18", {"stem": "tiny"}, "imagenet, medium, small"),
        ("resnet18", {"width": 0.01}, "leaves no channel"),
    ],
)
def test_wrong_settings_are_named(arch: str, options: dict[str, float | str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resnet(arch, **options)  # type: ignore[arg-type]


def test_gradient_reaches_the_first_layer() -> None:
    model: ResNet = resnet("resnet50", width=0.0625, stem="medium")
    loss = model(torch.randn(4, 3, 32, 32)).square().sum()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert all(bool(gradient.abs().sum() > 0) for gradient in gradients)
