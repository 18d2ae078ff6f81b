from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from co2ssl.config import (
    DataRecord,
    Origin,
    Recipe,
    RunConfig,
    RunOptions,
    content_hash,
    field_docs,
    load_recipe,
    read_run_config,
    recipe_names,
    require_runnable,
    require_shared,
    resolve_options,
)
from co2ssl.errors import UsageError

OTHER_VALUES: dict[str, Any] = {
    "method": "simclr", "arch": "resnet34", "width": 0.5, "stem": "small", "head": "linear", "head_layers": 3,
    "head_hidden": 64, "head_batch_norm": True, "embedding_dim": 64, "temperature": 0.3, "consistency_weight": 2.0,
    "consistency_temperature": 0.3, "consistency_direction": "reverse", "consistency_ramp_epochs": 2,
    "detach_positive": True, "queue_size": 4096,
    "ema_keep": 0.9, "exclude_own": True, "batch_norm": "plain", "batch_norm_groups": 2, "views": "moco-v1",
    "image_size": 96, "min_area": 0.5, "optimizer": "lars", "lr": 0.5, "optimizer_momentum": 0.5, "weight_decay": 0.5,
    "schedule": "steps", "drop_epochs": (3, 4), "drop_factor": 0.5, "warmup_epochs": 1, "epochs": 9, "batch_size": 64,
    "accumulate": 2,
}  # fmt: skip


def run_config(**overrides: Any) -> RunConfig:
    return RunConfig(
        resolved=load_recipe("moco+co2", overrides=overrides),
        options=resolve_options({"seed": 7}),
        option_origins={"seed": Origin(kind="option")},
        data=DataRecord(source="photos: mine", num_images=300, fingerprint="abc"),
    )


def test_every_field_can_be_overridden_and_says_so() -> None:
    assert set(OTHER_VALUES) == set(Recipe.model_fields)
    for field, value in OTHER_VALUES.items():
        resolved = load_recipe("moco-v2+co2", overrides={field: value}, check=False)
        assert getattr(resolved.recipe, field) == value
        assert resolved.given == {field}
        assert getattr(resolved.published, field) != value
        assert resolved.origins[field].kind == "option"


def test_dashes_and_whole_numbers_for_floats_are_understood() -> None:
    resolved = load_recipe("moco", overrides={"batch-size": 64, "consistency-weight": 3})
    assert (resolved.recipe.batch_size, resolved.recipe.consistency_weight) == (64, 3.0)


def test_lists_are_taken_for_tuples() -> None:
    assert load_recipe("moco", overrides={"drop_epochs": [5, 9]}).recipe.drop_epochs == (5, 9)


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("moco-v3", {}, ["'moco-v3'", "did you mean moco-v2", "simclr", "+co2"]),
        ("mocco+co2", {}, ["'mocco+co2'", "did you mean moco+co2"]),
        ("moco+co3", {}, ["'moco+co3'", "moco"]),
        ("moco", {"batch_sise": 3}, ["unknown option 'batch_sise'", "did you mean batch_size"]),
        ("moco", {"devise": "cuda"}, ["unknown option 'devise'", "did you mean device", "batch_size, ", "views_on, "]),
        ("moco", {"presicion": "bf16"}, ["unknown option 'presicion'; did you mean precision?"]),
        ("moco", {"width": 65.0}, ["--width", "65.0", "less than or equal to 64"]),
        ("moco", {"epochs": 2**31}, ["--epochs", "2147483648", "less than 2147483648"]),
        ("moco", {"batch_size": "big"}, ["--batch-size", "'big'", "integer"]),
        ("moco", {"batch_size": 64.5}, ["--batch-size", "64.5", "integer"]),
        ("moco", {"batch_size": True}, ["--batch-size", "True", "integer"]),
        ("moco", {"epochs": 0}, ["--epochs", "0", "greater than 0"]),
        ("moco", {"lr": "0.1"}, ["--lr", "'0.1'", "number"]),
        ("moco", {"lr": float("nan")}, ["--lr", "nan", "finite"]),
        ("moco", {"ema_keep": 1.5}, ["--ema-keep", "1.5", "less than or equal to 1"]),
        ("moco", {"arch": "resnet50w2"}, ["--arch", "'resnet50w2'", "'resnet18', 'resnet34' or 'resnet50'"]),
        ("moco", {"drop_epochs": [1, "x"]}, ["--drop-epochs", "integer"]),
        ("moco", {"epochs": "x", "lr": "y"}, ["--epochs", "--lr"]),
    ],
)
def test_wrong_usage_is_named_and_mended(name: str, overrides: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UsageError) as error:
        load_recipe(name, overrides=overrides)
    assert error.value.exit_code == 2
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("name", "overrides", "words"),
    [
        ("moco", {"batch_size": 100}, "100 does not split into 8"),
        ("moco", {"batch_size": 8}, "two images in every group"),
        ("moco", {"batch_norm_groups": 1}, "two groups or more"),
        (
            "moco+co2",
            {"consistency_ramp_epochs": 201},
            "--consistency-ramp-epochs 200 or less, or --epochs 201 or more",
        ),
        ("moco+co2", {"consistency_ramp_epochs": 50, "epochs": 49}, "--consistency-ramp-epochs 49 or less"),
        ("moco", {"queue_size": None}, "--queue-size"),
        ("moco", {"drop_epochs": (5, 3)}, "must rise"),
        ("moco-v2", {"schedule": "steps"}, "--drop-factor"),
        ("moco-v2", {"head_layers": 1}, "--head-layers"),
        ("moco", {"head": "mlp"}, "--head-hidden"),
        ("simclr", {"queue_size": 64}, "neither queue"),
        ("simclr", {"accumulate": 2}, "--accumulate"),
        ("simclr", {"exclude_own": False}, "--exclude-own"),
        ("simclr", {"batch_norm": "split"}, "--batch-norm sync"),
        ("simclr", {"epochs": 10}, "--warmup-epochs 1"),
    ],
)
def test_fields_that_cannot_run_together_are_refused(name: str, overrides: dict[str, Any], words: str) -> None:
    unchecked = load_recipe(name, overrides=overrides, check=False)
    with pytest.raises(UsageError, match=words):
        load_recipe(name, overrides=overrides)
    with pytest.raises(UsageError, match=words):
        require_runnable(unchecked.recipe)


