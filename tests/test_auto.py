from __future__ import annotations

import itertools
import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest

from co2ssl.config import (
    Adapted,
    Machine,
    Recipe,
    RunOptions,
    adapt,
    adapted_from_plain,
    cost,
    host_memory,
    load_recipe,
    process_counts,
    recipe_names,
    require_enough,
    require_runnable,
    require_shared,
    rules,
    usable_cores,
    workers_per_process,
)
from co2ssl.data.device_views import crops_alone
from co2ssl.data.views import VIEW_RECIPES
from co2ssl.errors import UsageError

GB = 10**9
CPU = Machine(device="cpu", cores=2, memory=16 * GB)
GPU = Machine(device="cuda", cores=16, memory=80 * GB, fast_bf16=True)
SMALL_GPU = Machine(device="cuda", cores=8, memory=8 * GB)
MAC = Machine(device="mps", cores=1, memory=16 * GB)
EIGHT = replace(GPU, processes=8, local_processes=8)
NEVER = ("consistency_weight", "consistency_temperature", "temperature")


def adapted(
    name: str,
    *,
    num_images: int = 9469,
    size: tuple[int, int] = (375, 500),
    machine: Machine = CPU,
    given: dict[str, Any] | None = None,
    options: RunOptions | None = None,
    given_options: tuple[str, ...] = (),
) -> Adapted:
    return adapt(
        load_recipe(name, overrides=given, check=False),
        options or RunOptions(),
        num_images=num_images,
        image_sizes=[size],
        machine=machine,
        given_options=given_options,
    )


def own_recipe(folder: Path, name: str, **values: float) -> str:
    """The path of a packaged recipe with other values."""
    text = (Path(sys.modules["co2ssl"].__file__ or "").parent / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    for field, value in values.items():
        text, found = re.subn(rf"(?m)^(  {field}: {{value: )[^,]+,", rf"\g<1>{value},", text)
        assert found == 1
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", [f"{name}{suffix}" for name in recipe_names() for suffix in ("", "+co2")])
def test_over_a_grid_it_runs_and_never_touches_the_loss(name: str) -> None:
    published = load_recipe(name).recipe
    grid = itertools.product((32, 100, 5_000, 1_281_167), ((20, 28), (64, 64), (480, 640)), (CPU, GPU, SMALL_GPU, MAC))
    for num_images, size, machine in grid:
        result = adapted(name, num_images=num_images, size=size, machine=machine)
        recipe = result.resolved.recipe
        for field in NEVER:
            assert getattr(recipe, field) == getattr(published, field)
        require_runnable(recipe)
        assert recipe.batch_size <= num_images
        assert recipe.image_size <= published.image_size
        assert Recipe.model_validate(recipe.model_dump()) == recipe


@pytest.mark.parametrize("field", NEVER)
def test_the_loss_is_not_touched_when_the_user_set_it_either(field: str) -> None:
    result = adapted("moco-v2+co2", given={field: 0.77}, num_images=100, size=(28, 28))
    assert getattr(result.resolved.recipe, field) == 0.77
    assert result.resolved.origins[field].kind == "option"


GIVEN: dict[str, Any] = {
    "arch": "resnet50", "width": 1.0, "stem": "imagenet", "head_hidden": 64, "queue_size": 65536, "ema_keep": 0.999,
    "exclude_own": False, "batch_norm_groups": 4, "views": "moco-v2", "image_size": 200, "min_area": 0.01, "lr": 0.03,
    "epochs": 200, "batch_size": 64, "drop_epochs": (1, 2), "warmup_epochs": 7,
}  # fmt: skip


@pytest.mark.parametrize("field", sorted(GIVEN))
@pytest.mark.parametrize("machine", [CPU, SMALL_GPU])
def test_what_the_user_gave_stays(field: str, machine: Machine) -> None:
    result = adapted("moco-v2+co2", num_images=500, size=(28, 28), machine=machine, given={field: GIVEN[field]})
    assert getattr(result.resolved.recipe, field) == GIVEN[field]
    assert field not in {change.field for change in result.changes}


def test_run_options_that_the_user_gave_stay() -> None:
    free = adapted("moco", machine=GPU)
    assert (free.options.precision, free.options.workers, free.options.views_on) == ("bf16", 16, "device")
    fixed = adapted("moco", machine=GPU, given_options=("precision", "workers", "views_on"))
    assert (fixed.options.precision, fixed.options.workers, fixed.options.views_on) == ("float32", None, "worker")
    assert set(fixed.option_origins) == set()


@pytest.mark.parametrize(("machine", "views_on"), [(CPU, "worker"), (MAC, "worker"), (GPU, "device")])
def test_views_are_finished_on_the_device_only_where_it_is_cuda(machine: Machine, views_on: str) -> None:
    result = adapted("simclr", machine=machine)
    assert result.options.views_on == views_on
    assert ("views_on" in result.option_origins) == (views_on == "device")


def test_views_stay_with_the_workers_where_the_device_lacks_an_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "FINISHED_ON_DEVICE", frozenset({"simclr"}))
    assert adapted("simclr", machine=GPU).options.views_on == "device"
    assert adapted("moco", machine=GPU).options.views_on == "worker"


