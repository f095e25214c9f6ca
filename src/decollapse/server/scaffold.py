"""The server's half of SCAFFOLD; the clients' half is `terms/scaffold.py`.

Karimireddy et al., ICML 2020, https://arxiv.org/abs/1910.06378, algorithm 1.

    w <- w + lr Delta,    c <- c + (1 / N) sum_{i in cohort} (c_i_new - c_i)

N is the whole federation: c stays the mean of all clients' variates, those of absent clients included.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from decollapse import tree
from decollapse.aggregate import Aggregate
from decollapse.server.ranges import check_lr
from decollapse.terms.scaffold import VARIATE
from decollapse.tree import Tree

NUM_CLIENTS = "num_clients"


@dataclass(frozen=True)
class ServerScaffold:
    """Keeps and sends the mean of the clients' control variates.

    Attributes:
        lr: server step size, > 0; 1 takes the mean of the local models.
    """

    lr: float = 1.0

    def __post_init__(self) -> None:
        check_lr(self.lr)

    def init(self, params: Tree, *, num_clients: int) -> Tree:
        """A variate of zeros, and the size of the federation."""
        return tree.prefixed(tree.zeros_like(params), VARIATE) | {NUM_CLIENTS: torch.tensor(num_clients)}

    def broadcast(self, params: Tree, state: Tree) -> tuple[Tree, Tree]:
        """The parameters as they are, and the variate beside them."""
        return params, {name: leaf for name, leaf in state.items() if name.startswith(VARIATE)}

    def update(self, aggregate: Aggregate, state: Tree) -> tuple[Tree, Tree]:
        """The step of the parameters; the variate follows the mean change of the clients' own.

        Raises:
            ValueError: the clients sent no change of a variate.
        """
        change = tree.under(aggregate.extras, VARIATE)
        if not change:
            raise ValueError(
                'the scaffold server needs the clients\' control variates, which the term "scaffold" sends; '
                "add it to the objective."
            )
        share = aggregate.num_clients / int(state[NUM_CLIENTS])
        variate = tree.add(tree.under(state, VARIATE), tree.scale(change, share))
        step = aggregate.delta if self.lr == 1.0 else tree.scale(aggregate.delta, self.lr)
        return step, tree.prefixed(variate, VARIATE) | {NUM_CLIENTS: state[NUM_CLIENTS]}
