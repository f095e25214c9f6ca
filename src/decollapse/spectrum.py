"""How many dimensions do the features use? Sums that merge exactly, their eigenvalues, and the usual measures.

    FeatureStatistics --covariance(), correlation()--> eigenvalues --effective_rank, participation_ratio, ...--> float

The sums of disjoint sets of examples merge exactly, in any order (Chan, Golub and LeVeque, "Updating Formulae and a
Pairwise Algorithm for Computing Sample Variances", COMPSTAT 1982), so the spectrum of a federation can be computed with
no example and no feature vector leaving a client. Every count of dimensions below saturates at min(d, N - 1), for N
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

from decollapse.tree import Tree

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

CHUNK = 1024  # rows converted to float64 at a time, so that a large batch costs no second copy of itself


@dataclass(eq=False)
class FeatureStatistics:
    """Count, mean and scatter of feature vectors: an accumulator, one d x d matrix in memory.

    Kept for each class c: `n_c`, `mean_c`, and over all classes the within-class scatter
    `W = sum_c sum_(i in c) (z_i - mean_c)(z_i - mean_c)^T`. Without labels there is one class, and W is the scatter.
    Differences are squared, never raw values, so a mean much larger than the standard deviation costs no digits.

    `update` and `merge` change this object, and nothing else; `a + b` and `a - b` make a new one. 0 examples and 1
    example are allowed and have a covariance of zeros. Subtracting almost everything leaves few correct digits.

    Attributes:
        counts: n_c.
        means: mean_c, zeros where n_c is 0.
        within: W.

    >>> statistics = FeatureStatistics.of(torch.tensor([[0.0, 0.0], [2.0, 4.0]]))
    >>> statistics.num_examples, statistics.mean.tolist(), statistics.covariance().tolist()
    (2, [1.0, 2.0], [[1.0, 2.0], [2.0, 4.0]])
    """

    counts: Int[Tensor, "classes"]
    means: Float[Tensor, "classes d"]
    within: Float[Tensor, "d d"]

    @classmethod
    @torch.inference_mode(False)  # tensors born in inference mode could not be updated outside it
    def empty(cls, num_features: int, *, num_classes: int = 1, device: torch.device | str = "cpu") -> FeatureStatistics:
        """Statistics of no example yet. `device` is where the sums live; it must support float64."""
        if num_features < 1 or num_classes < 1:
            raise ValueError(f"num_features and num_classes must be at least 1, got {num_features} and {num_classes}.")
        return cls(
            torch.zeros(num_classes, dtype=torch.int64, device=device),
            torch.zeros(num_classes, num_features, dtype=torch.float64, device=device),
            torch.zeros(num_features, num_features, dtype=torch.float64, device=device),
        )

    @classmethod
    def of(
        cls, features: Float[Tensor, "n d"], labels: Int[Tensor, "n"] | None = None, *, num_classes: int = 1
    ) -> FeatureStatistics:
        """Statistics of one batch, on the CPU."""
        _check_features(features)
        statistics = cls.empty(features.shape[1], num_classes=num_classes)
        statistics.update(features, labels)
        return statistics

    @torch.no_grad()
    def update(self, features: Float[Tensor, "n d"], labels: Int[Tensor, "n"] | None = None) -> None:
        """Add a batch of any floating-point type; n = 0 changes nothing.

        Args:
            features: one row an example.
            labels: the class of each row, needed if and only if there is more than one class.

        Raises:
            ValueError: features are not finite or not (n, d), or labels do not fit. The statistics are then as before.
        """
        _check_features(features)
        if features.shape[1] != self.num_features:
            raise ValueError(f"expected {self.num_features} features an example, got shape {tuple(features.shape)}.")
        if not features.isfinite().all():
            bad = int((~features.isfinite()).any(dim=1).sum())
            raise ValueError(
                f"features must be finite, got NaN or infinity in {bad} of {len(features)} rows; drop them."
            )
        classes, device = self._classes(features, labels), self.means.device
        for start in range(0, len(features), CHUNK):
            rows = slice(start, start + CHUNK)
            self._add_rows(features[rows].to(device).double(), classes[rows].to(device))

    def merge(self, other: FeatureStatistics) -> None:
        """Add the examples of `other`, which must be other examples; `other` is left alone.

        >>> a, b = FeatureStatistics.of(torch.tensor([[0.0]])), FeatureStatistics.of(torch.tensor([[2.0]]))
        >>> a.merge(b)
        >>> a.num_examples, a.covariance().item()
        (2, 1.0)
        """
        self._check_like(other)
        device = self.means.device
        self.within.add_(other.within.to(device))
        self._shift_means(other.counts.to(device), other.means.to(device))

    def __add__(self, other: FeatureStatistics) -> FeatureStatistics:
        total = FeatureStatistics.empty(self.num_features, num_classes=self.num_classes, device=self.means.device)
        total.merge(self)
        total.merge(other)
        return total

    def __sub__(self, other: FeatureStatistics) -> FeatureStatistics:
        self._check_like(other)
        counts = self.counts - other.counts.to(self.counts.device)
        if (counts < 0).any():
            raise ValueError("cannot subtract statistics of examples that are not part of these: a count is negative.")
        removed, sub = other.means.to(self.means.device), other.counts.to(self.counts.device).double()[:, None]
        shift = (self.means - removed) * sub / counts.clamp(min=1)[:, None]
        means = torch.where(counts[:, None] > 0, self.means + shift, 0.0)
        weights = sub[:, 0] * counts / self.counts.clamp(min=1)
        within = self.within - other.within.to(self.within.device) - _outer(removed - means, weights)
        return FeatureStatistics(counts, means, within if counts.any() else torch.zeros_like(within))

    def sums(self, *, origin: Float[Tensor, "d"] | None = None) -> Tree:
        """Plain sums, for a reducer or a secure aggregation that can only add.

        `count_c = n_c`, `sum_c = sum_(i in c) (z_i - origin)`, `gram = sum_i (z_i - origin)(z_i - origin)^T`, float64.
        Trees with the same origin add up, leaf by leaf, to the tree of the union: see `from_sums`.

        Args:
            origin: zeros if None. Relative rounding error of the covariance: about 1e-16 (|mean - origin| / std)^2, so
                give everybody a public guess of the mean (last round's) where means are large.
        """
        offset = self.means if origin is None else self.means - origin.to(self.means)
        counts = self.counts.double()
        return {"count": counts, "sum": offset * counts[:, None], "gram": self.within + _outer(offset, counts)}

    @classmethod
    def from_sums(cls, sums: Tree, *, origin: Float[Tensor, "d"] | None = None) -> FeatureStatistics:
        """The statistics whose `sums(origin=origin)` these are.

        >>> a, b = FeatureStatistics.of(torch.tensor([[0.0]])), FeatureStatistics.of(torch.tensor([[2.0]]))
        >>> total = {name: leaf + b.sums()[name] for name, leaf in a.sums().items()}
        >>> FeatureStatistics.from_sums(total).covariance().item()
        1.0
        """
        counts = sums["count"].double()
        whole = counts.round()
        if not bool(((counts - whole).abs() < 1e-3).all() and (whole >= 0).all()):
            raise ValueError(
                f"counts must be whole numbers, got {counts.tolist()}; sums are needed, not weighted means."
            )
        offset = sums["sum"].double() / whole.clamp(min=1)[:, None]
        means = offset if origin is None else torch.where(whole[:, None] > 0, offset + origin.to(offset), 0.0)
        return cls(whole.long(), means, sums["gram"].double() - _outer(offset, whole))

    @property
    def num_examples(self) -> int:
        """N, the examples seen so far."""
        return int(self.counts.sum())

    @property
    def num_features(self) -> int:
        """d, the length of a feature vector."""
        return self.means.shape[1]

    @property
    def num_classes(self) -> int:
        """Classes told apart; 1 without labels."""
        return len(self.counts)

    @property
    def mean(self) -> Float[Tensor, "d"]:
        """The mean feature vector, zeros without examples."""
        return (self.counts.double() @ self.means) / max(self.num_examples, 1)

    def covariance(self) -> Float[Tensor, "d d"]:
        """`(W + sum_c n_c (mean_c - mean)(mean_c - mean)^T) / N`, zeros for fewer than 2 examples."""
        if self.num_classes == 1:
            return self.within / max(self.num_examples, 1)
        return (self.within + _outer(self.means - self.mean, self.counts.double())) / max(self.num_examples, 1)

    def correlation(self, *, dead_below: float = 1e-4) -> Float[Tensor, "d d"]:
        """`covariance_ij / (std_i std_j)`; rows and columns of dead dimensions are zeros.

        So a dead dimension counts as one zero eigenvalue, and the trace is the number of live ones. See `dead`.
        """
        covariance = self.covariance()
        inverse = torch.where(_dead(covariance, self.mean, dead_below), 0.0, covariance.diagonal().rsqrt())
        return covariance * inverse[:, None] * inverse

    def dead(self, *, dead_below: float = 1e-4) -> Bool[Tensor, "d"]:
        """Which dimensions are constant, as far as it matters.

        `std_j <= dead_below * rms(std)`, or `std_j <= 1e-6 |mean_j|`: a constant up to the rounding of float32.
        """
        return _dead(self.covariance(), self.mean, dead_below)

    def _add_rows(self, rows: Float[Tensor, "n d"], classes: Int[Tensor, "n"]) -> None:
        members = torch.nn.functional.one_hot(classes, self.num_classes).to(rows)
        counts = members.sum(dim=0)
        means = (members.T @ rows) / counts.clamp(min=1)[:, None]
        rows = rows - means[classes]
        self.within.addmm_(rows.T, rows)
        self._shift_means(counts.long(), means)

    def _shift_means(self, counts: Int[Tensor, "classes"], means: Float[Tensor, "classes d"]) -> None:
        """Chan et al.'s step for the means, with its share of the scatter: n_a n_b / (n_a + n_b) (m_b - m_a)^2."""
        mine, theirs = self.counts.double(), counts.double()
        share = theirs / (mine + theirs).clamp(min=1)
        shift = means - self.means
        self.within.addmm_((shift * (mine * share)[:, None]).T, shift)
        self.means.add_(shift * share[:, None])
        self.counts.add_(counts)

    def _classes(self, features: Tensor, labels: Tensor | None) -> Int[Tensor, "n"]:
        if (labels is None) != (self.num_classes == 1):
            raise ValueError(
                f"labels are needed if and only if num_classes > 1, and num_classes is {self.num_classes}."
            )
        if labels is None:
            return torch.zeros(len(features), dtype=torch.int64)
        if labels.shape != features.shape[:1]:
            raise ValueError(f"expected one label for each of {len(features)} rows, got shape {tuple(labels.shape)}.")
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise ValueError(
                f"labels must be 0 to {self.num_classes - 1}, got {int(labels.min())} to {int(labels.max())}."
            )
        return labels.long()

    def _check_like(self, other: FeatureStatistics) -> None:
        mine, theirs = tuple(self.means.shape), tuple(other.means.shape)
        if mine != theirs:
            raise ValueError(f"statistics of {mine} and {theirs} (classes, features) do not merge; they must be equal.")


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
    _check_features(features)
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


def _outer(rows: Float[Tensor, "n d"], weights: Float[Tensor, "n"]) -> Float[Tensor, "d d"]:
    """`sum_i weights_i rows_i rows_i^T`."""
    return (rows * weights[:, None]).T @ rows


def _dead(covariance: Float[Tensor, "d d"], mean: Float[Tensor, "d"], dead_below: float) -> Bool[Tensor, "d"]:
    variance = covariance.diagonal()
    return (variance <= dead_below**2 * variance.mean()) | (variance <= (1e-6 * mean) ** 2)


def _check_features(features: Tensor) -> None:
    if features.ndim == 4:
        raise ValueError(
            f"features must be (n, d), got a map of shape {tuple(features.shape)}; pool it: z.mean((2, 3))."
        )
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"features must be (n, d) with d at least 1, got shape {tuple(features.shape)}.")
    if not features.is_floating_point():
        raise TypeError(f"features must be floating-point, got {features.dtype}; convert them with z.float().")


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
