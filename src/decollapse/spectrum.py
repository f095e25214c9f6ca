"""How many dimensions do the features use? Sums that merge exactly, their eigenvalues, and the usual measures.

    FeatureStatistics --covariance(), correlation()--> eigenvalues --effective_rank, participation_ratio, ...--> float

The sums are in `feature_statistics.py`. Every count of dimensions below saturates at min(d, N - 1), for N
examples of d features: report N and d beside it, and use N >= 5 d.

Everything is computed in float64. Conventions of the measures: `lambda` are eigenvalues of a covariance or correlation
matrix, in any order; negative ones, rounding of an eigensolver, count as 0. A spectrum of zeros has 0 dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from decollapse.feature_statistics import CHUNK, check_features
from decollapse.feature_statistics import FeatureStatistics as FeatureStatistics  # part of this module's face

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues of the covariance and of the correlation of one set of features, descending.

    Attributes:
        num_examples: N.
        num_dead: dimensions that are constant, see `FeatureStatistics.dead`; each is a zero of `correlation`.
        covariance: eigenvalues; they depend on the scale of every dimension, as the figures of the literature do.
        correlation: eigenvalues; they do not depend on scale, and are what FedDecorr acts on.
    """

    num_examples: int
    num_dead: int
    covariance: Float[Tensor, "d"]
    correlation: Float[Tensor, "d"]

    @classmethod
    def of(cls, statistics: FeatureStatistics, *, dead_below: float = 1e-4) -> Spectrum:
        """Two symmetric eigenvalue problems of size d; keep the result rather than calling again."""
        correlation = statistics.correlation(dead_below=dead_below)
        num_dead = int((correlation.diagonal() == 0).sum())
        return cls(statistics.num_examples, num_dead, eigenvalues(statistics.covariance()), eigenvalues(correlation))

    def summary(self) -> dict[str, float]:
        """Every scalar measure: N, d, `num_dead`, and `measure` of both spectra under `covariance_`, `correlation_`."""
        sizes = {"num_examples": self.num_examples, "num_features": len(self.covariance), "num_dead": self.num_dead}
        covariance = {f"covariance_{name}": value for name, value in measure(self.covariance).items()}
        return sizes | covariance | {f"correlation_{name}": value for name, value in measure(self.correlation).items()}


def summarize(statistics: FeatureStatistics) -> dict[str, float]:
    """Every scalar measure of the features, ready for a record.

    >>> summary = summarize(FeatureStatistics.of(torch.tensor([[0.0, 1.0, 5.0], [1.0, 0.0, 5.0]])))
    >>> summary["num_examples"], summary["num_features"], summary["num_dead"], summary["covariance_effective_rank"]
    (2, 3, 1, 1.0)
    """
    return Spectrum.of(statistics).summary()


def measure(eigenvalues: Float[Tensor, "d"]) -> dict[str, float]:
    """The measures that need eigenvalues alone, by name.

    `rankme` is of the centred features, s = sqrt(lambda) up to a factor that cancels: the mean is no dimension.

    >>> sorted(measure(torch.ones(3)))  # doctest: +NORMALIZE_WHITESPACE
    ['above_0.01', 'alpha_req', 'dims_90', 'dims_99', 'effective_rank', 'participation_ratio', 'rankme', 'stable_rank',
     'total']
    """
    return {
        "total": float(_ordered(eigenvalues).sum()),
        "effective_rank": effective_rank(eigenvalues),
        "participation_ratio": participation_ratio(eigenvalues),
        "stable_rank": stable_rank(eigenvalues),
        "rankme": rankme(_ordered(eigenvalues).sqrt()),
        "dims_90": dims_for(eigenvalues, 0.9),
        "dims_99": dims_for(eigenvalues, 0.99),
        "above_0.01": count_above(eigenvalues, 0.01),
        "alpha_req": alpha_req(eigenvalues),
    }


