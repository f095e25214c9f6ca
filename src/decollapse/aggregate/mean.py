"""The weighted mean of FedAvg, and FedNova's mean of normalised updates.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas, "Communication-Efficient Learning of Deep Networks from Decentralized
Data", AISTATS 2017, https://arxiv.org/abs/1602.05629, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

from decollapse.aggregate import Aggregate, floating, sent_extras
from decollapse.core import ClientResult
from decollapse.tree import RunningMean

Weights = Literal["examples", "uniform"]


@dataclass(frozen=True)
class WeightedMean:
    """FedAvg's mean, `sum_i p_i delta_i` with `p_i = n_i / sum_j n_j` over the cohort.

    Attributes:
        weights: `examples` (n_i) or `uniform` (every client counts the same).
    """

    needs_single_updates: ClassVar[bool] = False
    weights: Weights = "examples"

    def __call__(self, results: Iterable[ClientResult]) -> Aggregate | None:
        """The means of the deltas, the floating-point buffers and the extras."""
        delta, buffers, extras = RunningMean(), RunningMean(), RunningMean()
        num_clients = num_examples = 0
        total = squared_norms = 0.0
        for result in results:
            weight = result.num_examples if self.weights == "examples" else 1
            delta.update(weight, result.delta)
            buffers.update(weight, floating(result.buffers))
            extras.update(weight, sent_extras(result))
            squared_norms += weight * result.squared_norm
            total += weight
            num_clients += len(result.clients)
            num_examples += result.num_examples
        if num_clients == 0:
            return None
        return Aggregate(
            delta.result(), buffers.result(), num_clients, num_examples, squared_norms / total, extras.result()
        )

    def share(self, result: ClientResult) -> tuple[float, ClientResult]:
        """See `SummingAggregator`."""
        return (result.num_examples if self.weights == "examples" else 1.0), result

    def of_mean(self, mean: ClientResult) -> ClientResult:
        """The mean itself."""
        return mean
