"""Norm clipping: no client moves the model further than `max_norm` times its share.

Sun, Kairouz, Suresh, McMahan, "Can You Really Backdoor Federated Learning?", 2019, https://arxiv.org/abs/1911.07963:

    delta = sum_i p_i delta_i min(1, max_norm / ||delta_i||)

Departures. The norm is over parameters; buffers, which have no norm to clip, are the coordinate-wise median. Clients
count the same by default, since one that claims a million examples would not need a long update. No noise is added.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from decollapse.aggregate import Aggregate
from decollapse.aggregate.mean import WeightedMean, Weights
from decollapse.core import ClientResult
from decollapse.robust.cohort import updates_alone
from decollapse.robust.coordinates import CoordinateMedian
from decollapse.tree import Tree


def clipped(delta: Tree, max_norm: float) -> Tree:
    """`delta`, shortened to `max_norm` if it is longer; the norm is of the whole tree, in float64.

    >>> clipped({"w": torch.tensor([3.0]), "b": torch.tensor([4.0])}, 1.0)
    {'w': tensor([0.6000]), 'b': tensor([0.8000])}
    """
    if not delta:
        return delta
    norms = [torch.linalg.vector_norm(leaf, dtype=torch.float64) for leaf in delta.values()]
    norm = torch.linalg.vector_norm(torch.stack(norms)).item()
    if norm <= max_norm:
        return delta
    # In float64, because the factor of an absurd update may be smaller than what float32 can hold.
    return {name: (leaf.double() * (max_norm / norm)).to(leaf.dtype) for name, leaf in delta.items()}


@dataclass(frozen=True)
class NormClipping:
    """The mean of updates that are first shortened to a common length. Bounds what a client can do; undoes nothing.

    Updates are consumed one at a time; only buffers are held. The clipping is the server's, which has to see single
    updates for it: a client that clips its own may as well not.

    Attributes:
        max_norm: longest Euclidean norm of an update, > 0. The record of a round has every client's `delta_norm`; their
            median is a good start. inf is `WeightedMean`, buffers included.
        weights: `examples` (n_i, as the client says) or `uniform` (every client counts the same).
    """

    needs_single_updates: ClassVar[bool] = True
    max_norm: float = 1.0
    weights: Weights = "uniform"

    def __post_init__(self) -> None:
        if not self.max_norm > 0:
            raise ValueError(f"max_norm is a length and must be positive, got {self.max_norm}.")

    def __call__(self, results: Iterable[ClientResult]) -> Aggregate | None:
        """The mean of the clipped deltas, and the median of the floating-point buffers."""
        mean = WeightedMean(weights=self.weights)
        if math.isinf(self.max_norm):
            return mean(updates_alone(results))
        buffers: list[ClientResult] = []

        def shortened() -> Iterator[ClientResult]:
            for result in updates_alone(results):
                buffers.append(replace(result, delta={}))
                yield replace(result, delta=clipped(result.delta, self.max_norm))

        aggregate, median = mean(shortened()), CoordinateMedian()(buffers)
        return replace(aggregate, buffers=median.buffers) if aggregate and median else None
