from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decollapse.data import IID, ByColumn, Dirichlet, Partition, PlainDirichlet, Shards, effective_classes

HERE = Path(__file__).parent
RELEASE = json.loads((HERE / "release_partitions.json").read_text())
LABELS = np.random.RandomState(7).randint(10, size=2000)
COLUMNS = {"writer": torch.arange(2000) % 5}
PARTITIONS = [IID(), Dirichlet(alpha=0.1), PlainDirichlet(alpha=0.5), Shards(), ByColumn("writer")]


def each(partitions: list[Partition]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("partition", partitions, ids=lambda partition: type(partition).__name__)


@each(PARTITIONS)
def test_every_example_goes_to_exactly_one_client(partition: Partition) -> None:
    parts = partition(LABELS, 10, seed=3, columns=COLUMNS)
    assert len(parts) == 10
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(2000))


@each(PARTITIONS)
def test_no_client_is_empty(partition: Partition) -> None:
    assert min(len(part) for part in partition(LABELS, 10, seed=3, columns=COLUMNS)) > 0


@each(PARTITIONS)
def test_the_same_seed_gives_the_same_indices_whatever_the_global_generators(partition: Partition) -> None:
    first = partition(LABELS, 10, seed=3, columns=COLUMNS)
    np.random.random(5)  # noqa: NPY002  the global generator is what must not matter
    torch.rand(5)
    second = partition(LABELS, 10, seed=3, columns=COLUMNS)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@each(PARTITIONS)
