from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch import multiprocessing

from decollapse.core import ClientData
from decollapse.data import IID, Dataset, Dirichlet, FederatedData, Normalize


def images(n: int = 60, classes: int = 3) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (n, 1, 4, 4), dtype=torch.uint8, generator=generator)
    y = torch.arange(n) % classes
    return Dataset("toy", x, y, x[:5], y[:5], classes=tuple("abc"[:classes]), preprocess=Normalize((0.5,), (0.5,)))


def test_a_client_holds_its_examples_and_the_federations_settings() -> None:
    dataset = images()
    data = FederatedData(dataset, [np.array([5, 2]), np.array([0])])
    client = data[0]
    assert isinstance(client, ClientData)
    assert (client.client, len(client), client.num_classes) == (0, 2, 3)
    assert torch.equal(client.x, dataset.train_x[[5, 2]])
    assert torch.equal(client.y, torch.tensor([2, 2]))
    assert client.class_counts.tolist() == [0, 0, 2]
    assert client.preprocess is dataset.preprocess


def test_it_is_a_sequence() -> None:
    data = FederatedData(images(), IID()(np.zeros(60, int), 4, seed=0))
    assert [client.client for client in data] == [0, 1, 2, 3]
    assert data[-1].client == 3
    assert [client.client for client in data[1:3]] == [1, 2]
    with pytest.raises(IndexError):
        data[4]


def test_sizes_and_class_counts_agree_with_the_clients() -> None:
    dataset = images()
    data = FederatedData(dataset, Dirichlet(alpha=0.5, min_examples=2)(dataset.train_y, 5, seed=0))
    assert [data.num_examples(client) for client in range(5)] == [len(client) for client in data]
    assert torch.equal(data.class_counts(), torch.stack([client.class_counts for client in data]))


def test_changing_a_clients_examples_does_not_touch_the_data_set() -> None:
    dataset = images()
    before = dataset.train_x.clone()
    FederatedData(dataset, [np.arange(60)])[0].x.zero_()
    assert torch.equal(dataset.train_x, before)


def test_ten_thousand_clients_pickle_to_little_more_than_the_data() -> None:
    n = 20_000
    x, y = torch.zeros(n, 2), torch.arange(n) % 2
    dataset = Dataset("many", x, y, x, y, classes=("a", "b"), preprocess=Normalize((0.0,), (1.0,)))
    data = FederatedData(dataset, IID()(y, 10_000, seed=0))
    assert len(data[9_999]) == 2
    assert len(pickle.dumps(data)) < 5_000_000


def test_a_pickled_copy_gives_the_same_clients() -> None:
    data = FederatedData(images(), [np.array([5, 2]), np.array([0])])
    copy = pickle.loads(pickle.dumps(data))
    assert torch.equal(copy[0].x, data[0].x)
    assert copy[0].preprocess == data[0].preprocess


def darken(data: FederatedData) -> None:
    data.dataset.train_x.zero_()


def test_a_worker_process_sees_the_very_same_memory() -> None:
    data = FederatedData(images(), [np.arange(60)]).share_memory()
    process = multiprocessing.get_context("spawn").Process(target=darken, args=(data,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert data[0].x.max() == 0


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "a federation needs at least one client"),
        ([np.array([1]), np.array([], dtype=np.int64)], "client 1 of 2 has no training example"),
        ([np.array([0, 60])], "client 0 is given examples 0 to 60, the training split has 0 to 59"),
        ([np.array([-1])], "client 0 is given examples -1 to -1"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts: list[np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FederatedData(images(), parts)
