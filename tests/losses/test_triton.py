"""Run the kernels' tests under Triton's interpreter, and check what is said where there is no GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from co2ssl import losses
from co2ssl.losses import Contrast, contrastive_loss, engine, triton_loss
from co2ssl.losses.engine import Implementation
from co2ssl.losses.settings import Inputs, Needs, Settings, inputs_of
from co2ssl.losses.triton_loss import LaunchError, loss_by_triton, why_not
from tests.losses.cases import leaves, table, unit

HERE = Path(__file__).parent


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_kernels_under_the_interpreter() -> None:
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, str(HERE / "interpreted_triton.py")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_is_refused_by_name_and_not_chosen() -> None:
    contrast = table()
    contrast = type(contrast)(query=contrast.query.float(), positive=contrast.positive, negatives=contrast.negatives)
    with pytest.raises(ValueError, match=r"float64|not on a CUDA device|not installed"):
        contrastive_loss(contrast, temperature=0.2, implementation="triton")
    assert contrastive_loss(contrast, temperature=0.2).total.isfinite()


def example() -> Contrast:
    query, positive, negatives = (unit(rows, 5, seed=seed, dtype=torch.float32) for seed, rows in enumerate((6, 6, 11)))
    return Contrast(query=query, positive=positive, negatives=negatives)


def values_and_gradients() -> list[Tensor]:
    contrast, vectors = leaves(example())
    loss = contrastive_loss(contrast, temperature=0.2, consistency_weight=1)
    return [loss.total.detach(), loss.top1, *torch.autograd.grad(loss.total, vectors)]


class ResourcesError(Exception):
    """Stands for Triton's own."""


def kernels_fail(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> list[str]:
    """Kernels that do not launch; the names of those that were tried go on growing."""
    tried: list[str] = []

    class Kernel:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            def launch(*arguments: Any, **constants: Any) -> None:
                tried.append(self.name)
                raise failure

            return launch

    names = ("values_kernel", "row_gradients_kernel", "table_gradient_kernel")
    monkeypatch.setattr(
        losses, "triton_kernels", SimpleNamespace(**{name: Kernel(name) for name in names}), raising=False
    )
    monkeypatch.setattr(triton_loss, "_failed", set())
    return tried


def test_where_kernels_do_not_run_auto_goes_on_in_blocks_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = kernels_fail(monkeypatch, ResourcesError("out of resource: shared memory"))
    monkeypatch.setattr(engine, "choose", lambda *_: "triton or blocked")
    with pytest.warns(RuntimeWarning, match=r"(?s)values_kernel.*ResourcesError: out of resource.*in PyTorch's blocks"):
        first = values_and_gradients()
    with warnings.catch_warnings(record=True) as later:
        warnings.simplefilter("always")
        second = values_and_gradients()
    assert not [one for one in later if "blocks" in str(one.message)]
    assert tried == ["values_kernel"]
    monkeypatch.setattr(engine, "choose", lambda *_: "blocked")
    for expected, *ours in zip(values_and_gradients(), first, second, strict=True):
        assert all(torch.equal(one, expected) for one in ours)


def test_asked_for_by_name_kernels_that_do_not_run_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels_fail(monkeypatch, ResourcesError("out of resource: shared memory"))
    monkeypatch.setattr(engine, "choose", lambda *_: "triton")
    with pytest.raises(LaunchError, match="values_kernel could not be compiled or launched: ResourcesError"):
        values_and_gradients()


def test_a_full_memory_is_not_taken_for_a_failed_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels_fail(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(torch.OutOfMemoryError):
        triton_loss.loss_by_triton_where_it_runs(inputs_of(example()), Settings(0.2), Needs(True, True, False))


def test_only_auto_may_go_on_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "why_not", lambda *_: None)
    on_gpu: Any = SimpleNamespace(query=SimpleNamespace(is_cuda=True, shape=(4096, 8)), num_negatives=65536)
    asked: list[Implementation] = ["auto", "triton", "blocked"]
    chosen = [engine.choose(on_gpu, Settings(0.2), how) for how in asked]
    assert chosen == ["triton or blocked", "triton", "blocked"]


def test_kernels_are_launched_on_the_device_of_the_query(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[Tensor] = []
    at_launch: list[list[Tensor]] = []

    class DeviceOf:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

        def __enter__(self) -> None:
            current.append(self.tensor)

        def __exit__(self, *_: object) -> None:
            current.pop()

    def launch(*arguments: Any, **constants: Any) -> None:
        at_launch.append(list(current))
        raise LaunchError

    monkeypatch.setattr(torch.cuda, "device_of", DeviceOf)
    monkeypatch.setattr(triton_loss, "_run", launch)
    inputs = inputs_of(example())
    with pytest.raises(LaunchError):
        loss_by_triton(inputs, Settings(0.2), Needs(True, True, True))
    ((tensor,),) = at_launch
    assert tensor is inputs.query


def test_what_the_kernels_can_take_is_asked_without_a_break_in_a_compiled_graph() -> None:
    def asked(query: Tensor) -> Tensor:
        reason = why_not(Inputs(query, query[:, None], query), Settings(0.2))
        return query if reason is None else query + 1

    query = unit(4, 5, seed=1, dtype=torch.float32)
    compiled = torch.compile(asked, fullgraph=True, backend="eager")
    assert torch.equal(compiled(query), asked(query))
