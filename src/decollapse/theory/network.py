"""A deep linear classifier, and starts that satisfy the theorem's assumptions exactly.

    Pi = W_L ... W_1        features  z = Pi x        logits  W_{L+1} z

Everything is float64: the theory is checked to 1e-8.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class DeepLinear:
    """A network of L hidden linear layers and a classifier, without biases.

    Attributes:
        weights: W_1 (d, d_in), W_2 to W_L (d, d), W_{L+1} (C, d).

    Raises:
        ValueError: fewer than two matrices, or neighbours whose sizes do not fit.
    """

    weights: tuple[Float[Tensor, "out in"], ...]

    def __post_init__(self) -> None:
        shapes = [tuple(weight.shape) for weight in self.weights]
        fit = all(len(shape) == 2 for shape in shapes) and all(
            below[0] == above[1] for below, above in pairwise(shapes)
        )
        if len(shapes) < 2 or not fit:
            raise ValueError(
                f"a deep linear network is a hidden layer or more and a classifier, each taking what the one before it "
                f"gives, got matrices of shapes {shapes}."
            )

    @property
    def num_hidden(self) -> int:
        """L."""
        return len(self.weights) - 1

    @property
    def classifier(self) -> Float[Tensor, "classes d"]:
        """W_{L+1}."""
        return self.weights[-1]

    @cached_property
    def encoder(self) -> Float[Tensor, "d inputs"]:
        """Pi = W_L ... W_1: inputs to features."""
        return product(self.weights[:-1])

    @cached_property
    def singular_values(self) -> Float[Tensor, "k"]:
        """Of Pi, descending; k = min(d, d_in)."""
        values: Tensor = torch.linalg.svdvals(self.encoder)
        return values


def product(weights: Sequence[Float[Tensor, "out in"]]) -> Float[Tensor, "last first"]:
    """`W_n ... W_1`.

    >>> product([torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0, 4.0]])])
    tensor([[11.]])
    """
    return reduce(lambda below, above: above @ below, weights)


def balanced(
    *,
    num_hidden: int = 3,
    width: int = 32,
    num_inputs: int = 32,
    num_classes: int = 10,
    scale: float = 0.05,
    M: float = 0.0,
    seed: int = 0,
) -> DeepLinear:
    """A random start that satisfies both assumptions of the theorem, up to rounding.

        sigma evenly from scale down to scale / 2;  Q_0, ..., Q_L, U random, with orthonormal columns
        W_i     = Q_i sigma^(1/L) Q_{i-1}^T            so that  W_{i+1}^T W_{i+1} = W_i W_i^T  for i < L
        W_{L+1} = U sqrt(sigma^(2/L) + M) Q_L^T        so that  W_{L+1}^T W_{L+1} - W_L W_L^T = M I

    Then Pi = Q_L sigma Q_0^T, and no two of its singular values are equal, so that each has a rate of its own. They are
    0 beyond k = min(width, num_inputs), and for M = 0 beyond k = num_classes too: `W_{L+1}^T W_{L+1}` has rank
    `num_classes` at most, and the assumption asks the same of Pi.

    Args:
        num_hidden: L, at least 1.
        width: d, of every hidden layer.
        num_inputs: d_in.
        num_classes: C, at least 2.
        scale: the largest singular value of Pi, above 0.
        M: at least 0; above 0 only for width <= num_classes.
        seed: decides Q and U.

    Raises:
        ValueError: a number out of its range.

    >>> network = balanced(num_hidden=2, width=4, num_inputs=6, num_classes=5, M=0.5)
    >>> [tuple(weight.shape) for weight in network.weights], round(balance(network).M, 12)
    ([(4, 6), (4, 4), (5, 4)], 0.5)
    """
    _check_sizes(num_hidden, width, num_inputs, num_classes, scale)
    if M < 0:
        raise ValueError(f"M must be at least 0, got {M}.")
    if M > 0 and width > num_classes:
        raise ValueError(
            f"M = {M} is impossible with {width} features and {num_classes} classes: W_(L+1)^T W_(L+1) would need "
            f"rank {width}; take M = 0 or a width of at most {num_classes}."
        )
    generator = torch.Generator().manual_seed(seed)
    rank = min(width, num_inputs) if M > 0 else min(width, num_inputs, num_classes)
    sigma = torch.linspace(scale, scale / 2, rank, dtype=torch.float64)
    inner = [_orthonormal(width, width, generator) for _ in range(num_hidden)]
    outer = _orthonormal(num_inputs, rank, generator)
    read = min(width, num_classes)
    root = torch.zeros(width, dtype=torch.float64)
    root[:rank] = sigma ** (1 / num_hidden)
    hidden = [(above * root) @ below.T for below, above in pairwise(inner)]
    classifier = (_orthonormal(num_classes, read, generator) * (root**2 + M).sqrt()[:read]) @ inner[-1][:, :read].T
    return DeepLinear(((inner[0][:, :rank] * root[:rank]) @ outer.T, *hidden, classifier))


def gaussian(
    *,
    num_hidden: int = 3,
    width: int = 32,
    num_inputs: int = 32,
    num_classes: int = 10,
    gain: float = 0.4,
    seed: int = 0,
) -> DeepLinear:
    """A start as frameworks make it, which satisfies the assumptions only roughly: entries ~ N(0, gain^2 / fan-in).

    Arguments as in `balanced`; `gain` is above 0. Raises ValueError for a number out of its range.

    >>> [tuple(weight.shape) for weight in gaussian(num_hidden=1, width=4, num_inputs=6, num_classes=5).weights]
    [(4, 6), (5, 4)]
    """
    _check_sizes(num_hidden, width, num_inputs, num_classes, gain)
    generator = torch.Generator().manual_seed(seed)
    sizes = [num_inputs, *[width] * num_hidden, num_classes]
    pairs = pairwise(sizes)
    drawn = [torch.randn(out, fan_in, generator=generator, dtype=torch.float64) / fan_in**0.5 for fan_in, out in pairs]
    return DeepLinear(tuple(gain * weight for weight in drawn))


@dataclass(frozen=True)
class Balance:
    """How well a network satisfies the assumptions.

    Attributes:
        M: the multiple of the identity nearest to `W_{L+1}^T W_{L+1} - W_L W_L^T`.
        error: the largest entry by which either assumption fails, relative to the largest of any `W^T W`; 0 is exact.
    """

    M: float
    error: float


def balance(network: DeepLinear) -> Balance:
    """Measure both assumptions; gradient flow keeps them, so rounding aside they hold at all times or at none.

    >>> balance(DeepLinear((torch.tensor([[2.0]]), torch.tensor([[3.0]]))))  # one hidden layer: 9 - 4 = M
    Balance(M=5.0, error=0.0)
    """
    gaps = [above.T @ above - below @ below.T for below, above in pairwise(network.weights)]
    M = float(gaps[-1].diagonal().mean())
    gaps[-1] = gaps[-1] - M * torch.eye(len(gaps[-1]), dtype=gaps[-1].dtype)
    size = max(float((weight.T @ weight).abs().max()) for weight in network.weights)
    return Balance(M, max(float(gap.abs().max()) for gap in gaps) / size if size else 0.0)


def _orthonormal(rows: int, columns: int, generator: torch.Generator) -> Float[Tensor, "rows columns"]:
    drawn = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    columns_of_length_one: Tensor = torch.linalg.qr(drawn).Q
    return columns_of_length_one


def _check_sizes(num_hidden: int, width: int, num_inputs: int, num_classes: int, scale: float) -> None:
    if min(num_hidden, width, num_inputs) < 1 or num_classes < 2:
        raise ValueError(
            f"a network needs a hidden layer, a feature, an input and two classes or more of each, got {num_hidden} "
            f"hidden layers, {width} features, {num_inputs} inputs and {num_classes} classes."
        )
    if not scale > 0:
        raise ValueError(f"a start has to be larger than 0, got {scale}: a network of zeros never moves.")