def test_a_ramp_may_be_as_long_as_the_run_and_is_not_read_where_nothing_rises() -> None:
    assert load_recipe("moco+co2", overrides={"consistency_ramp_epochs": 200}).recipe.consistency_ramp_epochs == 200
    assert load_recipe("moco", overrides={"consistency_ramp_epochs": 201}).recipe.consistency_weight == 0.0


@pytest.mark.parametrize(
    ("name", "overrides", "processes", "words"),
    [
        ("moco", {}, 3, "256 does not divide over 3 processes: give a --batch-size.*; 8 batch-norm groups do not"),
        ("moco", {"batch_norm_groups": 2}, 4, "2 batch-norm groups do not divide over 4.*--batch-norm-groups 4"),
        ("moco", {"batch_norm": "shuffle"}, 1, "there is one: give --batch-norm split --batch-norm-groups 8"),
        ("simclr", {"batch_size": 100}, 8, "100 does not divide over 8 processes"),
    ],
)
def test_what_processes_cannot_share_is_refused(
    name: str, overrides: dict[str, Any], processes: int, words: str
) -> None:
    recipe = load_recipe(name, overrides=overrides).recipe
    with pytest.raises(UsageError, match=words):
        require_shared(recipe, processes)


@pytest.mark.parametrize(
    ("name", "overrides", "processes"),
    [("moco", {}, 1), ("moco", {}, 8), ("simclr", {}, 64), ("moco", {"batch_norm": "shuffle"}, 2)],
)
def test_what_processes_can_share_passes(name: str, overrides: dict[str, Any], processes: int) -> None:
    require_shared(load_recipe(name, overrides=overrides).recipe, processes)


def test_a_recipe_file_of_ones_own(tmp_path: Path) -> None:
    text = (Path(sys.modules["co2ssl"].__file__ or "").parent / "recipes" / "moco.yaml").read_text(encoding="utf-8")
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("lr: {value: 0.03", "lr: {value: 0.04"), encoding="utf-8")
    assert load_recipe(str(path)).recipe.lr == 0.04
    assert load_recipe(f"{path}+co2").recipe.consistency_weight == 10.0
    for before, after, words in [
        ("lr: {", "learning_rate: {", "learning_rate"),
        ("  epochs: {value: 200, mark: seen", "  epochs: {value: 200, mark: known", "mark"),
        ("  epochs: {value: 200", "  epochs: {value: many", "'many'"),
        ("  epochs: {value: 200", "  # epochs: {value: 200", "no value for epochs"),
        ("co2:\n", "co3:\n", "co3"),
        ("about:", "about: [", "not YAML"),
        ("weight_decay: {value: 0.0001", "weight_decay: {value: 1e-4", "weight_decay"),
    ]:
        assert before in text
        path.write_text(text.replace(before, after), encoding="utf-8")
        with pytest.raises(UsageError, match=words) as error:
            load_recipe(str(path))
        assert str(path) in str(error.value)
    with pytest.raises(UsageError, match="cannot read"):
        load_recipe(str(tmp_path / "none.yaml"))


