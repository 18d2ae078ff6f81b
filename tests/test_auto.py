from __future__ import annotations

import itertools
import os
from typing import Any, get_args

import pytest

from co2ssl.config import (
    Adapted,
    Machine,
    Recipe,
    RunOptions,
    adapt,
    host_memory,
    load_recipe,
    recipe_names,
    require_enough,
    require_runnable,
    rules,
    usable_cores,
)
from co2ssl.data.device_views import crops_alone
from co2ssl.data.views import VIEW_RECIPES
from co2ssl.errors import UsageError

GB = 10**9
CPU = Machine(device="cpu", cores=2, memory=16 * GB)
GPU = Machine(device="cuda", cores=16, memory=80 * GB, fast_bf16=True)
SMALL_GPU = Machine(device="cuda", cores=8, memory=8 * GB)
MAC = Machine(device="mps", cores=1, memory=16 * GB)
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
