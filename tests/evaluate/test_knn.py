from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Self

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from co2ssl.errors import UsageError
from co2ssl.evaluate.features import EvaluationError, Features
from co2ssl.evaluate.knn import GROUP_BYTES, default_neighbours, knn, nearest, vote


def planted(num: int, *, num_classes: int = 7, dim: int = 16, seed: int = 0, noise: float = 1.5) -> Features:
    """Gaussian clusters whose centres do not depend on the seed."""
    centres = torch.randn(num_classes, dim, generator=torch.Generator().manual_seed(1234))
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num) % num_classes
    return Features(
        features=centres[labels] + noise * torch.randn(num, dim, generator=generator),
        labels=labels,
        index=torch.arange(num),
        classes=tuple(f"class {label}" for label in range(num_classes)),
        source=f"planted {seed}",
    )


def slow_scores(train: Features, query: Tensor, *, k: int, temperature: float) -> dict[int, float]:
    assert train.labels is not None
    similarities = []
    for place, row in enumerate(train.features.double()):
        product = sum(a * b for a, b in zip(row.tolist(), query.tolist(), strict=True))
        similarities.append((-product / (float(row.norm()) * float(query.norm())), place))
    scores: dict[int, float] = defaultdict(float)
    for negative, place in sorted(similarities)[:k]:
        scores[int(train.labels[place])] += math.exp(-negative / temperature)
    return scores


def test_against_explicit_loops() -> None:
    train, val = planted(60), planted(35, seed=1)
    assert val.labels is not None
    result = knn(train, val, k=9, temperature=0.2)
    hits = {1: 0, 5: 0}
    for query, label in zip(val.features.double(), val.labels.tolist(), strict=True):
        scores = slow_scores(train, query, k=9, temperature=0.2)
        order = sorted(range(7), key=lambda c, scores=scores: (-scores.get(c, 0.0), c))  # type: ignore[misc]
        hits = {k: hits[k] + (label in order[:k]) for k in hits}
    assert result["top1"] == pytest.approx(hits[1] / 35)
    assert result["top5"] == pytest.approx(hits[5] / 35)
    assert 0.3 < hits[1] / 35 < 1


def test_scores_against_scikit_learn() -> None:
    train, val = planted(300), planted(100, seed=1)
    assert train.labels is not None

    def weights(distance: NDArray[np.float64]) -> NDArray[np.float64]:
        # scikit-learn's cosine distance is 1 - cosine.
        return np.exp((1 - distance) / 0.07)

    theirs = KNeighborsClassifier(25, weights=weights, algorithm="brute", metric="cosine")
    theirs.fit(train.features.double().numpy(), train.labels.numpy())
    expected = theirs.predict_proba(val.features.double().numpy())
    similarity, place = nearest(train.features, val.features, k=25)
    scores = vote(similarity, train.labels[place], num_classes=7, temperature=0.07)
    np.testing.assert_allclose(scores / scores.sum(dim=1, keepdim=True), expected, rtol=1e-4, atol=1e-6)
    assert val.labels is not None
    own = knn(train, val, k=25, temperature=0.07)["top1"]
    assert own == pytest.approx(float(theirs.score(val.features.double().numpy(), val.labels.numpy())))


@pytest.mark.parametrize(("query_block", "bank_block"), [(1, 1), (3, 7), (64, 5), (1000, 1000)])
def test_neighbours_do_not_depend_on_the_blocks(query_block: int, bank_block: int) -> None:
    bank, queries = planted(50).features, planted(20, seed=1).features
    exact = torch.nn.functional.normalize(queries, dim=1) @ torch.nn.functional.normalize(bank, dim=1).T
    expected, where = exact.sort(dim=1, descending=True, stable=True)
    similarity, place = nearest(bank, queries, k=12, query_block=query_block, bank_block=bank_block)
    torch.testing.assert_close(similarity, expected[:, :12])
    assert torch.equal(place, where[:, :12])


