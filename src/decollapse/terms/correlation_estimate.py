"""A feature correlation known from more than the batch at hand, and FedDecorr's penalty on it.

Ours, on the loss of Shi et al. (ICLR 2023, https://arxiv.org/abs/2210.00226). Let K be the correlation matrix of a
batch, D = K minus its diagonal and P(D) = mean over i != j of D_ij^2, which FedDecorr minimises. Let R be an estimate
of D from other examples, without a gradient. The penalty of both together, `P((1 - a) D + a R)`, has the gradient

    2 (1 - a) <(1 - a) D + a R, dD>

in which R gives the direction and D is what can be moved. Its factor 1 - a would make the strength depend on the share
a that R has, so it is left out; what then has this gradient is

    loss = (1 - a) P(D) + a (2 <R, D> - <R, R>),      <R, D> = mean over i != j of R_ij D_ij

the penalty of the batch, mixed with its tangent at R. Where R = D, value and gradient are FedDecorr's for every a.

For a covariance, K is divided by its mean variance and D = K minus the identity times trace K / d; then <R, D> is over
all entries. The product is `sum_ij (z R)_ij z_ij` with z^T z = K: no d x d matrix is made for it, but d^2 n
multiplications are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from decollapse.terms.eigenvalue_spread import eigenvalue_spread
from decollapse.terms.feddecorr import RELEASE_STRENGTH_AT_64, Matrix, trust
from decollapse.terms.moments import centre, feature_loss, floating_matrix, standardize, variances

if TYPE_CHECKING:
    from jaxtyping import Float

    from decollapse.tree import Tree


@feature_loss
def decorrelation_around(
    features: Float[Tensor, "n d"],
    reference: Float[Tensor, "d d"],
    *,
    share: float,
    matrix: Matrix = "correlation",
    eps: float = 1e-8,
) -> Float[Tensor, ""]:
    """`decorrelation_loss`, and as a `share` of it its tangent at another estimate of the correlations.

    In FedDecorr's scale: 62.016 times the loss of this module, less from batches under 16. From -3 to 1 times 62.016:
    a tangent of a parabola is below it, and negative where D and R disagree in sign. A dimension whose variance in the
    batch is below eps is left out of <R, D> for a correlation, as a constant one is from D. Non-finite features as in
    `decorrelation_loss`.

    Args:
        features: the input of the classifier.
        reference: R, see `deviation`; gets no gradient.
        share: a, from 0, which is `decorrelation_loss`, to 1, which is linear in K.
        matrix: as in `decorrelation_loss`.
        eps: added to the variance, > 0.

    >>> half = torch.tensor([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]).repeat(6, 1)  # a correlation of 1/2
    >>> [round(decorrelation_around(half, deviation(half), share=a).item() / 62.015625, 3) for a in (0, 0.5, 1)]
    [0.25, 0.25, 0.25]
    """
    n, d = features.shape
    strength = RELEASE_STRENGTH_AT_64 * trust(n)
    if share == 0:
        return strength * eigenvalue_spread(features, pooled=matrix == "covariance", eps=eps)
    z, R = _scaled(features, matrix, eps), reference.detach().to(features.dtype)
    if matrix == "correlation":
        z = z * (z.detach().square().sum(0) > 0.5)  # R may be large where this batch has no variance to divide by
    tangent = ((z @ R * z).sum() * 2 - R.square().sum()) / (d * (d - 1))
    if share == 1:
        return strength * tangent
    spread = eigenvalue_spread(features, pooled=matrix == "covariance", eps=eps)
    return strength * ((1 - share) * spread + share * tangent)


@torch.no_grad()
def deviation(
    features: Float[Tensor, "n d"], *, matrix: Matrix = "correlation", eps: float = 1e-8
) -> Float[Tensor, "d d"]:
    """D: what the penalty wants to be 0, of one batch; zeros from fewer than two examples.

    >>> deviation(torch.tensor([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]))
    tensor([[0.0000, 0.5000],
            [0.5000, 0.0000]])
    """
    x = floating_matrix(features)
    if len(x) < 2:
        return x.new_zeros(x.shape[1], x.shape[1])
    with torch.autocast(x.device.type, enabled=False):
        z = _scaled(x, matrix, eps)
        K = z.T @ z
        return K.diagonal_scatter(K.diagonal() - K.diagonal().mean() if matrix == "covariance" else z.new_zeros(len(K)))


def with_batch(known: Tree, features: Float[Tensor, "n d"], *, memory: float, matrix: Matrix, eps: float) -> Tree:
    """What is known of D after one more batch, as a sum with its weight; begin with an empty tree.

        sum    <- memory sum    + (n - 1) D
        weight <- memory weight + (n - 1)

    R = sum / weight, see `estimate`: every batch counts by its degrees of freedom, and there is no bias at the start.

    Args:
        known: what came before.
        features: of the batch; one example adds nothing.
        memory: what is left of the past, from 0 to 1; 1 forgets nothing.
        matrix: as in `deviation`.
        eps: as in `deviation`.
    """
    freedom = max(len(features) - 1, 0)
    D = deviation(features, matrix=matrix, eps=eps)
    if not known:
        return {"sum": freedom * D, "weight": torch.tensor(float(freedom), dtype=torch.float64)}
    return {"sum": torch.add(freedom * D, known["sum"], alpha=memory), "weight": memory * known["weight"] + freedom}


def estimate(known: Tree) -> Float[Tensor, "d d"]:
    """R; zeros where nothing is known yet."""
    return known["sum"] / max(float(known["weight"]), 1e-30)


def _scaled(x: Float[Tensor, "n d"], matrix: Matrix, eps: float) -> Float[Tensor, "n d"]:
    """z with z^T z = K."""
    if matrix == "correlation":
        return standardize(x, eps=eps)[0]
    centred = centre(x)
    return centred * ((variances(centred).mean() + eps) * (len(x) - 1)).rsqrt()
