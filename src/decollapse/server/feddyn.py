"""The server's half of FedDyn; the clients' half is `terms/feddyn.py`.

Acar, Zhao, Matas, Mattina, Whatmough, Saligrama, "Federated Learning Based on Dynamic Regularization", ICLR 2021,
https://arxiv.org/abs/2111.04263, algorithm 1.

    h <- h - alpha (1 / N) sum_{i in cohort} delta_i,    w <- mean_{i in cohort} w_i - h / alpha

Here u = -h / alpha, the form of the authors' code: alpha cancels, and belongs to the clients alone.

    u <- u + (M / N) Delta,    w <- w + Delta + u
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from decollapse import tree
from decollapse.aggregate import Aggregate
from decollapse.tree import Tree

NUM_CLIENTS = "num_clients"


@dataclass(frozen=True)
class ServerFedDyn:
    """Adds the mean of all clients' past updates, N of them and not only the cohort's, to the cohort's mean."""

    def init(self, params: Tree, *, num_clients: int) -> Tree:
        """No past yet, and the size of the federation."""
        return tree.prefixed(tree.zeros_like(params), "u/") | {NUM_CLIENTS: torch.tensor(num_clients)}

    def update(self, aggregate: Aggregate, state: Tree) -> tuple[Tree, Tree]:
        """The cohort's mean and the correction."""
        share = aggregate.num_clients / int(state[NUM_CLIENTS])
        u = tree.add(tree.under(state, "u/"), tree.scale(aggregate.delta, share))
        return tree.add(aggregate.delta, u), tree.prefixed(u, "u/") | {NUM_CLIENTS: state[NUM_CLIENTS]}
