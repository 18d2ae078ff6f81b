"""The benchmark of the step: it runs on made images, all sides do the same work, and its picture is drawn."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import sides
from benchmarks.peers import Peers, interpreter_of
from benchmarks.sides import AS_THE_COMMAND
from benchmarks.step import bench, cases, measure, naked, ours, spent
from benchmarks.step.cases import CASES, Asked
from benchmarks.step.images import write_photographs, write_small
from benchmarks.step.job import Clock, Job
from co2ssl.cli import main as command
from co2ssl.data.batch import Batch
from tests.images import write_images

HERE = {"benchmarks.step.ours": ours.run, "benchmarks.step.naked": naked.run, "benchmarks.step.spent": spent.run}
# A ResNet-18 without its classifier, and the head 512, 512, 128.
MOCO_PARAMETERS = 11_176_512 + 512 * 512 + 512 + 512 * 128 + 128


@pytest.fixture
def sides_here(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Job]]:
    """Our sides run in this process and without workers; the other libraries' do as much, at ten images a second."""
    asked: list[tuple[str, Job]] = []

    def run_side(python: Any, module: str, job: Job, *, variables: Any = None, **_: Any) -> Any:
        asked.append((module, job))
        assert (variables is None) == (module not in ("benchmarks.step.ours", "benchmarks.step.spent"))
        if module in HERE:
            return HERE[module](replace(job, workers=0))
        views = [[job.batch_size, 3, job.image_size, job.image_size]] * 2
        return {"images_per_second": 10.0, "parameters": MOCO_PARAMETERS, "views": views}

    monkeypatch.setattr(measure, "run_side", run_side)
    monkeypatch.setattr(Peers, "python", lambda *_: "python")
    monkeypatch.setattr(bench, "pin", lambda cores: cores)
    monkeypatch.setattr(bench, "fast_bf16", lambda _: False)
    # No worker of lightly's runs ahead here, so fewer images do.
    monkeypatch.setattr(cases, "MOST_AHEAD", 0)
    return asked


