"""Adaptive server optimisers: FedAdagrad, FedAdam, FedYogi.

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan, "Adaptive Federated Optimization", ICLR 2021,
https://arxiv.org/abs/2003.00295, algorithm 2.

    m <- beta1 m + (1 - beta1) Delta
    v <- v + Delta^2                                        FedAdagrad
         beta2 v + (1 - beta2) Delta^2                      FedAdam
         v - (1 - beta2) Delta^2 sign(v - Delta^2)          FedYogi
    w <- w + lr m / (sqrt(v) + tau)

v starts at tau^2, tau stands outside the root, and there is no bias correction: not PyTorch's Adam on the
pseudo-gradient. Departure: FedAvg's weights by examples in place of the algorithm's uniform ones; set the aggregator.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from decollapse import tree
from decollapse.aggregate import Aggregate
from decollapse.server.ranges import check_decay, check_lr
from decollapse.tree import Tree

M, V = "m/", "v/"


class Adaptive(ABC):
    """What the three share: all but the second moment, and the fields, whose defaults and order are each one's own."""

    lr: float
    beta1: float
    tau: float
    initial: float | None

    @abstractmethod
    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        """The next v, from the squared pseudo-gradient."""

    def __post_init__(self) -> None:
        check_lr(self.lr)
        check_decay(beta1=self.beta1)
        if not 0 < self.tau < math.inf:
            raise ValueError(f"tau keeps the server's steps finite; it must be positive and finite, got {self.tau}.")
        if self.initial is not None and not 0 <= self.initial < math.inf:
            raise ValueError(f"initial is a second moment, finite and at least 0, got {self.initial}.")

    def init(self, params: Tree, *, num_clients: int) -> Tree:
        """First moments of 0, second ones of `initial`."""
        start = self.tau**2 if self.initial is None else self.initial
        second = {name: torch.full_like(leaf, start) for name, leaf in params.items()}
        return tree.prefixed(tree.zeros_like(params), M) | tree.prefixed(second, V)

    def update(self, aggregate: Aggregate, state: Tree) -> tuple[Tree, Tree]:
        """The lines of the module's equation, in their order."""
        delta = aggregate.delta
        m = tree.add(tree.scale(tree.under(state, M), self.beta1), tree.scale(delta, 1 - self.beta1))
        v = {name: self.second_moment(leaf, delta[name] ** 2) for name, leaf in tree.under(state, V).items()}
        step = {name: self.lr * leaf / (v[name].sqrt() + self.tau) for name, leaf in m.items()}
        return step, tree.prefixed(m, M) | tree.prefixed(v, V)


@dataclass(frozen=True)
class FedAdagrad(Adaptive):
    """A step size for each parameter, from the sum of its squared pseudo-gradients.

    Attributes:
        lr: server step size, > 0; 0.01 to 1.
        beta1: decay of the first moment, 0 to below 1. The FedDecorr release has 0.9.
        tau: > 0; the smaller, the more adaptive.
        initial: v before the first round, >= 0; None is tau^2.
    """

    lr: float = 0.01
    beta1: float = 0.0
    tau: float = 1e-3
    initial: float | None = None

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        """The sum of all squares."""
        return v + square


@dataclass(frozen=True)
class FedAdam(Adaptive):
    """A step size for each parameter, from a moving average of its squared pseudo-gradients.

    Attributes:
        lr: server step size, > 0; 0.001 to 0.1.
        beta1: decay of the first moment, 0 to below 1.
        beta2: decay of the second moment, 0 to below 1.
        tau: > 0; the smaller, the more adaptive.
        initial: v before the first round, >= 0; None is tau^2.
    """

    lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    initial: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_decay(beta2=self.beta2)

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        """The moving average of the squares."""
        return self.beta2 * v + (1 - self.beta2) * square


@dataclass(frozen=True)
class FedYogi(Adaptive):
    """FedAdam whose second moment shrinks slowly where pseudo-gradients fall.

    Its attributes are those of `FedAdam`.
    """

    lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    initial: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_decay(beta2=self.beta2)

    def second_moment(self, v: Tensor, square: Tensor) -> Tensor:
        """At most `(1 - beta2) square` further on, up or down."""
        return v - (1 - self.beta2) * square * torch.sign(v - square)
