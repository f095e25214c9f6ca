"""Count, mean and scatter of features: sums of disjoint sets of examples that merge exactly, in any order.

Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances", COMPSTAT 1982. So
the spectrum of a federation can be computed with no example and no feature vector leaving a client.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from decollapse.tree import Tree

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

CHUNK = 1024  # rows converted to float64 at a time, so that a large batch costs no second copy of itself
STRIP = 256  # columns of the scatter computed at a time: wide enough for speed, narrow enough to save what is symmetric


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
        check_features(features)
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
        check_features(features)
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
            self._add_rows(features[rows].to(device, torch.float64, copy=True), classes[rows].to(device))
        _mirror(self.within)

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
        shift, weights = self._shift_means(other.counts.to(device), other.means.to(device))
        self.within.addmm_((shift * weights).T, shift)

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
        """Add rows, which are overwritten; of `within`, only what is on and above the diagonal is kept up to date."""
        members = torch.nn.functional.one_hot(classes, self.num_classes).to(rows)
        counts = members.sum(dim=0)
        means = (members.T @ rows) / counts.clamp(min=1)[:, None]
        rows -= means if self.num_classes == 1 else means[classes]
        shift, weights = self._shift_means(counts.long(), means)
        _add_gram(self.within, torch.cat([rows, shift * weights.sqrt()]))

    def _shift_means(
        self, counts: Int[Tensor, "classes"], means: Float[Tensor, "classes d"]
    ) -> tuple[Float[Tensor, "classes d"], Float[Tensor, "classes 1"]]:
        """Chan et al.'s step for the means; returns what it adds to the scatter.

        These are the rows `m_b - m_a`, weighted by `n_a n_b / (n_a + n_b)`.
        """
        mine, theirs = self.counts.double()[:, None], counts.double()[:, None]
        share = theirs / (mine + theirs).clamp(min=1)
        shift = means - self.means
        self.means.add_(shift * share)
        self.counts.add_(counts)
        return shift, mine * share

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


def _add_gram(total: Float[Tensor, "d d"], rows: Float[Tensor, "n d"]) -> None:
    """`total += rows^T rows` on and above the diagonal, in a little more than half the time of the whole product."""
    for start in range(0, len(total), STRIP):
        columns = slice(start, start + STRIP)
        total[columns, start:].addmm_(rows[:, columns].T, rows[:, start:])


def _mirror(matrix: Float[Tensor, "d d"]) -> None:
    """Copy what is above the diagonal strips to below them, in place."""
    for start in range(0, len(matrix), STRIP):
        columns, below = slice(start, start + STRIP), slice(start + STRIP, None)
        matrix[below, columns] = matrix[columns, below].T


def _outer(rows: Float[Tensor, "n d"], weights: Float[Tensor, "n"]) -> Float[Tensor, "d d"]:
    """`sum_i weights_i rows_i rows_i^T`."""
    return (rows * weights[:, None]).T @ rows


def _dead(covariance: Float[Tensor, "d d"], mean: Float[Tensor, "d"], dead_below: float) -> Bool[Tensor, "d"]:
    variance = covariance.diagonal()
    return (variance <= dead_below**2 * variance.mean()) | (variance <= (1e-6 * mean) ** 2)


def check_features(features: Tensor) -> None:
    """Raise if `features` is not a finite (n, d) tensor of floating-point numbers."""
    if features.ndim == 4:
        raise ValueError(
            f"features must be (n, d), got a map of shape {tuple(features.shape)}; pool it: z.mean((2, 3))."
        )
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"features must be (n, d) with d at least 1, got shape {tuple(features.shape)}.")
    if not features.is_floating_point():
        raise TypeError(f"features must be floating-point, got {features.dtype}; convert them with z.float().")