def eigenvalues(matrix: Float[Tensor, "d d"]) -> Float[Tensor, "d"]:
    """Eigenvalues of a symmetric positive semi-definite matrix, descending, float64.

    Values below `d * 2.2e-16 * the largest`, negative ones included, are rounding and become 0.

    >>> eigenvalues(torch.tensor([[1.0, 2.0], [2.0, 4.0]])).tolist()
    [5.0, 0.0]
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.isfinite().all():
        raise ValueError(f"eigenvalues need a square matrix of finite numbers, got shape {tuple(matrix.shape)}.")
    values = torch.linalg.eigvalsh(matrix.detach().double()).flip(0)
    return torch.where(values > len(values) * torch.finfo(torch.float64).eps * values[0], values, 0.0)


def effective_rank(eigenvalues: Float[Tensor, "d"]) -> float:
    """`exp(-sum p ln p)`, p = lambda / sum lambda: from 1 (one dimension) to d (white); 0 for a spectrum of zeros.

    Roy and Vetterli, "The Effective Rank: A Measure of Effective Dimensionality", EUSIPCO 2007. A long flat tail of
    small noise inflates it; look at `participation_ratio` too.

    >>> round(effective_rank(torch.tensor([0.5, 0.25, 0.25])), 4)  # exp(1.5 ln 2)
    2.8284
    """
    p = _shares(eigenvalues)
    return float(torch.exp(-torch.xlogy(p, p).sum())) if p.any() else 0.0


def participation_ratio(eigenvalues: Float[Tensor, "d"]) -> float:
    """`(sum lambda)^2 / sum lambda^2`: from 1 to d; 0 for a spectrum of zeros.

    For a correlation matrix without dead dimensions it is one over the penalty of the FedDecorr paper.

    >>> participation_ratio(torch.tensor([2.0, 1.0, 1.0]))  # 16 / 6
    2.6666666666666665
    """
    p = _shares(eigenvalues)
    return float(1.0 / p.square().sum()) if p.any() else 0.0


def stable_rank(eigenvalues: Float[Tensor, "d"]) -> float:
    """`sum lambda / max lambda`: from 1 to d; 0 for a spectrum of zeros.

    Rudelson and Vershynin, "Sampling from Large Matrices", J. ACM 2007: ||Z||_F^2 / ||Z||_2^2 of the centred features.

    >>> stable_rank(torch.tensor([2.0, 1.0, 1.0]))
    2.0
    """
    p = _shares(eigenvalues)
    return float(1.0 / p[0]) if p.any() else 0.0


def nesum(eigenvalues: Float[Tensor, "d"]) -> float:
    """`sum_i lambda_i / lambda_1`, the normalised eigenvalue sum: the same number as `stable_rank`.

    He and Ozay, "Exploring the Gap between Collapsed & Whitened Features in Self-Supervised Learning", ICML 2022.

    >>> nesum(torch.tensor([2.0, 1.0, 1.0]))
    2.0
    """
    return stable_rank(eigenvalues)


def rankme(singular_values: Float[Tensor, "k"], *, eps: float = 1e-7) -> float:
    """`exp(-sum p ln p)`, p = s / sum s + eps: `effective_rank` on singular values; 0 for a spectrum of zeros.

    Garrido, Balestriero, Najman and LeCun, "RankMe: Assessing the Downstream Performance of Pretrained Self-Supervised
    Representations by Their Rank", ICML 2023, arXiv 2210.02885. There, s are of the features as they are, not centred:
    `torch.linalg.svdvals(features)`, or `eigenvalues(statistics.sums()["gram"]).sqrt()`.

    >>> round(rankme(torch.tensor([2.0, 1.0, 1.0])), 4)
    2.8284
    """
    p = _shares(singular_values)
    return float(torch.exp(-torch.xlogy(p + eps, p + eps).sum())) if p.any() else 0.0


def dims_for(eigenvalues: Float[Tensor, "d"], fraction: float) -> int:
    """The smallest number of principal directions that hold `fraction` of the variance; 0 for a spectrum of zeros.

    >>> dims_for(torch.tensor([8.0, 1.0, 1.0]), 0.9), dims_for(torch.tensor([8.0, 1.0, 1.0]), 0.99)
    (2, 3)
    """
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"fraction must be above 0 and at most 1, got {fraction}.")
    held = _ordered(eigenvalues).cumsum(0)
    if held[-1] == 0:
        return 0
    return int((held < fraction * (1 - 1e-12) * held[-1]).sum()) + 1  # the factor forgives rounding in the sums


def count_above(eigenvalues: Float[Tensor, "d"], threshold: float) -> int:
    """How many eigenvalues are larger than `threshold`, in their own unit.

    >>> count_above(torch.tensor([2.0, 1.0, 0.001]), 0.01)
    2
    """
    return int((_ordered(eigenvalues) > threshold).sum())


def alpha_req(eigenvalues: Float[Tensor, "d"], *, first: int = 1, last: int | None = None) -> float:
    """The decay `alpha` of the power law `lambda_k ~ k^-alpha`: minus the slope of ln lambda_k on ln k.

    Agrawal, Mondal, Ghosh and Richards, "alpha-ReQ: Assessing Representation Quality in Self-Supervised Learning by
    Measuring Eigenspectrum Decay", NeurIPS 2022. 0 is a white spectrum; larger is more collapsed. Least squares over
    the full spectrum, as the paper says, with weight 1 / k, as its released code has; that code fits k = 4 to 100 only.

    Args:
        eigenvalues: zeros are left out of the fit. NaN is returned if fewer than 2 are left.
        first: rank k of the largest eigenvalue in the fit, from 1.
        last: rank of the smallest one in the fit; None for all.

    >>> round(alpha_req(torch.tensor([1.0, 1 / 4, 1 / 9, 1 / 16])), 6)
    2.0
    """
    if first < 1 or (last is not None and last <= first):
        raise ValueError(f"the fit needs 1 <= first < last, got first {first} and last {last}.")
    values = _ordered(eigenvalues)[first - 1 : last]
    values = values[values > 0]
    if len(values) < 2:
        return math.nan
    k = torch.arange(first, first + len(values), dtype=torch.float64, device=values.device)
    x = k.log() - (k.log() / k).sum() / (1 / k).sum()
    return float(-((x / k) @ values.log()) / ((x / k) @ x))


def uniformity(features: Float[Tensor, "n d"], *, t: float = 2.0) -> float:
    """`ln mean_(i<j) exp(-t |z_i - z_j|^2)` of the features scaled to length 1: from -4 t to 0; 0 is one point.

    Wang and Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
    Hypersphere", ICML 2020, arXiv 2005.10242. Takes n^2 d / 2 steps and n * 1024 numbers of memory. A feature vector of
    zeros stays at the origin. Raises ValueError for fewer than 2 examples.

    >>> round(uniformity(torch.tensor([[3.0, 0.0], [0.0, 2.0]])), 6)  # a right angle: squared distance 2
    -4.0
    """
    check_features(features)
    if len(features) < 2:
        raise ValueError(f"uniformity needs at least 2 examples, got shape {tuple(features.shape)}.")
    z = torch.nn.functional.normalize(features.detach().double(), dim=1)
    pairs = sum((torch.exp(-t * d).sum() for d in _squared_distances(z)), start=z.new_zeros(()))
    return float(torch.log(pairs / (len(z) * (len(z) - 1) / 2)))


def _squared_distances(z: Float[Tensor, "n d"]) -> Iterator[Float[Tensor, "pairs"]]:
    """Squared distances of all pairs i < j, a block of rows at a time."""
    lengths = z.square().sum(dim=1)
    for start in range(0, len(z), CHUNK):
        rows = slice(start, start + CHUNK)
        block = lengths[rows, None] + lengths[start:] - 2 * z[rows] @ z[start:].T
        keep = torch.ones_like(block, dtype=torch.bool).triu(diagonal=1)
        yield block[keep].clamp(min=0)


def _ordered(values: Float[Tensor, "d"]) -> Float[Tensor, "d"]:
    if values.ndim != 1 or len(values) == 0 or not values.isfinite().all():
        raise ValueError(
            f"a spectrum is a vector of at least one finite number, got shape {tuple(values.shape)}: {values}."
        )
    return values.detach().double().clamp(min=0).sort(descending=True).values


def _shares(values: Float[Tensor, "d"]) -> Float[Tensor, "d"]:
    """Each value over their sum, descending; zeros for a spectrum of zeros."""
    ordered = _ordered(values)
    return ordered / ordered.sum() if ordered[0] > 0 else ordered
