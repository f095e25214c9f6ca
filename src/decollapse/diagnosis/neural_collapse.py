"""The four measures of neural collapse: what a classifier trained long on balanced classes tends to.

Papyan, Han, Donoho, "Prevalence of Neural Collapse during the Terminal Phase of Deep Learning Training", PNAS 2020,
https://arxiv.org/abs/2008.08186. It is no fault: features of C classes then have C - 1 dimensions, by nature.
Dimensional collapse is to have fewer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import nan
from typing import TYPE_CHECKING

import torch

from decollapse.diagnosis.attribution import centred
from decollapse.feature_statistics import FeatureStatistics
from decollapse.spectrum import effective_rank, eigenvalues

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


@dataclass(frozen=True)
class NeuralCollapse:
    """Zero is complete neural collapse in each of the first five. NaN where all class means are the same.

    Attributes:
        nc1: within- over between-class variation, `trace(S_W pinv(S_B)) / C`.
        nc2_norms: coefficient of variation of the lengths of the centred class means.
        nc2_angles: mean over pairs of `|cos + 1 / (C - 1)|`: how far class means are from a simplex.
        nc3: `||W / ||W|| - M / ||M||||_F` of the head's weights and the centred class means; None without a head.
        nc4: share of examples that the nearest class mean classifies otherwise than the logits; None without logits.
        between_rank: effective rank of the class means, at most C - 1.
        within_rank: effective rank of the variation within classes.
        num_classes: classes present, C.
    """

    nc1: float
    nc2_norms: float
    nc2_angles: float
    nc3: float | None
    nc4: float | None
    between_rank: float
    within_rank: float
    num_classes: int


def neural_collapse(
    features: Float[Tensor, "n d"],
    y: Int[Tensor, "n"],
    *,
    logits: Float[Tensor, "n classes"] | None = None,
    head: Float[Tensor, "classes d"] | None = None,
) -> NeuralCollapse:
    """The measures on one set of examples; classes without examples are left out.

    Raises:
        ValueError: fewer than two classes are present.

    >>> z = torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]])
    >>> found = neural_collapse(z, torch.tensor([0, 0, 1, 1]), head=torch.tensor([[2.0, 0.0], [-2.0, 0.0]]))
    >>> found.nc1, found.nc2_norms, found.nc2_angles, found.nc3, found.between_rank
    (0.0, 0.0, 0.0, 0.0, 1.0)
    """
    present, index = y.unique(return_inverse=True)
    _check_classes(len(present))
    z = centred(features)  # every measure is of differences
    statistics = FeatureStatistics.of(z, index, num_classes=len(present))
    found = neural_collapse_of(statistics, head=None if head is None else head[present])
    if logits is None:
        return found
    means = torch.zeros(len(present), z.shape[1], dtype=z.dtype).index_add_(0, index, z)
    return replace(found, nc4=_disagreement(z, means / torch.bincount(index)[:, None], present, logits))


def neural_collapse_of(
    statistics: FeatureStatistics, *, head: Float[Tensor, "classes d"] | None = None
) -> NeuralCollapse:
    """The measures from sums alone, without NC4, which needs every example; classes without examples are left out.

    Raises:
        ValueError: fewer than two classes are present.
    """
    present = statistics.counts > 0
    num_classes = int(present.sum())
    _check_classes(num_classes)
    means, within = statistics.means[present], statistics.within / statistics.num_examples
    offsets = means - means.mean(0)
    between = offsets.T @ offsets / num_classes
    lengths = offsets.norm(dim=1)
    directions = offsets / lengths.clamp(min=torch.finfo(means.dtype).tiny)[:, None]
    cosines = (directions @ directions.T)[~torch.eye(num_classes, dtype=torch.bool)]
    scale = (torch.trace(within) + offsets.square().sum()).sqrt()
    defined = 1.0 if lengths.max() > 1e-12 * scale else nan
    return NeuralCollapse(
        nc1=defined * float(torch.trace(within @ torch.linalg.pinv(between, hermitian=True)) / num_classes),
        nc2_norms=defined * float(lengths.std(correction=0) / lengths.mean()),
        nc2_angles=defined * float((cosines + 1 / (num_classes - 1)).abs().mean()),
        nc3=None if head is None else defined * _duality(head.double()[present], offsets),
        nc4=None,
        between_rank=effective_rank(eigenvalues(between)),
        within_rank=effective_rank(eigenvalues(within)),
        num_classes=num_classes,
    )


def _check_classes(present: int) -> None:
    if present < 2:
        raise ValueError(f"neural collapse is about classes; the examples need at least 2 of them, got {present}.")


def _duality(head: Tensor, means: Tensor) -> float:
    norms = head.norm(), means.norm()
    return float((head / norms[0] - means / norms[1]).norm()) if norms[0] > 0 and norms[1] > 0 else nan


def _disagreement(z: Tensor, means: Tensor, present: Tensor, logits: Tensor) -> float:
    nearest = present[torch.cdist(z, means).argmin(dim=1)]
    return float((nearest != logits.argmax(dim=1)).double().mean())
