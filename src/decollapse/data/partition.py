"""Ways to divide a training set among clients.

A partition is any callable `(labels, num_clients, *, seed, columns) -> parts`: for each client the indices of its
examples. The parts are disjoint and complete, the same for the same seed on every machine, and none is empty.
What cannot be done is an error after a bounded number of tries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from numpy.typing import NDArray

    Labels = Tensor | NDArray[np.int64]
    Columns = Mapping[str, Tensor]
    Parts = list[NDArray[np.int64]]


class Partition(Protocol):
    """Divides examples among clients."""

    def __call__(self, labels: Labels, num_clients: int, *, seed: int = 0, columns: Columns | None = None) -> Parts:
        """The indices of each client's examples.

        Args:
            labels: of the training examples, non-negative integers.
            num_clients: from 1 to the number of examples.
            seed: 0 to 2^32 - 1.
            columns: what else is known of every example, one value each.
        """
        ...


@dataclass(frozen=True)
class IID:
    """Every client gets an equal share, drawn without looking at the labels.

    One permutation, cut into `num_clients` pieces whose sizes differ by at most 1; the reference release's for a seed.

    >>> [len(part) for part in IID()(np.zeros(10, dtype=np.int64), 3, seed=0)]
    [4, 3, 3]
    """

    def __call__(self, labels: Labels, num_clients: int, *, seed: int = 0, columns: Columns | None = None) -> Parts:
        """Divide the examples; see `Partition`."""
        labels, generator = _checked(labels, num_clients, seed)
        return np.array_split(generator.permutation(len(labels)), num_clients)


@dataclass(frozen=True)
class Dirichlet:
    """Label skew, with clients kept from growing past an equal share: the split of the FedDecorr release.

    Repeat until the smallest client holds at least `min_examples`:
        for each class in order: shuffle its examples;
            p ~ Dir(alpha, ..., alpha);  p_j <- 0 where client j already holds N / K or more;  p <- p / sum p;
            cut the class at int(cumsum(p) * count)
    then shuffle every client's examples. The generator is NumPy's legacy one and the order of draws is the release's,
    so that labels and seed give the release's very indices. One departure: a draw that leaves every p at zero (all
    clients with mass are full) is a failed try, where the release divides by zero.

    Attributes:
        alpha: concentration, > 0: 0.05 leaves about 2 of 10 classes a client, 0.5 about 5; a large one is nearly even.
        min_examples: what every client must hold, at least 1.
        max_tries: when to give up. A try takes about 14 ns an example: 20,000 tries 14 s for 50,000 examples.

    Raises:
        ValueError: a setting out of range, or no acceptable split in `max_tries`: CIFAR-10 among 100 clients at
            alpha = 0.05 took 6,446, more than 20,000 and 17,704 tries for seeds 0, 1 and 2; at alpha = 0.1 at most 13.
    """

    alpha: float
    min_examples: int = 10
    max_tries: int = 20_000

    def __post_init__(self) -> None:
        _check_dirichlet(self.alpha, self.min_examples, self.max_tries)

    def __call__(self, labels: Labels, num_clients: int, *, seed: int = 0, columns: Columns | None = None) -> Parts:
        """Divide the examples; see `Partition`."""
        return _dirichlet(
            labels, num_clients, seed, self.alpha, self.min_examples, max_tries=self.max_tries, capped=True
        )


@dataclass(frozen=True)
class PlainDirichlet:
    """Label skew and quantity skew: every class is cut by its own Dir(alpha) draw, and nothing evens out the sizes.

    Yurochkin et al., "Bayesian Nonparametric Federated Learning of Neural Networks", ICML 2019: `Dirichlet` without its
    cap on large clients.

    Attributes:
        alpha: concentration, > 0; small is heterogeneous.
        min_examples: what every client must hold, at least 1; a split that gives less is drawn again.
        max_tries: when to give up.

    Raises:
        ValueError: as for `Dirichlet`.
    """

    alpha: float
    min_examples: int = 1
    max_tries: int = 20_000

    def __post_init__(self) -> None:
        _check_dirichlet(self.alpha, self.min_examples, self.max_tries)

    def __call__(self, labels: Labels, num_clients: int, *, seed: int = 0, columns: Columns | None = None) -> Parts:
        """Divide the examples; see `Partition`."""
        return _dirichlet(
            labels, num_clients, seed, self.alpha, self.min_examples, max_tries=self.max_tries, capped=False
        )


@dataclass(frozen=True)
class Shards:
    """Every client gets a few runs of the examples sorted by label, so that it sees few classes.

    McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017.

    Attributes:
        shards_per_client: at least 1; 2 in the paper. Shards are of equal size (to within one example).

    Raises:
        ValueError: there are fewer examples than shards.

    >>> labels = np.array([0, 1, 0, 1])
    >>> sorted(labels[part].tolist() for part in Shards(shards_per_client=1)(labels, 2, seed=0))
    [[0, 0], [1, 1]]
    """

    shards_per_client: int = 2

    def __post_init__(self) -> None:
        if self.shards_per_client < 1:
            raise ValueError(f"shards_per_client must be at least 1, got {self.shards_per_client}.")

    def __call__(self, labels: Labels, num_clients: int, *, seed: int = 0, columns: Columns | None = None) -> Parts:
        """Divide the examples; see `Partition`."""
        labels, generator = _checked(labels, num_clients, seed)
        num_shards = num_clients * self.shards_per_client
        if num_shards > len(labels):
            raise ValueError(
                f"{num_clients} clients with {self.shards_per_client} shards each need at least {num_shards} examples, "
                f"there are {len(labels)}; use fewer clients or shards."
            )
        shuffled = generator.permutation(len(labels))
        shards = np.array_split(shuffled[np.argsort(labels[shuffled], kind="stable")], num_shards)
        hands = generator.permutation(num_shards).reshape(num_clients, self.shards_per_client)
        return [np.concatenate([shards[shard] for shard in hand]) for hand in hands]


@dataclass(frozen=True)
class ByColumn:
    """Clients as they are in the world: one for each value of a column (a writer, a hospital, a domain).

    With V values and K = V clients, client k holds the k-th value in sorted order. With K a multiple of V, client k
    holds an equal random share of value k mod V.

    Attributes:
        column: its name in `Dataset.train_columns`.

    Raises:
        ValueError: there is no such column, K is not a multiple of V, or a value has too few examples.
    """

    column: str

    def __call__(self, labels: Labels, num_clients: int, *, seed: int = 0, columns: Columns | None = None) -> Parts:
        """Divide the examples; see `Partition`."""
        labels, generator = _checked(labels, num_clients, seed)
        if self.column not in (columns or {}):
            raise ValueError(
                f"there is no column {self.column!r}, the data set has {', '.join(columns or {}) or 'none'}."
            )
        values = np.asarray((columns or {})[self.column])
        distinct, counts = np.unique(values, return_counts=True)
        if num_clients % len(distinct):
            raise ValueError(
                f"column {self.column!r} has {len(distinct)} values, so the number of clients must be {len(distinct)} "
                f"or a multiple of it, got {num_clients}."
            )
        clients_per_value = num_clients // len(distinct)
        if counts.min() < clients_per_value:
            raise ValueError(
                f"a value of column {self.column!r} has {counts.min()} examples for {clients_per_value} clients; "
                f"use fewer clients."
            )
        shares = [
            np.array_split(generator.permutation(np.flatnonzero(values == value)), clients_per_value)
            for value in distinct
        ]
        return [shares[client % len(distinct)][client // len(distinct)] for client in range(num_clients)]


def effective_classes(class_counts: Int[Tensor, "clients classes"]) -> Float[Tensor, "clients"]:
    """How many classes each client effectively holds: exp(-sum_c p_c ln p_c), from 1 to the number of classes.

    >>> effective_classes(torch.tensor([[5, 5, 0], [7, 0, 0]]))
    tensor([2., 1.], dtype=torch.float64)
    """
    shares = class_counts.double() / class_counts.sum(1, keepdim=True)
    entropy: Tensor = torch.special.entr(shares).sum(1)
    return entropy.exp()


def _checked(labels: Labels, num_clients: int, seed: int) -> tuple[NDArray[np.int64], np.random.RandomState]:
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or len(labels) == 0 or labels.min() < 0:
        raise ValueError(
            f"labels must be a vector of non-negative integers, got {labels.dtype} of shape {labels.shape}."
        )
    if not 1 <= num_clients <= len(labels):
        raise ValueError(f"{len(labels)} examples can be divided among 1 to {len(labels)} clients, got {num_clients}.")
    if not 0 <= seed < 2**32:
        raise ValueError(f"the seed of a partition must be from 0 to 2^32 - 1, got {seed}.")
    return labels, np.random.RandomState(seed)


def _check_dirichlet(alpha: float, min_examples: int, max_tries: int) -> None:
    if not 0 < alpha < float("inf"):
        raise ValueError(f"alpha must be positive and finite, got {alpha}; for a homogeneous split use IID.")
    if min_examples < 1 or max_tries < 1:
        raise ValueError(f"min_examples and max_tries must be at least 1, got {min_examples} and {max_tries}.")


def _dirichlet(
    labels: Labels, num_clients: int, seed: int, alpha: float, min_examples: int, *, max_tries: int, capped: bool
) -> Parts:
    labels, generator = _checked(labels, num_clients, seed)
    if min_examples * num_clients > len(labels):
        raise ValueError(
            f"{len(labels)} examples cannot give each of {num_clients} clients {min_examples}; "
            f"lower min_examples or the number of clients."
        )
    by_class = [np.flatnonzero(labels == label) for label in range(int(labels.max()) + 1)]
    largest = len(labels) / num_clients if capped else float("inf")
    best = 0
    for _ in range(max_tries):
        pieces, sizes = _draw(by_class, num_clients, alpha, largest, generator)
        if sizes.min() >= min_examples:
            parts = [np.concatenate(piece) for piece in zip(*pieces, strict=True)]
            for part in parts:
                generator.shuffle(part)
            return parts
        best = max(best, int(sizes.min()))
    raise ValueError(
        f"none of {max_tries} Dirichlet splits with alpha = {alpha} gave each of {num_clients} clients {min_examples} "
        f"examples (the best left one with {best}); "
        "raise alpha or max_tries, or lower min_examples or the number of clients."
    )


def _draw(
    by_class: Parts, num_clients: int, alpha: float, largest: float, generator: np.random.RandomState
) -> tuple[list[Parts], NDArray[np.int64]]:
    """One try: for each class its pieces, one a client, and the resulting sizes (all zero where the draw failed)."""
    sizes = np.zeros(num_clients, dtype=np.int64)
    pieces, failed = [], False
    for indices in by_class:
        shuffled = indices.copy()
        generator.shuffle(shuffled)
        shares = generator.dirichlet(np.full(num_clients, alpha)) * (sizes < largest)
        total = shares.sum()
        if not total > 0:  # also where every gamma variate underflowed and the draw is NaN
            failed = True
            continue
        cuts = (np.cumsum(shares / total) * len(shuffled)).astype(np.int64)[:-1]
        pieces.append(np.split(shuffled, cuts))
        sizes += np.diff(cuts, prepend=0, append=len(shuffled))
    return pieces, sizes * (not failed)
