"""A variance hinge that knows no scale: no feature's standard deviation may fall far below the others'.

Ours, after the hinge of VICReg (Bardes, Ponce, LeCun, ICLR 2022, https://arxiv.org/abs/2105.04906), whose target is in
units of the features: it forbids small features, where a classifier may want them, and lets a unit die while the others
are large. Here the target is a share of their own root mean square,

    loss = mean_j max(0, target - s_j / s),      s_j^2 = variance of dimension j + eps,      s^2 = mean of s_j^2

so that a constant dimension costs `target`, and the scale of all features together nothing.

FedDecorr's correlation cannot see a dimension's variance, and without BatchNorm lowers its loss by letting ReLU units
die. This is the missing half: use it beside any penalty on correlations, with about ten times its beta. What it cannot
do is wake a unit that never fires on any example, which has no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch

from decollapse.terms.moments import centre, feature_loss, variances
from decollapse.terms.ranges import check_positive, check_share, check_strength

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from decollapse.objective import Step


@feature_loss
def relative_variance_loss(
    features: Float[Tensor, "n d"], *, target: float = 1.0, eps: float = 1e-8
) -> Float[Tensor, ""]:
    """By how much the dimensions' standard deviations fall short of `target` of their root mean square, on average.

    From 0 to `target`. Scaling all features changes nothing, as far as eps allows, nor does shifting one. The gradient
    of a nearly constant dimension is no larger than that of another; of a constant one it is 0.

    Args:
        features: the input of the classifier.
        target: a share from 0 to 1; with 1, only equal variances cost nothing.
        eps: added to the variance, > 0.

    >>> features = torch.tensor([[7.0, 1.0], [-7.0, -1.0]])  # standard deviations as 7 : 1, their rms 5
    >>> relative_variance_loss(features), relative_variance_loss(features, target=0.5)  # (1 - 1 / 5) / 2
    (tensor(0.4000), tensor(0.1500))
    """
    variance = variances(centre(features)) + eps
    return torch.relu(target - (variance / variance.mean()).sqrt()).mean()


@dataclass(frozen=True)
class RelativeVarianceHinge:
    """Keeps every feature alive beside the others: `strength * relative_variance_loss(features)`.

    Attributes:
        strength: >= 0; 0 costs nothing.
        target: share of the root mean square below which a dimension is pulled up, 0 to 1.
        eps: added to the variance, > 0, in squared units of the features.
        layers: names in `model.named_modules()` whose activations are used, or "features"; empty for the features
            alone. With several, the mean over layers.
    """

    name: ClassVar[str] = "relative_variance_hinge"
    strength: float = 0.3
    target: float = 1.0
    eps: float = 1e-8
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_strength(strength=self.strength)
        check_share(target=self.target)
        check_positive(eps=self.eps)

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The penalty of this batch."""
        loss = partial(relative_variance_loss, target=self.target, eps=self.eps)
        return step.output.penalty(self.layers, loss, strength=self.strength)
