"""The results of a cohort as matrices, one row a client."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from decollapse.aggregate import Aggregate, floating, sent_extras
from decollapse.core import ClientResult
from decollapse.tree import Tree

if TYPE_CHECKING:
    from jaxtyping import Float

BLOCK = 8192
"""Coordinates worked on at once, so that sorting and float64 need no second copy of the cohort."""


@dataclass(frozen=True, eq=False)
class Cohort:
    """The results of a cohort, in its order.

    Attributes:
        updates: their updates; no columns if they sent none.
        buffers: their floating-point buffers.
        num_examples: their examples together.
        first: the first one, for names, shapes and dtypes.
    """

    updates: Float[Tensor, "m d"]
    buffers: Float[Tensor, "m b"]
    num_examples: int
    first: ClientResult

    @classmethod
    def of(cls, results: Iterable[ClientResult]) -> Cohort | None:
        """Hold all results, or None if there are none; ValueError if one sent more than an update."""
        first: ClientResult | None = None
        updates, buffers, num_examples = [], [], 0
        for result in updates_alone(results):
            first = first or result
            updates.append(_row(result.delta, first.delta))
            buffers.append(_row(result.buffers, floating(first.buffers)))
            num_examples += result.num_examples
        return cls(torch.stack(updates), torch.stack(buffers), num_examples, first) if first else None

    def __len__(self) -> int:
        return len(self.updates)

    @property
    def points(self) -> Float[Tensor, "m k"]:
        """What distances are measured on: the updates, or the buffers where nothing else was sent."""
        return self.updates if self.updates.shape[1] else self.buffers

    def aggregate(self, update: Float[Tensor, "d"], buffers: Float[Tensor, "b"]) -> Aggregate:
        """The aggregate of a rule that made one row of many."""
        delta = _tree(update, self.first.delta)
        return Aggregate(delta, _tree(buffers, floating(self.first.buffers)), len(self), self.num_examples)


def updates_alone(results: Iterable[ClientResult]) -> Iterator[ClientResult]:
    """`results` as they come.

    Raises:
        ValueError: one of them carries more than an update, its buffers and measurements.
    """
    for result in results:
        if extras := sent_extras(result):
            raise ValueError(
                f"client {result.client} sends {min(extras)!r} beside its update, and a robust rule protects the "
                "update alone; an algorithm that sends more, such as SCAFFOLD, must be used with weighted_mean."
            )
        yield result


def blocks(points: Float[Tensor, "m d"]) -> Iterator[Float[Tensor, "m k"]]:
    """`points` in float64, a few columns at a time."""
    for block in points.split(BLOCK, dim=1):
        yield block.double()


def average(points: Float[Tensor, "m d"], weights: Float[Tensor, "m"]) -> Float[Tensor, "d"]:
    """`sum_i weights_i points_i` in float64; the weights sum to 1."""
    return torch.cat([weights @ block for block in blocks(points)])


def _row(tree: Tree, like: Tree) -> Tensor:
    """The leaves of `tree` as one vector, in the order of `like`."""
    return torch.cat([tree[name].flatten() for name in like]) if like else torch.empty(0)


def _tree(row: Tensor, like: Tree) -> Tree:
    """The inverse of `_row`, in the dtypes of `like`."""
    parts = row.split([leaf.numel() for leaf in like.values()])
    return {name: part.to(leaf.dtype).view(leaf.shape) for (name, leaf), part in zip(like.items(), parts, strict=True)}
