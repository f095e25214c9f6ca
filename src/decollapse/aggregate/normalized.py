"""FedNova: clients that took more steps do not pull the average towards their own optimum.

Wang, Liu, Liang, Joshi, Poor, "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization",
NeurIPS 2020, https://arxiv.org/abs/2007.07481, equations 8 and 9.

    delta = tau_eff sum_i p_i delta_i / a_i,    tau_eff = sum_i p_i a_i

a_i is the update that a constant gradient of 1 would have caused: for SGD the number of steps, with momentum rho
`(tau - rho (1 - rho^tau) / (1 - rho)) / (1 - rho)`. The client runs a scalar shadow of its optimiser to find it, with
the pull of a proximal term where there is one. The learning rate is a factor of every a_i and cancels.

Departures. Weights p_i are renormalised over the cohort, so it runs under partial participation, where the FedDecorr
release fails. The authors' code has another a_i when momentum and a proximal term meet (its in-place additions leak
into the momentum buffer), and tau_eff without the pull there. Weight decay is left out of a_i, as in their code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

from decollapse import tree
from decollapse.aggregate import Aggregate, floating, sent_extras
from decollapse.core import ClientResult
from decollapse.tree import RunningMean


@dataclass(frozen=True)
class NormalizedMean:
    """FedNova's mean of updates a step, times the mean number of effective steps; weights are the examples."""

    needs_single_updates: ClassVar[bool] = False

    def __call__(self, results: Iterable[ClientResult]) -> Aggregate | None:
        """The normalised mean of the deltas, and the plain means of the floating-point buffers and the extras.

        Raises:
            ValueError: a client's local optimiser has no step size (Adam).
        """
        direction, buffers, extras = RunningMean(), RunningMean(), RunningMean()
        num_clients = num_examples = 0
        step_sizes = 0.0
        for result in results:
            step_size = _step_size(result)
            direction.update(result.num_examples, tree.scale(result.delta, 1 / step_size))
            buffers.update(result.num_examples, floating(result.buffers))
            extras.update(result.num_examples, sent_extras(result))
            step_sizes += result.num_examples * step_size
            num_clients += len(result.clients)
            num_examples += result.num_examples
        if num_clients == 0:
            return None
        effective = step_sizes / num_examples
        delta = tree.scale(direction.result(), effective)
        return Aggregate(delta, buffers.result(), num_clients, num_examples, extras=extras.result())

    def share(self, result: ClientResult) -> tuple[float, ClientResult]:
        """See `SummingAggregator`: an update a step, with the number of effective steps beside it."""
        return result.num_examples, replace(result, delta=tree.scale(result.delta, 1 / _step_size(result)))

    def of_mean(self, mean: ClientResult) -> ClientResult:
        """The mean update a step, times the mean number of effective steps."""
        return replace(mean, delta=tree.scale(mean.delta, _step_size(mean)))


def _step_size(result: ClientResult) -> float:
    """a_i times the learning rate; ValueError where there is none, or none to divide by."""
    step_size = result.step_size if result.delta else 1.0  # a measurement of buffers has nothing to divide
    if step_size is None:
        raise ValueError(
            "FedNova divides each update by its number of effective steps, which SGD has and this local "
            f"optimiser has not (client {result.client}); use sgd, or weighted_mean."
        )
    if step_size <= 0:
        raise ValueError(
            f"client {result.client} has an effective step size of {step_size:g}: its lr times the proximal "
            "term's mu is 2 or more, where steps overshoot; lower one of them."
        )
    return step_size