def test_another_seed_gives_other_indices(partition: Partition) -> None:
    first = partition(LABELS, 10, seed=3, columns=COLUMNS)
    second = partition(LABELS, 10, seed=4, columns=COLUMNS)
    assert any(not np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@each(PARTITIONS)
def test_tensors_and_arrays_of_labels_are_alike(partition: Partition) -> None:
    first = partition(LABELS, 10, seed=3, columns=COLUMNS)
    second = partition(torch.from_numpy(LABELS), 10, seed=3, columns=COLUMNS)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@each(PARTITIONS)
@pytest.mark.parametrize("num_clients", [0, -1, 2001])
def test_an_impossible_number_of_clients_is_refused(partition: Partition, num_clients: int) -> None:
    with pytest.raises(ValueError, match=r"2000 examples can be divided among 1 to 2000 clients, got"):
        partition(LABELS, num_clients, seed=0, columns=COLUMNS)


@each(PARTITIONS)
@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_outside_the_legacy_generators_range_is_refused(partition: Partition, seed: int) -> None:
    with pytest.raises(ValueError, match="seed of a partition must be from 0 to"):
        partition(LABELS, 10, seed=seed, columns=COLUMNS)


@pytest.mark.parametrize("split", RELEASE, ids=lambda split: f"alpha={split['alpha']},seed={split['seed']}")
def test_cifar10_is_split_as_by_the_release_index_for_index(split: dict) -> None:
    pairs = np.load(HERE / "cifar10_train_labels.npz")["pairs"]
    labels = np.stack([pairs // 10, pairs % 10], 1).reshape(-1).astype(np.int64)
    partition = IID() if split["alpha"] is None else Dirichlet(alpha=split["alpha"])
    parts = partition(labels, split["num_clients"], seed=split["seed"])
    assert [len(part) for part in parts] == split["sizes"]
    assert [hashlib.sha256(part.astype("<i8").tobytes()).hexdigest() for part in parts] == split["sha256"]


def naive_dirichlet(
    labels: np.ndarray, num_clients: int, alpha: float, seed: int, min_examples: int = 10
) -> list[list[int]]:
    """The algorithm in Python lists, as one would write it down from its description."""
    rng = np.random.RandomState(seed)
    while True:
        clients: list[list[int]] = [[] for _ in range(num_clients)]
        for label in range(labels.max() + 1):
            indices = [index for index in range(len(labels)) if labels[index] == label]
            indices = np.array(indices, dtype=np.int64)
            rng.shuffle(indices)
            p = rng.dirichlet([alpha] * num_clients)
            p = [
                share if len(held) < len(labels) / num_clients else 0.0 for share, held in zip(p, clients, strict=True)
            ]
            p = np.array(p) / np.sum(p)
            ends = [*(np.cumsum(p) * len(indices)).astype(int)[:-1], len(indices)]
            start = 0
            for held, end in zip(clients, ends, strict=True):
                held.extend(indices[start:end].tolist())
                start = end
        if min(map(len, clients)) >= min_examples:
            break
    for held in clients:
        rng.shuffle(held)
    return clients


@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_rejected_tries_leave_the_generator_where_the_release_leaves_it(alpha: float) -> None:
    labels = LABELS[:400]
    for seed in range(5):
        parts = Dirichlet(alpha=alpha)(labels, 12, seed=seed)
        assert [part.tolist() for part in parts] == naive_dirichlet(labels, 12, alpha, seed)


def test_a_client_with_exactly_its_equal_share_gets_no_more() -> None:
    labels = LABELS[:16]  # so few that a client often holds exactly 16 / 4
    for seed in range(60):
        parts = Dirichlet(alpha=0.5, min_examples=1)(labels, 4, seed=seed)
        assert [part.tolist() for part in parts] == naive_dirichlet(labels, 4, 0.5, seed, min_examples=1)


@pytest.mark.parametrize(("alpha", "low", "high"), [(0.05, 1.5, 2.8), (0.1, 2.0, 3.6), (0.5, 4.3, 6.5)])
def test_a_smaller_alpha_leaves_fewer_effective_classes(alpha: float, low: float, high: float) -> None:
    labels = np.arange(20_000) % 10
    means = []
    for seed in range(5):
        parts = Dirichlet(alpha=alpha)(labels, 10, seed=seed)
        counts = torch.tensor(np.array([np.bincount(labels[part], minlength=10) for part in parts]))
        means.append(effective_classes(counts).mean().item())
    assert low < np.mean(means) < high


def test_a_minimum_above_the_equal_share_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match=r"100 examples cannot give each of 20 clients 10; lower min_examples"):
        Dirichlet(alpha=1.0)(LABELS[:100], 20, seed=0)


@pytest.mark.parametrize("kind", [Dirichlet, PlainDirichlet])
def test_a_hopeless_split_ends_with_advice(kind: type[Dirichlet | PlainDirichlet]) -> None:
    partition = kind(alpha=0.01, min_examples=10, max_tries=50)
    with pytest.raises(ValueError, match=r"none of 50 Dirichlet splits with alpha = 0.01 gave each of 100 clients 10"):
        partition(LABELS, 100, seed=0)


def test_a_draw_in_which_every_share_underflows_is_a_failed_try() -> None:
    with pytest.raises(ValueError, match=r"the best left one with 0\)"):
        Dirichlet(alpha=1e-9, min_examples=1, max_tries=20)(LABELS, 10, seed=0)


@pytest.mark.parametrize("kind", [Dirichlet, PlainDirichlet])
@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf")])
def test_alpha_must_be_positive_and_finite(kind: type[Dirichlet | PlainDirichlet], alpha: float) -> None:
    with pytest.raises(ValueError, match=r"alpha must be positive and finite, got .* use IID"):
        kind(alpha=alpha)


@pytest.mark.parametrize("kind", [Dirichlet, PlainDirichlet])
def test_min_examples_and_max_tries_must_be_positive(kind: type[Dirichlet | PlainDirichlet]) -> None:
    with pytest.raises(ValueError, match="min_examples and max_tries must be at least 1, got 0 and 5"):
        kind(alpha=1.0, min_examples=0, max_tries=5)


def test_plain_dirichlet_lets_a_client_outgrow_the_equal_share() -> None:
    capped = max(len(part) for part in Dirichlet(alpha=0.5)(LABELS, 10, seed=1))
    plain = max(len(part) for part in PlainDirichlet(alpha=0.5)(LABELS, 10, seed=1))
    assert plain > capped


def test_plain_dirichlet_with_a_large_alpha_is_nearly_even() -> None:
    sizes = [len(part) for part in PlainDirichlet(alpha=1e6)(LABELS, 10, seed=0)]
    assert max(sizes) - min(sizes) <= 20


def test_iid_sizes_differ_by_at_most_one() -> None:
    assert sorted(len(part) for part in IID()(LABELS[:103], 10, seed=0)) == [10] * 7 + [11] * 3


def test_two_shards_show_a_client_few_classes() -> None:
    labels = np.arange(1000) % 10
    parts = Shards(shards_per_client=2)(labels, 10, seed=0)
    assert all(len(part) == 100 for part in parts)
    assert max(len(np.unique(labels[part])) for part in parts) == 2


def test_more_shards_than_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="5 clients with 3 shards each need at least 15 examples, there are 10"):
        Shards(shards_per_client=3)(LABELS[:10], 5, seed=0)
    with pytest.raises(ValueError, match="shards_per_client must be at least 1, got 0"):
        Shards(shards_per_client=0)


def test_one_client_for_each_value_of_a_column_in_sorted_order() -> None:
    hospital = torch.tensor([7, 3, 7, 5])
    parts = ByColumn("hospital")(np.zeros(4, dtype=np.int64), 3, seed=0, columns={"hospital": hospital})
    assert [sorted(part.tolist()) for part in parts] == [[1], [3], [0, 2]]


def test_a_multiple_of_the_values_shares_each_value_evenly() -> None:
    parts = ByColumn("writer")(LABELS, 10, seed=0, columns=COLUMNS)
    assert [set(COLUMNS["writer"][part].tolist()) for part in parts] == [{client % 5} for client in range(10)]
    assert {len(part) for part in parts} == {200}


@pytest.mark.parametrize(
    ("column", "num_clients", "message"),
    [
        ("doctor", 5, "there is no column 'doctor', the data set has writer"),
        ("writer", 7, "has 5 values, so the number of clients must be 5 or a multiple of it, got 7"),
        ("writer", 2000, None),
    ],
)
def test_a_column_that_does_not_fit_is_explained(column: str, num_clients: int, message: str | None) -> None:
    if message is None:
        assert len(ByColumn(column)(LABELS, num_clients, seed=0, columns=COLUMNS)) == num_clients
        return
    with pytest.raises(ValueError, match=message):
        ByColumn(column)(LABELS, num_clients, seed=0, columns=COLUMNS)


def test_a_value_with_too_few_examples_for_its_clients_is_refused() -> None:
    rare = {"writer": (torch.arange(2000) == 0).long()}
    with pytest.raises(ValueError, match="has 1 examples for 2 clients"):
        ByColumn("writer")(LABELS, 4, seed=0, columns=rare)


@pytest.mark.parametrize("labels", [np.zeros((2, 2), int), np.array([0.5]), np.array([-1, 0]), np.array([], int)])
def test_labels_that_are_not_a_vector_of_counts_are_refused(labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match="labels must be a vector of non-negative integers"):
        IID()(labels, 1, seed=0)


def test_partitions_compare_and_hash_by_value() -> None:
    assert Dirichlet(alpha=0.1) == Dirichlet(alpha=0.1) != Dirichlet(alpha=0.2)
    assert len({Dirichlet(alpha=0.1), Dirichlet(alpha=0.1), IID(), IID()}) == 2


@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_any_feasible_request_is_disjoint_and_complete(num_clients: int, num_classes: int, seed: int) -> None:
    labels = np.random.RandomState(seed).randint(num_classes, size=120)
    for partition in (IID(), Shards(shards_per_client=3), Dirichlet(alpha=2.0, min_examples=1)):
        parts = partition(labels, num_clients, seed=seed)
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(120))
        assert min(map(len, parts)) > 0
