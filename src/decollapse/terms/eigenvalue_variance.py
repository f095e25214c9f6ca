"""The variance of the eigenvalues, as the FedDecorr paper defines collapse, computed from the eigenvalues.

Yujun Shi, Jian Liang, Wenqing Zhang, Vincent Y. F. Tan, Song Bai, "Towards Understanding and Mitigating Dimensional
Collapse in Heterogeneous Federated Learning", ICLR 2023, https://arxiv.org/abs/2210.00226.

    loss = 1 / d sum_i (lambda_i - mean lambda)^2,      lambda: eigenvalues of the correlation matrix K

The paper wants this, and replaces it by a Frobenius norm that needs no eigenvalues. Because the lambda_i sum to d,

    loss = (||K||_F^2 - d) / d = (d - 1) P        P of `decorrelation_loss`

so `FedDecorr(beta)` and `EigenvalueVariance(62.016 beta / (d - 1))` train alike with 16 examples or more, and the
default here is FedDecorr's 0.1 with 64 features. This one is the slow, exact reference that FedDecorr is compared with;
train with FedDecorr.

Departures. A constant dimension has 0 on the diagonal of K, not 1. The variance this adds to the eigenvalues is taken
off again, so that it counts as uncorrelated, as it does in `decorrelation_loss`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, get_args

import torch
from torch import Tensor

from decollapse.terms.feddecorr import Matrix
from decollapse.terms.moments import centre, feature_loss, standardize, variances
from decollapse.terms.ranges import check_choice, check_positive, check_strength

if TYPE_CHECKING:
    from jaxtyping import Float

    from decollapse.objective import Step


@feature_loss
def eigenvalue_variance(
    features: Float[Tensor, "n d"], *, matrix: Matrix = "correlation", eps: float = 1e-8
) -> Float[Tensor, ""]:
    """The variance of the eigenvalues: 0 if all directions are used equally, d - 1 if there is one.

    The eigenvalue problem is of n x n where n < d; the other eigenvalues are 0.

    Args:
        features: the input of the classifier.
        matrix: "correlation", or "covariance" divided by the mean variance; as in `decorrelation_loss`.
        eps: added to the variance, > 0.

    >>> eigenvalue_variance(torch.tensor([[1.0, 2.0], [-1.0, -2.0], [3.0, 6.0]]))  # eigenvalues 2 and 0
    tensor(1.0000)
    """
    check_choice("matrix", matrix, get_args(Matrix))
    n, d = features.shape
    if matrix == "correlation":
        z, _ = standardize(features, eps=eps)
        diagonal = z.square().sum(0)
        unequal_diagonal = (diagonal - diagonal.mean()).square().sum()
    else:
        centred = centre(features)
        z = centred * ((variances(centred).mean() + eps) * (n - 1)).rsqrt()
        unequal_diagonal = z.new_zeros(())
    product = z @ z.T if n < d else z.T @ z
    # Given NaN the solver raises; the sum brings the NaN back.
    values: Tensor = torch.linalg.eigvalsh(product.nan_to_num(0.0, 0.0, 0.0)) + 0 * product.sum()
    mean = values.sum() / d
    spread = (values - mean).square().sum() + (d - len(values)) * mean.square()
    return (spread - unequal_diagonal) / d


@dataclass(frozen=True)
class EigenvalueVariance:
    """FedDecorr by an eigenvalue solver: `strength * eigenvalue_variance(features)`.

    Attributes:
        strength: >= 0; 0 costs nothing. It means more the more features there are; see this module.
        matrix: "correlation" or "covariance", see `eigenvalue_variance`.
        eps: added to the variance, > 0.
        layers: names in `model.named_modules()` whose activations are used, or "features"; empty for the features
            alone. With several, the mean over layers.
    """

    name: ClassVar[str] = "eigenvalue_variance"
    strength: float = 0.1
    matrix: Matrix = "correlation"
    eps: float = 1e-8
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_strength(strength=self.strength)
        check_choice("matrix", self.matrix, get_args(Matrix))
        check_positive(eps=self.eps)

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The penalty of this batch."""
        loss = partial(eigenvalue_variance, matrix=self.matrix, eps=self.eps)
        return step.output.penalty(self.layers, loss, strength=self.strength)
