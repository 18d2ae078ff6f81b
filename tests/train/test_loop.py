"""What one optimiser step is, in what order memory learns, and what is written down."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from co2ssl.data.batch import Batch
from co2ssl.errors import UsageError
from co2ssl.train.log import MetricsLog
from co2ssl.train.loop import Rhythm, train
from co2ssl.train.optim import build_optimizer
from co2ssl.train.progress import Progress
from co2ssl.train.state import DivergedError, Position
from co2ssl.train.stop import Interrupted, stop_on_signals
from tests.processes import ProcessPair
from tests.train.fakes import OBJECTIVE, TinyLoader, TinyMethod, events, fit, folder_of


def constant(step: int) -> float:
    return 0.1


def by_hand(steps: int, accumulate: int) -> TinyMethod:
    """The same training as plain as it gets: the mean loss of all rows of a step, and torch's own SGD."""
    torch.manual_seed(3)
    method = TinyMethod(dropout=0.0).double()
    method.begin(24)
    optimizer = torch.optim.SGD(method.encoder.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    batches = list(TinyLoader(dtype=torch.float64).epoch(0))
    for number in range(steps):
        taken = [method(batch) for batch in batches[number * accumulate : (number + 1) * accumulate]]
        sums = [OBJECTIVE(step.comparisons) for step in taken]
        loss = torch.stack([each.total for each in sums]).sum() / sum(each.count for each in sums)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.commit([step.update for step in taken])
    return method


def by_loop(run: Path, *, accumulate: int = 1, shares: tuple[int, ...] = ()) -> TinyMethod:
    torch.manual_seed(3)
    method = TinyMethod(dropout=0.0).double()
    log = MetricsLog(run / "metrics.jsonl")
    train(
        method,
        lambda _: OBJECTIVE,
        TinyLoader(dtype=torch.float64, shares=shares),
        optimizer=build_optimizer("sgd", method, lr=1.0, momentum=0.9, weight_decay=1e-3),
        learning_rate=constant,
        epochs=1,
        device=torch.device("cpu"),
        log=log,
        progress=Progress(epochs=1, steps_per_epoch=6, quiet=True),
        accumulate=accumulate,
        rhythm=Rhythm(log_every=2),
    )
    log.close()
    return method


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_is_the_mean_over_all_rows_of_its_micro_batches(tmp_path: Path, accumulate: int) -> None:
    expected, found = by_hand(6 // accumulate, accumulate), by_loop(tmp_path, accumulate=accumulate)
    for name, value in expected.state_dict().items():
        assert torch.allclose(found.state_dict()[name].to(value.dtype), value, rtol=1e-11, atol=1e-13), name


def test_memory_learns_after_the_step_micro_batch_by_micro_batch(tmp_path: Path) -> None:
    found = by_loop(tmp_path, accumulate=2)
    order = [batch.index.tolist() for batch in TinyLoader().epoch(0)]
    assert found.committed == [order[0:2], order[2:4], order[4:6]]


class NoBatchNorm(TinyMethod):
    """Rows do not see each other, so that unequal shares of a batch have one right answer."""

    def __init__(self, *, dropout: float = 0.0, in_batch: bool = False) -> None:
        torch.manual_seed(5)
        super().__init__(dropout=dropout, in_batch=in_batch)
        self.encoder.backbone[1] = nn.Identity()


def _unequal(folder: str) -> tuple[dict[str, Tensor], list[list[list[int]]]]:
    method, _, _ = fit(
        Path(folder),
        epochs=1,
        method=NoBatchNorm().double(),
        loader=TinyLoader(dtype=torch.float64, shares=(3, 1)),
        accumulate=2,
        schedule_epochs=1,
    )
    return dict(method.state_dict()), method.committed


def test_two_processes_with_unequal_rows_are_one(tmp_path: Path, two_processes: ProcessPair) -> None:
    alone, _, _ = fit(
        tmp_path / "one",
        epochs=1,
        method=NoBatchNorm().double(),
        loader=TinyLoader(dtype=torch.float64),
        accumulate=2,
        schedule_epochs=1,
    )
    (tmp_path / "two").mkdir()
    for state, committed in two_processes(_unequal, str(tmp_path / "two")):
        assert committed == alone.committed
        for name, value in alone.state_dict().items():
            assert torch.allclose(state[name].to(value.dtype), value, rtol=1e-9, atol=1e-12), name
    single, pair = (events(tmp_path / name) for name in ("one", "two"))
    assert len(pair) == len(single)
    for one, two in zip(single, pair, strict=True):
        for name in ("step", "epoch", "total", "instance", "consistency", "top1", "top5", "learning_rate"):
            assert two[name] == pytest.approx(one[name], rel=1e-9), name


def test_in_batch_methods_refuse_to_accumulate_and_say_why(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fewer negatives"):
        fit(tmp_path, epochs=1, method=TinyMethod(in_batch=True), accumulate=2)
    with pytest.raises(UsageError, match="7 batches does not fit an epoch of 6"):
        by_loop(tmp_path, accumulate=7)


def test_events_are_means_over_their_rows(tmp_path: Path) -> None:
    seen: list[tuple[int, bool]] = []

    def probe(step: int, encoder: nn.Module) -> dict[str, float | str]:
        seen.append((step, encoder.training))
        torch.rand(3)
        return {"spread": float("nan"), "warning": "words"}

    method, _, position = fit(tmp_path, epochs=2, probes=[probe], rhythm=Rhythm(log_every=2, probe_every=2))
    assert position == Position(epoch=2, step_in_epoch=0, step=12)
    assert method.begun == [0, 1]
    assert method.num_images == 24
    found = events(tmp_path)
    kinds = [event["event"] for event in found]
    assert kinds == ["train"] * 3 + ["epoch"] + ["train"] * 3 + ["epoch", "probe"]
    assert [event["step"] for event in found] == [2, 4, 6, 6, 8, 10, 12, 12, 12]
    assert found[0]["epoch"] == pytest.approx(1 / 3, abs=1e-4)
    assert found[3]["epoch"] == 1
    assert found[3]["total"] == pytest.approx(sum(event["total"] for event in found[:3]) / 3)
    for event in found[:-1]:
        assert event["total"] == pytest.approx(event["instance"] + 2.0 * event["consistency"])
        assert 0 <= event["top1"] <= event["top5"] <= 1
        assert 0 <= event["wait_share"] <= 1
        assert event["images_per_second"] > 0
    assert found[-1] == {"event": "probe", "step": 12, "epoch": 2, "spread": None, "warning": "words"}
    assert seen == [(12, False)]
    assert [event["seconds"] for event in found[:-1]] == sorted(event["seconds"] for event in found[:-1])


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step(tmp_path: Path) -> None:
    loader = TinyLoader()
    loader.bad_step = 8
    with pytest.raises(DivergedError, match=r"at step 9 \(epoch 2\).*step-000006\.ckpt"):
        fit(tmp_path, epochs=3, loader=loader, rhythm=Rhythm(log_every=100))
    assert [path.name for path in folder_of(tmp_path).saved()] == ["step-000006.ckpt"]


def test_bf16_runs_and_keeps_losses_and_weights_in_float32(tmp_path: Path) -> None:
    seen: list[torch.dtype] = []

    class Watched(TinyMethod):
        def commit(self, updates: object) -> None:
            pass

    finished: list[bool] = []

    def finish(views: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        finished.append(torch.is_autocast_enabled("cpu"))
        return views

    class Unfinished(TinyLoader):
        def epoch(self, epoch: int, *, first_step: int = 0) -> Iterator[Batch]:
            return (replace(batch, finish=finish) for batch in super().epoch(epoch, first_step=first_step))

    method = Watched()
    method.encoder.backbone[0].register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    log = MetricsLog(tmp_path / "metrics.jsonl")
    train(
        method,
        lambda _: OBJECTIVE,
        Unfinished(),
        optimizer=build_optimizer("sgd", method, lr=0.1, momentum=0.9, weight_decay=0.0),
        learning_rate=constant,
        epochs=1,
        device=torch.device("cpu"),
        log=log,
        progress=Progress(epochs=1, steps_per_epoch=6, quiet=True),
        precision="bf16",
    )
    assert set(seen) == {torch.bfloat16}
    # Views that are finished on the device are, one batch at a time, in float32.
    assert finished == [False] * 6
    assert {parameter.dtype for parameter in method.parameters()} == {torch.float32}
    with pytest.raises(UsageError, match="mps"):
        train(
            method,
            lambda _: OBJECTIVE,
            TinyLoader(),
            optimizer=build_optimizer("sgd", method, lr=0.1, momentum=0.9, weight_decay=0.0),
            learning_rate=constant,
            epochs=1,
            device=torch.device("mps"),
            log=log,
            progress=Progress(epochs=1, steps_per_epoch=6, quiet=True),
            precision="bf16",
        )


def test_a_second_signal_does_what_it_always_did() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_on_signals() as asked:
        assert not asked()
        signal.raise_signal(signal.SIGINT)
        assert asked()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def test_signals_are_left_alone_outside_the_main_thread() -> None:
    answers: list[bool] = []

    def elsewhere() -> None:
        with stop_on_signals() as asked:
            answers.append(asked())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert answers == [False]


def test_interrupted_says_how_to_go_on(tmp_path: Path) -> None:
    class Loader(TinyLoader):
        def epoch(self, epoch: int, *, first_step: int = 0):  # type: ignore[no-untyped-def]
            for batch in super().epoch(epoch, first_step=first_step):
                if batch.step == 2:
                    signal.raise_signal(signal.SIGTERM)
                yield batch

    with pytest.raises(Interrupted, match="after step 3 of 12") as caught:
        fit(tmp_path / "run", epochs=2, loader=Loader())
    assert f"co2ssl pretrain --resume {tmp_path / 'run'}" in str(caught.value)
    assert caught.value.exit_code == 130
    assert [path.name for path in folder_of(tmp_path / "run").saved()] == ["step-000003.ckpt"]