def finished_on_device(name: str) -> bool:
    try:
        crops_alone(VIEW_RECIPES[name])
    except UsageError:
        return False
    return True


def test_the_rule_knows_which_views_the_device_can_finish() -> None:
    names = get_args(Recipe.model_fields["views"].annotation)
    assert names
    assert {name for name in names if finished_on_device(name)} == rules.FINISHED_ON_DEVICE


def test_every_change_is_told_once_with_its_numbers() -> None:
    published = load_recipe("moco-v2+co2").recipe
    result = adapted("moco-v2+co2")
    told = {change.field: change for change in result.changes}
    assert len(told) == len(result.changes)
    for field in Recipe.model_fields:
        old, new = getattr(published, field), getattr(result.resolved.recipe, field)
        assert (old != new) == (field in told)
        if old != new:
            assert (told[field].old, told[field].new) == (old, new)
            assert result.resolved.origins[field].kind == "auto"
            assert told[field].reason in result.resolved.origins[field].why
            assert field in str(told[field])
            assert len(told[field].reason.split()) > 3
    assert "2,048 keys" in told["queue_size"].reason
    long = adapted("moco-v2+co2", num_images=100_000, machine=GPU)
    (queue,) = [change for change in long.changes if change.field == "queue_size"]
    assert "65,536" in queue.reason
    assert "100,000" in queue.reason


def test_the_published_setting_on_the_published_machine_is_left_alone() -> None:
    result = adapted("moco-v2+co2", num_images=1_281_167, machine=GPU)
    assert result.resolved.recipe == load_recipe("moco-v2+co2").recipe
    assert {change.field for change in result.changes} == {"precision", "workers", "views_on"}
    assert result.estimated_seconds is None


def test_photographs_on_two_cores_become_an_hour() -> None:
    result = adapted("moco-v2+co2")
    recipe = result.resolved.recipe
    assert (recipe.arch, recipe.width, recipe.image_size, recipe.stem) == ("resnet18", 0.5, 64, "medium")
    assert recipe.head_hidden == 256
    assert result.estimated_seconds is not None
    assert 2400 < result.estimated_seconds <= 3600
    assert "hour" in next(change.reason for change in result.changes if change.field == "epochs")


def test_an_hour_holds_more_epochs_where_bfloat16_is_fast() -> None:
    fast = Machine(device="cpu", cores=2, memory=16 * GB, fast_bf16=True)
    slow, quick = (adapted("moco-v2+co2", machine=machine).resolved.recipe for machine in (CPU, fast))
    assert slow.epochs * 1.5 < quick.epochs < slow.epochs * 2.5
    single = adapted("moco-v2+co2", machine=fast, given_options=("precision",))
    assert single.resolved.recipe.epochs == slow.epochs


