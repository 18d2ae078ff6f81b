"""A run folder from its first moment on: what may be given beside ``resume``, and what stands in nobody's way."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import co2ssl
from co2ssl.api import demonstration, evaluate, pretraining
from co2ssl.api.runs import new_folder, read_run
from co2ssl.cli import main
from co2ssl.data.sources import DataError, FileSource, open_source
from co2ssl.data.sources.folder import SPLIT_FOLDERS
from co2ssl.errors import UsageError, UserError
from co2ssl.train.lock import only_trainer
from tests.images import TINY, write_classes, write_images

QUIET: dict[str, Any] = {**TINY, "quiet": True, "recipe": "moco-small-32+co2"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images and a finished run of them."""
    folder = tmp_path_factory.mktemp("trained")
    write_images(folder / "images", 24)
    co2ssl.pretrain(folder / "images", out=folder / "run", **QUIET)
    return folder


@pytest.fixture
def broken_off(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run as a kill in its last epoch leaves it."""
    shutil.copytree(trained / "run", tmp_path / "run")
    (tmp_path / "run" / "backbone.safetensors").unlink()
    last = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    last.unlink()
    return tmp_path / "run"


def weights(run: Path) -> bytes:
    return (run / "backbone.safetensors").read_bytes()


def test_a_run_goes_on_with_what_another_machine_needs(trained: Path, broken_off: Path) -> None:
    run = co2ssl.pretrain(
        resume=broken_off, workers=1, cache=True, device="cpu", probe_every=1, log_every=2, quiet=True
    )
    assert weights(run.folder) == weights(trained / "run")
    options = read_run(broken_off).config.options
    assert (options.workers, options.cache, options.probe_every, options.log_every) == (1, True, 1, 2)
    with pytest.raises(UsageError, match=r"but --max-bad-share, --workers, .*leave out --seed"):
        co2ssl.pretrain(resume=broken_off, seed=3)


def test_auto_has_no_say_in_a_run_that_goes_on(broken_off: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--resume", str(broken_off), "--auto"]) == 2
    assert "leave --auto out" in capsys.readouterr().err
    assert main(["pretrain", "--resume", str(broken_off), "--quiet"]) == 0


def test_other_images_under_the_same_names_are_warned_of(
    trained: Path, broken_off: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained / "images", tmp_path / "moved")
    shutil.copytree(broken_off, tmp_path / "again")
    co2ssl.pretrain(tmp_path / "moved", resume=broken_off, quiet=True)
    assert "other sizes" not in capsys.readouterr().err
    write_images(tmp_path / "moved", 24, seed=1)
    co2ssl.pretrain(tmp_path / "moved", resume=tmp_path / "again", quiet=True)
    assert "files of" in (text := capsys.readouterr().err)
    assert "no longer the same run" in text


def test_a_run_without_a_checkpoint_is_begun_anew(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stopped it may have been a setting, and the same command with another one is what a person tries next."""
    out = tmp_path / "run"

    def does_not_fit(*_: object, **__: object) -> None:
        raise UserError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(pretraining, "train", does_not_fit)
        with pytest.raises(UserError, match="out of memory"):
            co2ssl.pretrain(trained / "images", out=out, **{**QUIET, "lr": 0.01})
    assert (out / "config.yaml").is_file()
    run = co2ssl.pretrain(trained / "images", out=out, **QUIET)
    assert weights(run.folder) == weights(trained / "run")
    # Whatever is left of a run that came to something keeps its folder, the large files or none of them.
    for name in ("checkpoints", "backbone.safetensors", "report.html"):
        with pytest.raises(UsageError, match="holds another run"):
            co2ssl.pretrain(trained / "images", out=out, **QUIET)
        (shutil.rmtree if (out / name).is_dir() else Path.unlink)(out / name)
    with pytest.raises(UsageError, match="holds another run"):
        co2ssl.pretrain(trained / "images", out=out, **QUIET)
    (out / "metrics.jsonl").unlink()
    before = (out / "config.yaml").read_bytes()
    with only_trainer(out), pytest.raises(UsageError, match="is being trained by process"):
        co2ssl.pretrain(trained / "images", out=out, **QUIET)
    # Where nobody can tell whether it is being trained.
    with pytest.raises(UsageError, match="holds another run"):
        new_folder(out)
    assert (out / "config.yaml").read_bytes() == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").touch()
    with pytest.raises(UsageError, match="is not empty"):
        new_folder(tmp_path / "other")


def test_what_pretrain_returns_is_what_load_encoder_takes(trained: Path) -> None:
    run = read_run(trained / "run")
    by_run, by_folder = (co2ssl.load_encoder(given).state_dict() for given in (run, run.folder))
    assert all(torch.equal(value, by_folder[name]) for name, value in by_run.items())


@pytest.mark.parametrize("each", [1, 12])
def test_folders_that_are_no_classes_stand_in_no_ones_way(
    each: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_classes(tmp_path / "images", classes=24 // each, each=each)
    run = co2ssl.pretrain(tmp_path / "images", out=tmp_path / "run", **{**QUIET, "probe_every": 1})
    assert weights(run.folder)
    assert ("so kNN accuracy cannot be watched" in capsys.readouterr().err) == (each == 1)


def test_unreadable_images_are_named_where_progress_is_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path / "images", 30)
    (tmp_path / "images" / "007.png").write_bytes(b"no image")
    co2ssl.pretrain(tmp_path / "images", out=tmp_path / "run", **QUIET)
    text = capsys.readouterr().err
    assert "1 unreadable image skipped" in text
    assert "007.png" in text


def test_one_place_for_a_demo(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("somebody's")
    with pytest.raises(UsageError, match=r"report\.html.*nothing was removed"):
        demonstration.demo(tmp_path, quiet=True)
    (tmp_path / "demo.json").write_text("{}")
    with pytest.raises(UsageError, match="seed"):
        demonstration.demo(tmp_path, seed=-1, quiet=True)
    assert page.read_text() == "somebody's"


def test_processes_are_patient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The main process may decode for hours while the others wait for it."""
    waited: list[object] = []

    class StoppedError(Exception):
        pass

    def group(backend: str, timeout: object = None) -> None:
        waited.append(timeout)
        raise StoppedError

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("torch.distributed.init_process_group", group)
    with pytest.raises(StoppedError):
        co2ssl.pretrain(tmp_path, out=tmp_path / "run")
    assert waited == [pretraining.PATIENCE]
    with pytest.raises(StoppedError):
        evaluate("knn", tmp_path, tmp_path, tmp_path)
    assert str(waited[1]) == "7 days, 0:00:00"


def test_the_hash_of_sizes_is_of_as_many_files_as_are_asked_for(tmp_path: Path) -> None:
    write_images(tmp_path, 9)
    source = open_source(str(tmp_path))
    assert isinstance(source, FileSource)
    some, every = source.sizes_hash(3), source.sizes_hash()
    assert some != every == source.sizes_hash(9) == source.sizes_hash(100)
    (tmp_path / "004.png").write_bytes(b"no image")
    (tmp_path / "001.png").write_bytes(b"no image")
    again = open_source(str(tmp_path))
    assert isinstance(again, FileSource)
    # The first, the middle and the last are the three.
    assert again.sizes_hash(3) != some
    assert source.sizes_hash() == every


def test_a_run_of_the_whole_folder_goes_on_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was begun when ``testing`` was the name of no part."""
    for part, count in (("train", 20), ("testing", 6)):
        write_images(tmp_path / "images" / part, count, seed=count)
    with monkeypatch.context() as patched:
        patched.setitem(SPLIT_FOLDERS, "val", ("val",))
        run = co2ssl.pretrain(tmp_path / "images", out=tmp_path / "run", **QUIET)
    assert run.config.data.num_images == 26
    (run.folder / "backbone.safetensors").unlink()
    co2ssl.pretrain(resume=run.folder, quiet=True)
    assert weights(run.folder)


def test_a_run_with_a_ramp_that_it_never_climbed_can_still_be_read(trained: Path, broken_off: Path) -> None:
    """Such a run is refused before it begins; of before, there may be some."""
    with pytest.raises(UsageError, match="never bring it to its value"):
        co2ssl.pretrain(trained / "images", out=broken_off.parent / "new", **{**QUIET, "consistency_ramp_epochs": 9})
    config = read_run(broken_off).config
    recipe = config.resolved.recipe.model_copy(update={"consistency_ramp_epochs": 9})
    old = replace(config, resolved=replace(config.resolved, recipe=recipe))
    (broken_off / "config.yaml").write_text(old.to_yaml())
    assert read_run(broken_off).config.resolved.recipe.consistency_ramp_epochs == 9


def test_images_that_were_mended_are_read_past_the_cache(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 30)
    mended = (tmp_path / "images" / "007.png").read_bytes()
    for number in range(7, 10):
        (tmp_path / "images" / f"{number:03}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="more than 5%"):
        co2ssl.pretrain(tmp_path / "images", out=tmp_path / "run", cache=True, **QUIET)
    for number in range(7, 10):
        (tmp_path / "images" / f"{number:03}.png").write_bytes(mended)
    # The same command again.
    run = co2ssl.pretrain(tmp_path / "images", out=tmp_path / "run", cache=True, **QUIET)
    assert not (run.folder / "bad_images.csv").exists()
