"""Checkpoints: whole or absent, damaged ones passed over, foreign ones named, and no code run."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from co2ssl.train.checkpoint import CheckpointError, CheckpointFolder, read_checkpoint, save_backbone, write_atomically


def folder_with(path: Path, *steps: int) -> CheckpointFolder:
    folder = CheckpointFolder(path, architecture="moco, resnet18", config_hash="abc")
    for step in steps:
        folder.save({"number": step, "weights": torch.full((300,), float(step))}, step=step)
    return folder


def loaded(folder: CheckpointFolder) -> int:
    contents = folder.load()
    assert contents is not None
    assert torch.equal(contents["weights"], torch.full((300,), float(contents["number"])))
    return int(contents["number"])


def test_the_last_two_are_kept_in_the_order_of_steps(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "run" / "checkpoints", 5, 999_999, 1_000_000)
    assert [path.name for path in folder.saved()] == ["step-999999.ckpt", "step-1000000.ckpt"]
    assert loaded(folder) == 1_000_000
    assert folder.run == tmp_path / "run"


def test_an_empty_folder_has_none(tmp_path: Path) -> None:
    assert folder_with(tmp_path / "checkpoints").load() is None


def test_what_an_interrupted_write_left_is_ignored_and_removed(tmp_path: Path) -> None:
    folder_with(tmp_path, 1)
    (tmp_path / "step-000002.ckpt.partial").write_bytes(b"PK half")
    (tmp_path / "notes.ckpt").write_bytes(b"someone's own")
    folder = folder_with(tmp_path)
    assert loaded(folder) == 1
    assert sorted(os.listdir(tmp_path)) == ["notes.ckpt", "step-000001.ckpt"]


@pytest.mark.parametrize("damage", ["cut", "empty", "zeros", "flipped", "other archive"])
def test_a_damaged_one_is_passed_over_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    folder = folder_with(tmp_path, 1, 2)
    last = folder.saved()[-1]
    whole = last.read_bytes()
    place = whole.index(torch.full((300,), 2.0).numpy().tobytes()) + 100
    changed = {
        "cut": whole[: len(whole) // 2],
        "empty": b"",
        "zeros": bytes(len(whole)),
        "flipped": whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :],
    }
    if damage == "other archive":
        with zipfile.ZipFile(last, "w") as archive:
            archive.writestr("holiday.txt", "sun")
    else:
        last.write_bytes(changed[damage])
    assert loaded(folder) == 1
    assert f"warning: {last} is damaged" in capsys.readouterr().err
    folder.saved()[0].write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"all checkpoints in .* are damaged"):
        folder.load()


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("how", ["torch", "legacy torch", "pickle"])
def test_a_pickle_payload_is_refused_and_not_run(tmp_path: Path, how: str) -> None:
    folder = folder_with(tmp_path / "checkpoints", 1, 2)
    target = tmp_path / "owned"
    last = folder.saved()[-1]
    contents = {"architecture": "moco, resnet18", "config_hash": "abc", "method": Payload(target)}
    if how == "pickle":
        last.write_bytes(pickle.dumps(contents))
    else:
        torch.save(contents, last, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(CheckpointError, match="refused, not run"):
        folder.load()
    assert not target.exists()
    # The payload is a real one.
    torch.load(last, weights_only=False) if how != "pickle" else pickle.loads(last.read_bytes())
    assert target.exists()


@pytest.mark.parametrize(("key", "value"), [("architecture", "moco, resnet50"), ("config_hash", "xyz")])
def test_one_of_another_run_is_refused_and_both_are_named(tmp_path: Path, key: str, value: str) -> None:
    folder_with(tmp_path, 1)
    wanted = {"architecture": "moco, resnet18", "config_hash": "abc"}
    other = CheckpointFolder(tmp_path, **{**wanted, key: value})
    with pytest.raises(CheckpointError) as caught:
        other.load()
    assert wanted[key] in str(caught.value)
    assert value in str(caught.value)


def test_a_full_disk_leaves_the_one_before_and_says_so(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(CheckpointError, match=r"cannot write .*step-000002\.ckpt.*untouched"):
            folder.save({"weights": torch.zeros(100_000)}, step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert loaded(folder) == 1
    assert os.listdir(tmp_path) == ["step-000001.ckpt"]


def test_the_file_and_its_folder_reach_the_disk_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, rename = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        calls.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        sync(descriptor)

    def replace(source: Path, target: Path) -> None:
        calls.append("rename")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_atomically(tmp_path / "file", lambda file: file.write(b"new"))
    assert calls[:2] == ["file", "rename"]
    assert len(calls) == 3
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_disk_that_has_become_read_only_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", refuse)
        patched.setattr(Path, "unlink", refuse)
        with pytest.raises(CheckpointError, match=r"cannot write .*file \(Read-only file system\)"):
            write_atomically(tmp_path / "file", lambda file: file.write(b"new"))


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot use"):
        folder_with(tmp_path / "file" / "checkpoints")
    with pytest.raises(CheckpointError, match="cannot read"):
        read_checkpoint(tmp_path / "nothing.ckpt")


def test_a_backbone_is_written_under_its_own_names(tmp_path: Path) -> None:
    backbone = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).to(memory_format=torch.channels_last)
    save_backbone(tmp_path / "backbone.safetensors", backbone)
    read = safetensors.torch.load_file(tmp_path / "backbone.safetensors")
    assert read.keys() == backbone.state_dict().keys()
    assert all(torch.equal(read[name], value) for name, value in backbone.state_dict().items())
