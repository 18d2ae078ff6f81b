"""Probes see what they should and change nothing; what they cannot measure does not end a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from co2ssl.errors import UserError
from co2ssl.train.state import Position
from co2ssl.train.stop import Interrupted
from tests.processes import ProcessPair
from tests.train.fakes import events, fit


def test_a_probe_changes_nothing_in_the_training(tmp_path: Path) -> None:
    def greedy(step: int, encoder: nn.Module) -> dict[str, float | str]:
        return {"noise": float(torch.rand(()))}

    plain, _, _ = fit(tmp_path / "plain", epochs=2)
    probed, _, _ = fit(tmp_path / "probed", epochs=2, probes=[greedy])
    assert all(torch.equal(plain.state_dict()[name], value) for name, value in probed.state_dict().items())


def _probed(folder: str) -> tuple[list[Tensor], Tensor]:
    """The statistics that a probe has seen, and those of this process after it."""
    seen: list[Tensor] = []

    def probe(step: int, encoder: nn.Module) -> dict[str, float | str]:
        seen.append(encoder.get_buffer("backbone.1.running_mean").clone())
        return {}

    plain, _, _ = fit(Path(folder) / "plain", epochs=2)
    probed, _, _ = fit(Path(folder) / "probed", epochs=2, probes=[probe])
    assert all(torch.equal(plain.state_dict()[name], value) for name, value in probed.state_dict().items())
    return seen, probed.get_buffer("encoder.backbone.1.running_mean")


def test_a_probe_sees_the_statistics_of_all_processes_and_leaves_each_its_own(
    tmp_path: Path, two_processes: ProcessPair
) -> None:
    (seen, first), (nothing, second) = two_processes(_probed, str(tmp_path))
    assert (len(seen), nothing) == (2, [])
    assert not torch.equal(first, second)
    torch.testing.assert_close(seen[-1], (first + second) / 2)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("features of photos are not finite"), "features of photos are not finite"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"), "allocate 2.00 GiB"),
    ],
)
def test_what_a_probe_cannot_measure_is_a_warning_and_training_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception, said: str
) -> None:
    def failing(step: int, encoder: nn.Module) -> dict[str, float | str]:
        raise error

    def measuring(step: int, encoder: nn.Module) -> dict[str, float | str]:
        return {"spread": 0.5}

    _, _, position = fit(tmp_path, epochs=2, probes=[failing, measuring])
    assert position == Position(epoch=2, step_in_epoch=0, step=12)
    found = events(tmp_path)
    warnings = [event for event in found if event["event"] == "warning"]
    assert [(event["step"], event["epoch"]) for event in warnings] == [(6, 1), (12, 2)]
    for number, event in enumerate(warnings, start=1):
        assert f"after epoch {number}" in event["warning"]
        assert event["warning"].endswith(said)
    assert [event["spread"] for event in found if event["event"] == "probe"] == [0.5, 0.5]
    # To a person it is said once, even where progress is quiet.
    assert capsys.readouterr().err.count(said) == 1


@pytest.mark.parametrize("error", [RuntimeError("shapes do not fit"), Interrupted("enough")])
def test_other_errors_of_a_probe_end_the_run(tmp_path: Path, error: Exception) -> None:
    def failing(step: int, encoder: nn.Module) -> dict[str, float | str]:
        raise error

    with pytest.raises(type(error), match=str(error)):
        fit(tmp_path, epochs=2, probes=[failing])
