"""KoLeo: push every feature vector away from its nearest neighbour in the batch.

Alexandre Sablayrolles, Matthijs Douze, Cordelia Schmid, Herve Jegou, "Spreading vectors for similarity search", ICLR
2019, https://arxiv.org/abs/1806.03198. Reference code: https://github.com/facebookresearch/spreadingvectors.

    z_i   = x_i / |x_i|
    rho_i = min_(j != i) |z_i - z_j|
    loss  = - mean_i log rho_i,         up to a constant the Kozachenko-Leonenko estimate of minus the entropy of z

Departures. rho is `sqrt(|z_i - z_j|^2 + eps)`: the logarithm and its gradient, 1 / rho, have no bound where two
examples coincide, as those of collapsed features do; with eps = 1e-6 the gradient of log rho stays below 500.
`z_i = x_i / sqrt(|x_i|^2 + 1e-8)`, so that a vector of zeros stays at the origin and has a finite gradient. The
reference code's `log n` is left out, a constant. The default strength is ours and was not tuned; the reference code has
0.05 beside a triplet loss.
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
def koleo_loss(features: Float[Tensor, "n d"], *, eps: float = 1e-6) -> Float[Tensor, ""]:
    """Minus the mean logarithm of the distance to the nearest neighbour: the lower, the more spread out.

    From -log 2 for two opposed vectors to `-log(eps) / 2` where every example has a double. Both of a pair of
    neighbours are pushed.

    >>> koleo_loss(torch.tensor([[3.0, 0.0], [0.0, 2.0]]))  # both at sqrt(2) from the other: -log(2) / 2
    tensor(-0.3466)
    """
    z = unit_length(features)
    with torch.no_grad():
        distances = squared_distances(z)
        nearest = distances.fill_diagonal_(math.inf).argmin(dim=1)
    offset = z - z[nearest]  # not the distance of the product above, whose rounding error is as large as a double's
    return -0.5 * (offset.square().sum(1) + eps).log().mean()


@dataclass(frozen=True)
class KoLeo:
    """Pushes each feature vector away from its nearest neighbour: `strength * koleo_loss(features)`.

    Attributes:
        strength: >= 0; 0 costs nothing. See this module for the default.
        eps: added to the squared distances of vectors of length 1, > 0: examples closer than its root count as one.
        layers: names in `model.named_modules()` whose activations are used, or "features"; empty for the features
            alone. With several, the mean over layers.
    """

    name: ClassVar[str] = "koleo"
    strength: float = 0.1
    eps: float = 1e-6
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_strength(strength=self.strength)
        check_positive(eps=self.eps)

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The penalty of this batch."""
        return step.output.penalty(self.layers, partial(koleo_loss, eps=self.eps), strength=self.strength)
