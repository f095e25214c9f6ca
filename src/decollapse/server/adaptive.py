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
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from decollapse import tree
from decollapse.aggregate import Aggregate
from decollapse.server.ranges import check_decay, check_lr
from decollapse.tree import Tree


@dataclass(frozen=True)
class FedAdagrad:
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

    def __post_init__(self) -> None:
        check_lr(self.lr)
        check_decay(beta1=self.beta1)
        _check_tau(self.tau, self.initial)

    def init(self, params: Tree, *, num_clients: int) -> Tree:
        """First moments of 0, second ones of `initial`."""
        return _moments(params, self.tau, self.initial)

    def update(self, aggregate: Aggregate, state: Tree) -> tuple[Tree, Tree]:
        """One step."""
        return _step(aggregate.delta, state, lambda v, square: v + square, self.lr, self.beta1, self.tau)


@dataclass(frozen=True)
class FedAdam:
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
        check_lr(self.lr)
        check_decay(beta1=self.beta1, beta2=self.beta2)
        _check_tau(self.tau, self.initial)

    def init(self, params: Tree, *, num_clients: int) -> Tree:
        """First moments of 0, second ones of `initial`."""
        return _moments(params, self.tau, self.initial)

    def update(self, aggregate: Aggregate, state: Tree) -> tuple[Tree, Tree]:
        """One step."""

        def second(v: Tensor, square: Tensor) -> Tensor:
            return self.beta2 * v + (1 - self.beta2) * square

        return _step(aggregate.delta, state, second, self.lr, self.beta1, self.tau)


@dataclass(frozen=True)
class FedYogi:
    """FedAdam whose second moment shrinks slowly where pseudo-gradients fall.

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
        check_lr(self.lr)
        check_decay(beta1=self.beta1, beta2=self.beta2)
        _check_tau(self.tau, self.initial)

    def init(self, params: Tree, *, num_clients: int) -> Tree:
        """First moments of 0, second ones of `initial`."""
        return _moments(params, self.tau, self.initial)

    def update(self, aggregate: Aggregate, state: Tree) -> tuple[Tree, Tree]:
        """One step."""

        def second(v: Tensor, square: Tensor) -> Tensor:
            return v - (1 - self.beta2) * square * torch.sign(v - square)

        return _step(aggregate.delta, state, second, self.lr, self.beta1, self.tau)


M, V = "m/", "v/"


def _moments(params: Tree, tau: float, initial: float | None) -> Tree:
    start = tau**2 if initial is None else initial
    second = {name: torch.full_like(leaf, start) for name, leaf in params.items()}
    return tree.prefixed(tree.zeros_like(params), M) | tree.prefixed(second, V)


def _step(
    delta: Tree, state: Tree, second: Callable[[Tensor, Tensor], Tensor], lr: float, beta1: float, tau: float
) -> tuple[Tree, Tree]:
    """The lines of the module's equation, in their order."""
    m = tree.add(tree.scale(tree.under(state, M), beta1), tree.scale(delta, 1 - beta1))
    v = {name: second(leaf, delta[name] ** 2) for name, leaf in tree.under(state, V).items()}
    step = {name: lr * leaf / (v[name].sqrt() + tau) for name, leaf in m.items()}
    return step, tree.prefixed(m, M) | tree.prefixed(v, V)


def _check_tau(tau: float, initial: float | None) -> None:
    if not 0 < tau < math.inf:
        raise ValueError(f"tau keeps the server's steps finite; it must be positive and finite, got {tau}.")
    if initial is not None and not 0 <= initial < math.inf:
        raise ValueError(f"initial is a second moment, finite and at least 0, got {initial}.")
