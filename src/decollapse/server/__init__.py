"""Server optimisers: a step of the global parameters from the aggregated update.

The aggregate `Delta` is a pseudo-gradient (Reddi et al., ICLR 2021), here with the sign of ascent. Only parameters pass
through here; buffers never do: a momentum step drives a variance negative.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from decollapse.aggregate import Aggregate
from decollapse.tree import Tree


class ServerOptimizer(Protocol):
    """The pair (init, update) of optax."""

    def init(self, params: Tree, *, num_clients: int) -> Tree:
        """The state before the first round of a federation of `num_clients`."""
        ...

    def update(self, aggregate: Aggregate, state: Tree) -> tuple[Tree, Tree]:
        """The step to add to the parameters, and the next state."""
        ...


@runtime_checkable
class BroadcastingServer(ServerOptimizer, Protocol):
    """A server that sends something else than its parameters, or something beside them."""

    def broadcast(self, params: Tree, state: Tree) -> tuple[Tree, Tree]:
        """The parameters clients start from, and the extras of the broadcast."""
        ...


@runtime_checkable
class AveragingServer(ServerOptimizer, Protocol):
    """A server whose model to evaluate and to keep is not the one it goes on with."""

    def evaluated(self, params: Tree, state: Tree) -> Tree:
        """The parameters to evaluate after a round."""
        ...
