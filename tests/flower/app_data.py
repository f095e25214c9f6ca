"""The data functions of an app."""

from __future__ import annotations

import torch
from members import small_dataset

from decollapse.data import Dirichlet
from decollapse.flower import OwnData


def client_data(client: int, num_clients: int) -> tuple[torch.Tensor, torch.Tensor]:
    dataset = small_dataset()
    mine = Dirichlet(alpha=0.5, min_examples=3)(dataset.train_y, num_clients, seed=1)[client]
    return dataset.train_x[mine], dataset.train_y[mine]


def test_data() -> tuple[torch.Tensor, torch.Tensor]:
    return small_dataset().test_x, small_dataset().test_y


OWN_DATA = OwnData(client_data, test_data, ("a", "b", "c", "d"), small_dataset().preprocess)
