"""The run folder: what lies where, and how a backbone is read back from it."""

from __future__ import annotations

import errno
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from co2ssl.api.build import build_backbone
from co2ssl.api.weights import lacking, surplus
from co2ssl.config import RunConfig, read_run_config
from co2ssl.encoders.resnet import ResNet
from co2ssl.errors import UsageError, UserError
from co2ssl.train.lock import LOCK

CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
BACKBONE = "backbone.safetensors"
REPORT = "report.html"
BAD_IMAGES = "bad_images.csv"


@dataclass(frozen=True, kw_only=True, repr=False)
class Run:
    """A run folder that holds a configuration.

    Attributes:
        folder: with ``config.yaml``, ``metrics.jsonl``, ``checkpoints/`` and, once training is over,
            ``backbone.safetensors`` and ``report.html``.
        config: what was run: the resolved recipe, the options and the data.
    """

    folder: Path
    config: RunConfig

    def __repr__(self) -> str:
        """Recipe, folder, epochs finished, and both parts of the loss in the last of them."""
        last = last_epoch(self.folder)
        losses = [
            f", {title} {last[name]:.3f}"
            for title, name in (("L_ins", "instance"), ("L_con", "consistency"))
            if isinstance(last.get(name), float)
        ]
        epochs = f"{last.get('epoch', 0):g} of {self.config.resolved.recipe.epochs} epochs"
        return f"Run({self.config.resolved.name} in {self.folder}, {epochs}{''.join(losses)})"


def last_epoch(folder: Path) -> dict[str, Any]:
    """The last ``epoch`` event that a run wrote (:mod:`co2ssl.train.log`); empty where there is none to be read."""
    try:
        lines = (folder / METRICS).read_bytes().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            event = json.loads(line)
        except ValueError:
            # Cut short by whatever ended the run.
            continue
        if isinstance(event, dict) and event.get("event") == "epoch":
            return event
    return {}


def read_run(folder: str | Path) -> Run:
    """The run in ``folder``.

    Raises:
        UsageError: no such folder, or one without ``config.yaml``.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"there is no run folder {folder}.")
    if not (folder / CONFIG).is_file():
        raise UsageError(f"{folder} holds no run: {CONFIG} is missing. Give the folder that --out named.")
    return Run(folder=folder, config=read_run_config(folder / CONFIG))


def made_folder(folder: str | Path) -> Path:
    """The folder, made where it is missing.

    Raises:
        UserError: it cannot be made.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {_reason(error)}. Give another --out.") from None
    return folder


def new_folder(folder: str | Path, *, locked: bool = False) -> Path:
    """A folder for a new run, made where it is missing: empty, or left by a run that came to nothing.

    Args:
        folder: which.
        locked: whether it is known that nobody trains in it: without that no other run's folder is taken over.

    Raises:
        UsageError: it holds another run, or other files.
        UserError: it cannot be made or written to.
    """
    folder = made_folder(folder)
    try:
        content = sorted(entry.name for entry in folder.iterdir() if entry.name != LOCK)
        if (folder / CONFIG).is_file():
            if _has_begun(folder) or not locked:
                raise UsageError(
                    f"{folder} holds another run. Continue it with `co2ssl pretrain --resume {_quoted(folder)}`, "
                    f"or give another --out, such as {_free_name(folder)}."
                )
            # What stopped it may have been a setting, or images that have been mended since.
            (folder / BAD_IMAGES).unlink(missing_ok=True)
            return folder
        if content:
            raise UsageError(
                f"{folder} is not empty ({', '.join(content[:3])}{' ...' if len(content) > 3 else ''}). "
                f"Give another --out, such as {_free_name(folder)}."
            )
        probe = folder / ".write-test"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {_reason(error)}. Give another --out.") from None
    return folder


def _has_begun(folder: Path) -> bool:
    """Whether a run left something to go on from, or to keep."""
    checkpoints = folder / CHECKPOINTS
    kept = any((folder / name).exists() for name in (BACKBONE, REPORT, "evaluation", "features"))
    return kept or bool(last_epoch(folder)) or (checkpoints.is_dir() and any(checkpoints.iterdir()))


def load_encoder(run: str | Path | Run) -> ResNet:
    """The trained backbone of a run, in evaluation mode, with torchvision's key names.

    ``torchvision.models.resnet18().load_state_dict(backbone.state_dict(), strict=False)`` takes its weights where
    width is 1 and the stem "imagenet"; only ``fc`` is then missing.

    Args:
        run: a run folder, or what :func:`co2ssl.pretrain` returned.

    Returns:
        A module that maps normalised images (N, 3, H, W) to features (N, ``num_features``).

    Raises:
        UsageError: no run there, or one that has not finished an epoch.
        UserError: a file that does not hold exactly the weights of the run's architecture.
    """
    found = run if isinstance(run, Run) else read_run(run)
    path = found.folder / BACKBONE
    if not path.is_file():
        raise UsageError(
            f"{found.folder} has no {BACKBONE} yet: it is written when training ends. "
            f"Finish it with `co2ssl pretrain --resume {_quoted(found.folder)}`."
        )
    recipe = found.config.resolved.recipe
    backbone = build_backbone(recipe)
    load_weights(backbone, path, name=f"{recipe.arch} of width {recipe.width:g} with the {recipe.stem} stem")
    return backbone.eval()


def load_weights(backbone: ResNet, path: Path, *, name: str) -> None:
    """Fill ``backbone`` from a safetensors file, every weight of it.

    Raises:
        UserError: a file that is not safetensors, or holds other weights; every one that is missing or has another
            shape is listed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"cannot read {path}: {error}. It must be a safetensors file; nothing else is opened."
        ) from None
    expected = backbone.state_dict()
    wrong = [*lacking(expected, weights), *surplus(sorted(weights.keys() - expected.keys()))]
    if wrong:
        raise UserError(f"{path} does not hold the weights of a {name}: {'; '.join(wrong)}.")
    backbone.load_state_dict(weights)


def _free_name(folder: Path) -> Path:
    number = 2
    while (candidate := folder.with_name(f"{folder.name}-{number}")).exists():
        number += 1
    return candidate


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "the disk is full"
    return error.strerror or str(error)


def _quoted(folder: Path) -> str:
    return shlex.quote(str(folder))
