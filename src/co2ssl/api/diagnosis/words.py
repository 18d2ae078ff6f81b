"""A diagnosis as a person reads it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from co2ssl.api.diagnosis.judgement import files_bytes, in_bytes
from co2ssl.api.diagnosis.result import Diagnosis
from co2ssl.data.inspection import Inspection

NAMED = 10
"""Images that are named below each count; ``--json`` names all of them."""

PARTS = {
    "disk": ("disk read", "files from the disk"),
    "decode": ("decode", "bytes to pixels"),
    "augment": ("views", "the random operations"),
    "copy": ("copy", "views to the device"),
    "step": ("model step", "forward, backward, optimiser"),
}
"""Part -> its name, and what it does."""


def in_words(diagnosis: Diagnosis) -> str:
    """Lines for a terminal."""
    lines = [*_images(diagnosis), "", *_recipe(diagnosis), *_speeds(diagnosis), ""]
    if diagnosis.problem:
        lines.append(f"problem: {diagnosis.problem}")
    lines += [f"note: {finding}" for finding in diagnosis.findings]
    if diagnosis.binding is not None:
        what, does = PARTS[diagnosis.binding]
        lines.append(f"what binds: the {what} ({does})")
        lines += [f"  change: {change}" for change in diagnosis.advice]
    lines += _prediction(diagnosis)
    # Names that are not UTF-8 cannot be printed as they are.
    return "\n".join(lines).encode("utf-8", "backslashreplace").decode()


def span(seconds: float) -> str:
    """``"0.42 s"``, ``"12 s"``, ``"3.5 min"``, ``"7.2 h"``, ``"3.1 days"``."""
    if seconds < 100:
        return f"{seconds:.2g} s"
    for unit, length in (("min", 60), ("h", 3600)):
        if seconds < 100 * length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds / 86400:.3g} days"


def _images(diagnosis: Diagnosis) -> Iterator[str]:
    found = diagnosis.inspection
    seed = diagnosis.setting.options.seed
    part = "all" if found.looked_at == found.images else f"{found.looked_at:,}, drawn with seed {seed},"
    size = f", about {in_bytes(files_bytes(found))} in files" if found.file_bytes else ""
    yield f"{diagnosis.data}: {found.images:,} images{size}; {part} looked at"
    yield from _row("formats", found.formats)
    yield from _row("channels", found.channels)
    if found.sizes is not None:
        median, least, most = (
            f"{width} x {height}" for width, height in (found.sizes.median, found.sizes.smallest, found.sizes.largest)
        )
        yield f"  sizes     median {median} px, from {least} to {most}"
    if found.file_bytes is not None:
        yield f"  files     median {in_bytes(found.file_bytes[0])}, up to {in_bytes(found.file_bytes[1])}"
    if found.balance is not None:
        (rare, few), (common, many) = found.balance.smallest, found.balance.largest
        yield f"  classes   {found.balance.classes:,}, from {few:,} images ({rare}) to {many:,} ({common})"
    yield from _row("unusual", found.oddities)
    yield from _named(found)


def _row(title: str, counts: Mapping[str, int]) -> Iterator[str]:
    if counts:
        yield f"  {title:<9} {', '.join(f'{name} {count:,}' for name, count in counts.items())}"


def _named(found: Inspection) -> Iterator[str]:
    lists: tuple[tuple[str, str, str, Sequence[tuple[str, str]]], ...] = (
        ("bad", "cannot be read", ": ", found.bad),
        ("copies", "with the pixels of another", " = ", found.exact_copies),
        ("near", "nearly the same as another", " ~ ", found.near_copies),
    )
    for title, what, between, pairs in lists:
        yield f"  {title:<9} {f'{len(pairs):,} {what}' if pairs else 'none'}"
        yield from (f"    {which}{between}{other}" for which, other in pairs[:NAMED])
        if len(pairs) > NAMED:
            yield f"    and {len(pairs) - NAMED:,} more (--json names all)"


def _recipe(diagnosis: Diagnosis) -> Iterator[str]:
    setting = diagnosis.setting
    recipe = setting.recipe
    cores = "1 core" if setting.cores == 1 else f"{setting.cores} cores"
    workers = "1 worker" if setting.workers == 1 else f"{setting.workers} workers"
    yield (
        f"{setting.name}: {recipe.arch}, {recipe.image_size} px, batch {recipe.batch_size}, "
        f"{setting.options.precision}, on {setting.device} with {cores} and {workers}"
    )
    yield from (f"  fitted: {change}" for change in setting.changes)


def _speeds(diagnosis: Diagnosis) -> Iterator[str]:
    if not diagnosis.milliseconds:
        return
    yield ""
    yield "  part         images/s   ms per image"
    hands = diagnosis.setting.hands
    for part, milliseconds in diagnosis.milliseconds.items():
        pace = getattr(diagnosis.measured, part)
        each = f"   on one core; {hands} work at once" if part in ("decode", "augment") and hands > 1 else ""
        yield f"  {PARTS[part][0]:<10} {_rate(pace.rate):>10}   {milliseconds:>12.2f}{each}"
    together = diagnosis.measured.together
    if together is not None:
        batch = diagnosis.setting.recipe.batch_size
        rate = diagnosis.inspection.images // batch * batch / together.epoch_seconds
        waits = f"   waits for data {100 * together.wait_share:.0f} % of the time"
        yield f"  {'all of it':<10} {_rate(rate):>10}   {1000 / rate:>12.2f}{waits}"


def _rate(images: float) -> str:
    return f"{images:,.0f}" if images >= 10 else f"{images:.2g}"


def _prediction(diagnosis: Diagnosis) -> Iterator[str]:
    prediction = diagnosis.prediction
    if prediction is None:
        return
    epochs = diagnosis.setting.recipe.epochs
    yield (
        f"prediction: {span(prediction.epoch_seconds)} an epoch, {span(prediction.seconds)} for {epochs:,} epochs, "
        "besides probes and checkpoints"
    )
    memory = []
    if prediction.host_bytes is not None:
        memory.append(f"{in_bytes(prediction.host_bytes)} of this machine's {in_bytes(diagnosis.setting.host_memory)}")
    if prediction.device_bytes is not None:
        memory.append(f"{in_bytes(prediction.device_bytes)} of the {in_bytes(diagnosis.setting.device_memory)} card")
    if memory:
        yield f"peak memory: {', '.join(memory)}"
