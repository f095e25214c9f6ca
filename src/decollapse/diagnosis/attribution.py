"""Is it local training that collapses the features, or averaging? Features of every model on the same examples.

The journal version of the FedDecorr paper (Shi et al., "Understanding and Mitigating Dimensional Collapse in Federated
Learning", TPAMI 2023, https://doi.org/10.1109/TPAMI.2023.3338063) names the two causes. With the features Z_i (n, d) of
each local model on a common probe, and those of the averaged model, they come apart:

    (i)   effective rank of each Z_i           low: local training collapses
    (ii)  of [Z_1 ... Z_K], side by side       what all local models know together
    (iii) of mean_i Z_i                        what averaging the *features* would leave
    (iv)  of the averaged model's features     far below (ii) and (iii): averaging the *weights* collapses
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from decollapse.feature_statistics import FeatureStatistics
from decollapse.spectrum import effective_rank, eigenvalues

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class Ranks:
    """Effective ranks of one kind of spectrum, covariance or correlation.

    Attributes:
        local: (i), one for each client.
        concatenated: (ii), from 1 to min(K d, n - 1).
        mean: (iii).
        averaged: (iv).
    """

    local: tuple[float, ...]
    concatenated: float
    mean: float
    averaged: float


@dataclass(frozen=True)
class Alignment:
    """How alike the features of the local models are.

    Attributes:
        cka_between: linear CKA of each two clients, the mean over pairs; 1 for one client.
        cka_with_averaged: linear CKA of each client with the averaged model.
        overlap_with_averaged: share of the averaged model's leading directions that lie in each client's, 0 to 1.
        directions: how many leading directions, those that hold 90 % of the averaged model's variance.
    """

    cka_between: float
    cka_with_averaged: tuple[float, ...]
    overlap_with_averaged: tuple[float, ...]
    directions: int


@dataclass(frozen=True)
class Attribution:
    """Where dimensions are lost, on one probe.

    Attributes:
        num_examples: of the probe.
        num_features: d.
        num_dead: dimensions of the averaged model that are constant on the probe.
        covariance: effective ranks of covariances, which keep each dimension's scale.
        correlation: effective ranks of correlations, which FedDecorr acts on.
        alignment: of the local models.
    """

    num_examples: int
    num_features: int
    num_dead: int
    covariance: Ranks
    correlation: Ranks
    alignment: Alignment


def attribute(averaged: Float[Tensor, "n d"], local: Sequence[Float[Tensor, "n d"]]) -> Attribution:
    """Compare the averaged model's features with those of the local models it was averaged from.

    Args:
        averaged: features of the averaged model on the probe.
        local: features of each local model on the same examples, in the same order.

    Raises:
        ValueError: there is no local model, or features are of different shapes, or not finite.

    >>> z = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
    >>> found = attribute(z[:, :1] @ torch.ones(1, 4), [z, z])
    >>> round(found.covariance.local[0], 1), round(found.covariance.averaged, 1)
    (3.9, 1.0)
    """
    _check(averaged, local)
    z, locals_ = averaged.double(), [features.double() for features in local]
    whitened, whitened_locals = _standardized(z), [_standardized(features) for features in locals_]
    return Attribution(
        num_examples=len(z),
        num_features=z.shape[1],
        num_dead=int(FeatureStatistics.of(z).dead().sum()),
        covariance=_ranks(z, locals_),
        correlation=_ranks(whitened, whitened_locals),
        alignment=_alignment(z, locals_),
    )


def _ranks(averaged: Tensor, local: list[Tensor]) -> Ranks:
    return Ranks(
        local=tuple(feature_rank(features) for features in local),
        concatenated=feature_rank(torch.cat(local, dim=1)),
        mean=feature_rank(torch.stack(local).mean(0)),
        averaged=feature_rank(averaged),
    )


def feature_rank(features: Float[Tensor, "n d"]) -> float:
    """Effective rank of the covariance, by the smaller of the d x d and the n x n problem.

    >>> feature_rank(torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]]))
    1.0
    """
    z = features - features.mean(0)
    return effective_rank(eigenvalues(z.T @ z if z.shape[1] <= len(z) else z @ z.T))


def linear_cka(a: Float[Tensor, "n d"], b: Float[Tensor, "n e"]) -> float:
    """`||A^T B||_F^2 / (||A^T A||_F ||B^T B||_F)` of the centred features: 1 for equal up to rotation and scale.

    Kornblith, Norouzi, Lee, Hinton, "Similarity of Neural Network Representations Revisited", ICML 2019,
    https://arxiv.org/abs/1905.00414. 0 where one of the two is constant.

    >>> a = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0]])
    >>> round(linear_cka(a, 3 * a.flip(1)), 6)
    1.0
    """
    a, b = (a - a.mean(0)).double(), (b - b.mean(0)).double()
    cross, mine, theirs = (a.T @ b).square().sum(), (a.T @ a).norm(), (b.T @ b).norm()
    return float(cross / (mine * theirs)) if mine > 0 and theirs > 0 else 0.0


def subspace_overlap(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], *, directions: int) -> float:
    """`||U_a^T U_b||_F^2 / k` of the k leading principal directions: the mean squared cosine of the principal angles.

    From k / d, on average over random subspaces, to 1, for the same subspace.

    >>> a = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> subspace_overlap(a, a, directions=1), subspace_overlap(a, a.flip(1), directions=1)
    (1.0, 0.0)
    """
    return float((_leading(a, directions).T @ _leading(b, directions)).square().sum() / directions)


def _alignment(averaged: Tensor, local: list[Tensor]) -> Alignment:
    values = eigenvalues(_covariance(averaged))
    held = values.cumsum(0)
    directions = int((held < 0.9 * held[-1]).sum()) + 1 if held[-1] > 0 else 1
    pairs = [linear_cka(a, b) for number, a in enumerate(local) for b in local[:number]]
    return Alignment(
        cka_between=sum(pairs) / len(pairs) if pairs else 1.0,
        cka_with_averaged=tuple(linear_cka(features, averaged) for features in local),
        overlap_with_averaged=tuple(subspace_overlap(averaged, z, directions=directions) for z in local),
        directions=directions,
    )


def _leading(features: Tensor, directions: int) -> Tensor:
    """The leading principal directions, as columns."""
    vectors: Tensor = torch.linalg.eigh(_covariance(features.double())).eigenvectors
    return vectors[:, -directions:]


def _covariance(features: Tensor) -> Tensor:
    z = features - features.mean(0)
    return z.T @ z / len(z)


def _standardized(features: Tensor) -> Tensor:
    """Centred, every dimension over its standard deviation; a dead one is zeros."""
    statistics = FeatureStatistics.of(features)
    std = statistics.covariance().diagonal().sqrt()
    return torch.where(statistics.dead(), 0.0, (features - features.mean(0)) / std)


def _check(averaged: Tensor, local: Sequence[Tensor]) -> None:
    if not local:
        raise ValueError("an attribution compares the averaged model with local ones, and there is none.")
    for features in (averaged, *local):
        if features.shape != averaged.shape or features.ndim != 2:
            raise ValueError(
                f"all features must be (n, d) on the same probe, got {tuple(averaged.shape)} of the averaged model and "
                f"{tuple(features.shape)} of a local one."
            )
        if not features.isfinite().all():
            raise ValueError("features must be finite, got NaN or infinity; a model that has diverged has no rank.")