@pytest.mark.parametrize("num_images", [500, 9469, 200_000])
@pytest.mark.parametrize("name", ["moco-v2+co2", "simclr"])
def test_the_network_does_not_hang_on_the_epochs_given(name: str, num_images: int) -> None:
    free = adapted(name, num_images=num_images)
    for epochs in (1, 10, 200, 800):
        given = adapted(name, num_images=num_images, given={"epochs": epochs})
        assert given.resolved.recipe.epochs == epochs
        for field in ("arch", "width", "image_size", "stem", "head_hidden", "views", "min_area"):
            assert getattr(given.resolved.recipe, field) == getattr(free.resolved.recipe, field), field


def test_more_images_than_an_hour_holds_are_seen_once_and_said_so() -> None:
    result = adapted("moco-v2+co2", num_images=1_281_167)
    assert result.resolved.recipe.epochs == 1
    assert "take fewer images" in next(change.reason for change in result.changes if change.field == "epochs")


@pytest.mark.parametrize(
    ("side", "stem"), [(32, "small"), (47, "small"), (48, "medium"), (96, "medium"), (128, "imagenet")]
)
def test_stem_and_size_for_small_images(side: int, stem: str) -> None:
    recipe = adapted("moco-v2", size=(side, 2 * side), machine=GPU).resolved.recipe
    assert (recipe.stem, recipe.image_size) == (stem, side // 4 * 4)
    assert recipe.views == ("moco-v2-small" if side <= 96 else "moco-v2")


def test_median_image_decides() -> None:
    resolved, options = load_recipe("moco-v2", check=False), RunOptions()
    sizes = [(500, 500), (40, 900), (64, 80)]
    result = adapt(resolved, options, num_images=5000, image_sizes=sizes, machine=GPU)
    assert result.resolved.recipe.image_size == 64


def test_crop_floor_leaves_twelve_pixels() -> None:
    recipe = adapted("simclr", size=(32, 32), machine=GPU).resolved.recipe
    assert 12 <= 32 * recipe.min_area**0.5 < 13
    assert adapted("simclr", size=(64, 64), machine=GPU).resolved.recipe.min_area == 0.08


@pytest.mark.parametrize(("num_images", "queue"), [(50_000, 8192), (9469, 2048), (1000, 128), (10**6, 65536)])
def test_queue_is_a_quarter_of_the_images_at_most(num_images: int, queue: int) -> None:
    recipe = adapted("moco", num_images=num_images, machine=GPU).resolved.recipe
    assert recipe.queue_size == queue
    assert not recipe.exclude_own


def test_queue_holds_a_batch_and_a_queue_of_ones_own_leaves_the_own_image_out() -> None:
    large_batch = adapted("moco", num_images=600, machine=GPU, given={"batch_size": 256}).resolved.recipe
    assert (large_batch.queue_size, large_batch.exclude_own) == (256, True)
    large_queue = adapted("moco", num_images=600, machine=GPU, given={"queue_size": 600}).resolved.recipe
    assert (large_queue.queue_size, large_queue.exclude_own) == (600, True)


def test_own_image_share_of_the_queue_is_what_the_rule_says() -> None:
    # An image's last key is u + v epochs old, u and v uniform: its place in this epoch, and what was left of the last.
    places = [(index + 0.5) / 400 for index in range(400)]
    held = sum(u + v < 1 / 4 for u in places for v in places) / 400**2
    assert held == pytest.approx((1 / 4) ** 2 / 2, abs=1e-3)


@pytest.mark.parametrize("name", ["moco", "simclr"])
@pytest.mark.parametrize("batch", [32, 64, 512])
def test_learning_rate_follows_the_batch(name: str, batch: int) -> None:
    published = load_recipe(name).recipe
    recipe = adapted(name, num_images=100_000, machine=GPU, given={"batch_size": batch}).resolved.recipe
    assert recipe.lr / published.lr == pytest.approx(batch / published.batch_size, rel=1e-3)


def test_batches_fit_memory_and_data() -> None:
    assert adapted("simclr", machine=SMALL_GPU, num_images=10**6).resolved.recipe.batch_size < 64
    assert adapted("moco", machine=GPU, num_images=512).resolved.recipe.batch_size == 64
    assert adapted("moco", machine=CPU, num_images=10**5).resolved.recipe.batch_size == 128


@pytest.mark.parametrize(("batch", "groups"), [(256, 8), (128, 8), (64, 4), (32, 2), (16, 2), (100, 5), (18, 2)])
def test_batch_norm_groups_divide_the_batch(batch: int, groups: int) -> None:
    recipe = adapted("moco", machine=GPU, given={"batch_size": batch}).resolved.recipe
    assert recipe.batch_norm_groups == groups


def test_epochs_drops_and_key_encoder_go_together() -> None:
    few = adapted("moco", num_images=5_000, machine=GPU).resolved.recipe
    assert (few.epochs, few.drop_epochs) == (800, (480, 640))
    short = adapted("moco", num_images=5_000, machine=GPU, given={"epochs": 20}).resolved.recipe
    assert (short.epochs, short.drop_epochs, short.ema_keep) == (20, (12, 16), 0.97)
    one = adapted("moco", num_images=5_000, machine=GPU, given={"epochs": 1}).resolved.recipe
    assert (one.epochs, one.drop_epochs) == (1, ())
    warm = adapted("simclr", machine=GPU, given={"epochs": 30}).resolved.recipe
    assert warm.warmup_epochs == 3


@pytest.mark.parametrize(("epochs", "keep"), [(4000, 0.999), (400, 0.996), (100, 0.984), (10, 0.9)])
def test_key_encoder_remembers_a_tenth_of_the_run_at_most(epochs: int, keep: float) -> None:
    given = {"epochs": epochs, "batch_size": 256}
    assert adapted("moco-v2", num_images=2560, machine=GPU, given=given).resolved.recipe.ema_keep == keep


@pytest.mark.parametrize(
    ("epochs", "keep", "queue"),
    [(60, 0.999, 8192), (30, 0.998, 2048), (10, 0.996, 1024), (5, 0.992, 512), (1, 0.9, 128)],
)
def test_a_fast_key_encoder_has_a_short_queue(epochs: int, keep: float, queue: int) -> None:
    given = {"epochs": epochs, "batch_size": 128}
    recipe = adapted("moco-v2", num_images=40_000, machine=GPU, given=given).resolved.recipe
    assert (recipe.ema_keep, recipe.queue_size) == (keep, queue)
    longer = adapted("moco-v2", num_images=40_000, machine=GPU, given={**given, "queue_size": 5000})
    assert longer.resolved.recipe.queue_size == 5000


def test_this_machine_can_be_described() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    assert host_memory() > 10**8


def test_what_cannot_run_says_what_to_do() -> None:
    with pytest.raises(UsageError, match="at least 32"):
        adapted("moco", num_images=31)
    with pytest.raises(UsageError, match="--batch-size"):
        adapted("moco", num_images=40, given={"batch_size": 64})
    with pytest.raises(UsageError, match="31 does not split"):
        adapted("moco", num_images=400, given={"batch_size": 31})
    with pytest.raises(UsageError, match=r"100 images are fewer than one batch of 256: .*--auto"):
        require_enough(load_recipe("moco").recipe, 100)
    require_enough(load_recipe("moco").recipe, 256)


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("moco-v2+co2", {"queue_size": None}, "moco needs a queue"),
        ("moco-v2+co2", {"ema_keep": None}, "moco needs a queue and a key encoder"),
        ("moco-v2+co2", {"queue_size": None, "ema_keep": 1.0}, "moco needs a queue"),
        ("simclr", {"ema_keep": 0.999}, "simclr has neither queue nor key encoder"),
        ("simclr", {"ema_keep": 1.0}, "simclr has neither queue nor key encoder"),
        ("simclr", {"queue_size": 64}, "simclr has neither queue nor key encoder"),
        ("moco", {"batch_norm_groups": 1}, "two groups or more"),
        ("moco", {"batch_norm_groups": 2**31 - 1}, "does not split into 2147483647"),
        ("moco", {"batch_size": 2**31 - 2, "batch_norm_groups": 2**31 - 1}, "does not split into 2147483647"),
        ("moco", {"accumulate": 2**31 - 1}, r"does not fit into an epoch of \d+ \(9469 images"),
        ("moco", {"width": 1e200}, "--width"),
        ("moco", {"image_size": 10**200}, "--image-size"),
        ("moco", {"epochs": 10**400}, "--epochs"),
        ("moco", {"batch_size": 10**400}, "--batch-size"),
        ("moco", {"drop_epochs": (10**400,), "epochs": 7}, "--drop-epochs"),
        ("moco-v2+co2", {"consistency_ramp_epochs": 10**400}, "--consistency-ramp-epochs"),
    ],
)
@pytest.mark.parametrize("machine", [CPU, GPU])
def test_what_a_field_allows_and_a_method_does_not_is_refused_in_words(
    name: str, given: dict[str, Any], words: str, machine: Machine
) -> None:
    with pytest.raises(UsageError, match=words) as error:
        adapted(name, given=given, machine=machine)
    assert error.value.exit_code == 2