def result_of(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def small_job(images: Path, **changed: Any) -> Job:
    sizes: dict[str, Any] = {"batch_size": 16, "queue_size": 64, "warmup": 1, "steps": 1, "workers": 0}
    return Job(images=str(images), **{"image_size": 32, **sizes, **changed})


def test_moco_from_files(tmp_path: Path, sides_here: list[tuple[str, Job]]) -> None:
    bench.main(["--only", "moco_64", "--quick", "--steps", "1", "--out", str(tmp_path)])
    found = result_of(tmp_path, "moco_64")
    assert {"commit", "date", "cpu", "torch", "command", "asked", "cores_of_a_side", "load_average"} <= found.keys()
    result = found["result"]
    both = {f"{side}, {norm}" for side in ("ours", "naked") for norm in ("plain", "split")}
    assert set(result["sides"]) == both | {"lightly", "lightly, channels_last"}
    assert set(result["not_applicable"]) == {"lightly, bf16 and channels_last"}
    for name in both:
        (report,) = result["sides"][name]["reports"]
        assert report["parameters"] == MOCO_PARAMETERS
        assert report["views"] == [[16, 3, 64, 64]] * 2
    rate = {name: side["images_per_second"] for name, side in result["sides"].items()}
    ratio = result["ratios"]["ours, split / lightly"]
    assert ratio["ratio"] == pytest.approx(rate["ours, split"] / 10, abs=1e-3)
    assert (ratio["must_reach"], ratio["reached"]) == (1.6, rate["ours, split"] >= 16)
    assert result["times_the_network"] == {
        f"ours, {norm}": pytest.approx(rate[f"naked, {norm}"] / rate[f"ours, {norm}"], abs=1e-3)
        for norm in ("plain", "split")
    }
    assert {job.batch_norm for module, job in sides_here if module == "benchmarks.step.ours"} == {"plain", "split"}
    assert (tmp_path / "step.png").stat().st_size > 0


def test_the_ratios_that_are_asked_for() -> None:
    required = {name: {pair: least for pair, least in case.targets.items() if least} for name, case in CASES.items()}
    assert required == {
        "moco_64": {
            ("ours, plain", "lightly"): 1.9,
            ("ours, split", "lightly"): 1.6,
            ("ours, plain", "lightly, channels_last"): 1.0,
            ("ours, plain", "lightly, bf16 and channels_last"): 1.0,
            ("ours, plain", "naked, plain"): 0.85,
            ("ours, split", "naked, split"): 0.85,
        },
        "moco_32": {("ours, plain", "naked, plain"): 0.9, ("ours, split", "naked, split"): 0.9},
        "simclr_64": {("ours", "lightly-train"): 1.5, ("ours", "lightly-train, bf16-mixed"): 1.0},
        "spent": {},
        "compile": {},
        "workers": {},
    }


@pytest.mark.parametrize("name", CASES)
def test_all_sides_of_a_case_are_asked_for_the_same_work(name: str) -> None:
    for precision in ("float32", "bf16"):
        made, absent = CASES[name].sides(Asked(quick=False, precision=precision), "images")
        same = ("method", "images", "image_size", "stem", "batch_size", "queue_size", "warmup", "steps")
        assert len({tuple(getattr(side.job, what) for what in same) for side in made.values()}) <= 1
        assert all(side.job.batch_size == 128 and side.job.queue_size == 4096 for side in made.values())
        assert not set(made) & set(absent)
        for title, side in made.items():
            if side.package is None:
                assert side.job.precision == precision
            else:
                # As documented, but for those that say what they were given.
                assert (side.job.precision == "bf16") == ("bf16" in title)
                assert side.job.batch_norm == CASES[name].job.batch_norm
            if side.module == "lightly_moco":
                assert side.job.channels_last == ("channels_last" in title)


def test_sides_that_do_other_work_end_the_run() -> None:
    one = {"parameters": 10, "views": [[2, 3, 8, 8]] * 2, "images_per_second": 1.0}
    measure.check_work({"a": one, "b": {**one, "images_per_second": 2.0}})
    for other in ({**one, "parameters": 11}, {**one, "views": [[4, 3, 8, 8]] * 2}):
        with pytest.raises(SystemExit, match="'a' and 'b' do not do the same work"):
            measure.check_work({"a": one, "b": other})


def test_simclr_trains_both_views_at_a_rate_for_its_batch(tmp_path: Path) -> None:
    write_photographs(tmp_path / "files", 48, side=64)
    job = small_job(tmp_path / "files", method="simclr", batch_norm="sync")
    trained, bare = ours.run(job), naked.run(job)
    measure.check_work({"ours": trained, "naked": bare})
    assert trained["views"] == [[16, 3, 32, 32]] * 2
    assert ours.recipe_of(job).lr == pytest.approx(0.3 * 16 / 256)
    assert Batch.to.__name__ == "to"


def test_small_images_have_the_small_stem_and_come_from_memory(tmp_path: Path) -> None:
    write_small(tmp_path / "small.npy", 32, spec=None)
    assert np.load(tmp_path / "small.npy").shape == (32, 32, 32, 3)
    job = small_job(tmp_path / "small.npy", stem="small", batch_size=8)
    report = ours.run(job)
    # The small stem has 3 x 3 weights in the place of 7 x 7.
    assert report["parameters"] == MOCO_PARAMETERS - 64 * 3 * (49 - 9)
    assert ours.recipe_name(job) == "moco-v2-small-32"
    measure.check_work({"ours": report, "naked": naked.run(job)})


def test_small_images_are_spread_over_the_data(tmp_path: Path) -> None:
    write_images(tmp_path / "images", 9, side=32)
    write_small(tmp_path / "all.npy", 9, spec=str(tmp_path / "images"))
    write_small(tmp_path / "some.npy", 3, spec=str(tmp_path / "images"))
    everything, some = np.load(tmp_path / "all.npy"), np.load(tmp_path / "some.npy")
    np.testing.assert_array_equal(some, everything[[0, 4, 8]])
    with pytest.raises(SystemExit, match="has 9 images, and the benchmark needs 10"):
        write_small(tmp_path / "more.npy", 10, spec=str(tmp_path / "images"))


def test_where_the_time_of_a_step_goes(tmp_path: Path) -> None:
    write_photographs(tmp_path / "files", 48, side=64)
    before = (Batch.to, torch.Tensor.backward, torch.optim.SGD.step)
    report = spent.run(small_job(tmp_path / "files", batch_norm="split", steps=2))
    assert (Batch.to, torch.Tensor.backward, torch.optim.SGD.step) == before
    parts = report["parts_ms"]
    assert {*spent.NETWORK, "bytes to floats", "permuting the keys", "loss", "momentum update", "queue"} <= parts.keys()
    assert all(parts[part] > 0 for part in spent.NETWORK)
    assert sum(parts.values()) == pytest.approx(report["step_ms"], abs=0.2)
    assert report["network_ms"] + report["beyond_the_network_ms"] == pytest.approx(report["step_ms"], abs=0.1)
    assert report["views_core_ms"] > 0
    found = measure.spent({"ours": {"reports": [report, report]}, "naked": {"reports": [{"images_per_second": 1.0}]}})
    assert set(found) == {"ours"}
    assert found["ours"]["parts_ms"] == parts


def test_a_part_inside_another_counts_for_itself_only() -> None:
    class Work:
        def outer(self) -> None:
            self.inner()

        def inner(self) -> None: ...

    with spent.Stopwatches() as watches:
        watches.watch(Work, "outer", "outer", begins_step=True)
        watches.watch(Work, "inner", lambda: "inner")
        for _ in range(3):
            Work().outer()
    assert [set(step) for step in watches.steps] == [set(), *[{"outer", "inner"}] * 3]
    assert set(watches.mean_ms(1, 3)) == {"outer", "inner"}
    Work().outer()
    assert len(watches.steps) == 4


def test_what_was_measured_before_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def run_part(case: Any, given: Any, *_: Any) -> Any:
        ran.append(next(name for name, one in CASES.items() if one is case))
        return {"sides": {}, "ratios": {}, "times_the_network": {}, "not_applicable": {}, "spent": {}}

    monkeypatch.setattr(bench, "run_part", run_part)
    monkeypatch.setattr(bench, "plot", lambda _: None)
    monkeypatch.setattr(bench, "pin", lambda cores: cores)
    out = ["--out", str(tmp_path)]
    bench.main(["--only", "moco_32", *out])
    bench.main(["--resume", *out])
    assert ran == ["moco_32", "moco_64", "simclr_64", "spent", "compile"]
    bench.main(["--resume", *out])
    assert len(ran) == 5
    # Asked for otherwise, by another commit, cut short, or without --resume it is measured.
    bench.main(["--resume", "--only", "spent", "--rounds", "2", *out])
    found = result_of(tmp_path, "compile")
    (tmp_path / "compile.json").write_text(json.dumps({**found, "commit": "another"}))
    bench.main(["--resume", "--only", "compile", *out])
    (tmp_path / "compile.json").write_text(json.dumps(found)[:-9])
    bench.main(["--resume", "--only", "compile", *out])
    bench.main(["--only", "compile", *out])
    assert ran[5:] == ["spent", "compile", "compile", "compile"]


def test_a_side_is_a_process_with_the_environment_of_what_it_stands_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "side.py").write_text("import json, os\nprint('said before')\nprint(json.dumps(dict(os.environ)))\n")
    (tmp_path / "broken.py").write_text("raise SystemExit('no images there')\n")
    monkeypatch.setattr(sides, "ROOT", tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "9")
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    job = small_job(tmp_path)
    plain = sides.run_side(sys.executable, "side", job, threads=2)
    assert plain["OMP_NUM_THREADS"] == "2"
    assert not AS_THE_COMMAND.keys() & plain.keys()
    commanded = sides.run_side(sys.executable, "side", job, threads=2, variables=AS_THE_COMMAND)
    assert {name: commanded[name] for name in AS_THE_COMMAND} == AS_THE_COMMAND
    with pytest.raises(SystemExit, match="broken failed: no images there"):
        sides.run_side(sys.executable, "broken", job)


