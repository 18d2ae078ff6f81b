from __future__ import annotations

from pathlib import Path

import pytest
import torch

from co2ssl.api import machine
from co2ssl.api.machine import check_precision, describe_machine, fast_bf16
from co2ssl.config import RunOptions
from co2ssl.errors import UsageError
from tests.processes import ProcessPair

CPU = torch.device("cpu")
BF16 = RunOptions(precision="bf16")
CASCADE_LAKE = ("avx512f", "avx512_vnni")
COOPER_LAKE = (*CASCADE_LAKE, "avx512_bf16")
SAPPHIRE_RAPIDS = (*CASCADE_LAKE, "amx_tile", "amx_bf16")


def pretend(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    instructions: tuple[str, ...],
    *,
    told_by: str,
    kernels: str = "AVX512",
) -> None:
    """A CPU with these instruction sets, which torch, or Linux alone, or nobody tells of."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: kernels)
    known: dict[str, object] = {
        "architecture": "x86_64",
        "avx512_bf16": False,
        "amx_tile": False,
        **dict.fromkeys(instructions, True),
    }
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    monkeypatch.setattr(machine, "CPUINFO", folder / "cpuinfo")
    if told_by != "torch":
        monkeypatch.delattr(torch.cpu, "get_capabilities")
    if told_by == "linux":
        lines = ["processor\t: 0", "flags\t\t: fpu " + " ".join(instructions), "bugs\t\t: avx512_bf16", ""]
        (folder / "cpuinfo").write_text("\n".join(lines))


@pytest.mark.parametrize("told_by", ["torch", "linux"])
@pytest.mark.parametrize(
    ("instructions", "fast"), [(CASCADE_LAKE, False), (COOPER_LAKE, True), (SAPPHIRE_RAPIDS, True), ((), False)]
)
def test_bfloat16_is_fast_where_the_cpu_has_instructions_for_it(
    instructions: tuple[str, ...], fast: bool, told_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, tmp_path, instructions, told_by=told_by)
    assert fast_bf16(CPU) == fast
    assert describe_machine(CPU).fast_bf16 == fast
    pretend(monkeypatch, tmp_path, instructions, told_by=told_by, kernels="AVX2")
    assert not fast_bf16(CPU)


def test_avx512_is_taken_for_enough_where_nobody_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, tmp_path, (), told_by="nobody")
    assert fast_bf16(CPU)
    # A list without flags, as of a CPU that is not x86.
    (tmp_path / "cpuinfo").write_text("Features : fp asimd\n")
    assert fast_bf16(CPU)


def test_emulated_bfloat16_is_warned_of_and_imitated_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, tmp_path, COOPER_LAKE, told_by="torch")
    check_precision(BF16, CPU)
    pretend(monkeypatch, tmp_path, CASCADE_LAKE, told_by="torch")
    check_precision(RunOptions(), CPU)
    assert capsys.readouterr().err == ""
    check_precision(BF16, CPU)
    said = capsys.readouterr().err
    assert "warning: --precision bf16: " in said
    assert "emulated: slower than float32" in said
    pretend(monkeypatch, tmp_path, COOPER_LAKE, told_by="torch", kernels="AVX2")
    with pytest.raises(UsageError, match="many times slower"):
        check_precision(BF16, CPU)
    with pytest.raises(UsageError, match="this mps device"):
        check_precision(BF16, torch.device("mps"))


def test_processes_are_those_that_torchrun_names(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    alone = describe_machine(CPU)
    assert (alone.processes, alone.local_processes) == (1, 1)
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    shared = describe_machine(CPU)
    assert (shared.processes, shared.local_processes) == (8, 4)
    assert (shared.cores, shared.memory) == (alone.cores, alone.memory)


def _processes() -> tuple[int, int]:
    described = describe_machine(CPU)
    return described.processes, described.local_processes


def test_processes_of_a_group_that_the_environment_does_not_name(two_processes: ProcessPair) -> None:
    assert two_processes(_processes) == [(2, 1), (2, 1)]