def test_a_key_encoder_that_is_frozen_is_left_alone_whoever_froze_it(tmp_path: Path) -> None:
    cases: list[tuple[str, dict[str, Any]]] = [
        ("moco-v2", {"ema_keep": 1.0}),
        (own_recipe(tmp_path, "moco-v2", ema_keep=1.0), {}),
    ]
    for name, given in cases:
        recipe = adapted(name, num_images=40_000, machine=GPU, given={**given, "epochs": 1}).resolved.recipe
        assert (recipe.ema_keep, recipe.queue_size) == (1.0, 8192)


EXTREMES: list[dict[str, Any]] = [
    {"width": 64.0}, {"image_size": 8}, {"min_area": 1e-300}, {"min_area": 1.0}, {"lr": 1e-300},
    {"epochs": 2**31 - 1}, {"warmup_epochs": 3, "epochs": 4}, {"drop_epochs": ()}, {"drop_epochs": (2**31 - 1,)},
    {"queue_size": 1}, {"queue_size": 2**31 - 1}, {"ema_keep": 0.0}, {"ema_keep": 0.9999999999999999},
    {"ema_keep": 1.0}, {"consistency_weight": 0.0, "consistency_ramp_epochs": 2**31 - 1}, {"batch_norm": "plain"},
    {"accumulate": 2}, {"batch_size": 2, "batch_norm": "sync"},
]  # fmt: skip


