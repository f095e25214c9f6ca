"""Barlow Twins on one view: its redundancy reduction, which is FedDecorr times a constant.

Jure Zbontar, Li Jing, Ishan Misra, Yann LeCun, Stephane Deny, "Barlow Twins: Self-Supervised Learning via Redundancy
Reduction", ICML 2021, https://arxiv.org/abs/2103.03230. Reference code: https://github.com/facebookresearch/barlowtwins.

    K    = cross-correlation of the z-scored features of two views of the batch
    loss = sum_j (1 - K_jj)^2 + off_diagonal * sum_(j != k) K_jk^2

With one view K is FedDecorr's correlation matrix, its diagonal is 1, and with P of `decorrelation_loss`

    loss = off_diagonal * d (d - 1) P

so that `FedDecorr(beta)` and `BarlowTwins(62.016 beta / (d (d - 1)))` train alike with 16 examples or more. It is kept
because it is looked for under this name, and because its strength is per pair of dimensions: one value means the more
the more features there are. The paper's 0.0051 corresponds to beta 0.33 with 64 features, to 5.4 with 256 and to 135
with 1280.

Departures. There is one view. The diagonal is left out, where a constant dimension has 0 and not 1: it counts as
uncorrelated. z-scores are FedDecorr's, 1e-8 added to the variance of divisor n - 1; the reference code's BatchNorm
adds 1e-5 to that of divisor n, and the divisor cancels in K.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from decollapse.terms.feddecorr import decorrelation_loss
from decollapse.terms.ranges import check_strength

if TYPE_CHECKING:
    from jaxtyping import Float

    from decollapse.objective import Step


def barlow_loss(features: Float[Tensor, "n d"], *, off_diagonal: float = 0.0051) -> Float[Tensor, ""]:
    """`off_diagonal` times the sum of the squared correlations of different dimensions.

    Precision and errors are those of `decorrelation_loss`; so is the missing second derivative. It keeps its strength,
    and a steep gradient, where examples are few.

    >>> import torch
    >>> barlow_loss(torch.tensor([[1.0, 2.0], [-1.0, -2.0], [3.0, 6.0]]))  # two pairs of correlation 1
    tensor(0.0102)
    """
    loss = decorrelation_loss(features, normalization="release")
    n, d = features.shape
    return off_diagonal * d * (d - 1) * n / max(n - 1, 1) ** 2 * loss


@dataclass(frozen=True)
class BarlowTwins:
    """Decorrelates the z-scored features: `barlow_loss(features, off_diagonal=strength)`.

    Attributes:
        strength: the paper's lambda, >= 0; 0 costs nothing. It means more the more features there are; see this module.
        layers: names in `model.named_modules()` whose activations are used, or "features"; empty for the features
            alone. With several, the mean over layers.
    """

    name: ClassVar[str] = "barlow_twins"
    strength: float = 0.0051
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_strength(strength=self.strength)

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The penalty of this batch."""
        if self.strength == 0.0:
            return step.output.features.new_zeros(())
        return step.output.mean_over(self.layers, partial(barlow_loss, off_diagonal=self.strength))
