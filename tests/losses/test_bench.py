"""The benchmark runs, compares like with like, and draws its picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.loss import bench, cases
from benchmarks.loss.cases import KINDS, Sizes

SMALL = {"queue": Sizes(6, 40), "simclr": Sizes(8, 8), "draws": Sizes(6, 40, 9)}


@pytest.mark.parametrize("kind", KINDS)
def test_contenders_compute_the_same_gradient(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = []
    backward = torch.autograd.backward

    def kept(loss: torch.Tensor) -> None:
        leaf = leaves[-1]
        backward(loss)
        assert leaf.grad is not None
        gradients.append(leaf.grad.clone())

    leaves: list[torch.Tensor] = []
    unit = cases.unit

    def watched(rows: int, sizes: Sizes, seed: int) -> torch.Tensor:
        vectors = unit(rows, sizes, seed)
        if seed == 1:
            leaves.append(vectors)
        return vectors

    monkeypatch.setattr(cases, "unit", watched)
    monkeypatch.setattr(torch.autograd, "backward", kept)
    for name, run in KINDS[kind](SMALL[kind]).items():
        if name != "bare products":
            run()
    textbook, blocked = gradients
    torch.testing.assert_close(blocked, textbook, rtol=1e-4, atol=1e-4)


def test_the_bare_products_are_nothing_but_products(monkeypatch: pytest.MonkeyPatch) -> None:
    run = KINDS["queue"](SMALL["queue"])["bare products"]
    for name in ("rand", "empty", "zeros", "cat"):
        monkeypatch.delattr(torch, name)
    run()


def test_a_quick_run_writes_json_and_picture(tmp_path: Path) -> None:
    bench.main(["batch_sizes", "--quick", "--threads", "1", "--out", str(tmp_path)])
    written = json.loads((tmp_path / "batch_sizes.json").read_text())
    assert written["command"].startswith("python -m benchmarks.loss.bench batch_sizes --quick")
    assert written["result"][0]["contenders"]["blocked"]["median_ms"] > 0
    assert (tmp_path / "loss.png").stat().st_size > 10_000


def test_an_unknown_case_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["queues"])
    assert "there are queue" in capsys.readouterr().err
