"""A device without memory left is said in words, with the step, what is saved, and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from co2ssl.data.batch import Batch
from co2ssl.methods.method import Step
from co2ssl.train.loop import Rhythm
from co2ssl.train.out_of_memory import OutOfMemoryError
from tests.train.fakes import TinyMethod, fit, folder_of


class Greedy(TinyMethod):
    """Wants more memory than there is, in the ninth step."""

    error: RuntimeError

    def forward(self, batch: Batch) -> Step:
        if batch.step == 8:
            raise self.error
        return super().forward(batch)


@pytest.mark.parametrize(
    ("error", "briefly"),
    [
        (
            torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB"
            ),
            "CUDA out of memory. Tried to allocate 2.00 GiB",
        ),
        (
            RuntimeError(
                "[alloc_cpu] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.\nAt"
            ),
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
        ),
    ],
)
def test_a_full_device_is_said_with_what_to_do(tmp_path: Path, error: RuntimeError, briefly: str) -> None:
    method = Greedy()
    method.error = error
    with pytest.raises(OutOfMemoryError) as caught:
        fit(tmp_path / "run", epochs=2, method=method)
    text = str(caught.value)
    assert text.startswith("no memory is left on the device (cpu) at step 9 (epoch 2): ")
    assert f"{briefly}; the last checkpoint is whole: {tmp_path}/run/checkpoints/step-000006.ckpt. Start a" in text
    for option in ("--batch-size", "--precision bf16", "--auto"):
        assert option in text
    assert text.endswith(f"co2ssl pretrain --resume {tmp_path}/run")
    assert caught.value.__cause__ is error
    # Who looks for torch's own error finds it.
    assert isinstance(caught.value, torch.OutOfMemoryError)
    assert caught.value.exit_code == 1
    assert [path.name for path in folder_of(tmp_path / "run").saved()] == ["step-000006.ckpt"]


def test_a_full_device_before_the_first_checkpoint(tmp_path: Path) -> None:
    method = Greedy()
    method.error = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(OutOfMemoryError, match=r"no checkpoint had been written\. Start a new run") as caught:
        fit(tmp_path, epochs=2, method=method, rhythm=Rhythm(checkpoint_every=2))
    assert "--resume" not in str(caught.value)


def test_another_runtime_error_stays_what_it_is(tmp_path: Path) -> None:
    method = Greedy()
    method.error = RuntimeError("shapes do not fit")
    with pytest.raises(RuntimeError, match=r"^shapes do not fit$") as caught:
        fit(tmp_path, epochs=2, method=method)
    assert caught.value is method.error
