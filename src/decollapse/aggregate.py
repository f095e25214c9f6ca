"""From many client results to one: the aggregators.

Results are consumed one at a time, in the order of the cohort, so that memory does not grow with the cohort and the
sum has the same bits wherever the clients ran.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from decollapse.core import ClientResult
from decollapse.tree import RunningMean, Tree


@dataclass(frozen=True, eq=False)
class Aggregate:
    """What a cohort amounts to.

    Attributes:
        delta: the pseudo-gradient with the sign of ascent: FedAvg adds it to the parameters.
        buffers: the floating-point buffers' mean; integer ones stay as broadcast.
        num_clients: results that went in.
        num_examples: their examples together.
        extras: what some methods aggregate beside the update.
    """

    delta: Tree
    buffers: Tree
    num_clients: int
    num_examples: int
    extras: Tree = field(default_factory=dict)


class Aggregator(Protocol):
    """Many results to one."""

    def __call__(self, results: Iterable[ClientResult]) -> Aggregate | None:
        """The aggregate, or None if there was no result: the server then stays as it is."""
        ...


@dataclass(frozen=True)
class WeightedMean:
    """FedAvg's mean, `sum_i p_i delta_i` with `p_i = n_i / sum_j n_j` over the cohort.

    McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-Efficient Learning of Deep Networks from
    Decentralized Data", AISTATS 2017, https://arxiv.org/abs/1602.05629, algorithm 1.

    Attributes:
        weights: `examples` (n_i) or `uniform` (every client counts the same).
    """

    weights: Literal["examples", "uniform"] = "examples"

    def __call__(self, results: Iterable[ClientResult]) -> Aggregate | None:
        """The mean of the deltas and of the floating-point buffers."""
        delta, buffers = RunningMean(), RunningMean()
        num_clients = num_examples = 0
        for result in results:
            weight = result.num_examples if self.weights == "examples" else 1
            delta.update(weight, result.delta)
            buffers.update(weight, floating(result.buffers))
            num_clients += 1
            num_examples += result.num_examples
        if num_clients == 0:
            return None
        return Aggregate(delta.result(), buffers.result(), num_clients, num_examples)


def floating(tree: Tree) -> Tree:
    """The floating-point leaves of `tree`."""
    return {name: leaf for name, leaf in tree.items() if leaf.is_floating_point()}
