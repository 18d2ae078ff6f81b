"""One measurement, from a representation and options to the JSON that is kept, and whether that is there already."""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from co2ssl.api.backbones import Representation
from co2ssl.api.images import open_images
from co2ssl.api.protocols import MEASURES, by_main, labelled_pair, result_path
from co2ssl.data.sources import Source
from co2ssl.data.voc import voc_split
from co2ssl.distributed import is_main, world_size
from co2ssl.evaluate.base_options import EvaluationOptions, PairOptions
from co2ssl.evaluate.feature_key import network_hash, source_hash
from co2ssl.evaluate.label_draws import BATCH_SIZE, fitting
from co2ssl.evaluate.label_share import share_of
from co2ssl.evaluate.options import LabelledOptions, LinearOptions, SvmOptions
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
    key = result_key(protocol, representation, opened)
    path = None if representation.home is None else result_path(representation, protocol, options)
    if path is not None and isinstance(opened, LabelledOptions):
        # Trainings leave lists and weights as they go. Images that will not do are refused before anything is moved.
        labelled_pair(opened, representation.home)
        set_aside(path, key)
    result = {
        "representation": representation.name,
        "weights": network_hash(representation.backbone),
        "version": __version__,
        "settings": settings_of(options),
        "key": key,
        **MEASURES[protocol](representation, opened),
    }
    if device is not None:
        representation.backbone.to(device)
    if path is not None:
        set_aside(path, key)
        write_result(path, result)
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
        found = (_read(place) for place in (path, _aside(path, key)))
        return next((one for one in found if one.get("key") == key), {})

    return by_main(read) or None


def set_aside(path: Path, key: str) -> None:
    """Give the result at ``path`` a name with its key in it, where that is another; the main process does.

    So ``knn.json`` is the last measurement, and one of other images or weights is not lost when it is made. Weights and
    lists that a training left beside its result go with it.
    """
    old = _read(path) if is_main() else {}
    own = old.get("key")
    if not isinstance(own, str) or own == key:
        return
    for beside in sorted(path.parent.glob(f"{glob.escape(path.stem)}.*")):
        ending = beside.name.removeprefix(path.stem)
        if ending.startswith((".json", ".safetensors", ".seed-")):
            beside.replace(beside.with_name(f"{path.stem}.{own}{ending}"))
    if isinstance(trained := old.get("trained"), str):
        moved = Path(trained).with_name(f"{path.stem}.{own}.safetensors")
        write_result(_aside(path, own), {**old, "trained": str(moved)})


def key_of_all(measurements: Mapping[str, Mapping[str, object]]) -> str:
    """The key of a table of several measurements."""
    return _hash(json.dumps([[name, one["key"]] for name, one in measurements.items()]).encode())


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
    return _hash(json.dumps([*parts, _small_batch(options), _data_hashes(options)], sort_keys=True).encode())


def _small_batch(options: EvaluationOptions) -> int | None:
    """Images in a batch of all that there are, which has to divide among the processes; None: that is not so."""
    if not isinstance(options, LabelledOptions | LinearOptions) or options.batch_size is not None:
        return None
    share = None
    if isinstance(options, LabelledOptions):
        share = options.share
        if share is None and options.label_list is not None:
            # How many images a list names is not known here.
            return -world_size()
    elif options.fast:
        return None
    images = len(options.train) if share is None else int(share_of(share) * len(options.train))
    return None if images >= BATCH_SIZE else fitting(images)


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


def _aside(path: Path, key: str) -> Path:
    return path.with_name(f"{path.stem}.{key}.json")


def _read(path: Path) -> dict[str, object]:
    """A result; empty where there is none, or it was cut short by hand."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


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
