"""The geometric median: the point with the smallest sum of distances to the updates.

Pillutla, Kakade, Harchaoui, "Robust Aggregation for Federated Learning", IEEE Transactions on Signal Processing 2022,
https://arxiv.org/abs/1912.13445 (RFA). The smoothed Weiszfeld algorithm:

    b_i = 1 / max(nu, ||v - delta_i||),    v <- sum_i b_i delta_i / sum_i b_i

Departures from the authors' code (krishnap25/RFA).

- It starts from the median of each coordinate, theirs from the mean. From the mean, f of m clients far away are left
  behind by no more than a factor f / (m - f) an iteration, and their four iterations do not suffice.
- `nu` is relative to the spread of the cohort, theirs is 1e-5 whatever the model's size.
- Every client counts the same; theirs are weighted by examples, a number the client chooses.
- It stops when a step is small beside that spread, theirs when the sum of distances changes little.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from decollapse.aggregate import Aggregate
from decollapse.aggregate.mean import WeightedMean
from decollapse.core import ClientResult
from decollapse.robust.cohort import BLOCK, Cohort, average, blocks, updates_alone
from decollapse.robust.coordinates import coordinate_median

if TYPE_CHECKING:
    from jaxtyping import Float

TINY = 1e-300
"""In place of a distance of zero where there is no smoothing."""


def weiszfeld(
    points: Float[Tensor, "m d"],
    start: Float[Tensor, "d"],
    *,
    smoothing: float = 0.0,
    iterations: int = 100,
    tolerance: float = 0.0,
) -> Float[Tensor, "m"]:
    """Weights w, positive and of sum 1, such that `w @ points` is the geometric median of `points`; in float64.

    Args:
        points: one a row.
        start: where the iteration begins; without smoothing it would not leave one of `points`.
        smoothing: nu, a distance; shorter ones count as this.
        iterations: at most, >= 1.
        tolerance: stop after a step that is no longer than this.

    >>> points = torch.tensor([[0.0], [1.0], [10.0]])
    >>> [round((weiszfeld(points, points.mean(0), iterations=n) @ points.double()).item(), 4) for n in (1, 2, 3, 4)]
    [2.4254, 1.6227, 1.1957, 1.0307]
    """
    v = start.double()
    for _ in range(iterations):
        distance = _distances(points, v).clamp(min=max(smoothing, TINY))
        weights = distance.min() / distance
        weights = weights / weights.sum()
        before, v = v, average(points, weights)
        if torch.linalg.vector_norm(v - before) <= tolerance:
            break
    return weights


@dataclass(frozen=True)
class GeometricMedian:
    """The point with the smallest sum of distances to the updates; every client counts the same.

    It withstands any minority. It is a mean of the updates whose weights fall with the distance; buffers get the same
    weights. `smoothing` and `tolerance` are in units of the cohort's spread, the median distance to the coordinate-wise
    median, so the rule does not depend on the scale of the updates, nor on outliers.

    Attributes:
        smoothing: updates closer than this count as this far, >= 0; inf is the uniform mean. At 0 the iteration cannot
            leave an update that it meets.
        iterations: at most, >= 1.
        tolerance: stop after a step that is no longer than this, >= 0.
    """

    needs_single_updates: ClassVar[bool] = True
    smoothing: float = 1e-5
    iterations: int = 100
    tolerance: float = 1e-6

    def __post_init__(self) -> None:
        if not self.smoothing >= 0:
            raise ValueError(f"smoothing is a distance and cannot be negative, got {self.smoothing}.")
        if self.iterations < 1:
            raise ValueError(f"iterations is at least 1, got {self.iterations}.")
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance must be finite and cannot be negative, got {self.tolerance}.")

    def __call__(self, results: Iterable[ClientResult]) -> Aggregate | None:
        """The geometric median of the deltas, and the buffers' mean with its weights."""
        if math.isinf(self.smoothing):
            return WeightedMean(weights="uniform")(updates_alone(results))
        cohort = Cohort.of(results)
        if cohort is None:
            return None
        start = coordinate_median(cohort.points)
        spread = _distances(cohort.points, start.double()).median().item()
        weights = weiszfeld(
            cohort.points,
            start,
            smoothing=self.smoothing * spread,
            iterations=self.iterations,
            tolerance=self.tolerance * spread,
        )
        return cohort.aggregate(average(cohort.updates, weights), average(cohort.buffers, weights))


def _distances(points: Float[Tensor, "m d"], v: Float[Tensor, "d"]) -> Float[Tensor, "m"]:
    squares = [(block - part).square().sum(dim=1) for block, part in zip(blocks(points), v.split(BLOCK), strict=True)]
    return torch.stack(squares).sum(dim=0).sqrt()
