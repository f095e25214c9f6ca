"""Krum and Multi-Krum: the updates that have the closest neighbours.

Blanchard, El Mhamdi, Guerraoui, Stainer, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent",
NeurIPS 2017, https://arxiv.org/abs/1703.02757:

    score_i = sum of the m - f - 2 smallest ||delta_i - delta_j||^2, j != i,    m clients, f of them Byzantine

Krum takes the update with the lowest score, Multi-Krum the mean of the `num_selected` lowest.

Departure: here of updates after many local steps instead of single gradients.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pdist

from decollapse.aggregate import Aggregate
from decollapse.core import ClientResult
from decollapse.robust.cohort import Cohort, average, blocks

if TYPE_CHECKING:
    from jaxtyping import Float


def krum_scores(points: Float[Tensor, "m d"], num_byzantine: int) -> Float[Tensor, "m"]:
    """Each point's sum of squared distances to its `m - num_byzantine - 2` nearest others, in float64.

    >>> krum_scores(torch.tensor([[0.0], [1.0], [2.0], [3.0], [100.0]]), 1).tolist()
    [5.0, 2.0, 2.0, 5.0, 19013.0]
    """
    m = len(points)
    # Of differences: |a|^2 + |b|^2 - 2ab would cancel.
    pairs = torch.stack([pdist(block).square() for block in blocks(points)]).sum(dim=0)
    rows, columns = torch.triu_indices(m, m, offset=1, device=points.device)
    distances = torch.full((m, m), torch.inf, dtype=torch.float64, device=points.device)  # nobody is its own neighbour
    distances[rows, columns] = distances[columns, rows] = pairs
    return distances.sort(dim=1).values[:, : m - num_byzantine - 2].sum(dim=1)


@dataclass(frozen=True)
class Krum:
    """The update with the closest neighbours, or the mean of several such; selected clients count the same.

    Buffers are those of the selected clients. Of equal scores the client that comes first in the cohort is taken.

    Attributes:
        num_byzantine: f, how many clients of the cohort may send anything, >= 0. The cohort has at least 2 f + 3.
        num_selected: how many updates are averaged, from 1 (Krum) to the cohort's size minus f (Multi-Krum).
    """

    needs_single_updates: ClassVar[bool] = True
    num_byzantine: int = 1
    num_selected: int = 1

    def __post_init__(self) -> None:
        if self.num_byzantine < 0:
            raise ValueError(f"num_byzantine is a number of clients and cannot be negative, got {self.num_byzantine}.")
        if self.num_selected < 1:
            raise ValueError(f"num_selected is at least 1, got {self.num_selected}.")

    def __call__(self, results: Iterable[ClientResult]) -> Aggregate | None:
        """The mean delta and buffers of the selected clients; `num_clients` are those it selected from.

        Raises:
            ValueError: the cohort is too small for `num_byzantine` or `num_selected`.
        """
        cohort = Cohort.of(results)
        if cohort is None:
            return None
        self._check(len(cohort))
        scores = krum_scores(cohort.points, self.num_byzantine)
        chosen = scores.argsort(stable=True)[: self.num_selected]
        weights = torch.zeros_like(scores)
        weights[chosen] = 1 / self.num_selected
        return cohort.aggregate(average(cohort.updates, weights), average(cohort.buffers, weights))

    def _check(self, m: int) -> None:
        needed = max(2 * self.num_byzantine + 3, self.num_selected + self.num_byzantine)
        if m < needed:
            raise ValueError(
                f"Krum with num_byzantine f = {self.num_byzantine} and num_selected = {self.num_selected} needs a "
                f"cohort of at least {needed}, got {m}, not counting updates the guard rejected; raise cohort_size, or "
                "lower num_byzantine or num_selected."
            )
