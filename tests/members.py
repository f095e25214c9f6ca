"""What the contract tests run: a tiny federation with BatchNorm and dropout, and a term that remembers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from decollapse.core import ClientData, ModelState
from decollapse.data import Dataset, FederatedData, Normalize
from decollapse.data.partition import Dirichlet
from decollapse.engines import Federation
from decollapse.models import Classifier
from decollapse.objective import Step, Trained
from decollapse.tree import Tree


@dataclass(frozen=True)
class PullBack:
    """Pulls a client towards where its own last round ended: a term whose state decides the result."""

    name: ClassVar[str] = "pull_back"
    strength: float = 0.5

    def init_state(self, anchor: ModelState) -> Tree:
        return {name: leaf.clone() for name, leaf in anchor.params.items()}

    def next_state(self, state: Tree, trained: Trained) -> Tree:
        return trained.local.params

    def __call__(self, step: Step) -> Tensor:
        return self.strength * sum(((step.params[n] - leaf) ** 2).sum() for n, leaf in step.state.items())


def noisy_network() -> Classifier:
    """Convolution, BatchNorm and dropout: everything that tempts a framework to leak state between clients.

    The second BatchNorm sees what dropout lets through: its statistics depend on the random numbers.
    """
    encoder = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.BatchNorm2d(6),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
    )
    return Classifier(encoder, nn.Linear(24, 4))


def small_dataset(num_examples: int = 160) -> Dataset:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(num_examples) % 4
    x = torch.randint(0, 120, (num_examples, 1, 8, 8), generator=generator, dtype=torch.uint8)
    x[torch.arange(num_examples), 0, y, y] = 250
    return Dataset("stripes", x, y, x[:40], y[:40], classes=("a", "b", "c", "d"), preprocess=Normalize((0.3,), (0.3,)))


def small_federation(num_clients: int = 5) -> Federation:
    dataset = small_dataset()
    parts = Dirichlet(alpha=0.5, min_examples=3)(dataset.train_y, num_clients, seed=1)
    return Federation(noisy_network, FederatedData(dataset, parts))


def unequal_federation() -> Federation:
    """Clients of 1, 3, 16, 40 and 100 examples: one of a single step, one of a single class."""
    dataset = small_dataset()
    by_class = torch.argsort(dataset.train_y, stable=True)
    return Federation(
        noisy_network, FederatedData(dataset, [part.numpy() for part in by_class.split([1, 3, 16, 40, 100])])
    )


def initial_model() -> ModelState:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return ModelState.of(noisy_network())


def one_client(num_examples: int = 20) -> ClientData:
    dataset = small_dataset(num_examples)
    return ClientData(0, dataset.train_x, dataset.train_y, 4, dataset.preprocess)
