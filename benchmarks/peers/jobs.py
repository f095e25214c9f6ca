"""The jobs, and the file that holds one: arrays, split, cohorts and settings, read by every side."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from decollapse.data import Dataset

SEED = 0


@dataclass(frozen=True)
class Job:
    """A federated training that every side repeats.

    Attributes:
        title: one line for the table.
        model: a key of `networks.BUILDERS`.
        data: "cifar10" is the folder of --data.
        split: "drawn" gives every client `examples` of the training set, with replacement.
        num_clients: of the federation.
        cohort: clients a round.
        rounds: how many.
        epochs: local ones.
        batch_size: local; the last batch of an epoch may be smaller, and is kept.
        lr: of local SGD.
        momentum: of local SGD, from zero every round.
        weight_decay: of local SGD.
        beta: strength of FedDecorr; 0 is without.
        augment: random crop with a padding of 4 pixels, and random flip.
        evaluate_every: rounds between two evaluations on the test set; before the first and after the last, too.
        examples: of a client, where they are drawn.
        train_size: training images; None takes all.
        test_size: the same for the test set.
    """

    title: str
    model: str
    data: Literal["cifar10", "digits", "noise"]
    split: Literal["iid", "dirichlet", "drawn"]
    num_clients: int
    cohort: int
    rounds: int
    epochs: int
    batch_size: int
    lr: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    beta: float = 0.0
    augment: bool = False
    evaluate_every: int = 1
    examples: int = 10
    train_size: int | None = None
    test_size: int | None = None

    @property
    def digest(self) -> str:
        """Equal settings have equal digests."""
        return hashlib.blake2b(json.dumps(asdict(self), sort_keys=True).encode(), digest_size=6).hexdigest()

    def due(self, round: int) -> bool:
        """Whether the test set is evaluated after `round`; 0 is before the first."""
        return round % self.evaluate_every == 0 or round == self.rounds


PFL_RECIPE = Job(
    title="1,000 clients x 50 CIFAR-10 images, IID, cohort 50, batch 10, 1 epoch, CNN with 1.6 M parameters",
    model="cnn",
    data="cifar10",
    split="iid",
    num_clients=1000,
    cohort=50,
    rounds=20,
    epochs=1,
    batch_size=10,
    lr=0.1,
    evaluate_every=10,
)
CROSS_SILO = Job(
    title="10 clients, Dirichlet 0.1, 10,000 CIFAR-10 images, crop and flip, batch 64, 2 epochs, ResNet-20, FedDecorr",
    model="resnet20",
    data="cifar10",
    split="dirichlet",
    num_clients=10,
    cohort=10,
    rounds=10,
    epochs=2,
    batch_size=64,
    lr=0.01,
    momentum=0.9,
    weight_decay=1e-5,
    beta=0.1,
    augment=True,
    train_size=10_000,
    test_size=2_000,
)
TINY_CLIENTS = Job(
    title="10,000 clients x 10 digits, cohort 100, batch 10, 1 epoch, MLP 64-128-10",
    model="mlp",
    data="digits",
    split="drawn",
    num_clients=10_000,
    cohort=100,
    rounds=200,
    epochs=1,
    batch_size=10,
    lr=0.1,
    evaluate_every=50,
)
JOBS = {"a": PFL_RECIPE, "b": CROSS_SILO, "c": TINY_CLIENTS}
"""The jobs that every side can be asked for."""

SMALL = {
    "a": replace(
        PFL_RECIPE,
        title="small version of a: 40 clients x 50 images, cohort 6",
        num_clients=40,
        cohort=6,
        rounds=12,
        train_size=2_000,
        test_size=1_000,
        evaluate_every=4,
    ),
    "b": replace(
        CROSS_SILO,
        title="small version of b: 4 clients x 300 images, IID, learning rate 0.05",
        num_clients=4,
        cohort=4,
        rounds=5,
        split="iid",
        lr=0.05,
        train_size=1_200,
        test_size=500,
    ),
    "c": replace(TINY_CLIENTS, title="small version of c: 500 clients", num_clients=500, rounds=10, evaluate_every=5),
}
"""The same code paths in seconds, to see that every side runs and that they learn alike."""

SCALES = {f"{n:,} client{'s'[: n - 1]}": (n, min(n, 10)) for n in (1, 10, 100, 1_000, 100_000)}
"""Federations of job d, with their cohorts."""


def scale(num_clients: int, cohort: int) -> Job:
    """Job d: the same work a round in federations of any size."""
    return replace(
        TINY_CLIENTS,
        title="20 digits a client, cohort 10 (1 of a single client), batch 10, 1 epoch, MLP 64-128-10",
        num_clients=num_clients,
        cohort=cohort,
        rounds=200,
        evaluate_every=200,
        examples=20,
    )


@dataclass(frozen=True, eq=False)
class Problem:
    """A job with its data: what a side reads from the file.

    Attributes:
        job: the settings.
        train_x: uint8 images (n, channels, height, width).
        train_y: labels.
        test_x: the same for the test set.
        test_y: its labels.
        mean: of each channel, in units of 255.
        std: the same.
        num_classes: of the data.
        parts: each client's rows of `train_x`.
        cohorts: the clients of each round.
        model_seed: what torch is seeded with before the first model is drawn.
    """

    job: Job
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_classes: int
    parts: list[Tensor]
    cohorts: list[list[int]]
    model_seed: int

    def share(self, client: int, round: int) -> float:
        """A client's weight in the average of a round (1 is the first)."""
        return len(self.parts[client]) / sum(len(self.parts[other]) for other in self.cohorts[round - 1])


