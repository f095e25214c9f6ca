"""Real numbers as integers modulo 2^64, so that masks hide them and their sums are exact.

A number x of at most `bound` in absolute value is sent as one word, or as two where one has not enough digits:

    one word     w  = round(x 2^f),                                        f  = 62 - log2(bound n)
    two words    w1 = round(x 2^f1),  w2 = round((x 2^f1 - w1) 2^f2),      f1 = 62 - log2(bound n),  f2 = 62 - log2(n)

with logarithms rounded up, for sums over up to n clients. No sum of words reaches 2^63, so words add up on their own,
without a carry. Of n summands the error is at most `n 2^-(f + 1)`, or `n 2^-(f1 + f2 + 1)`, before the sum is rounded
to float64.

Parameters and float32 buffers take one word, whose error is below float32's own rounding; float64 takes two. The
statistics of features are float64: of a spectrum, the eigenvalue at 10^-8 of the largest is a difference of sums that
agree in 8 digits, so all 16 are needed.

| | bytes a number | bound | f at 50 clients | error of a sum of 50 |
|---|---|---|---|---|
| float32 and smaller | 8 | 2^28 | 28 | 9.3e-8 |
| float64 | 16 | 2^40 | 16 + 56 | 5.3e-21 |
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from decollapse.tree import Tree

Words = NDArray[np.uint64]
LEAST_BITS = 8
"""Bits after the point that must be left."""


class OutOfRangeError(ValueError):
    """A number that cannot be encoded."""


@dataclass(frozen=True)
class Layout:
    """Names, shapes and dtypes of a tree: what its words mean.

    Attributes:
        leaves: of each leaf, in order.
    """

    leaves: tuple[tuple[str, tuple[int, ...], str], ...]

    @classmethod
    def of(cls, tree: Tree) -> Layout:
        """The layout of a tree."""
        return cls(tuple((name, tuple(leaf.shape), str(leaf.dtype)) for name, leaf in tree.items()))

    @property
    def num_words(self) -> int:
        """Words of an encoded tree."""
        return sum(math.prod(shape) * words_of(dtype) for _, shape, dtype in self.leaves)


@dataclass(frozen=True)
class FixedPoint:
    """Encodes trees for sums over up to `num_clients`; everybody must use the same.

    Attributes:
        num_clients: summands, >= 1.
        bound: largest absolute value in a leaf of float32 or less, for each client.
        wide_bound: the same for float64.

    >>> fixed = FixedPoint(num_clients=2)
    >>> a, b = ({"w": torch.tensor([x, -0.5])} for x in (0.25, 1.0))
    >>> fixed.decode(fixed.encode(a) + fixed.encode(b), Layout.of(a))
    {'w': tensor([ 1.2500, -1.0000], dtype=torch.float64)}
    """

    num_clients: int
    bound: float = 2.0**28
    wide_bound: float = 2.0**40

    def __post_init__(self) -> None:
        if self.num_clients < 1 or not (self.bound > 0 and self.wide_bound > 0):
            raise ValueError(f"num_clients is at least 1 and bounds are positive, got {self}.")
        for bound in (self.bound, self.wide_bound):
            if self._bits(bound) < LEAST_BITS:
                raise ValueError(
                    f"numbers of up to {bound:g} of {self.num_clients} clients leave {self._bits(bound)} of 62 bits "
                    f"after the point, and {LEAST_BITS} are needed; lower the bound."
                )

    def encode(self, tree: Tree, layout: Layout | None = None) -> Words:
        """The words of a tree, leaf after leaf; of a leaf of two words, all first words come first.

        Args:
            tree: what to send.
            layout: with another dtype than a leaf has, that one's words are taken.

        Raises:
            OutOfRangeError: a number is not finite, or larger than the bound of its dtype; names the leaf.
        """
        parts = [np.zeros(0, np.uint64)]
        for name, _, dtype in (layout or Layout.of(tree)).leaves:
            numbers = tree[name].detach().cpu().to(torch.float64).flatten().numpy()
            bound = self._bound(dtype)
            largest = float(np.abs(numbers).max(initial=0.0))
            if not largest <= bound:
                # The reason goes to the server, so it does not say what the value is.
                what = f"beyond {bound:g}" if math.isfinite(largest) else "that are NaN or infinite"
                raise OutOfRangeError(
                    f"{name!r} has values {what}, which no sum takes; train with a smaller step, or raise the bound "
                    "for all clients."
                )
            scaled = numbers * 2.0 ** self._bits(bound)  # a power of two, so nothing is rounded
            first = np.rint(scaled)
            parts.append(_as_words(first))
            if words_of(dtype) == 2:
                parts.append(_as_words(np.rint((scaled - first) * 2.0 ** self._bits(1.0))))
        return np.concatenate(parts)

    def decode(self, words: Words, layout: Layout) -> Tree:
        """The tree, in float64, of the sum of the words of up to `num_clients` trees.

        Raises:
            ValueError: these are not the words of such a tree.
        """
        if len(words) != layout.num_words:
            raise ValueError(f"the tree has {layout.num_words} words, got {len(words)}.")
        signed = np.ascontiguousarray(words).view(np.int64).astype(np.float64)
        tree: Tree = {}
        position = 0
        for name, shape, dtype in layout.leaves:
            count = math.prod(shape)
            bits = self._bits(self._bound(dtype))
            numbers = signed[position : position + count] * 2.0**-bits
            position += count
            if words_of(dtype) == 2:
                numbers = numbers + signed[position : position + count] * 2.0 ** -(bits + self._bits(1.0))
                position += count
            tree[name] = torch.from_numpy(numbers.copy()).reshape(shape)
        return tree

    def error(self, dtype: torch.dtype) -> float:
        """The largest error of a sum over `num_clients`, before its rounding to float64."""
        bits = self._bits(self._bound(str(dtype))) + (words_of(str(dtype)) - 1) * self._bits(1.0)
        return float(self.num_clients * 2.0 ** -(bits + 1))

    def _bound(self, dtype: str) -> float:
        return self.bound if words_of(dtype) == 1 else self.wide_bound

    def _bits(self, bound: float) -> int:
        """Bits after the point: 62 and the sign, less those that the largest sum takes before it."""
        return 62 - math.ceil(math.log2(bound)) - math.ceil(math.log2(self.num_clients))


def words_of(dtype: str) -> int:
    """How many words a number takes."""
    return 2 if dtype in ("torch.float64", "torch.int64") else 1


def _as_words(numbers: NDArray[np.float64]) -> Words:
    return numbers.astype(np.int64).view(np.uint64)