def test_the_settings_of_openmp_are_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in AS_THE_COMMAND:
        # Set first, so that it is put back afterwards whatever it was.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    command(["--version"])
    assert {name: os.environ[name] for name in AS_THE_COMMAND} == AS_THE_COMMAND


def test_an_environment_that_is_there_is_used(tmp_path: Path) -> None:
    for wanted in ("bin/python", "pyvenv.cfg", "lib/python3.11/site-packages/one.py"):
        (tmp_path / "venv" / wanted).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "venv" / wanted).touch()
    python = tmp_path / "venv/bin/python"
    for place in ("venv", "venv/bin/python", "venv/lib/python3.11/site-packages"):
        assert interpreter_of(tmp_path / place) == python
    assert interpreter_of(tmp_path) is None
    assert interpreter_of(tmp_path / "nowhere") is None
    assert Peers(Path(sys.executable)).python("torch") == Path(sys.executable)
    with pytest.raises(SystemExit, match="has no no-such-library: install it there"):
        Peers(Path(sys.executable)).python("no-such-library")


def test_the_clock_runs_from_the_last_step_of_the_warm_up() -> None:
    clock = Clock(Job(images="", image_size=8, warmup=2, steps=3, batch_size=4))
    assert [clock.tick() for _ in range(4)] == [False] * 4
    with pytest.raises(RuntimeError, match="only 4 of 5 steps"):
        clock.report()
    assert clock.tick()
    assert clock.report()["images_per_second"] > 0


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["--only", "moco_65"], "no part 'moco_65'; there are moco_64"),
        (["--rounds", "0"], "--rounds"),
    ):
        with pytest.raises(SystemExit):
            bench.parse(words)
        assert said in capsys.readouterr().err
    assert bench.parse([]).only == ["moco_64", "moco_32", "simclr_64", "spent", "compile"]
