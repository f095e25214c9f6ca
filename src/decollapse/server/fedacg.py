"""FedACG: clients start where the server's momentum is about to lead.

Kim, Kim, Han, "Communication-Efficient Federated Learning with Accelerated Client Gradient", CVPR 2024,
https://arxiv.org/abs/2201.03172, algorithm 1.

    sent = w + momentum m                    clients start there; updates are against it
    m   <- momentum m + Delta
    w   <- w + m                             = sent + Delta

The clients' half is a proximal term around what was sent. Means are uniform in the paper. Departure: the look-ahead is
of parameters only, the authors' code moves BatchNorm's buffers too.
"""

from __future__ import annotations

from dataclasses import dataclass

from decollapse import tree
from decollapse.aggregate import Aggregate
from decollapse.server.ranges import check_decay
from decollapse.tree import Tree


@dataclass(frozen=True)
class FedACG:
    """Heavy-ball momentum on the server, and a broadcast one momentum step ahead.

    Attributes:
        momentum: 0 to below 1; 0 is FedAvg.
    """

    momentum: float = 0.85

    def __post_init__(self) -> None:
        check_decay(momentum=self.momentum)

    def init(self, params: Tree, *, num_clients: int) -> Tree:
        """A momentum of zeros."""
        return tree.zeros_like(params)

    def broadcast(self, params: Tree, state: Tree) -> tuple[Tree, Tree]:
        """The model one momentum step ahead, and no extras."""
        return tree.add(params, tree.scale(state, self.momentum)), {}

    def update(self, aggregate: Aggregate, state: Tree) -> tuple[Tree, Tree]:
        """One step from the model before the look-ahead."""
        momentum = tree.add(tree.scale(state, self.momentum), aggregate.delta)
        return momentum, momentum