@pytest.mark.parametrize("bank_block", [1, 4, 5, 100])
def test_of_equal_neighbours_the_earlier_is_kept(bank_block: int) -> None:
    # Axis vectors: similarities are exactly 0 or 1, and almost all are ties.
    axis = [0, 1, 0, 0, 1, 0, 1, 1, 0, 0, 1, 0]
    bank = torch.eye(2)[axis]
    _, place = nearest(bank, torch.eye(2), k=8, bank_block=bank_block)
    ones = [place for place, own in enumerate(axis) if own == 1]
    zeros = [place for place, own in enumerate(axis) if own == 0]
    assert place.tolist() == [(zeros + ones)[:8], (ones + zeros)[:8]]


def test_of_a_collapsed_network_the_first_images_are_the_neighbours() -> None:
    # All rows equal: whatever the search keeps of a block is a tie at its edge.
    _, place = nearest(torch.ones(500, 4), torch.ones(30, 4), k=40, query_block=7, bank_block=64)
    assert torch.equal(place, torch.arange(40).expand(30, 40))


def test_neighbours_of_features_from_a_float16_file(tmp_path: Path) -> None:
    bank, queries = planted(200).features.half(), planted(20, seed=1).features.half()
    np.save(tmp_path / "bank.npy", bank.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "bank.npy", mmap_mode="c"))
    expected = nearest(bank.float(), queries.float(), k=12)
    similarity, place = nearest(mapped, queries, k=12, bank_block=64)
    torch.testing.assert_close(similarity, expected[0])
    assert torch.equal(place, expected[1])


class MemoryWatch:
    """The most memory of this process that is its own, not pages of files, over what it was at the start, in bytes."""

    def __init__(self) -> None:
        self.peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Self:
        self._start = self._own()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.is_set():
            self.peak = max(self.peak, self._own() - self._start)
            time.sleep(0.001)

    @staticmethod
    def _own() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_bank(tmp_path: Path) -> None:
    width, queries = 2048, torch.randn(64, 2048)
    bank = np.lib.format.open_memmap(tmp_path / "bank.npy", mode="w+", dtype=np.float16, shape=(60_000, width))
    bank[:, :8] = np.random.default_rng(0).standard_normal((60_000, 8), dtype=np.float32)
    bank.flush()
    del bank
    peaks = []
    for rows in (15_000, 60_000):
        mapped = torch.from_numpy(np.load(tmp_path / "bank.npy", mmap_mode="c")[:rows])
        with MemoryWatch() as watch:
            nearest(mapped, queries, k=200, bank_block=2048)
        peaks.append(watch.peak)
    # A copy of the larger bank would be 492 MB in float32; a block is 17 MB, and a few of its kind live at once.
    assert peaks[1] < 100e6
    # What was freed before may serve the first one.
    assert peaks[1] < peaks[0] + 60e6


def test_features_of_any_width_are_taken_in_blocks_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    bank, queries = planted(50, dim=40).features, planted(20, dim=40, seed=1).features
    expected = nearest(bank, queries, k=5)
    # Room for three rows.
    monkeypatch.setattr("co2ssl.evaluate.knn.GROUP_BYTES", 3 * 4 * 40)
    found = nearest(bank, queries, k=5, query_block=4)
    torch.testing.assert_close(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    # The bound, for 1.28 million x 2,048: queries, a block of the bank, and what the products of both take.
    assert 4 * GROUP_BYTES < 2e9


def test_every_pair_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("co2ssl.evaluate.knn.GROUP_BYTES", 3 * 4 * 16)
    counted: list[int] = []
    nearest(planted(50).features, planted(20, seed=1).features, k=5, query_block=4, advance=counted.append)
    # Five groups of four queries, past each of which go sixteen blocks of three rows and one of two.
    assert counted == 5 * [*16 * [4 * 3], 4 * 2]


def test_progress_is_shown_where_it_is_wanted_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("co2ssl.evaluate.progress.LINE_EVERY", 0.0)
    # Blocks of 25 rows of the bank.
    monkeypatch.setattr("co2ssl.evaluate.knn.GROUP_BYTES", 25 * 4 * 16)
    train, val = planted(60), planted(35, seed=1)
    quiet = knn(train, val, k=9, quiet=True)
    assert capsys.readouterr() == ("", "")
    assert {**knn(train, val, k=9, quiet=False), "seconds": 0} == {**quiet, "seconds": 0}
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" comparisons, ")[0] for line in lines] == [
        f"nearest neighbours: {done} of 2,100" for done in ("875", "1,750", "2,100")
    ]


