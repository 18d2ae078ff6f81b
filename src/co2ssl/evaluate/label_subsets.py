"""Which images have labels: drawn class by class with a seed, or named by a list such as SimCLR's.

The published lists are google-research/simclr's ``imagenet_subsets/1percent.txt`` and ``10percent.txt`` (seen): bare
names of ImageNet's files, each class equally often, up to one. Which lists CO2 used is not known.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from urllib.error import URLError

import numpy as np
import torch
from numpy.typing import NDArray

from co2ssl.data.sources import DataError, FileSource, Source
from co2ssl.distributed import barrier, is_main
from co2ssl.errors import UsageError
from co2ssl.evaluate.label_share import DRAW, share_of

PUBLISHED_HASHES = {
    "1%": "71e82a48ba78252683ae334c4d019ebd5c6e855b9599c1389fbe83eb9549cf17",
    "10%": "6d09de11e7bdaf5b1f3b1f249b6183695f97310cdd20f0c03e7235b6b9392091",
}
"""sha256 of the text of SimCLR's lists: 12,811 and 128,116 lines."""

_NAMES = {"1%": "1percent.txt", "10%": "10percent.txt"}
_URL = "https://raw.githubusercontent.com/google-research/simclr/master/imagenet_subsets/"
_SHOWN = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelSubset:
    """The images of a source whose labels may be used.

    Attributes:
        places: (M,) int64 places in the source, ascending, each once.
        origin: where it comes from, in words.
        seed: of the draw; None: it was not drawn.
        left_out: names of a published list whose classes the source does not have.
    """

    places: NDArray[np.int64]
    origin: str
    seed: int | None = None
    left_out: int = 0

    def __len__(self) -> int:
        """How many images."""
        return len(self.places)

    def described(self) -> dict[str, object]:
        """What goes into a result: ``subset`` (origin and a hash of the places) and ``left_out``."""
        digest = hashlib.sha256(np.ascontiguousarray(self.places).data).hexdigest()[:16]
        return {"subset": self.origin, "subset_hash": digest, "left_out": self.left_out}


def draw_subset(source: Source, labels: str, *, seed: int) -> LabelSubset:
    """As many images of every class, drawn with a seed: SimCLR's counts, applied to any data.

    In all it is the share of the images, rounded down. Where that does not divide by the classes, some of them, drawn
    too from those that have as many, have one image more. Draws of other seeds and of other shares have nothing to do
    with each other.

    Args:
        source: labelled images of every class.
        labels: the share, such as "1%".
        seed: of the draw.

    Raises:
        UsageError: no share, or so small a one that a class would have no image.
        DataError: a class has fewer images than would be drawn of it.
    """
    share = share_of(labels)
    assert source.labels is not None, "matched_labels() refuses a source without labels"
    assert source.classes is not None, "matched_labels() refuses a source without labels"
    total, num_classes = int(share * len(source)), len(source.classes)
    if total < num_classes:
        least = Fraction(num_classes * 100, len(source))
        raise UsageError(
            f"{labels} of the {len(source):,} images of {source.name} are {total}, fewer than its {num_classes} "
            f"classes: give --labels of at least {_rounded_up(least)}%"
        )
    random = np.random.default_rng([seed, share.numerator, share.denominator])
    each, more = divmod(total, num_classes)
    counts = np.full(num_classes, each)
    sizes = np.bincount(source.labels, minlength=num_classes)
    order = random.permutation(num_classes)
    # Those that have an image to spare come first.
    counts[order[np.argsort(sizes[order] <= each, kind="stable")][:more]] += 1
    if small := [place for place in range(num_classes) if sizes[place] < counts[place]]:
        named = [f"{source.classes[place]!r} has {sizes[place]}" for place in small]
        raise DataError(
            f"{labels} of {source.name}, the same for every class, are {each}{f' or {each + 1}' * bool(more)} images "
            f"of each; {_listed(named)}: give a smaller --labels, or a --label-list"
        )
    by_class = np.split(np.argsort(source.labels, kind="stable"), np.cumsum(sizes)[:-1])
    drawn = [random.permutation(own)[:count] for own, count in zip(by_class, counts, strict=True)]
    return LabelSubset(places=np.sort(np.concatenate(drawn)), origin=f"{labels} drawn with seed {seed}", seed=seed)


def listed_subset(source: Source, path: str | Path, labels: str | None = None) -> LabelSubset:
    """The images that a list names, one a line; of a file, its last parts suffice as long as they are one image's.

    A list is one of SimCLR's by its hash. Of such a one, names of classes that the source does not have are left out
    (ImageNet-100); every other name must be there.

    Args:
        source: labelled images of every class.
        path: a text file, or one compressed by gzip.
        labels: the share that is asked for, which only one of SimCLR's lists can be; None: whatever the list names.

    Raises:
        UsageError: a share that is not the list's, or that nobody can know of the list.
        DataError: it cannot be read, is damaged, names an image twice, or several at once, or one that the source
            lacks; or no image of a class.
    """
    path = Path(path)
    text = _read(path)
    known = _known_share(path, text)
    if labels is not None and known is None:
        raise UsageError(f"the list {path} says which images have labels: leave --labels out")
    if labels is not None and known is not None and share_of(labels) != share_of(known):
        raise UsageError(f"{path} is SimCLR's list of {known}: say --labels {known}, or give the list of {labels}")
    lines = [line.strip() for line in text.decode("utf-8", "surrogateescape").splitlines() if line.strip()]
    if not lines:
        raise DataError(f"the list {path} names no images")
    if twice := [line for line, count in Counter(lines).items() if count > 1]:
        raise DataError(f"the list {path} names {_listed(map(repr, twice))} more than once")
    assert source.classes is not None, "matched_labels() refuses a source without labels"
    assert source.labels is not None, "matched_labels() refuses a source without labels"
    own = [line for line in lines if known is None or line.partition("_")[0] in source.classes]
    places = _places_of(own, source, path)
    found = np.bincount(source.labels[places], minlength=len(source.classes))
    if empty := [name for name, count in zip(source.classes, found, strict=True) if count == 0]:
        raise DataError(f"the list {path} names no image of {_listed(map(repr, empty))} in {source.name}")
    origin = f"SimCLR's {_NAMES[known]}" if known else f"the list {path}"
    return LabelSubset(places=places, origin=origin, left_out=len(lines) - len(own))