def test_a_recipe_cannot_be_changed() -> None:
    recipe = load_recipe("moco").recipe
    with pytest.raises(ValueError, match="frozen"):
        recipe.lr = 1.0


@pytest.mark.parametrize("model", [Recipe, RunOptions])
def test_every_field_has_one_line_of_documentation(model: type[Recipe | RunOptions]) -> None:
    docs = field_docs(model)
    assert set(docs) == set(model.model_fields)
    assert all(doc.endswith(".") and "\n" not in doc for doc in docs.values())


def test_run_options_are_as_strict() -> None:
    assert resolve_options({"log-every": 3}).log_every == 3
    with pytest.raises(UsageError, match="did you mean precision"):
        resolve_options({"precison": "bf16"})
    with pytest.raises(UsageError, match="--seed"):
        resolve_options({"seed": -1})


def test_hash_follows_what_changes_the_result_and_nothing_else() -> None:
    recipe, options = load_recipe("moco-v2+co2").recipe, RunOptions()
    first = content_hash(recipe, options, "data")
    assert first == content_hash(load_recipe("moco-v2+co2").recipe, RunOptions(workers=3, log_every=1), "data")
    others = {content_hash(recipe, options, "other"), content_hash(recipe, RunOptions(seed=1), "data")}
    others.add(content_hash(recipe, RunOptions(precision="bf16"), "data"))
    for field, value in OTHER_VALUES.items():
        others.add(content_hash(recipe.model_copy(update={field: value}), options, "data"))
    assert len(others) == len(OTHER_VALUES) + 3
    assert first not in others


@pytest.mark.parametrize("name", [f"{name}{suffix}" for name in recipe_names() for suffix in ("", "+co2")])
def test_run_config_comes_back_as_written(name: str, tmp_path: Path) -> None:
    written = RunConfig(
        resolved=load_recipe(name, overrides={"weight_decay": 1e-06}),
        options=resolve_options({"seed": 7}),
        option_origins={"seed": Origin(kind="option"), "workers": Origin(kind="auto", why="was 3; 'two': cores")},
        data=DataRecord(source="a: b # c", num_images=300, fingerprint="abc"),
    )
    path = tmp_path / "config.yaml"
    path.write_text(written.to_yaml(), encoding="utf-8")
    read = read_run_config(path)
    assert read.resolved.recipe == written.resolved.recipe
    assert read.resolved.origins == written.resolved.origins
    assert (read.options, read.option_origins) == (written.options, written.option_origins)
    assert (read.data, read.hash, read.resolved.about) == (written.data, written.hash, written.resolved.about)
    assert read.to_yaml() == written.to_yaml()


def test_run_config_says_where_each_value_comes_from() -> None:
    content = yaml.safe_load(run_config(lr=0.5).to_yaml())
    assert content["recipe"]["lr"] == {"value": 0.5, "from": "option"}
    assert content["recipe"]["epochs"]["from"].startswith("recipe: seen; ")
    assert content["options"]["seed"] == {"value": 7, "from": "option"}
    assert content["options"]["precision"] == {"value": "float32", "from": "default"}


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("  lr: {value: 0.03", "  lr: {value: 0.04", "edited"),
        ("  lr: {value: 0.03", "  lr: {value: fast", "'fast'"),
        ("  lr: {value: 0.03, from:", "  lr: {value: 0.03, form:", "value: ..., from"),
        ("  lr:", "  rate:", "rate"),
        ("  seed: {", "  sed: {", "sed"),
        ("options:", "choices:", "choices"),
        ("num_images: 300", "num_images: many", "num_images"),
    ],
)
def test_run_config_is_read_strictly(before: str, after: str, words: str, tmp_path: Path) -> None:
    path, text = tmp_path / "config.yaml", run_config().to_yaml()
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")
    with pytest.raises(UsageError, match=words) as error:
        read_run_config(path)
    assert str(path) in str(error.value)


def test_no_run_config(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        read_run_config(tmp_path / "config.yaml")
    (tmp_path / "config.yaml").write_text("- 1", encoding="utf-8")
    with pytest.raises(UsageError, match="found list"):
        read_run_config(tmp_path / "config.yaml")


def test_import_is_light() -> None:
    heavy = "torch", "numpy", "sklearn", "matplotlib", "rich", "yaml", "tyro"
    code = f"import sys, co2ssl.config; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
