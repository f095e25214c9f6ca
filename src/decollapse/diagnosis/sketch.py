"""The spectrum of wide features from d x k sums, with a bound on what they miss: a Nystrom sketch of the scatter.

With Sigma the covariance of the pooled features and Omega a random d x k matrix that everybody makes from one seed,

    Y = Sigma Omega                      from sums alone: sum_i z_i (z_i^T Omega), minus N mean (mean^T Omega)
    Sigma' = Y (Omega^T Y)^+ Y^T         the sketched covariance; its eigenvalues are lambda'
    missing = tr Sigma - tr Sigma'       known exactly, because tr Sigma is a sum as well

Tropp, Yurtsever, Udell and Cevher, "Fixed-Rank Approximation of a Positive-Semidefinite Matrix from Streaming Data",
NeurIPS 2017, arXiv 1706.05736. Where they add a small multiple of the identity against rounding, directions of
`Omega^T Y` that are rounding are left out.

**Bound, whatever Omega is.** Sigma' = Sigma^(1/2) P Sigma^(1/2) with an orthogonal projector P, so in descending order

    0 <= lambda_i - lambda'_i  for every i,  and  sum_i (lambda_i - lambda'_i) = missing.

Hence the sketch never invents a dimension, and is exact where rank Sigma <= k: a collapsed spectrum. `missing` is
measured, not estimated; `most_collapsed`, `least_collapsed` and `bounds_above` turn it into bounds on the measures. For
a spectrum that has not collapsed they are wide: k of d equal eigenvalues leave the others open. All of it holds up to
rounding, about 1e-10 of tr Sigma with means no larger than standard deviations; see `origin` for larger ones.

**Size of `missing` beforehand.** On average over Gaussian Omega, for every r <= k - 2,

    E missing <= (1 + r / (k - r - 1)) sum_(j > r) lambda_j,

from E |(I - P) Sigma^(1/2)|_F^2 in Halko, Martinsson and Tropp, "Finding Structure with Randomness", SIAM Review 53(2),
2011, arXiv 0909.4061, Theorem 10.5. So k = 2 r + 1 misses at most twice the variance beyond the r largest dimensions.

**Why this sketch.** It is linear in the sum over examples, so sketches add up in any order and a secure aggregation can
carry them. Frequent Directions (Ghashami, Liberty, Phillips and Woodruff, SIAM J. Comput. 2016, arXiv 1501.01711) has a
bound on each direction, |Z - Z_r|_F^2 / (k - r), that is known beforehand; but it merges by a singular value
decomposition of both sketches, which no aggregation that only adds can do, and truncated factors merge the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from decollapse.spectrum import Spectrum
from decollapse.tree import Tree

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class Sketch:
    """How many numbers stand for a d x d scatter, and the seed everybody makes the same test matrix from.

    Attributes:
        size: k, from 0 to d: d k numbers instead of d (d + 1) / 2. Take twice the dimensions expected. 0 keeps means
            and variances alone.
        seed: public; every client and the server use the same one, with the same version of PyTorch.
    """

    size: int
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"the size of a sketch is at least 0, got {self.size}.")

    def test_matrix(self, num_features: int) -> Float[Tensor, "d k"]:
        """Omega: k orthonormal columns that span a uniformly random subspace, float64.

        Orthonormal against rounding; the sketch depends on their span alone, which is that of a Gaussian matrix.
        """
        if self.size > num_features:
            raise ValueError(
                f"a sketch of size {self.size} is wider than the {num_features} features; leave it out, or take "
                f"fewer than {max(num_features // 2, 1)} to send less than without it."
            )
        generator = torch.Generator().manual_seed(self.seed)
        gaussian = torch.randn(num_features, self.size, dtype=torch.float64, generator=generator)
        columns, triangle = torch.linalg.qr(gaussian)
        unique: Tensor = columns * triangle.diagonal().sign()  # with these signs, every library finds the same
        return unique


@dataclass(frozen=True, eq=False)
class SketchedSpectrum:
    """A spectrum from below, and the variance that it misses.

    Attributes:
        spectrum: lambda', at most k of them above 0; each is at most the true eigenvalue of its rank.
        covariance_missing: `sum_i (lambda_i - lambda'_i)` of the covariance.
        correlation_missing: the same of the correlation. A sketch made for the covariance serves the correlation as
            Sigma = D K D does, best where the dimensions have similar variances. A dead dimension that is not quite
            constant keeps the tiny variance `dead_below^2` there, instead of 0.
    """

    spectrum: Spectrum
    covariance_missing: float
    correlation_missing: float


def sketched_sums(
    features: Float[Tensor, "n d"],
    classes: Int[Tensor, "n"],
    test: Float[Tensor, "d k"],
    *,
    num_classes: int,
    origin: Float[Tensor, "d"],
) -> Tree:
    """What a sketch keeps of a batch: sums, so those of disjoint batches add up leaf by leaf.

    With z_i counted from `origin`: `count_c = n_c`, `sum_c = sum_(i in c) z_i`, `squares = sum_i z_i^2` entry by entry,
    `product = sum_i z_i (z_i^T Omega)`; float64.

    >>> z, one_class = torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([0, 0])
    >>> test = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    >>> sums = sketched_sums(z, one_class, test, num_classes=1, origin=torch.zeros(2))
    >>> sums["squares"].tolist(), sums["product"].tolist()
    ([10.0, 4.0], [[10.0], [2.0]])
    """
    z = features.to(test) - origin.to(test)
    members = torch.nn.functional.one_hot(classes, num_classes).to(z)
    return {
        "count": members.sum(dim=0),
        "sum": members.T @ z,
        "squares": z.square().sum(dim=0),
        "product": z.T @ (z @ test),
    }


def sketched_spectrum(
    sums: Tree, sketch: Sketch, *, origin: Float[Tensor, "d"] | None = None, dead_below: float = 1e-4
) -> SketchedSpectrum:
    """The spectrum of the examples whose sums were added up, and how much it misses.

    Args:
        sums: the total of all clients' `sketched_sums`.
        sketch: the one they were made with.
        origin: the one they were counted from; zeros if None.
        dead_below: as in `FeatureStatistics.dead`.

    Raises:
        ValueError: the sums were not made with this sketch, not all with the same one, or are weighted means.
    """
    count, offset = float(sums["count"].sum()), sums["sum"].sum(dim=0)
    num_examples = round(count)
    if abs(count - num_examples) > 1e-3:
        raise ValueError(f"the count must be a whole number, got {count}; sums are needed, not weighted means.")
    test = sketch.test_matrix(len(offset))
    if sums["product"].shape != test.shape:
        raise ValueError(f"a sketch has shape {tuple(test.shape)}, the sums have {tuple(sums['product'].shape)}.")
    power, offset = sums["squares"] / max(num_examples, 1), offset / max(num_examples, 1)
    variance = (power - offset.square()).clamp(min=0)
    product = sums["product"] / max(num_examples, 1) - torch.outer(offset, offset @ test)
    rounding = sketch.size * torch.finfo(torch.float64).eps * float(power.sum())

    mean = offset if origin is None else offset + origin.to(offset)
    dead = (variance <= dead_below**2 * variance.mean()) | (variance <= (1e-6 * mean) ** 2)
    weight = torch.where(dead, dead_below, 1.0)  # not 0: what a dead dimension adds to the product cannot be taken out
    inverse = torch.where(variance > 0, weight * variance.rsqrt(), 0.0)
    scale = torch.where(variance > 0, variance.sqrt() / weight, 0.0)
    covariance = _nystrom(product, test, rounding)
    correlation = _nystrom(product * inverse[:, None], test * scale[:, None], rounding)
    return SketchedSpectrum(
        Spectrum(num_examples, int(dead.sum()), covariance, correlation),
        covariance_missing=max(float(variance.sum() - covariance.sum()), 0.0),
        correlation_missing=max(float((variance * inverse.square()).sum() - correlation.sum()), 0.0),
    )


def most_collapsed(eigenvalues: Float[Tensor, "d"], missing: float) -> Float[Tensor, "d"]:
    """The least even spectrum that the sketch allows: what is missing belongs to the largest eigenvalue.

    `effective_rank`, `participation_ratio`, `stable_rank` and `dims_for` of it are lower bounds on the true ones.

    >>> most_collapsed(torch.tensor([2.0, 1.0, 0.0]), missing=3.0).tolist()
    [5.0, 1.0, 0.0]
    """
    ordered = eigenvalues.double().sort(descending=True).values
    return torch.cat([ordered[:1] + missing, ordered[1:]])


def least_collapsed(eigenvalues: Float[Tensor, "d"], missing: float) -> Float[Tensor, "d"]:
    """The most even spectrum that the sketch allows: what is missing fills up the smallest eigenvalues, as water does.

    Every spectrum that the sketch allows majorises it, so `effective_rank`, `participation_ratio`, `stable_rank` and
    `dims_for` of it are upper bounds on the true ones.

    >>> least_collapsed(torch.tensor([2.0, 1.0, 0.0]), missing=3.0).tolist()
    [2.0, 2.0, 2.0]
    """
    rising = eigenvalues.double().sort().values
    ranks = torch.arange(1, len(rising) + 1, dtype=torch.float64)
    filled = int((ranks * rising - rising.cumsum(0) <= missing).sum())
    level = (missing + rising[:filled].sum()) / filled
    return rising.clamp(min=level).flip(0)


def bounds_above(eigenvalues: Float[Tensor, "d"], missing: float, threshold: float) -> tuple[int, int]:
    """The smallest and the largest number of eigenvalues above `threshold` that the sketch allows.

    The largest lifts as many as `missing` pays for, those nearest to the threshold first.

    >>> bounds_above(torch.tensor([2.0, 0.9, 0.0]), missing=0.5, threshold=1.0)
    (1, 2)
    """
    ordered = eigenvalues.double().sort(descending=True).values
    above = int((ordered > threshold).sum())
    price = (threshold - ordered[above:]).cumsum(0)
    return above, above + int((price < missing).sum())


def _nystrom(product: Float[Tensor, "d k"], test: Float[Tensor, "d k"], rounding: float) -> Float[Tensor, "d"]:
    """Eigenvalues of `Y (Omega^T Y)^+ Y^T`, descending; directions in which `Omega^T Y` is rounding are left out."""
    core = test.T @ product
    largest = float(core.abs().sum())
    if float((core - core.T).abs().sum()) > 1e-6 * largest + 1e4 * rounding:
        raise ValueError(
            "these sums are not a sketch with one test matrix; give every client and the server the same seed and size."
        )
    values, vectors = torch.linalg.eigh((core + core.T) / 2)
    kept = values > rounding
    factor = (product @ vectors[:, kept]) / values[kept].sqrt()
    found = torch.linalg.svdvals(factor).square()
    return torch.cat([found, found.new_zeros(len(product) - len(found))])
