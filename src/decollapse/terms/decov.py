"""DeCov: penalise the covariances of different features.

Michael Cogswell, Faruk Ahmed, Ross Girshick, Larry Zitnick, Dhruv Batra, "Reducing Overfitting in Deep Networks by
Decorrelating Representations", ICLR 2016, https://arxiv.org/abs/1511.06068.

    C    = covariance of the batch, with divisor n
    loss = (||C||_F^2 - ||diag C||^2) / 2                = d / 2 ((n - 1) / n)^2 covariance_loss of VICReg

It is a sum over d (d - 1) pairs, so a strength means more the more features there are, and its features are not
z-scored: shrinking them to 0 minimises it. Cross-entropy alone opposes that.

Departures. The default strength is ours and was not tuned: with 64 features, 0.001 is VICReg's covariance penalty with
strength 0.03. Divide it by the number of features when that changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from decollapse.terms.moments import centre, feature_loss, off_diagonal_energy
from decollapse.terms.ranges import check_strength

if TYPE_CHECKING:
    from jaxtyping import Float

    from decollapse.objective import Step


@feature_loss
def decov_loss(features: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Half the sum of the squared covariances of different dimensions; a constant one counts as uncorrelated.

    >>> import torch
    >>> decov_loss(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))  # (0.25^2 + 0.25^2) / 2
    tensor(0.0625)
    """
    return 0.5 * off_diagonal_energy(centre(features) / len(features) ** 0.5)


@dataclass(frozen=True)
class DeCov:
    """Decorrelates the features as they are, without z-scores: `strength * decov_loss(features)`.

    Attributes:
        strength: >= 0; 0 costs nothing. It means more the more features there are; see this module.
        layers: names in `model.named_modules()` whose activations are used, or "features"; empty for the features
            alone. With several, the mean over layers.
    """

    name: ClassVar[str] = "decov"
    strength: float = 0.001
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_strength(strength=self.strength)

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The penalty of this batch."""
        return step.output.penalty(self.layers, decov_loss, strength=self.strength)
