"""What ``--auto`` changes, rule by rule; later rules read what earlier ones set. A reason carries its numbers."""

from __future__ import annotations

import math
from typing import Any

from co2ssl.config.cost import FEATURES, Machine, bytes_per_image, duration
from co2ssl.config.draft import Draft

CPU_BUDGET_SECONDS = 3600.0
"""How long a run on a CPU should take when the user did not say how many epochs; and what the recipe's own number of
epochs may take before the network is made smaller."""
CPU_IMAGE_SIZE = 64
"""Pixels that a CPU is asked to look at when the recipe's would take too long."""
CPU_BATCH = {"moco": 128, "simclr": 256}
"""Largest batches on a CPU; SimCLR needs more, its negatives are the batch."""
WANTED_STEPS = 80_000
"""800 epochs of CIFAR-10 in batches of 512: MoCo's notebook gains 6 points of kNN accuracy over 200 epochs."""
MOST_EPOCHS = 800
"""The most epochs that a recipe with fewer is given; the notebook's longest run."""
QUEUE_SHARE = 4
"""A queue of 1/4 of the images holds the query's own image, from the epoch before, for (1/4)^2 / 2 = 3 % of queries."""
STEEP = 1_000.0
"""alpha / tau_con^2, with which L_con grows beside a single point, above which the term is to rise over a short run
(ours; docs/pilot.md: runs of 20 epochs get away from the point at 625 and, slowly, at 1,875, and do not at 6,250, which
MoCo has; SimCLR has 204, MoCo v2 120)."""
KEEPS = (0.999, 0.998, 0.996, 0.992, 0.984, 0.97, 0.9)
"""Momenta of a key encoder that is to remember less than the published one."""
MEMORIES = 10
"""How many times a run is to be as long as its key encoder remembers, 1 / (1 - ema_keep) steps (ours)."""
QUEUES_OF_MEMORY = 25
"""How many times as many steps a key encoder is to remember as the queue holds (ours; moco-small-64 has 31)."""
MIN_GROUP = 16
"""Images that batch norm should have in a group (MoCo's GPUs had 32); also the smallest batch."""
MIN_CROP_SIDE = 12
"""Pixels of the image file that the smallest crop should span."""
MEMORY_SHARE = 0.6
"""Of the device's memory, for activations; the rest is for weights, workspaces and everyone else."""
MOST_WORKERS = 16
"""Processes that make views; more wait for each other."""
FINISHED_ON_DEVICE = frozenset({"moco-v1", "moco-v2", "simclr", "moco-v1-small", "moco-v2-small", "simclr-small"})
"""View recipes all of whose operations the device has, after the crop."""


