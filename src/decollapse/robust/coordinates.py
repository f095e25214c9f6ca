"""The median and the trimmed mean of each coordinate.

Yin, Chen, Kannan, Bartlett, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018,
https://arxiv.org/abs/1803.01498, definitions 1 and 2, here of updates instead of gradients.

Two choices the definitions leave open. The median of an even number of clients is the mean of the middle two; PyTorch's
is the lower one. The trimmed mean leaves out `floor(share m)` at each end, and at least one: a cohort of 4 with a share
of 0.2 would otherwise quietly be FedAvg.
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
from decollapse.robust.cohort import BLOCK, Cohort, updates_alone

if TYPE_CHECKING:
    from jaxtyping import Float


def trimmed_mean(points: Float[Tensor, "m d"], num_trimmed: int) -> Float[Tensor, "d"]:
    """The mean of each coordinate without its `num_trimmed` smallest and largest values, accumulated in float64.

    >>> trimmed_mean(torch.tensor([[0.0], [1.0], [5.0], [9.0], [100.0]]), 1)
    tensor([5.])
    """
    kept = slice(num_trimmed, len(points) - num_trimmed)
    # Sorting is faster along memory: a block is transposed first.
    means = [
        block.T.contiguous().sort(dim=1).values[:, kept].mean(dim=1, dtype=torch.float64)
        for block in points.split(BLOCK, dim=1)
    ]
    return torch.cat(means).to(points.dtype)


def coordinate_median(points: Float[Tensor, "m d"]) -> Float[Tensor, "d"]:
    """The median of each coordinate; of an even number of points the mean of the middle two.

    >>> coordinate_median(torch.tensor([[0.0, 3.0], [1.0, 1.0], [2.0, 2.0], [99.0, -9.0]]))
    tensor([1.5000, 1.5000])
    """
    return trimmed_mean(points, (len(points) - 1) // 2)


@dataclass(frozen=True)
class CoordinateMedian:
    """The median of the clients in each coordinate. Withstands any minority; every client counts the same.

    Under label skew honest updates differ in sign as much as in size, and a median of them is shorter than their mean.
    """

    needs_single_updates: ClassVar[bool] = True

    def __call__(self, results: Iterable[ClientResult]) -> Aggregate | None:
        """The median of the deltas and of the floating-point buffers."""
        cohort = Cohort.of(results)
        if cohort is None:
            return None
        return cohort.aggregate(coordinate_median(cohort.updates), coordinate_median(cohort.buffers))


@dataclass(frozen=True)
class TrimmedMean:
    """The mean of the clients in each coordinate, without the smallest and the largest; every client counts the same.

    Attributes:
        share: of the cohort, left out at each end, 0 to below 0.5: at least the share of clients you do not trust. Of m
            clients `floor(share m)` are left out, and at least 1; 0 is the uniform mean.
    """

    needs_single_updates: ClassVar[bool] = True
    share: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.share < 0.5:
            raise ValueError(f"share is left out at each end and goes from 0 to below 0.5, got {self.share}.")

    def __call__(self, results: Iterable[ClientResult]) -> Aggregate | None:
        """The trimmed mean of the deltas and of the floating-point buffers.

        Raises:
            ValueError: nothing would be left of the cohort.
        """
        if self.share == 0:
            return WeightedMean(weights="uniform")(updates_alone(results))
        cohort = Cohort.of(results)
        if cohort is None:
            return None
        num_trimmed = max(1, math.floor(self.share * len(cohort) + 1e-9))  # 0.29 * 100 is 28.999999999999996
        if 2 * num_trimmed >= len(cohort):
            raise ValueError(
                f"a trimmed mean with share = {self.share} leaves out f = {num_trimmed} clients at each end and needs "
                f"a cohort of at least {2 * num_trimmed + 1}, got {len(cohort)}, not counting updates the guard "
                "rejected; raise cohort_size, or set share = 0 for the plain mean."
            )
        return cohort.aggregate(trimmed_mean(cohort.updates, num_trimmed), trimmed_mean(cohort.buffers, num_trimmed))