def fetched_list(labels: str | None) -> Path:
    """SimCLR's list of "1%" or "10%": fetched once to torch's folder for downloads, and checked by its hash.

    Raises:
        UsageError: there is no list of that share, or none was said.
        DataError: it cannot be fetched, or is another.
    """
    share = _published_share(labels)
    path = Path(torch.hub.get_dir()) / "co2ssl" / f"simclr-{_NAMES[share]}"
    if is_main() and not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        url = _URL + _NAMES[share]
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=PUBLISHED_HASHES[share], progress=False)
        except (URLError, OSError, RuntimeError) as error:
            raise DataError(
                f"SimCLR's list cannot be fetched from {url} ({error}). Fetch it elsewhere and give --label-list PATH, "
                f"or draw images with a seed instead: --label-list {DRAW}"
            ) from error
    barrier()
    return path


def list_in(folder: str | Path, labels: str | None) -> Path:
    """SimCLR's list of "1%" or "10%" in a folder that holds them, as text or compressed by gzip.

    Raises:
        UsageError: there is no list of that share, or none was said.
        DataError: it is not there.
    """
    name = _NAMES[_published_share(labels)]
    found = next((path for ending in ("", ".gz") if (path := Path(folder) / f"{name}{ending}").is_file()), None)
    if found is None:
        raise DataError(f"the folder {folder} has no {name}, nor {name}.gz: give one with SimCLR's lists, or one list")
    return found


def _published_share(labels: str | None) -> str:
    if labels not in PUBLISHED_HASHES:
        said = "" if labels is None else f", none of {labels}"
        choice = " or ".join(f"--labels {known}" for known in PUBLISHED_HASHES)
        raise UsageError(f"SimCLR has lists of {' and '.join(PUBLISHED_HASHES)}{said}: say {choice}")
    return labels


def names_of(source: Source, subset: LabelSubset) -> list[str]:
    """One name for each image of a subset, as :func:`listed_subset` finds it again."""
    if isinstance(source, FileSource):
        return [os.fsdecode(source.paths[int(place)]) for place in subset.places]
    return [source.describe(int(place)) for place in subset.places]


def _read(path: Path) -> bytes:
    """The text of a list, uncompressed."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if path.suffix == ".gz" else content
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"the list {path} is damaged: {error}") from error
    except OSError as error:
        raise DataError(
            f"cannot read the list {path}: {error.strerror}; give --label-list a .txt or .txt.gz"
        ) from error


def _known_share(path: Path, text: bytes) -> str | None:
    """Of which of SimCLR's lists this is the text; None: of none. Raises :class:`DataError` where only the name is."""
    digest = hashlib.sha256(text).hexdigest()
    for share, known in PUBLISHED_HASHES.items():
        if digest == known:
            return share
    called = path.name.removesuffix(".gz").removeprefix("simclr-")
    for share, name in _NAMES.items():
        if called == name:
            raise DataError(
                f"{path} is called as SimCLR's list of {share} is, but its text is another (sha256 {digest[:12]}..., "
                f"not {PUBLISHED_HASHES[share][:12]}...): it is damaged, or give a list of your own another name"
            )
    return None


def _places_of(lines: Sequence[str], source: Source, path: Path) -> NDArray[np.int64]:
    """Where the named images are, ascending."""
    depths = sorted({line.count("/") + 1 for line in lines})
    found: dict[str, int] = dict.fromkeys(lines, -1)
    for place in range(len(source)):
        parts = source.describe(place).split("/")
        # A name without folders is compared with the last part, one in a folder with the last two, and so on.
        for depth in depths:
            name = "/".join(parts[-depth:])
            if name not in found:
                continue
            if found[name] >= 0:
                raise DataError(
                    f"the list {path} names {name!r}, which is {source.describe(found[name])} as well as "
                    f"{source.describe(place)}: name it with its folder"
                )
            found[name] = place
    if missing := [name for name, place in found.items() if place < 0]:
        raise DataError(
            f"{source.name} lacks {len(missing):,} of the {len(lines):,} images that the list {path} names: "
            f"{_listed(map(repr, missing))}"
        )
    names_by_place: dict[int, str] = {}
    for name, place in found.items():
        if place in names_by_place:
            raise DataError(f"the list {path} names one image twice, as {names_by_place[place]!r} and {name!r}")
        names_by_place[place] = name
    return np.array(sorted(names_by_place), dtype=np.int64)


def _rounded_up(percent: Fraction) -> str:
    """To three digits behind the point, upwards."""
    return f"{-(-percent * 1000 // 1) / 1000:g}"


def _listed(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")
