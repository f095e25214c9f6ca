"""From many client results to one: the aggregators.

Results come one at a time, in the order of the cohort: a sum has the same bits wherever the clients ran, and a mean
needs memory for one update however large the cohort is. Robust rules have to hold them all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from decollapse.core import MEASURED, ClientResult
from decollapse.tree import Tree


@dataclass(frozen=True, eq=False)
class Aggregate:
    """What a cohort amounts to.

    Attributes:
        delta: the pseudo-gradient with the sign of ascent: FedAvg adds it to the parameters.
        buffers: the floating-point buffers' mean; integer ones stay as broadcast.
        num_clients: results that went in.
        num_examples: their examples together.
        squared_norm: mean of the updates' squared norms, with the weights of the mean; None from a rule that has none.
        extras: means of what the clients sent beside the update.
    """

    delta: Tree
    buffers: Tree
    num_clients: int
    num_examples: int
    squared_norm: float | None = None
    extras: Tree = field(default_factory=dict)


class Aggregator(Protocol):
    """Many results to one."""

    @property
    def needs_single_updates(self) -> bool:
        """Whether the server must see every update, which secure aggregation hides from it."""
        ...

    def __call__(self, results: Iterable[ClientResult]) -> Aggregate | None:
        """The aggregate, or None if there was no result: the server then stays as it is."""
        ...


@runtime_checkable
class SummingAggregator(Aggregator, Protocol):
    """An aggregator that needs a weighted mean alone: each client can compute its summand, and a secure sum add up."""

    def share(self, result: ClientResult) -> tuple[float, ClientResult]:
        """A result's weight in the mean, and the result as it enters."""
        ...

    def of_mean(self, mean: ClientResult) -> ClientResult:
        """The one result that the aggregator makes the same of as of all those that went into `mean`."""
        ...


@runtime_checkable
class NoisyAggregator(Aggregator, Protocol):
    """An aggregator that draws noise."""

    def in_round(self, *, seed: int, round: int) -> Aggregator:
        """The aggregator with the noise of one round of the run with this seed."""
        ...


def floating(tree: Tree) -> Tree:
    """The floating-point leaves of `tree`."""
    return {name: leaf for name, leaf in tree.items() if leaf.is_floating_point()}


def sent_extras(result: ClientResult) -> Tree:
    """What a client sent for the server's algorithm; measurements go elsewhere."""
    return {name: leaf for name, leaf in result.extras.items() if not name.startswith(MEASURED)}