@pytest.mark.parametrize("machine", [CPU, GPU, SMALL_GPU, MAC])
@pytest.mark.parametrize("given", EXTREMES)
def test_extreme_values_that_a_method_takes_are_left_alone(given: dict[str, Any], machine: Machine) -> None:
    recipe = adapted("moco+co2", given=given, machine=machine).resolved.recipe
    assert {field: getattr(recipe, field) for field in given} == given


def test_a_strong_term_rises_over_a_short_run() -> None:
    def ramp(name: str, **options: Any) -> tuple[int, int]:
        recipe = adapted(name, **options).resolved.recipe
        return recipe.consistency_ramp_epochs, recipe.epochs

    rises, epochs = ramp("moco+co2")
    assert rises == epochs > 0
    (change,) = [change for change in adapted("moco+co2").changes if change.field == "consistency_ramp_epochs"]
    assert "a weight of 10 at once" in change.reason
    # Long runs stay as published, and so do weaker terms; without the term nothing rises.
    assert ramp("moco+co2", num_images=1_281_167, machine=GPU)[0] == 0
    assert ramp("moco+co2", given={"consistency_weight": 1.0})[0] == 0
    assert ramp("moco+co2", given={"consistency_temperature": 0.2})[0] == 0
    for name in ("moco", "moco-v2+co2", "simclr+co2"):
        assert ramp(name)[0] == 0
    # What the user gave stays.
    assert ramp("moco+co2", given={"consistency_ramp_epochs": 0})[0] == 0
    assert ramp("moco+co2", given={"consistency_ramp_epochs": 1})[0] == 1


