"""Uniformity: spread the directions of the features evenly over the sphere.

Tongzhou Wang, Phillip Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
Hypersphere", ICML 2020, https://arxiv.org/abs/2005.10242. Reference code: https://github.com/ssnl/align_uniform.

    z_i  = x_i / |x_i|
    loss = log mean_(i < j) exp(-t |z_i - z_j|^2)

`decollapse.spectrum.uniformity` is the same number as a measure, without gradient.

Departures. `z_i = x_i / sqrt(|x_i|^2 + 1e-8)`, so that a vector of zeros stays at the origin and has a finite
gradient. The default strength is ours and was not tuned; the reference code's 1 stands beside an alignment loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from decollapse.terms.moments import feature_loss, squared_distances, unit_length
from decollapse.terms.ranges import check_positive, check_strength

if TYPE_CHECKING:
    from jaxtyping import Float

    from decollapse.objective import Step


@feature_loss
def uniformity_loss(features: Float[Tensor, "n d"], *, t: float = 2.0) -> Float[Tensor, ""]:
    """How close together the directions of the features are: above -4 t, and 0 where all are one.

    >>> uniformity_loss(torch.tensor([[3.0, 0.0], [0.0, 2.0]]))  # a right angle: squared distance 2
    tensor(-4.)
    """
    n = len(features)
    closeness = -t * squared_distances(unit_length(features))
    itself = torch.eye(n, dtype=torch.bool, device=features.device)
    return closeness.masked_fill(itself, -math.inf).flatten().logsumexp(0) - math.log(n * (n - 1))


@dataclass(frozen=True)
class Uniformity:
    """Pushes the directions of a batch's features apart: `strength * uniformity_loss(features)`.

    Attributes:
        strength: >= 0; 0 costs nothing. See this module for the default.
        t: how local the push is, > 0: the larger, the more the nearest pairs count.
        layers: names in `model.named_modules()` whose activations are used, or "features"; empty for the features
            alone. With several, the mean over layers.
    """

    name: ClassVar[str] = "uniformity"
    strength: float = 0.1
    t: float = 2.0
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_strength(strength=self.strength)
        check_positive(t=self.t)

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The penalty of this batch."""
        return step.output.penalty(self.layers, partial(uniformity_loss, t=self.t), strength=self.strength)
