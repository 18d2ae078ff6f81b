"""The loop: batches in, checkpoints and metrics out, the same for every method."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from co2ssl.data.batch import Batch
from co2ssl.distributed import all_reduce_sum, barrier, gather, world_size
from co2ssl.errors import UsageError
from co2ssl.losses.objective import Objective
from co2ssl.methods.method import Method, Update
from co2ssl.train.checkpoint import CheckpointFolder
from co2ssl.train.log import MetricsLog, Tally, means
from co2ssl.train.out_of_memory import OutOfMemoryError, briefly, is_out_of_memory
from co2ssl.train.probing import Probe, Probing
from co2ssl.train.progress import Progress
from co2ssl.train.state import DivergedError, Position, State, restore, snapshot
from co2ssl.train.steps import Batches, check_steps, in_parallel, optimiser_steps
from co2ssl.train.stop import Interrupted, any_process, stop_on_signals

Precision: TypeAlias = Literal["float32", "bf16"]


@dataclass(frozen=True, kw_only=True)
class Rhythm:
    """How often the loop does what is not training.

    Attributes:
        log_every: optimiser steps between two ``train`` events.
        checkpoint_every: epochs between two checkpoints; one more comes at the end.
        checkpoint_minutes: a checkpoint also within an epoch, when the last is this old.
        probe_every: epochs between two measurements by the probes, and one at the end; 0: never.
    """

    log_every: int = 10
    checkpoint_every: int = 1
    checkpoint_minutes: float = 15.0
    probe_every: int = 10


def train(
    method: Method,
    objective: Callable[[int], Objective],
    loader: Batches,
    *,
    optimizer: Optimizer,
    learning_rate: Callable[[int], float],
    epochs: int,
    device: torch.device,
    log: MetricsLog,
    progress: Progress,
    precision: Precision = "float32",
    accumulate: int = 1,
    probes: Sequence[Probe] = (),
    rhythm: Rhythm | None = None,
    checkpoints: CheckpointFolder | None = None,
    saved: Mapping[str, Any] | None = None,
) -> Position:
    """Train ``method`` and leave it trained.

    One optimiser step takes ``accumulate`` batches of the loader; the objective is the mean over all their rows, over
    all processes, whatever each one's share. Ctrl-C or SIGTERM ends the run after the step, with a checkpoint.

    Args:
        method: moved to ``device`` here; its ``begin`` is called here.
        objective: of an optimiser step, counted from 0 (its consistency weight may rise over the first ones).
        loader: the batches.
        optimizer: of the method's parameters; its learning rate is set before each step.
        learning_rate: of an optimiser step, counted from 0.
        epochs: length of the run, restarts included.
        device: where to compute.
        log: where events go.
        progress: what a person sees.
        precision: "bf16" runs the method, not the losses, in bfloat16 where that is safe (autocast; CPU and CUDA).
        accumulate: batches whose gradients are added up for one step.
        probes: each gets the steps finished and the encoder, in evaluation mode and with the running statistics of
            all processes, on the main process. What one of them cannot measure (a ``UserError``, or no memory left)
            is a warning; any other error ends the run, which has a checkpoint of the instant before.
        rhythm: how often to log, measure and save.
        checkpoints: where to save; None saves nothing.
        saved: what ``CheckpointFolder.load`` returned: the run goes on from there.

    Returns:
        The position at the end.

    Raises:
        DivergedError: the loss became NaN or infinite.
        Interrupted: Ctrl-C or SIGTERM.
        OutOfMemoryError: the device has no memory left for a step.
        UsageError: settings that do not go together.
        CheckpointError: a checkpoint cannot be written, or ``saved`` does not fit.
        UserError: an event cannot be written.
    """
    check_steps(method, loader, accumulate=accumulate)
    if precision == "bf16" and device.type not in ("cpu", "cuda"):
        raise UsageError(f"--precision bf16 is for CPU and CUDA; on {device.type} use --precision float32")
    assert isinstance(method, nn.Module)
    method.begin(len(loader.source))
    method.to(device).to(memory_format=torch.channels_last)
    state = State(device)
    if saved is None:
        log.rewind(0)
    else:
        restore(saved, state, method, optimizer, log)
    model = in_parallel(method) if world_size() > 1 else method
    rhythm = rhythm or Rhythm()
    run = _Run(
        method=method,
        model=model,
        objective=objective,
        optimizer=optimizer,
        learning_rate=learning_rate,
        epochs=epochs,
        steps_per_epoch=loader.steps_per_epoch // accumulate,
        device=device,
        precision=precision,
        probing=Probing(probes, every=rhythm.probe_every, device=device, log=log, progress=progress),
        rhythm=rhythm,
        log=log,
        progress=progress,
        checkpoints=checkpoints,
        state=state,
    )
    with run.memory_in_words(), progress, stop_on_signals() as stop_requested:
        progress.begin(state.position.step)
        while state.position.epoch < epochs:
            run.epoch(loader, accumulate, stop_requested)
    return state.position


@dataclass(kw_only=True)
class _Run:
    """The arguments of :func:`train` and where it stands; the methods are the loop's body, in order of use."""

    method: Method
    model: nn.Module
    objective: Callable[[int], Objective]
    optimizer: Optimizer
    learning_rate: Callable[[int], float]
    epochs: int
    steps_per_epoch: int
    device: torch.device
    precision: Precision
    probing: Probing
    rhythm: Rhythm
    log: MetricsLog
    progress: Progress
    checkpoints: CheckpointFolder | None
    state: State
    last_saved: float = field(default_factory=time.monotonic)

    def epoch(self, loader: Batches, accumulate: int, stop_requested: Callable[[], bool]) -> None:
        """What is left of the current epoch."""
        epoch, done = self.state.position.epoch, self.state.position.step_in_epoch
        if done == 0:
            # What it computes is the method's state: a run resumed within the epoch has it from the checkpoint.
            self.method.begin_epoch(epoch)
        self.model.train()
        began = time.perf_counter()
        for batches, waited in optimiser_steps(loader.epoch(epoch, first_step=done * accumulate), accumulate):
            self.step(batches)
            now = time.perf_counter()
            self.state.finish_step(now - began, waited=waited)
            self.progress.advance(self.state.position.step)
            if self.state.position.step % self.rhythm.log_every == 0 or self.at_last_step():
                self.progress.show(self.record("train", self.state.window))
            due = time.monotonic() - self.last_saved > 60 * self.rhythm.checkpoint_minutes
            stop, save = any_process(stop_requested(), due)
            if stop or save:
                self.save()
            if stop:
                # Whoever ends first has torchrun end the others, and the main process may still be writing.
                barrier()
                raise self.interrupted()
            # What logging waited for on the device belongs to training; what saving took does not.
            began = time.perf_counter() if save else now
        self.end_epoch(epoch + 1)

    def step(self, batches: Sequence[Batch]) -> None:
        """One optimiser step over the micro-batches, then the memory's turn."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.state.position.step)
        updates: list[Update] = []
        rows = 0
        dtype = next(self.model.parameters()).dtype
        objective = self.objective(self.state.position.step)
        for number, batch in enumerate(batches, start=1):
            # Not in autocast: views that are finished here have Pillow's rounding in float32.
            ready = batch.to(self.device, dtype=dtype)
            with self.gradients_shared(number == len(batches)):
                with self.autocast():
                    step = self.model(ready)
                sums = objective(step.comparisons)
                sums.total.backward()
            updates.append(step.update)
            rows += sums.count
            self.state.count(sums, images=len(batch.index))
        self.average_gradients(rows)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.commit([gathered(update) for update in updates])

    def average_gradients(self, rows: int) -> None:
        """From the gradient of a sum (which DDP has averaged over processes) to that of the mean over all rows."""
        total = int(all_reduce_sum(torch.tensor(rows)))
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        torch._foreach_mul_(gradients, world_size() / total)

    def gradients_shared(self, last: bool) -> AbstractContextManager[None]:
        """Processes exchange gradients once a step, with the last micro-batch."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return nullcontext()

    def autocast(self) -> AbstractContextManager[None]:
        """bfloat16 for the method; the losses stay outside."""
        if self.precision == "bf16":
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def at_last_step(self) -> bool:
        """Whether all steps of the run are taken."""
        return self.state.position.step == self.epochs * self.steps_per_epoch

    def record(self, event: str, tally: Tally) -> dict[str, float]:
        """Write an event of the means since the last of its kind, and begin the next. Waits for the device."""
        sums = self.finite(tally.read())
        tally.reset()
        position = self.state.position
        values = {
            "step": position.step,
            "epoch": round(position.step / self.steps_per_epoch, 4),
            **means(sums),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "seconds": round(self.state.seconds, 3),
        }
        self.log.write(event, values)
        return values

    def finite(self, sums: dict[str, float]) -> dict[str, float]:
        """The sums, unless a loss in them was not a number."""
        if math.isfinite(sums["total"]):
            return sums
        step = self.state.first_bad_step()
        saved = self.checkpoints.saved() if self.checkpoints else []
        kept = f"the last checkpoint is from before: {saved[-1]}" if saved else "no checkpoint had been written"
        raise DivergedError(
            f"the loss became NaN or infinite at step {step} (epoch {self.state.position.epoch + 1}); {kept}. "
            "Try a lower --lr, a longer --warmup-epochs, or --precision float32"
        )

    def save(self) -> None:
        """A checkpoint of this instant, unless the loss was not a number by now."""
        if self.checkpoints is None:
            return
        assert isinstance(self.method, nn.Module)
        contents = snapshot(self.state, self.method, self.optimizer, self.log)
        self.finite(contents["window"])
        self.checkpoints.save(contents, step=self.state.position.step)
        self.last_saved = time.monotonic()

    def interrupted(self) -> Interrupted:
        """What to say when the run is stopped from outside."""
        where = f"stopped after step {self.state.position.step} of {self.epochs * self.steps_per_epoch}"
        if self.checkpoints is None:
            return Interrupted(f"{where}; nothing was saved")
        run = shlex.quote(str(self.checkpoints.run))
        return Interrupted(f"{where}, all of it saved. Go on with:\n  co2ssl pretrain --resume {run}")

    @contextmanager
    def memory_in_words(self) -> Iterator[None]:
        """Within the block, a device whose memory is full is an error for a person.

        Raises:
            OutOfMemoryError: it is.
        """
        try:
            yield
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise self.out_of_memory(error) from error

    def out_of_memory(self, error: RuntimeError) -> OutOfMemoryError:
        """What to do where the device's memory is full."""
        half = "" if self.precision == "bf16" else ", with --precision bf16"
        advice = f"Start a new run with a smaller --batch-size{half} or with --auto, which chooses what fits"
        saved = self.checkpoints.saved() if self.checkpoints else []
        if self.checkpoints and saved:
            run = shlex.quote(str(self.checkpoints.run))
            kept = f"the last checkpoint is whole: {saved[-1]}"
            advice += f"; or, where another program had taken the memory, go on with:\n  co2ssl pretrain --resume {run}"
        else:
            kept = "no checkpoint had been written"
        where = f"at step {self.state.position.step + 1} (epoch {self.state.position.epoch + 1})"
        return OutOfMemoryError(
            f"no memory is left on the device ({self.device}) {where}: {briefly(error)}; {kept}. {advice}"
        )

    def end_epoch(self, epoch: int) -> None:
        """Event, probes and checkpoint after ``epoch`` epochs."""
        last = epoch == self.epochs
        measured = self.probing.due(epoch, last=last)
        if measured:
            # Whatever a probe does to the process, the epoch is not lost. A run that is resumed here ends the epoch
            # anew, so the event that ends it comes after.
            self.save()
        self.progress.end_epoch(epoch, self.record("epoch", self.state.epoch))
        if measured:
            self.probing.measure(self.method.encoder, step=self.state.position.step, epoch=epoch)
        self.state.position = self.state.position.after_epoch()
        if last or epoch % self.rhythm.checkpoint_every == 0:
            self.save()


def gathered(update: Update) -> Update:
    """The update of a micro-batch with the rows of every process, in rank order: the order of the global batch."""
    return {name: gather(value) for name, value in update.items()}