def test_a_tie_in_the_vote_goes_to_the_lower_class() -> None:
    similarity = torch.full((1, 4), 0.5)
    scores = vote(similarity, torch.tensor([[2, 1, 1, 2]]), num_classes=3, temperature=0.07)
    assert scores[0, 1] == scores[0, 2]
    both, classes = torch.arange(2), ("a", "b")
    train = Features(features=torch.eye(2), labels=both.flip(0), index=both, classes=classes, source="train")
    val = Features(features=torch.ones(2, 2), labels=both, index=both, classes=classes, source="val")
    assert knn(train, val, k=2)["top1"] == 0.5


def test_weight_is_the_exponential_of_similarity_over_temperature() -> None:
    scores = vote(torch.tensor([[0.9, 0.2]]), torch.tensor([[0, 1]]), num_classes=3, temperature=0.5)
    assert float(scores[0, 1] / scores[0, 0]) == pytest.approx(math.exp((0.2 - 0.9) / 0.5), rel=1e-6)
    assert scores[0, 2] == 0


def test_a_tiny_temperature_is_one_nearest_neighbour() -> None:
    train, val = planted(300), planted(100, seed=1)
    assert knn(train, val, k=50, temperature=1e-4)["top1"] == knn(train, val, k=1)["top1"]


def test_length_of_the_features_says_nothing() -> None:
    train, val = planted(100), planted(50, seed=1)
    scale = torch.rand(100, 1, generator=torch.Generator().manual_seed(3)) * 10 + 0.1
    longer = Features(
        features=train.features * scale, labels=train.labels, index=train.index, classes=train.classes, source="longer"
    )
    assert knn(longer, val, k=10)["top1"] == knn(train, val, k=10)["top1"]


def test_random_features_score_at_chance() -> None:
    train, val = planted(700, noise=1e4), planted(2100, seed=1, noise=1e4)
    top1 = knn(train, val)["top1"]
    assert isinstance(top1, float)
    # Four standard deviations of a guess.
    assert abs(top1 - 1 / 7) < 4 * math.sqrt((1 / 7) * (6 / 7) / 2100)


def test_classes_come_from_the_data_set_and_are_matched_by_name() -> None:
    train, val = planted(140), planted(70, seed=1)
    assert train.classes is not None
    assert val.labels is not None
    few = val.rows(torch.nonzero(val.labels >= 4)[:, 0])
    assert few.labels is not None
    renumbered = Features(
        features=few.features, labels=few.labels - 4, index=few.index, classes=train.classes[4:], source="renumbered"
    )
    assert knn(train, renumbered)["top1"] == knn(train, few)["top1"]
    assert knn(train, renumbered)["num_classes"] == 7


def test_the_result_says_what_was_done_and_is_json() -> None:
    result = knn(planted(70), planted(21, seed=1))
    assert json.loads(json.dumps(result)) == result
    assert result["protocol"] == "knn"
    assert (result["k"], result["temperature"]) == (10, 0.07)
    assert (result["num_train"], result["num_val"], result["num_classes"], result["num_features"]) == (70, 21, 7, 16)
    assert (result["train"], result["val"]) == ("planted 0", "planted 1")


def test_default_neighbours() -> None:
    assert default_neighbours(1_281_167, 1000) == 200
    assert default_neighbours(400, 10) == 40
    assert default_neighbours(8, 10) == 1


@pytest.mark.parametrize(("k", "temperature"), [(0, 0.07), (71, 0.07), (5, 0.0), (5, -1.0), (5, float("nan"))])
def test_settings_out_of_range(k: int, temperature: float) -> None:
    with pytest.raises(UsageError):
        knn(planted(70), planted(7, seed=1), k=k, temperature=temperature)


def test_a_class_that_training_lacks_is_an_error() -> None:
    train, val = planted(70), planted(16, seed=1, num_classes=8)
    with pytest.raises(EvaluationError, match="class 7"):
        knn(train, val)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_gives_what_the_cpu_gives() -> None:
    train, val = planted(3000), planted(500, seed=1)
    on_cpu, on_cuda = knn(train, val), knn(train, val, device="cuda")
    assert on_cuda["top1"] == pytest.approx(on_cpu["top1"], abs=0.005)
