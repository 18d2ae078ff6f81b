"""What the doctor returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from co2ssl.config import Recipe, RunOptions
from co2ssl.data.inspection import Inspection


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How fast one thing goes.

    Attributes:
        images: how many were done.
        seconds: how long that took.
        bytes: of the files read, where files were read.
    """

    images: int
    seconds: float
    bytes: int = 0

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / max(self.seconds, 1e-9)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What was diagnosed: a recipe, on a machine.

    Attributes:
        name: of the recipe.
        recipe: its values, changed as given or fitted.
        options: how it would be run.
        changes: what was fitted to images and machine, in words.
        device: "cpu", "cuda" or "mps".
        cores: CPU cores that may be used.
        workers: processes that make views.
        host_memory: bytes of this machine's memory.
        device_memory: bytes of the device's, which is the machine's where it has none of its own.
        fast_bf16: whether the device has bfloat16 arithmetic.
        refused: why ``pretrain`` would refuse these images with this recipe; None where it would not.
    """

    name: str
    recipe: Recipe
    options: RunOptions
    changes: tuple[str, ...]
    device: str
    cores: int
    workers: int
    host_memory: int
    device_memory: int
    fast_bf16: bool
    refused: str | None

    @property
    def hands(self) -> int:
        """Cores that make views at the same time."""
        return max(1, min(self.workers, self.cores))


@dataclass(frozen=True, kw_only=True)
class Together:
    """What the whole loop took, files to weights, with files that the system had in memory.

    Attributes:
        epoch_seconds: time for one epoch of the images that were to be trained on.
        wait_share: share of the time that the loop waited for data, 0 to 1.
        host_bytes: most memory of this process and its workers; None where the system does not say.
        device_bytes: most memory allocated on the device; None where it is not a CUDA device.
    """

    epoch_seconds: float
    wait_share: float
    host_bytes: int | None
    device_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """How fast each part goes by itself; None where there is nothing to measure.

    Attributes:
        disk: files from the disk and not from memory, as many at once as there are workers.
        decode: bytes to pixels, on one core; with a cache, pixels out of it.
        augment: pixels to all views of an image, on one core; with views on the device, to their crops.
        copy: views to the device; None on a CPU.
        step: forward, key forward, backward and optimiser, on the device; with views there, also what finishes them.
        together: the whole loop; None where ``pretrain`` would refuse to run it.
    """

    disk: Pace | None = None
    decode: Pace | None = None
    augment: Pace | None = None
    copy: Pace | None = None
    step: Pace | None = None
    together: Together | None = None


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What a run would take; without the time of probes and checkpoints.

    Attributes:
        epoch_seconds: of an epoch, the first one aside.
        seconds: of all epochs of the recipe.
        host_bytes: most memory of this machine, all processes; None where the system does not say.
        device_bytes: most memory allocated on the device; None where it is not a CUDA device.
    """

    epoch_seconds: float
    seconds: float
    host_bytes: int | None
    device_bytes: int | None


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What ``co2ssl doctor`` found.

    Attributes:
        data: what the images are called.
        setting: the recipe and the machine.
        inspection: the images.
        measured: the speeds.
        milliseconds: what each part takes the whole machine for an image, by the names of ``Measured``.
        binding: the part that decides how long the run takes; None where nothing could be measured.
        prediction: of time and memory; None where the run would be refused.
        problem: why the run would not work; None where it would.
        findings: what is remarkable about the images, in sentences.
        advice: what to change, in sentences, the most helpful first.
    """

    data: str
    setting: Setting
    inspection: Inspection
    measured: Measured
    milliseconds: dict[str, float]
    binding: str | None
    prediction: Prediction | None
    problem: str | None
    findings: tuple[str, ...]
    advice: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """All of it in what JSON has."""
        setting = self.setting
        machine = ("device", "cores", "host_memory", "device_memory", "fast_bf16")
        images = {name: value for name, value in asdict(self.inspection).items() if name != "good"}
        if self.inspection.file_bytes is not None:
            names = ("median", "largest", "sum_of_looked_at")
            images["file_bytes"] = dict(zip(names, self.inspection.file_bytes, strict=True))
        return {
            "data": self.data,
            "images": images,
            "recipe": {"name": setting.name, **setting.recipe.model_dump(mode="json")},
            "options": {**setting.options.model_dump(mode="json"), "workers": setting.workers},
            "fitted": list(setting.changes),
            "machine": {name: getattr(setting, name) for name in machine},
            "measured": {one.name: _measured(getattr(self.measured, one.name)) for one in fields(Measured)},
            "milliseconds_per_image": self.milliseconds,
            "binding": self.binding,
            "prediction": None if self.prediction is None else asdict(self.prediction),
            "problem": self.problem,
            "findings": list(self.findings),
            "advice": list(self.advice),
        }


def _measured(found: Pace | Together | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {**asdict(found), "images_per_second": found.rate} if isinstance(found, Pace) else asdict(found)