def test_a_ramp_goes_with_the_epochs(tmp_path: Path) -> None:
    path = own_recipe(tmp_path, "moco-v2", consistency_ramp_epochs=50)
    for epochs, ramp in ((20, 5), (200, 50), (400, 100), (2, 1), (1, 1)):
        result = adapted(f"{path}+co2", machine=GPU, given={"epochs": epochs})
        assert result.resolved.recipe.consistency_ramp_epochs == ramp
        assert (result.resolved.origins["consistency_ramp_epochs"].kind == "auto") == (ramp != 50)
    free = adapted(f"{path}+co2", num_images=5000, machine=GPU).resolved.recipe
    assert (free.epochs, free.consistency_ramp_epochs) == (800, 200)
    kept = adapted("moco-v2+co2", machine=GPU, given={"epochs": 20, "consistency_ramp_epochs": 20}).resolved.recipe
    assert kept.consistency_ramp_epochs == 20
    with pytest.raises(UsageError, match="--consistency-ramp-epochs 20 or less, or --epochs 21 or more"):
        adapted("moco-v2+co2", machine=GPU, given={"epochs": 20, "consistency_ramp_epochs": 21})
    # What is chosen for a CPU counts as well.
    with pytest.raises(UsageError, match="--epochs 90 or more"):
        adapted("moco-v2+co2", given={"consistency_ramp_epochs": 90})


def test_no_step_takes_more_batches_than_an_epoch_has(tmp_path: Path) -> None:
    recipe = adapted(own_recipe(tmp_path, "moco", accumulate=8), num_images=100, machine=GPU).resolved.recipe
    assert (recipe.batch_size, recipe.accumulate) == (16, 6)
    assert recipe.lr == pytest.approx(0.03 * 16 * 6 / (256 * 8), rel=1e-3)
    whole = load_recipe("moco", overrides={"accumulate": 3}).recipe
    require_enough(whole, 3 * 256)
    with pytest.raises(UsageError, match=r"a step of 3 batches does not fit into an epoch of 2 \(767 images") as error:
        require_enough(whole, 3 * 256 - 1)
    assert "--accumulate" in str(error.value)


@pytest.mark.parametrize("name", recipe_names())
def test_over_a_grid_of_processes_it_runs_on_all_of_them(name: str) -> None:
    published = load_recipe(name).recipe
    grid = itertools.product((32, 5_000, 1_281_167), (CPU, GPU, SMALL_GPU), ((2, 1), (3, 3), (6, 3), (8, 8), (16, 8)))
    for num_images, machine, (processes, local) in grid:
        shared = replace(machine, processes=processes, local_processes=local)
        recipe = adapted(name, num_images=num_images, machine=shared).resolved.recipe
        require_runnable(recipe)
        require_shared(recipe, processes)
        require_enough(recipe, num_images)
        assert recipe.batch_size // processes >= 2
        assert recipe.lr * published.batch_size == pytest.approx(published.lr * recipe.batch_size, rel=1e-3)


def test_a_batch_has_the_memory_of_all_cards() -> None:
    one, eight = (
        adapted("simclr", machine=replace(SMALL_GPU, processes=processes, local_processes=4), num_images=10**6)
        for processes in (1, 8)
    )
    assert eight.resolved.recipe.batch_size == 8 * one.resolved.recipe.batch_size
    assert "fit into 8 GB" in next(str(change) for change in one.changes if change.field == "batch_size")
    assert "fit into 8 x 8 GB" in next(str(change) for change in eight.changes if change.field == "batch_size")
    # Processes on one CPU share its memory.
    cpu = [
        adapted(
            "simclr", machine=replace(CPU, memory=GB, processes=processes, local_processes=processes)
        ).resolved.recipe
        for processes in (1, 4)
    ]
    assert cpu[0].batch_size == cpu[1].batch_size


