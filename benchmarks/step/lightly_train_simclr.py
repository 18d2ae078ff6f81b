"""The other side: ``lightly-train``'s SimCLR command, through its documented Python form, with a clock in its trainer.

    lightly-train pretrain out=OUT data=IMAGES model=torchvision/resnet18 method=simclr batch_size=128
        transform_args.image_size=[64,64]

Runs in an environment of its own, and imports nothing of this package.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

# Before the import: nothing is reported to its makers.
os.environ["LIGHTLY_TRAIN_EVENTS_DISABLED"] = "1"

import lightly_train  # type: ignore[import-not-found]
import torch
from pytorch_lightning import Trainer  # type: ignore[import-not-found]
from pytorch_lightning.callbacks import LambdaCallback  # type: ignore[import-not-found]

from benchmarks.step.job import Clock, Job, main, work_done


def run(job: Job) -> dict[str, Any]:
    """Images a second of the command."""
    clock = Clock(job)
    fit = Trainer.fit
    work: dict[str, Any] = {}

    def step_ended(_: Any, method: Any, __: Any, batch: Any, *___: Any) -> None:
        clock.tick()
        if not work:
            trained = sum(tensor.numel() for tensor in method.parameters() if tensor.requires_grad)
            work.update(work_done(parameters=trained, views=[view.shape for view in batch["views"]]))

    def timed_fit(trainer: Any, *given: Any, **named: Any) -> Any:
        trainer.callbacks.append(LambdaCallback(on_train_batch_end=step_ended))
        return fit(trainer, *given, **named)

    Trainer.fit = timed_fit
    with tempfile.TemporaryDirectory() as folder:
        lightly_train.pretrain(
            out=f"{folder}/out",
            data=job.images,
            model="torchvision/resnet18",
            method="simclr",
            epochs=1,
            batch_size=job.batch_size,
            num_workers="auto" if job.workers is None else job.workers,
            seed=job.seed,
            transform_args={"image_size": (job.image_size, job.image_size)},
            # One epoch of all images would be longer than what is timed.
            trainer_args={"max_steps": job.warmup + job.steps},
            **({"precision": "bf16-mixed", "accelerator": "cpu"} if job.precision == "bf16" else {}),
        )
    return {
        **clock.report(),
        **work,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "lightly-train": lightly_train.__version__,
    }


if __name__ == "__main__":
    main(run)