def _encoder(draft: Draft) -> None:
    """Image size, architecture, width and stem: no larger than the images hold or the machine can do.

    Measured by the recipe's own number of epochs, whatever the user gave: a shorter trial is then of the same network.
    """
    side = max(8, draft.short_side // 4 * 4)
    if side < draft.recipe.image_size:
        draft.set("image_size", side, f"half of the images are {draft.short_side} px or less: larger shows no more")
    _stem(draft)
    if draft.machine.device == "cpu":
        reductions: tuple[tuple[str, Any, str], ...] = (
            ("image_size", min(CPU_IMAGE_SIZE, draft.recipe.image_size), "small views show enough to learn from"),
            ("arch", "resnet18", "the smallest architecture"),
            ("width", min(0.5, draft.recipe.width), "half the channels are a quarter of the arithmetic"),
        )
        for name, value, why in reductions:
            seconds = draft.published.epochs * draft.epoch_seconds
            if seconds > CPU_BUDGET_SECONDS:
                draft.set(
                    name,
                    value,
                    f"the recipe's {draft.published.epochs} epochs of {draft.num_images:,} images on "
                    f"{_cores(draft.machine.cores_in_all)} would take about {duration(seconds)}; {why}",
                )
                _stem(draft)
    features, published = (round(FEATURES[r.arch] * r.width) for r in (draft.recipe, draft.published))
    if draft.recipe.head == "mlp" and draft.published.head_hidden == published:
        draft.set("head_hidden", features, f"as wide as the backbone's {features} features, as published")


def _stem(draft: Draft) -> None:
    size = draft.recipe.image_size
    stem = "small" if size < 48 else "medium" if size < 128 else "imagenet"
    stride = {"small": 1, "medium": 2, "imagenet": 4}[stem]
    draft.set("stem", stem, f"views of {size} px: a first stage of {size // stride} x {size // stride} places")


def _views(draft: Draft) -> None:
    """Blur and smallest crop for small images."""
    if draft.recipe.views in ("moco-v2", "simclr") and draft.recipe.image_size <= 96:
        draft.set(
            "views",
            f"{draft.recipe.views}-small",
            f"at {draft.recipe.image_size} px, blur made for 224 px would wipe out what there is to see",
        )
    floor = math.ceil(100 * min(1.0, (MIN_CROP_SIDE / draft.short_side) ** 2)) / 100
    if draft.recipe.min_area < floor:
        side = round(draft.short_side * math.sqrt(draft.recipe.min_area))
        draft.set(
            "min_area",
            floor,
            f"{draft.recipe.min_area:g} of a {draft.short_side}-px image is a crop of {side} px; "
            f"{MIN_CROP_SIDE} at least",
        )


def _precision(draft: Draft) -> None:
    if draft.machine.fast_bf16:
        draft.set("precision", "bf16", "this device computes about twice as fast in bfloat16; losses stay in float32")


def _batch(draft: Draft) -> None:
    """Batch size for data, memory and processes; what a step adds up, learning rate and groups for the batch."""
    processes = draft.machine.processes
    limit, reason = _largest_batch(draft)
    batch = draft.recipe.batch_size
    if limit < batch or (processes > 1 and (batch % processes or batch < 2 * processes)):
        draft.set("batch_size", limit, reason)
    batches = max(1, draft.num_images // draft.recipe.batch_size)
    if draft.recipe.accumulate > batches:
        draft.set("accumulate", batches, f"{draft.num_images:,} images make no more batches than that")
    images = draft.recipe.batch_size * draft.recipe.accumulate
    published = draft.published.batch_size * draft.published.accumulate
    if images != published:
        lr = float(f"{draft.published.lr * images / published:.4g}")
        draft.set("lr", lr, f"in proportion to the images of a step: {draft.published.lr:g} x {images} / {published}")
    _groups(draft)


def _largest_batch(draft: Draft) -> tuple[int, str]:
    """The largest batch that the processes share, memory holds and the images make enough of, and which of them it is.

    It may be larger than the recipe's only where the processes share no such small one.
    """
    machine, half = draft.machine, draft.options.precision == "bf16"
    fits = int(MEMORY_SHARE * machine.memory * machine.devices / bytes_per_image(draft.recipe, half=half))
    eighth = _shared(draft.num_images // 8, machine.processes)
    limits = [
        (eighth, f"so that {draft.num_images:,} images make {draft.num_images // eighth} batches"),
        (_shared(fits, machine.processes), f"about {fits:,} images fit into {_memory(machine)}"),
    ]
    if machine.device == "cpu":
        most = _shared(CPU_BATCH[draft.recipe.method], machine.processes)
        limits.append((most, "on a CPU more is no faster, and more steps learn more"))
    if machine.processes > 1:
        equal = _shared(draft.recipe.batch_size, machine.processes)
        limits.insert(0, (equal, f"{machine.processes} processes have equal shares of a batch, of two images or more"))
    return min(limits, key=lambda entry: entry[0])


def _shared(images: int, processes: int) -> int:
    """The largest batch of no more than so many images of which each process has the same power of two.

    At least MIN_GROUP images, and two for each process, whatever was asked for.
    """
    return processes * max(2, math.ceil(MIN_GROUP / processes), _power_of_two(images // processes))


def _groups(draft: Draft) -> None:
    """Batch-norm groups that divide the batch, as many for each process as for any other."""
    batch, groups, processes = draft.recipe.batch_size, draft.recipe.batch_norm_groups, draft.machine.processes
    if draft.recipe.batch_norm != "split":
        return
    if groups >= 2 and groups % processes == 0 and batch % groups == 0 and batch // groups >= MIN_GROUP:
        return
    fewest = max(2, processes)
    # The user's numbers may be any, but a group has two images, and there are only so many.
    most = min(max(groups, fewest), batch // 2, draft.num_images)
    divisors = [count for count in range(fewest, most + 1, processes) if batch % count == 0]
    large = [count for count in divisors if batch // count >= MIN_GROUP]
    if divisors:
        count = max(large) if large else min(divisors)
        shared = f", as many for each of {processes} processes" if processes > 1 else ""
        draft.set("batch_norm_groups", count, f"{batch} images make {count} groups of {batch // count}{shared}")


def _queue(draft: Draft) -> None:
    """A queue that does not hold stale keys and the query's own image."""
    if draft.recipe.queue_size is None:
        return
    share, batch = draft.num_images // QUEUE_SHARE, draft.recipe.batch_size
    size = max(_power_of_two(share), batch)
    if size < draft.recipe.queue_size:
        epochs = draft.recipe.queue_size / draft.num_images
        draft.set(
            "queue_size",
            size,
            f"{draft.recipe.queue_size:,} keys are {epochs:,.1f} epochs of {draft.num_images:,} images: stale keys, "
            f"and the query's own image among them; {size:,} are {size / draft.num_images:.2g}",
        )
    if draft.recipe.queue_size > share and not draft.recipe.exclude_own:
        draft.set(
            "exclude_own",
            True,
            f"a queue of {draft.recipe.queue_size:,} keys holds the query's own among {draft.num_images:,} images",
        )


def _epochs(draft: Draft) -> None:
    """More epochs for few images, fewer where a CPU has no time for them; drops, warm-up and ramp in proportion."""
    before = draft.recipe.epochs
    most = max(before, MOST_EPOCHS)
    wanted = min(max(before, math.ceil(WANTED_STEPS / draft.steps_per_epoch)), most)
    reason = f"an epoch is {draft.steps_per_epoch:,} steps: few images want more epochs, up to {most}"
    if draft.machine.device == "cpu":
        fits = max(1, int(CPU_BUDGET_SECONDS / draft.epoch_seconds))
        if fits < wanted:
            wanted = fits
            speed = f"an estimated {draft.num_images / draft.epoch_seconds:.0f} images a second"
            reason = f"what fits into an hour on {_cores(draft.machine.cores_in_all)}, at {speed}"
            if draft.epoch_seconds > CPU_BUDGET_SECONDS:
                reason = f"one epoch alone takes about {duration(draft.epoch_seconds)}, at {speed}: take fewer images"
    draft.set("epochs", wanted, reason)
    epochs, published = draft.recipe.epochs, draft.published.epochs
    if epochs != published and draft.recipe.drop_epochs:
        drops = sorted({round(drop * epochs / published) for drop in draft.published.drop_epochs} - {0, epochs})
        draft.set("drop_epochs", tuple(drops), f"at the same shares of {epochs} epochs as of {published}")
    if epochs < published and draft.recipe.warmup_epochs > epochs // 10:
        draft.set("warmup_epochs", epochs // 10, f"at most a tenth of {epochs} epochs")
    if epochs != published and draft.published.consistency_ramp_epochs:
        ramp = max(1, round(draft.published.consistency_ramp_epochs * epochs / published))
        draft.set("consistency_ramp_epochs", ramp, f"the same share of {epochs} epochs as of {published}")


def _ramp(draft: Draft) -> None:
    """A strong consistency term rises over a short run: at once, it pulls a fresh network to one point."""
    recipe, steps = draft.recipe, draft.recipe.epochs * draft.steps_per_epoch
    steep = recipe.consistency_weight > STEEP * recipe.consistency_temperature**2
    if steep and recipe.consistency_ramp_epochs == 0 and steps < WANTED_STEPS:
        draft.set(
            "consistency_ramp_epochs",
            recipe.epochs,
            f"with a weight of {recipe.consistency_weight:g} at once, the embeddings of a fresh network fall together, "
            f"and may stay so for much of {steps:,} steps",
        )


def _key_encoder(draft: Draft) -> None:
    """A key encoder that can follow within the steps there are; one that is frozen follows nothing."""
    if draft.recipe.ema_keep is None or draft.recipe.ema_keep == 1.0:
        return
    steps = draft.recipe.epochs * draft.steps_per_epoch
    keep = next((keep for keep in KEEPS if steps * (1 - keep) >= MEMORIES), KEEPS[-1])
    if keep >= draft.recipe.ema_keep:
        return
    draft.set(
        "ema_keep",
        keep,
        f"in {steps:,} steps the key encoder would stay {1 / max(1e-9, 1 - draft.recipe.ema_keep):,.0f} behind",
    )
    if draft.recipe.queue_size is not None:
        # Read anew: where the user fixed it, it has not been set.
        _age_of_keys(draft, memory=1 / (1 - draft.recipe.ema_keep), queue=draft.recipe.queue_size)


def _age_of_keys(draft: Draft, *, memory: float, queue: int) -> None:
    """A key encoder that moves faster than published needs a shorter queue, or keys are told apart by their age.

    Args:
        draft: the recipe.
        memory: steps that the key encoder remembers.
        queue: keys in the queue.
    """
    batch = draft.recipe.batch_size
    size = max(_power_of_two(int(memory / QUEUES_OF_MEMORY * batch)), batch)
    if size < queue:
        draft.set(
            "queue_size",
            size,
            f"{queue:,} keys are those of {queue / batch:,.0f} steps, and the key encoder remembers {memory:,.0f}: "
            "old keys would be told from new ones by their age",
        )


def _conveniences(draft: Draft) -> None:
    own, local = draft.machine.cores_per_process, draft.machine.local_processes
    shared = f", for each of {local} processes that share {_cores(draft.machine.cores)}" if local > 1 else ""
    draft.set("workers", min(own, MOST_WORKERS), f"{_cores(own)} to make views{shared}")
    if draft.machine.device == "cuda" and draft.recipe.views in FINISHED_ON_DEVICE:
        draft.set(
            "views_on",
            "device",
            "the GPU does colour, blur and flip of a whole batch at once; the cores are left with decoding and crops",
        )
    if draft.recipe.epochs < 5 * draft.options.probe_every:
        draft.set("probe_every", max(1, draft.recipe.epochs // 5), f"about five times in {draft.recipe.epochs} epochs")


def _power_of_two(number: int) -> int:
    """The largest power of two that is not above a number (1 for 0)."""
    return 1 << max(0, number.bit_length() - 1)


def _memory(machine: Machine) -> str:
    """``"80 GB"``, ``"8 x 80 GB"``."""
    each = f"{machine.memory / 1e9:.0f} GB"
    return each if machine.devices == 1 else f"{machine.devices} x {each}"


def _cores(cores: int) -> str:
    return f"{cores} core" if cores == 1 else f"{cores} cores"


RULES = (_precision, _encoder, _views, _batch, _queue, _epochs, _ramp, _key_encoder, _conveniences)
"""In the order they are applied."""
