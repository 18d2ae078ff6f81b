"""One measurement, from a representation and options to the JSON that is kept, and whether that is there already."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from co2ssl.api.backbones import Representation
from co2ssl.api.images import open_images
from co2ssl.api.protocols import MEASURES, by_main, result_path
from co2ssl.data.sources import Source
from co2ssl.data.voc import voc_split
from co2ssl.distributed import is_main
from co2ssl.evaluate.base_options import EvaluationOptions, PairOptions
from co2ssl.evaluate.feature_key import network_hash, source_hash
from co2ssl.evaluate.options import LabelledOptions, SvmOptions
from co2ssl.train.checkpoint import write_atomically
from co2ssl.version import __version__

NO_EFFECT = ("device", "workers", "quiet", "cache", "out", "jobs")
"""Options that change how a number is come by, and not the number."""
RESOLVED = ("arch", "weights", "image_size", "precision")
"""Options that say what a representation is; a key has that itself."""


def measure(protocol: str, representation: Representation, options: EvaluationOptions) -> dict[str, object]:
    """Put a representation through a protocol and, where there is a place, keep the result.

    Over several processes all of them call it. A module that a program handed over goes back to its device afterwards.

    Args:
        protocol: a key of :data:`co2ssl.api.protocols.MEASURES`.
        representation: what is measured.
        options: of the protocol, checked.

    Raises:
        UserError: as the protocol has it.
    """
    device = next((tensor.device for tensor in representation.backbone.parameters()), None)
    opened = with_sources(options, representation.home)
    result = {
        "representation": representation.name,
        "weights": network_hash(representation.backbone),
        "version": __version__,
        "settings": settings_of(options),
        "key": result_key(protocol, representation, opened),
        **MEASURES[protocol](representation, opened),
    }
    if device is not None:
        representation.backbone.to(device)
    if representation.home is not None:
        write_result(result_path(representation, protocol, options), result)
    return result


def kept_result(protocol: str, representation: Representation, options: EvaluationOptions) -> dict[str, object] | None:
    """The result of exactly this measurement, where it was finished before; None: it has to be measured.

    It is exactly this one where weights, architecture, images, every setting that has an effect and the version of the
    package are the same (:func:`result_key`). Over several processes all of them call it.
    """
    if representation.home is None:
        return None
    key = result_key(protocol, representation, with_sources(options, representation.home))
    path = result_path(representation, protocol, options)

    def read() -> dict[str, object]:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            # Not there, or cut short by hand: whatever cannot be read is measured anew.
            return {}
        return found if isinstance(found, dict) and found.get("key") == key else {}

    return by_main(read) or None


def result_key(protocol: str, representation: Representation, options: EvaluationOptions) -> str:
    """Sixteen hex digits of everything that a result follows from.

    Args:
        protocol: its name.
        representation: what is measured.
        options: of the protocol, with sources for images (:func:`with_sources`).
    """
    passed_over = {*NO_EFFECT, *RESOLVED, *options.positional}
    settings = {name: plain(getattr(options, name)) for name in type(options).model_fields if name not in passed_over}
    how = [representation.image_size, representation.resize, representation.precision]
    parts = [protocol, __version__, network_hash(representation.backbone), repr(representation.backbone), how, settings]
    return _hash(json.dumps([*parts, _data_hashes(options)], sort_keys=True).encode())


def with_sources(options: EvaluationOptions, listing_folder: Path | None = None) -> EvaluationOptions:
    """The same options with images opened where they were named, so that they are looked for once."""
    if not isinstance(options, PairOptions):
        return options
    opened = {
        name: open_images(getattr(options, name), name, listing_folder=listing_folder) for name in ("train", "val")
    }
    return options.model_copy(update=opened)


def settings_of(options: EvaluationOptions) -> dict[str, object]:
    """The options as JSON has them: images that a program handed over by the words for them."""
    return {name: plain(getattr(options, name)) for name in type(options).model_fields}


def plain(value: object) -> object:
    """A value of an option as JSON has it; a path whole, images by their name."""
    if isinstance(value, tuple):
        return [plain(part) for part in value]
    if isinstance(value, Path):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else _name(value)


def write_result(path: Path, result: dict[str, object]) -> None:
    """Write a result, whole or not at all; the main process does."""
    if is_main():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: file.write(json.dumps(result, indent=2).encode() + b"\n"))


def _data_hashes(options: EvaluationOptions) -> list[str]:
    """Of everything that is read beside the weights."""
    found = []
    if isinstance(options, PairOptions):
        sources: tuple[Source, Source] = (options.train, options.val)
        found += [source_hash(source) for source in sources]
    if isinstance(options, LabelledOptions) and options.label_list is not None and Path(options.label_list).is_file():
        found.append(_hash(Path(options.label_list).read_bytes()))
    if isinstance(options, SvmOptions):
        folder = str(options.voc).removeprefix("voc:")
        for name in (options.train_split, options.test_split):
            split = voc_split(folder, name, year=options.year)
            found += [source_hash(split.images), _hash(split.targets.tobytes())]
    return found


def _name(value: Any) -> str:
    return str(getattr(value, "name", None) or type(value).__name__)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
