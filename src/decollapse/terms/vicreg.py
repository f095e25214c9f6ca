"""VICReg's variance hinge and covariance penalty, without its invariance term.

Adrien Bardes, Jean Ponce, Yann LeCun, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised
Learning", ICLR 2022, https://arxiv.org/abs/2105.04906. Reference code: https://github.com/facebookresearch/vicreg.

    C = covariance of the batch, with divisor n - 1
    variance_loss   = mean_j max(0, target - sqrt(C_jj + eps))
    covariance_loss = sum_(j != k) C_jk^2 / d

Departures. There is one view, the features of a classifier, in place of two of an expander, so cross-entropy takes the
place of the invariance term. The default strengths keep the reference code's ratios: it weighs invariance, variance
and covariance 25 : 25 : 1; so with a cross-entropy of weight 1 the hinge has 1 and the penalty 0.04. The code adds
half the variance loss of each view but the whole covariance loss of each: for two equal views it is 25 : 2. The
defaults were not tuned.

The covariance penalty alone is minimised by shrinking the features to 0; the hinge is what forbids it. Use both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from decollapse.terms.moments import centre, feature_loss, off_diagonal_energy, variances
from decollapse.terms.ranges import check_positive, check_strength

if TYPE_CHECKING:
    from jaxtyping import Float

    from decollapse.objective import Step


@feature_loss
def variance_loss(features: Float[Tensor, "n d"], *, target: float = 1.0, eps: float = 1e-4) -> Float[Tensor, ""]:
    """By how much the dimensions' standard deviations fall short of `target`, on average; 0 where none does.

    A constant dimension costs `target - sqrt(eps)` but has no gradient; one that is nearly constant has.

    >>> variance_loss(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))  # 1 - sqrt(0.5001)
    tensor(0.2928)
    """
    return torch.relu(target - (variances(centre(features)) + eps).sqrt()).mean()


@feature_loss
def covariance_loss(features: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """The squared covariances of different dimensions, summed over pairs and divided by d.

    It grows with the fourth power of the features' scale. A constant dimension counts as uncorrelated.

    >>> covariance_loss(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))  # 2 * 0.5^2 / 2
    tensor(0.2500)
    """
    n, d = features.shape
    return off_diagonal_energy(centre(features) / (n - 1) ** 0.5) / d


@dataclass(frozen=True)
class VarianceHinge:
    """Keeps every feature's standard deviation above `target`: `strength * variance_loss(features)`.

    Attributes:
        strength: >= 0; 0 costs nothing. See this module for the default.
        target: the standard deviation below which a dimension is pulled up, in units of the features, > 0.
        eps: added to the variance, > 0; it bounds the gradient of a nearly constant dimension.
        layers: names in `model.named_modules()` whose activations are used, or "features"; empty for the features
            alone. With several, the mean over layers.
    """

    name: ClassVar[str] = "variance_hinge"
    strength: float = 1.0
    target: float = 1.0
    eps: float = 1e-4
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_strength(strength=self.strength)
        check_positive(target=self.target, eps=self.eps)

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The penalty of this batch."""
        loss = partial(variance_loss, target=self.target, eps=self.eps)
        return step.output.penalty(self.layers, loss, strength=self.strength)


@dataclass(frozen=True)
class CovariancePenalty:
    """Decorrelates the features as they are, without z-scores: `strength * covariance_loss(features)`.

    Attributes:
        strength: >= 0; 0 costs nothing. See this module for the default.
        layers: names in `model.named_modules()` whose activations are used, or "features"; empty for the features
            alone. With several, the mean over layers.
    """

    name: ClassVar[str] = "covariance_penalty"
    strength: float = 0.04
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_strength(strength=self.strength)

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The penalty of this batch."""
        return step.output.penalty(self.layers, covariance_loss, strength=self.strength)