@pytest.mark.parametrize(
    ("processes", "batch", "groups"), [(1, 32, 2), (2, 32, 2), (4, 32, 4), (8, 32, 8), (8, 128, 8), (16, 64, 16)]
)
def test_batch_norm_groups_divide_over_the_processes(processes: int, batch: int, groups: int) -> None:
    machine = replace(GPU, processes=processes, local_processes=processes)
    recipe = adapted("moco", machine=machine, given={"batch_size": batch}).resolved.recipe
    assert recipe.batch_norm_groups == groups


def test_a_batch_that_processes_cannot_share_is_changed_or_refused() -> None:
    three = replace(GPU, processes=3, local_processes=3)
    recipe = adapted("moco", num_images=10**6, machine=three).resolved.recipe
    assert (recipe.batch_size, recipe.batch_norm_groups) == (192, 6)
    with pytest.raises(UsageError, match="100 does not divide over 3 processes: give a --batch-size"):
        adapted("simclr", num_images=10**6, machine=three, given={"batch_size": 100})
    with pytest.raises(UsageError, match="4 batch-norm groups do not divide over 8 processes"):
        adapted("moco", machine=EIGHT, given={"batch_norm_groups": 4})
    with pytest.raises(UsageError, match=r"32 images are too few for 20 processes.* 16 processes at most"):
        adapted("moco", num_images=32, machine=replace(EIGHT, processes=20))


def test_batch_norm_shuffle_is_for_several_processes() -> None:
    with pytest.raises(UsageError, match="there is one: give --batch-norm split"):
        adapted("moco", machine=GPU, given={"batch_norm": "shuffle"})
    recipe = adapted("moco", num_images=10**6, machine=EIGHT, given={"batch_norm": "shuffle"}).resolved.recipe
    assert (recipe.batch_norm, recipe.batch_size) == ("shuffle", 256)


@pytest.mark.parametrize(("local", "workers"), [(1, 16), (2, 8), (8, 2), (32, 1)])
def test_processes_of_a_machine_share_its_cores(local: int, workers: int) -> None:
    result = adapted("moco", machine=replace(GPU, processes=32, local_processes=local), num_images=10**6)
    assert result.options.workers == workers
    (why,) = [change.reason for change in result.changes if change.field == "workers"]
    assert ("share 16 cores" in why) == (local > 1)


def test_more_machines_have_more_cores() -> None:
    one, two = (
        adapted("moco-v2", given={"epochs": 3}, machine=replace(CPU, processes=processes, local_processes=2))
        for processes in (2, 4)
    )
    assert one.estimated_seconds is not None
    assert two.estimated_seconds == pytest.approx(one.estimated_seconds / 2)


def test_processes_are_counted_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "usable_cores", lambda: 16)
    cases: list[tuple[str | None, str | None, tuple[int, int], int]] = [
        (None, None, (1, 1), 16),
        ("8", None, (8, 1), 16),
        ("8", "4", (8, 4), 4),
        ("1", "4", (1, 1), 16),
        ("64", "64", (64, 64), 1),
    ]
    for world, local, expected, workers in cases:
        for name, value in (("WORLD_SIZE", world), ("LOCAL_WORLD_SIZE", local)):
            if value is None:
                monkeypatch.delenv(name, raising=False)
            else:
                monkeypatch.setenv(name, value)
        assert process_counts() == expected
        assert workers_per_process() == workers
    for wrong in ("", "0", "-2", "two", "1.5"):
        monkeypatch.setenv("WORLD_SIZE", wrong)
        with pytest.raises(UsageError, match=re.escape(f"WORLD_SIZE={wrong!r}")):
            process_counts()


@pytest.mark.parametrize(("name", "machine"), [("moco+co2", GPU), ("moco-v2+co2", CPU), ("simclr", EIGHT)])
def test_what_one_process_came_to_can_be_told_to_others(name: str, machine: Machine) -> None:
    own = adapted(name, num_images=5_000, size=(40, 40), machine=machine)
    told = adapted_from_plain(json.loads(json.dumps(own.as_plain())), load_recipe(name, check=False), RunOptions())
    assert told == own
    assert told.resolved.recipe != load_recipe(name).recipe
