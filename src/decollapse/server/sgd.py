"""Server SGD: FedAvg's server, and FedAvgM.

Hsu, Qi, Brown, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification", 2019,
https://arxiv.org/abs/1909.06335.
"""

from __future__ import annotations

from dataclasses import dataclass

from decollapse import tree
from decollapse.aggregate import Aggregate
from decollapse.server.ranges import check_decay, check_lr
from decollapse.tree import Tree


@dataclass(frozen=True)
class ServerSGD:
    """FedAvg's server (`lr` 1, no momentum), and FedAvgM's heavy ball: `v <- momentum v + Delta; w <- w + lr v`.

    With momentum, a constant Delta ends in steps of `lr / (1 - momentum)`; the damped form
    `v <- momentum v + (1 - momentum) Delta`, which the FedDecorr release calls FedAvgM, in steps of `lr`.

    Attributes:
        lr: server step size, > 0 and finite; 1 takes the mean of the local models.
        momentum: 0 to below 1; 0 is FedAvg.
        damped: the release's moving average in place of the heavy ball.
        nesterov: look ahead, `w <- w + lr (Delta + momentum v)` after the update of v, as in PyTorch.
    """

    lr: float = 1.0
    momentum: float = 0.0
    damped: bool = False
    nesterov: bool = False

    def __post_init__(self) -> None:
        check_lr(self.lr)
        check_decay(momentum=self.momentum)
        if (self.nesterov or self.damped) and self.momentum == 0:
            raise ValueError("damped and nesterov are forms of momentum; set a momentum above 0.")
        if self.nesterov and self.damped:
            raise ValueError("nesterov and damped exclude each other; set one of them to false.")

    def init(self, params: Tree, *, num_clients: int) -> Tree:
        """No state without momentum, else a velocity of zeros."""
        return tree.zeros_like(params) if self.momentum else {}

    def update(self, aggregate: Aggregate, state: Tree) -> tuple[Tree, Tree]:
        """One step."""
        delta = aggregate.delta
        if not self.momentum:
            return (delta if self.lr == 1.0 else tree.scale(delta, self.lr)), {}
        pushed = tree.scale(delta, 1 - self.momentum) if self.damped else delta
        velocity = tree.add(tree.scale(state, self.momentum), pushed)
        step = tree.add(delta, tree.scale(velocity, self.momentum)) if self.nesterov else velocity
        return (step if self.lr == 1.0 else tree.scale(step, self.lr)), velocity
