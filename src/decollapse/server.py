"""Server optimisers: a step of the global parameters from the aggregated update.

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan, "Adaptive Federated Optimization", ICLR 2021,
https://arxiv.org/abs/2003.00295: the aggregate `Delta` is a pseudo-gradient, here with the sign of ascent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from decollapse import tree
from decollapse.aggregate import Aggregate
from decollapse.tree import Tree


class ServerOptimizer(Protocol):
    """The pair (init, update) of optax, on parameters only: buffers never pass through here."""

    def init(self, params: Tree) -> Tree:
        """The state before the first round."""
        ...

    def update(self, aggregate: Aggregate, state: Tree) -> tuple[Tree, Tree]:
        """The step to add to the parameters, and the next state."""
        ...


@dataclass(frozen=True)
class ServerSGD:
    """FedAvg's server (`lr` 1, no momentum), and FedAvgM's heavy ball: `v <- momentum v + Delta; w <- w + lr v`.

    FedAvgM: Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual
    Classification", 2019, https://arxiv.org/abs/1909.06335.

    Attributes:
        lr: server step size, > 0 and finite; 1 takes the mean of the local models.
        momentum: 0 to below 1; 0 is FedAvg.
    """

    lr: float = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ValueError(f"the server's lr must be positive and finite, got {self.lr}.")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"the server's momentum is a share from 0 to below 1, got {self.momentum}.")

    def init(self, params: Tree) -> Tree:
        """No state without momentum, else a velocity of zeros."""
        return tree.zeros_like(params) if self.momentum else {}

    def update(self, aggregate: Aggregate, state: Tree) -> tuple[Tree, Tree]:
        """One heavy-ball step."""
        velocity = tree.add(tree.scale(state, self.momentum), aggregate.delta) if self.momentum else aggregate.delta
        step = velocity if self.lr == 1.0 else tree.scale(velocity, self.lr)
        return step, velocity if self.momentum else {}