def write(job: Job, data: Path | None, path: Path) -> None:
    """Load the data, deal them, draw the cohorts, and write the file; needs this package's environment."""
    from decollapse.core import derive_seed
    from decollapse.simulation import sample_cohort

    dataset = _noise() if job.data == "noise" else _load(job, data)
    rounds = range(1, job.rounds + 1)
    cohorts = [sample_cohort(job.num_clients, job.cohort, seed=SEED, round=round) for round in rounds]
    parts = _deal(job, dataset.train_y)
    np.savez(
        path,
        settings=json.dumps(asdict(job)),
        train_x=dataset.train_x.numpy(),
        train_y=dataset.train_y.numpy(),
        test_x=dataset.test_x.numpy(),
        test_y=dataset.test_y.numpy(),
        mean=np.array(dataset.preprocess.mean),
        std=np.array(dataset.preprocess.std),
        num_classes=dataset.num_classes,
        rows=np.concatenate(parts),
        sizes=np.array([len(part) for part in parts]),
        cohorts=np.array(cohorts),
        model_seed=derive_seed("model", SEED),
    )


def load(path: Path) -> Problem:
    """Read the file; needs NumPy and PyTorch."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    tensors = {name: torch.from_numpy(arrays[name]) for name in ("train_x", "train_y", "test_x", "test_y")}
    return Problem(
        job=Job(**json.loads(str(arrays["settings"]))),
        **tensors,
        mean=tuple(arrays["mean"].tolist()),
        std=tuple(arrays["std"].tolist()),
        num_classes=int(arrays["num_classes"]),
        parts=list(torch.from_numpy(arrays["rows"]).split(arrays["sizes"].tolist())),
        cohorts=arrays["cohorts"].tolist(),
        model_seed=int(arrays["model_seed"]),
    )


def _load(job: Job, data: Path | None) -> Dataset:
    from decollapse.data import DataSource

    name = "digits" if job.data == "digits" else f"npz:{data}"
    return DataSource(name, train_size=job.train_size, test_size=job.test_size).load()


def _noise() -> Dataset:
    """Small images whose brightness tells their class: something to learn in seconds, from no file."""
    from decollapse.data import Dataset, Normalize

    generator = torch.Generator().manual_seed(SEED)
    y = torch.arange(200) % 4
    x = (
        torch.randint(0, 64, (200, 3, 8, 8), dtype=torch.uint8, generator=generator)
        + (48 * y).byte()[:, None, None, None]
    )
    return Dataset("noise", x[:160], y[:160], x[160:], y[160:], tuple("abcd"), Normalize((0.5,) * 3, (0.25,) * 3))


def _deal(job: Job, labels: Tensor) -> list[np.ndarray]:
    from decollapse.data import IID, Dirichlet

    if job.split == "drawn":
        rows = np.random.default_rng(SEED).integers(len(labels), size=(job.num_clients, job.examples))
        return list(rows)
    partition = IID() if job.split == "iid" else Dirichlet(alpha=0.1)
    return partition(labels, job.num_clients, seed=SEED)
