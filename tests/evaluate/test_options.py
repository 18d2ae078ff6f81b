from __future__ import annotations

import subprocess
import sys
from typing import Any, get_args

import pytest

from co2ssl.api.protocols import MEASURES
from co2ssl.config.messages import validated
from co2ssl.errors import UsageError
from co2ssl.evaluate import PROTOCOLS
from co2ssl.evaluate.base_options import EvaluationOptions
from co2ssl.evaluate.knn import DEFAULT_TEMPERATURE
from co2ssl.evaluate.layers import LAYERS
from co2ssl.evaluate.linear_sgd import BATCH_SIZE, EPOCHS, LinearSettings
from co2ssl.evaluate.options import OPTIONS, SGD_ONLY, FinetuneOptions, KnnOptions, LinearOptions, SvmOptions
from co2ssl.evaluate.svm_problem import Difficult
from co2ssl.evaluate.voc07 import DEFAULT_PIPELINE, PIPELINES

PAIR = {"train": "a", "val": "b"}


def linear(**given: Any) -> LinearOptions:
    return validated(LinearOptions, {**PAIR, **given})


def test_every_protocol_has_options_a_function_and_examples() -> None:
    assert list(PROTOCOLS) == list(OPTIONS) == [*MEASURES, "all"]
    for name, model in OPTIONS.items():
        assert model.examples
        assert all(words.startswith(f"co2ssl evaluate {name} ") for words in model.examples)


@pytest.mark.parametrize("model", [EvaluationOptions, *OPTIONS.values()])
def test_every_option_has_its_help(model: type[EvaluationOptions]) -> None:
    for name, field in model.model_fields.items():
        assert field.description, name
    assert set(model.positional) <= set(model.model_fields)


def test_defaults_are_those_of_the_functions() -> None:
    assert validated(KnnOptions, PAIR).temperature == DEFAULT_TEMPERATURE
    # None: as many as train_classifiers takes by itself, or all the images where they are fewer.
    assert (linear().epochs, linear().batch_size) == (EPOCHS, None)
    assert LinearSettings(image_size=8).batch_size == BATCH_SIZE
    for model in (KnnOptions, LinearOptions, SvmOptions):
        assert get_args(model.model_fields["layer"].annotation) == LAYERS


def test_the_names_of_results() -> None:
    assert linear().result_name == ""
    assert linear(fast=True).result_name == "fast"
    assert linear(layer="res4").result_name == "res4"
    assert linear(fast=True, layer="res4").result_name == "fast-res4"
    assert linear(fast=True, layer="res4", seed=2).result_name == "fast-res4-seed-2"
    assert linear(lr=(10.0, 0.5), epochs=20).result_name == "lr-10-0.5-epochs-20"
    assert validated(KnnOptions, PAIR).result_name == ""
    assert validated(KnnOptions, {**PAIR, "neighbours": 20}).result_name == "k-20"
    assert validated(KnnOptions, {**PAIR, "layer": "res3", "temperature": 0.1}).result_name == "res3-temperature-0.1"
    tuned = {**PAIR, "labels": "10%", "backbone_lr": 0.002, "head_lr": 1.0}
    assert validated(FinetuneOptions, tuned).result_name == "10percent-backbone-lr-0.002"


def test_choices_of_the_svm_are_those_of_its_room() -> None:
    fields = SvmOptions.model_fields
    assert get_args(fields["pipeline"].annotation) == tuple(PIPELINES)
    assert fields["pipeline"].default == DEFAULT_PIPELINE
    assert get_args(fields["difficult"].annotation) == get_args(Difficult)
    assert validated(SvmOptions, {"voc": "v"}).result_name == ""
    assert validated(SvmOptions, {"voc": "v", "pipeline": "pcl", "year": "2012"}).result_name == "pcl-2012"
    assert validated(SvmOptions, {"voc": "v", "seed": 1}).result_name == "seed-1"


@pytest.mark.parametrize(("name", "value"), [("lr", (1.0,)), ("epochs", 5), ("batch_size", 8)])
def test_what_sgd_alone_uses_is_refused_beside_fast(name: str, value: object) -> None:
    assert name in SGD_ONLY
    linear(**{name: value}).check()
    linear(fast=True).check()
    with pytest.raises(UsageError, match=f"leave --{name.replace('_', '-')} out"):
        linear(fast=True, **{name: value}).check()


@pytest.mark.parametrize(
    "given", [{"lr": ()}, {"lr": (-1.0,)}, {"epochs": 0}, {"layer": "res6"}, {"epoch": 3}, {"seed": -1}, {"fast": 1}]
)
def test_values_out_of_range(given: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        linear(**given)


def test_options_need_no_torch() -> None:
    program = "import sys, co2ssl.evaluate.options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_training_does_not_wait_for_what_only_protocols_need() -> None:
    script = "import sys; from co2ssl.api import pretrain; sys.exit('sklearn' in sys.modules or 'scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
