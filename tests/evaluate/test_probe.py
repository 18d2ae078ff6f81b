from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from co2ssl.data.sources import Subset
from co2ssl.evaluate.features import EvaluationError, extract
from co2ssl.evaluate.knn import knn
from co2ssl.evaluate.probe import allotted, knn_probe, probe_split, spread_probe
from tests.evaluate.fakes import Images, Net


def test_a_tenth_of_every_class_asks_and_the_rest_is_the_bank() -> None:
    source = Images([0] * 100 + [1] * 40 + [2] * 5 + [3], ("a", "b", "c", "d"))
    assert source.labels is not None
    bank, queries = probe_split(source, share=0.1, most_queries=1000, most_bank=5000, seed=0)
    # 15 in proportion to what can be spared: 99, 39, 4 and none.
    assert np.bincount(source.labels[queries], minlength=4).tolist() == [11, 4, 0, 0]
    assert sorted([*bank, *queries]) == list(range(146))
    assert (np.diff(bank) > 0).all()
    assert (np.diff(queries) > 0).all()
    again = probe_split(source, share=0.1, most_queries=1000, most_bank=5000, seed=0)
    assert np.array_equal(again[0], bank)
    assert np.array_equal(again[1], queries)
    other = probe_split(source, share=0.1, most_queries=1000, most_bank=5000, seed=1)
    assert not np.array_equal(other[1], queries)


def test_the_split_keeps_to_both_limits_in_proportion_to_the_classes() -> None:
    source = Images([0] * 600 + [1] * 300 + [2] * 100, ("a", "b", "c"))
    assert source.labels is not None
    bank, queries = probe_split(source, share=0.5, most_queries=40, most_bank=203, seed=0)
    assert not set(bank) & set(queries)
    assert np.bincount(source.labels[queries]).tolist() == [24, 12, 4]
    # One of each class, and 200 in proportion.
    assert np.bincount(source.labels[bank]).tolist() == [121, 61, 21]


def test_every_class_is_in_the_bank_whatever_the_limit() -> None:
    source = Images([0] * 50 + [1] * 5 + [2], ("a", "b", "c"))
    assert source.labels is not None
    bank, queries = probe_split(source, share=0.1, most_queries=1, most_bank=2, seed=0)
    assert sorted(source.labels[bank]) == [0, 1, 2]
    assert len(queries) == 1


def test_with_few_images_one_of_each_class_asks() -> None:
    source = Images([0] * 4 + [1] * 4 + [2] * 4, ("a", "b", "c"))
    assert source.labels is not None
    bank, queries = probe_split(source, share=0.1, most_queries=1000, most_bank=5000, seed=0)
    assert sorted(source.labels[queries]) == [0, 1, 2]
    assert len(bank) == 9


@pytest.mark.parametrize("total", [0, 1, 7, 50, 99, 100, 101])
def test_what_is_allotted_is_all_of_it_and_nearly_in_proportion(total: int) -> None:
    available = np.array([1, 0, 33, 60, 6])
    given = allotted(available, total)
    assert given.sum() == min(total, 100)
    assert (given <= available).all()
    assert (np.abs(given - available * min(total, 100) / 100) < 1).all()


def test_the_probe_is_knn_between_the_two_parts() -> None:
    source = Images([0, 1, 2] * 40, ("a", "b", "c"), noise=90)
    net = Net()
    found = knn_probe(source, image_size=8, share=0.25, most_bank=50, seed=3)(17, net)
    bank, queries = probe_split(source, share=0.25, most_queries=1000, most_bank=50, seed=3)
    assert (len(bank), len(queries)) == (50, 30)
    everything = extract(net.backbone, source, image_size=8)
    expected = knn(everything.rows(torch.from_numpy(bank)), everything.rows(torch.from_numpy(queries)))
    assert found == {"top1": expected["top1"], "top5": 1.0}
    assert isinstance(found["top1"], float)
    assert 0.4 < found["top1"] <= 1


def test_the_probes_leave_the_encoder_as_it_was() -> None:
    source, net = Images([0, 1, 2] * 20, ("a", "b", "c")), Net()
    net.train()
    before = copy.deepcopy(net.state_dict())
    random = torch.get_rng_state()
    for probe in (knn_probe(source, image_size=8), spread_probe(source, image_size=8)):
        first, second = probe(0, net), probe(1, net)
        assert first == second
    assert net.training
    assert torch.equal(torch.get_rng_state(), random)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_data_on_which_knn_cannot_be_watched() -> None:
    with pytest.raises(EvaluationError, match="no labels"):
        knn_probe(Images(None, None, num_images=9), image_size=8)
    with pytest.raises(EvaluationError, match="one class alone"):
        knn_probe(Images([2, 2, 2, 2], ("a", "b", "c")), image_size=8)
    with pytest.raises(EvaluationError, match="two images"):
        knn_probe(Images([0, 1], ("a", "b")), image_size=8)


def test_a_class_without_images_is_passed_over() -> None:
    """A part of a data set may not show every class of it."""
    part, net = Images([0, 2] * 20, ("a", "b", "c")), Net()
    found = knn_probe(part, image_size=8)(0, net)
    # The same images under the names that they have.
    whole = Images([0, 2] * 20, ("a", "b", "c"))
    assert whole.labels is not None
    known, asked = (
        extract(net.backbone, Subset(whole, places), image_size=8)
        for places in probe_split(whole, share=0.1, most_queries=1000, most_bank=5000, seed=0)
    )
    assert known.labels is not None
    assert asked.labels is not None
    renamed = [
        replace(one, labels=one.labels // 2, classes=("a", "c")) for one in (known, asked) if one.labels is not None
    ]
    assert found["top1"] == knn(*renamed)["top1"]


def test_a_class_none_of_whose_images_can_be_read_is_passed_over() -> None:
    labels, net = [0, 1, 2] * 20, Net()
    unreadable = tuple(range(2, 60, 3))
    found = knn_probe(Images(labels, ("a", "b", "c"), unreadable=unreadable), image_size=8)(0, net)
    assert isinstance(found["top1"], float)
    # Of one class nothing can be told.
    most = tuple(number for number in range(60) if number % 3)
    assert knn_probe(Images(labels, ("a", "b", "c"), unreadable=most), image_size=8)(0, net) == {}


def test_a_network_without_backbone_is_a_mistake_of_the_caller() -> None:
    probe = knn_probe(Images([0, 1] * 10, ("a", "b")), image_size=8)
    with pytest.raises(TypeError, match=r"no \.backbone"):
        probe(0, torch.nn.Linear(3, 3))


def test_spread_needs_no_labels_and_warns_when_embeddings_collapse() -> None:
    source, net = Images(None, None, num_images=60), Net()
    fine = spread_probe(source, image_size=8)(0, net)
    assert set(fine) == {"spread", "effective_rank"}
    with torch.no_grad():
        net.head.weight.zero_()
    collapsed = spread_probe(source, image_size=8)(0, net)
    assert isinstance(collapsed["warning"], str)
    assert isinstance(collapsed["spread"], float)
    assert isinstance(fine["spread"], float)
    assert collapsed["spread"] < 1e-3 < fine["spread"]


def test_spread_is_of_a_seeded_sample() -> None:
    source, net = Images(None, None, num_images=60), Net()
    first = spread_probe(source, image_size=8, num_images=10, seed=0)(0, net)
    assert spread_probe(source, image_size=8, num_images=10, seed=0)(5, net) == first
    assert spread_probe(source, image_size=8, num_images=10, seed=1)(0, net) != first
