"""What the losses on one batch of features share: precision, centring, and products that stay small.

Every loss decorated with `feature_loss` keeps the promises of `decorrelation_loss` of FedDecorr: half precision is
computed, and returned, in float32; autocast around the forward pass changes nothing (leave the backward pass out of it,
as PyTorch says); fewer than two examples give 0, connected to the graph; a non-finite feature, or a variance that
overflows, makes loss and gradient NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float

P = ParamSpec("P")


def feature_loss(loss: Callable[Concatenate[Tensor, P], Tensor]) -> Callable[Concatenate[Tensor, P], Tensor]:
    """Let `loss` be written for a float32 or float64 matrix of at least two examples, and be called on any features.

    What is no such matrix raises as in `floating_matrix`.
    """

    @wraps(loss)
    def checked(features: Float[Tensor, "n d"], /, *args: P.args, **kwargs: P.kwargs) -> Float[Tensor, ""]:
        x = floating_matrix(features)
        if len(x) < 2:
            return x.sum() * 0.0
        with torch.autocast(x.device.type, enabled=False):
            return loss(x, *args, **kwargs)

    return checked


def floating_matrix(features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """The features in float32 or float64; half precision is widened.

    Raises:
        ValueError: features are no matrix or have one dimension.
        TypeError: features are not floating-point.
    """
    shape = tuple(features.shape)
    if features.dim() > 2:
        raise ValueError(
            f"features need one vector an example, shape (n, d), got shape {shape}; "
            "pool feature maps first: features.flatten(2).mean(2) for (n, channels, height, width)."
        )
    if features.dim() < 2:
        raise ValueError(f"features need shape (n, d), a batch of n vectors, got shape {shape}.")
    if shape[1] < 2:
        raise ValueError(f"features need at least 2 dimensions, got shape {shape}.")
    if not features.is_floating_point():
        raise TypeError(f"features must be real floating-point numbers, got {features.dtype}; call .float() on them.")
    return features if features.dtype in (torch.float32, torch.float64) else features.float()


def centre(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Take the mean of the batch off; a constant dimension becomes exactly 0."""
    x = x - x[0]  # else a constant dimension would keep the rounding error of its mean
    return x - x.mean(0)


def variances(centred: Float[Tensor, "n d"]) -> Float[Tensor, "d"]:
    """The unbiased variance of each dimension of centred features; NaN, not infinite, where it overflows.

    >>> variances(torch.tensor([[1.0, 3e20], [-1.0, -3e20]]))
    tensor([2., nan])
    """
    return _nan_where_infinite(centred.square().sum(0) / (len(centred) - 1))


def standardize(x: Float[Tensor, "n d"], *, eps: float = 1e-8) -> tuple[Float[Tensor, "n d"], Float[Tensor, "d"]]:
    """FedDecorr's z-scores over `sqrt(n - 1)`, and the variances they were made with.

        variance_j = sum_i (x_ij - mean_j)^2 / (n - 1)
        z_ij       = (x_ij - mean_j) / sqrt((variance_j + eps) (n - 1)),     z^T z = the correlation matrix

    >>> z, _ = standardize(torch.tensor([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]))
    >>> z.T @ z
    tensor([[1.0000, 0.5000],
            [0.5000, 1.0000]])
    """
    centred = centre(x)
    variance = variances(centred)
    return centred * ((variance + eps) * (len(x) - 1)).rsqrt(), variance


def off_diagonal_energy(z: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """`sum_(j != k) (z^T z)_jk^2`, by `||z z^T||_F^2 - sum_j (z^T z)_jj^2` where n < d.

    >>> off_diagonal_energy(torch.tensor([[1.0, 2.0, 3.0]]))  # 2 (2^2 + 3^2 + 6^2)
    tensor(98.)
    """
    diagonal = z.square().sum(0)
    if z.shape[0] < z.shape[1]:
        return (z @ z.T).square().sum() - diagonal.square().sum()
    return (z.T @ z - torch.diag(diagonal)).square().sum()


def unit_length(x: Float[Tensor, "n d"], *, eps: float = 1e-8) -> Float[Tensor, "n d"]:
    """Each example over its length, `x_i / sqrt(|x_i|^2 + eps)`: a vector of zeros stays, with a finite gradient.

    >>> unit_length(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    squared_length = _nan_where_infinite(x.square().sum(1, keepdim=True))
    return x * (squared_length + eps).rsqrt()


def squared_distances(z: Float[Tensor, "n d"]) -> Float[Tensor, "n n"]:
    """`|z_i - z_j|^2` of every pair, at least 0, from one product."""
    squared_length = z.square().sum(1)
    return (squared_length[:, None] + squared_length - 2 * z @ z.T).clamp(min=0)


def _nan_where_infinite(x: Tensor) -> Tensor:
    """`x`, but NaN where it overflowed: 1 / inf would pass for a legitimate 0."""
    return x + 0 * x
