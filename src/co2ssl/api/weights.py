"""Weights of ResNets by torchvision's names: read without running code, and matched one by one."""

from __future__ import annotations

import difflib
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from co2ssl.encoders.resnet import ARCHITECTURES, resnet
from co2ssl.errors import UsageError, UserError

# Counters of batch norm, which files from before torch 0.4.1 lack; evaluation does not read them.
_NO_WEIGHT = "num_batches_tracked"

# A zip archive, and what torch.save wrote before 1.6, a series of pickles of protocol 2.
_TORCH_STARTS = (b"PK", b"\x80\x02")


def torchvision_names() -> tuple[str, ...]:
    """torchvision's ResNets, the wide and the grouped ones too."""
    from torchvision.models import get_model_builder, list_models
    from torchvision.models import resnet as family

    return tuple(name for name in list_models() if get_model_builder(name).__module__ == family.__name__)


def fresh_backbone(arch: str, *, known: tuple[str, ...] | None = None) -> nn.Module:
    """A ResNet without its classifier, with freshly drawn weights under torchvision's names.

    Args:
        arch: one of torchvision's names, or of this package's.
        known: what may be asked for; None: both.

    Raises:
        UsageError: another name.
    """
    names = known or tuple(dict.fromkeys((*ARCHITECTURES, *torchvision_names())))
    if arch not in names:
        near = difflib.get_close_matches(arch, names, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UsageError(f"there is no architecture {arch!r}.{hint} Known: {', '.join(names)}.")
    if arch in ARCHITECTURES:
        return resnet(arch)
    from torchvision.models import get_model

    network: nn.Module = get_model(arch, weights=None)
    network.fc = nn.Identity()
    return network


def read_weights(path: Path) -> dict[str, Tensor]:
    """The table of tensors in a safetensors or ``torch.save`` file, on the CPU. No code in it is run.

    Raises:
        UserError: it cannot be read, is damaged, holds more than data (refused), or is no flat table of tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    refusal = (
        f"{path} is no file of tensors alone: it is damaged, or a pickle that would run code. "
        "It was refused, and nothing of it was run."
    )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with path.open("rb") as file:
            if not file.read(2).startswith(_TORCH_STARTS):
                raise UserError(refusal)
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, LookupError, ValueError) as error:
        raise UserError(refusal) from error
    except (SafetensorError, RuntimeError) as error:
        raise UserError(f"{path} is damaged, or no file of weights: {str(error).splitlines()[0]}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}.") from error
    if not isinstance(contents, dict) or not all(isinstance(value, Tensor) for value in contents.values()):
        held = ", ".join(map(repr, list(contents)[:5])) if isinstance(contents, dict) else type(contents).__name__
        raise UserError(
            f"{path} is no table of weights by name; it holds {held}. Save the state dict alone, under torchvision's "
            "names: torch.save(model.state_dict(), PATH)."
        )
    return contents


def fill(backbone: nn.Module, weights: Mapping[str, Tensor], *, name: str, where: str) -> str:
    """Load every weight of ``backbone`` from a table by name, and say what was found.

    Args:
        backbone: changed in place.
        weights: what there is; what lies beside the backbone (a classifier, a projection head) is left unused.
        name: of the architecture.
        where: the weights come from.

    Returns:
        What matched and what was not used, in words.

    Raises:
        UserError: a weight is missing or has another shape (every one is listed), or the backbone's layers hold more
            than it has: the weights are those of another architecture.
    """
    expected = backbone.state_dict()
    needed = {key: value for key, value in expected.items() if not key.endswith(_NO_WEIGHT)}
    unused = sorted(key for key in weights if key not in expected)
    if lacks := lacking(needed, weights):
        raise UserError(
            f"{where} does not hold the weights of a {name}, by torchvision's names. "
            f"{'; '.join([*lacks, *surplus(unused)])}."
        )
    # A deeper ResNet has every key of a shallower one of its kind, in the same shapes: only its further blocks tell.
    layers = {key.partition(".")[0] for key in needed}
    further = [key for key in unused if key.partition(".")[0] in layers and not key.endswith(_NO_WEIGHT)]
    if further:
        raise UserError(
            f"{where} does not hold the weights of a {name} but of another architecture, such as a deeper one, with "
            f"{len(further)} more in the same layers ({_some(further)}). Give --arch the name of that one."
        )
    backbone.load_state_dict({**expected, **{key: weights[key] for key in expected if key in weights}})
    rest = f"; not used: {_some(unused)}" if unused else ""
    return f"{len(needed)} of {len(needed)} weights of a {name} from {where}{rest}"


def lacking(needed: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> list[str]:
    """What a table lacks of the weights that a network needs, in words: the missing, and those of another shape.

    Every one is named. Empty where all are there.
    """
    missing = [key for key in needed if key not in weights]
    shapes = [
        f"{key} is {tuple(weights[key].shape)}, not {tuple(value.shape)}"
        for key, value in needed.items()
        if key in weights and weights[key].shape != value.shape
    ]
    kinds = {f"{len(missing)} of {len(needed)} missing": missing, f"{len(shapes)} of another shape": shapes}
    return [f"{kind}: {', '.join(names)}" for kind, names in kinds.items() if names]


def surplus(names: list[str]) -> list[str]:
    """What a table has that a network does not, in words; some are named. Empty where there is nothing."""
    return [f"{len(names)} that it does not have: {_some(names)}"] if names else []


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
