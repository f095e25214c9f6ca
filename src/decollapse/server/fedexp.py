"""FedExP: a server step as long as the clients' disagreement allows.

Jhunjhunwala, Wang, Joshi, "FedExP: Speeding Up Federated Averaging via Extrapolation", ICLR 2023,
https://arxiv.org/abs/2301.09604, equation 6 and section 4.

    lr = max(1, sum_i p_i ||delta_i||^2 / (2 (||Delta||^2 + eps)))
    w <- w + lr Delta

The model to evaluate is the mean of the last two: extrapolated iterates oscillate. Norms are of parameters only; with
BatchNorm's counters among them, as in the FedDecorr release, those decide the step. Departures: p_i are the
aggregator's weights, by examples unless told otherwise, where the paper's are uniform. The authors' code adds
`M eps` for a cohort of M, and lets eps fall from round to round.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from decollapse import tree
from decollapse.aggregate import Aggregate
from decollapse.terms.ranges import check_strength
from decollapse.tree import Tree


@dataclass(frozen=True)
class FedExP:
    """Extrapolates the mean update, the further the less the clients agree; never less than FedAvg's step.

    Attributes:
        eps: in squared units of the updates, >= 0; the larger, the nearer to FedAvg.
        average_last_two: evaluate and keep the mean of the last two models; training goes on from the last one.
    """

    eps: float = 1e-3
    average_last_two: bool = True

    def __post_init__(self) -> None:
        check_strength(eps=self.eps)

    def init(self, params: Tree, *, num_clients: int) -> Tree:
        """A last step of zeros."""
        return tree.zeros_like(params) if self.average_last_two else {}

    def update(self, aggregate: Aggregate, state: Tree) -> tuple[Tree, Tree]:
        """The extrapolated step.

        Raises:
            ValueError: the aggregator gives no mean of squared norms.
        """
        if aggregate.squared_norm is None:
            raise ValueError(
                "FedExP needs the mean of the updates' squared norms, which this aggregator does not give; "
                "use weighted_mean."
            )
        mean = float(tree.squared_norm(aggregate.delta))
        # Equal updates have a ratio of 1/2; without any update there is nothing to stretch.
        lr = max(1.0, aggregate.squared_norm / (2 * (mean + self.eps))) if mean + self.eps > 0 else 1.0
        step = aggregate.delta if lr == 1.0 else tree.scale(aggregate.delta, lr)
        return step, step if self.average_last_two else {}

    def evaluated(self, params: Tree, state: Tree) -> Tree:
        """The mean of the last two iterates: half of the last step back."""
        if not self.average_last_two:
            return params
        return {name: torch.sub(leaf, state[name], alpha=0.5) for name, leaf in params.items()}
