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

from collections.abc import Callable, Iterable, Sequence
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
    return Attribution(
        num_examples=len(averaged),
        num_features=averaged.shape[1],
        num_dead=int(FeatureStatistics.of(averaged).dead().sum()),
        covariance=_ranks(averaged, local, centred),
        correlation=_ranks(averaged, local, _standardized),
        alignment=_alignment(averaged, local),
    )


def _ranks(averaged: Tensor, local: Sequence[Tensor], scaled: Callable[[Tensor], Tensor]) -> Ranks:
    total = torch.zeros_like(averaged, dtype=torch.float64)
    for features in local:
        total += features
    side_by_side = _side_by_side(map(scaled, local), wide=len(local) * averaged.shape[1] > len(averaged))
    return Ranks(
        local=tuple(feature_rank(scaled(features)) for features in local),
        concatenated=effective_rank(eigenvalues(side_by_side)),
        mean=feature_rank(scaled(total / len(local))),
        averaged=feature_rank(scaled(averaged)),
    )


def feature_rank(features: Float[Tensor, "n d"]) -> float:
    """Effective rank of the covariance, by the smaller of the d x d and the n x n problem.

    >>> feature_rank(torch.tensor([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]]))
    1.0
    """
    return effective_rank(eigenvalues(_scatter(centred(features))))


def linear_cka(a: Float[Tensor, "n d"], b: Float[Tensor, "n e"]) -> float:
    """`||A^T B||_F^2 / (||A^T A||_F ||B^T B||_F)` of the centred features: 1 for equal up to rotation and scale.

    Kornblith, Norouzi, Lee, Hinton, "Similarity of Neural Network Representations Revisited", ICML 2019,
    https://arxiv.org/abs/1905.00414. 0 where one of the two is constant.

    >>> a = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0]])
    >>> round(linear_cka(a, 3 * a.flip(1)), 6)
    1.0
    """
    return _alikeness(_unit(a), _unit(b))


def subspace_overlap(a: Float[Tensor, "n d"], b: Float[Tensor, "n d"], *, directions: int) -> float:
    """`||U_a^T U_b||_F^2 / k` of the k leading principal directions: the mean squared cosine of the principal angles.

    From k / d, on average over random subspaces, to 1, for the same subspace. Directions without variance are none, so
    features with fewer than k have at most their share.

    >>> a = torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> subspace_overlap(a, a, directions=1), subspace_overlap(a, a.flip(1), directions=1)
    (1.0, 0.0)
    """
    return _overlap(_leading(a, directions), _leading(b, directions))


def _alignment(averaged: Tensor, local: Sequence[Tensor]) -> Alignment:
    held = eigenvalues(_scatter(centred(averaged))).cumsum(0)
    directions = int((held < 0.9 * held[-1]).sum()) + 1 if held[-1] > 0 else 1
    leading, unit = _leading(averaged, directions), _unit(averaged)
    return Alignment(
        cka_between=_mean_cka(local),
        cka_with_averaged=tuple(_alikeness(_unit(features), unit) for features in local),
        overlap_with_averaged=tuple(_overlap(leading, _leading(features, directions)) for features in local),
        directions=directions,
    )


def _mean_cka(local: Sequence[Tensor]) -> float:
    """The mean over pairs, from one matrix: `||sum_i G_i||^2 = sum_ij <G_i, G_j>` of the scaled Gram matrices G_i."""
    if len(local) == 1:
        return 1.0
    wide = len(local) * local[0].shape[1] > len(local[0])
    every = float(_side_by_side(map(_unit, local), wide=wide).square().sum())
    own = sum(bool(centred(features).any()) for features in local)
    return max((every - own) / (len(local) * (len(local) - 1)), 0.0)  # rounding alone makes it negative


def _alikeness(a: Tensor, b: Tensor) -> float:
    return float((a.T @ b).square().sum())


def _overlap(a: Tensor, b: Tensor) -> float:
    return float((a.T @ b).square().sum() / a.shape[1])


def _leading(features: Tensor, directions: int) -> Tensor:
    """The leading principal directions, as columns; those without variance are zeros."""
    z = centred(features)
    values, vectors = torch.linalg.eigh(z.T @ z)
    used = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
    leading: Tensor = (vectors * used)[:, -directions:]
    return leading


def _side_by_side(parts: Iterable[Tensor], *, wide: bool) -> Tensor:
    """`Z^T Z` of Z = [part_1 ... part_K], or `Z Z^T` where Z is wide, and then without Z itself."""
    if not wide:
        return _scatter(torch.cat(list(parts), dim=1))
    grams = (part @ part.T for part in parts)
    total = next(grams)
    for gram in grams:
        total += gram
    return total


def _scatter(z: Tensor) -> Tensor:
    """`Z^T Z` or `Z Z^T`, whichever is smaller: their eigenvalues are the same, zeros aside."""
    return z.T @ z if z.shape[1] <= len(z) else z @ z.T


def centred(features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Every dimension minus its mean, float64; zeros for a constant one, of which rounding may leave something else.

    >>> centred(torch.tensor([[0.1, 1.0], [0.1, 2.0], [0.1, 3.0]])).tolist()
    [[0.0, -1.0], [0.0, 0.0], [0.0, 1.0]]
    """
    z = features.double()
    shifted = z - z.mean(0)
    return torch.where(shifted.abs().amax(0) > 1e-12 * z.abs().amax(0), shifted, 0.0)


def _unit(features: Tensor) -> Tensor:
    """Centred, and scaled so that `||Z Z^T||_F` is 1; constant features are zeros."""
    z = centred(features)
    return z / _scatter(z).norm().sqrt() if z.any() else z


def _standardized(features: Tensor) -> Tensor:
    """Centred, every dimension over its standard deviation; a dead one is zeros."""
    z = centred(features)
    dead = FeatureStatistics.of(features).dead()
    return torch.where(dead, 0.0, z / z.square().mean(0).sqrt())


def _check(averaged: Tensor, local: Sequence[Tensor]) -> None:
    if not local:
        raise ValueError("an attribution compares the averaged model with local ones, and there is none.")
    for features in (averaged, *local):
        if features.shape != averaged.shape or features.ndim != 2 or features.numel() == 0:
            raise ValueError(
                f"all features must be (n, d) on the same probe, got {tuple(averaged.shape)} of the averaged model and "
                f"{tuple(features.shape)} of a local one."
            )
        if not features.isfinite().all():
            raise ValueError("features must be finite, got NaN or infinity; a model that has diverged has no rank.")
