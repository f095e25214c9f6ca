"""FedDecorr within classes and between them, apart.

Ours, on the loss of Shi et al. (ICLR 2023, https://arxiv.org/abs/2210.00226). The scatter of a batch is the sum of two,

    T = W + B,      W = sum_i (z_i - m_(y_i)) (z_i - m_(y_i))^T,      B = sum_i (m_(y_i) - m) (m_(y_i) - m)^T

with m_c the mean of class c in the batch and m that of all. A client that holds C classes has a B of rank C - 1,
whatever its features are. With two classes B alone has all correlations at 1 or -1, and where a dimension has the share
eta^2 of its variance between the classes, that contributes `eta_i^2 eta_j^2` to FedDecorr's K_ij^2. So under label skew
FedDecorr lowers eta: it penalises dimensions for telling the client's few classes apart. W is what has room to spread,
up to n - C dimensions, and the two have coefficients of their own here:

    loss = within 62.016 P(W) + between 62.016 P(B)

P is FedDecorr's mean of the squared correlations off the diagonal, of W's and of B's correlation matrix; each weight is
less where a matrix has few degrees of freedom, n - C below 15, or C - 1 below 15 (`trust` of `terms/feddecorr.py`).
Within a single class W = T, and the loss is FedDecorr's. A class with one example in the batch adds nothing to W. With
C = 2 every correlation of B is 1 or -1, and it has no gradient.

`IntraClassDecorrelation` (FedMR) has a correlation matrix for each class, from that class's few examples. Here one
matrix is pooled over classes, whose spread they are assumed to share: n - C degrees of freedom in place of n_c - 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, get_args

from torch import Tensor

from decollapse.terms.eigenvalue_spread import eigenvalue_spread
from decollapse.terms.feddecorr import RELEASE_STRENGTH_AT_64, Matrix, trust
from decollapse.terms.moments import feature_loss
from decollapse.terms.ranges import check_choice, check_positive, check_strength

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from decollapse.objective import Step


def split_by_class(
    features: Float[Tensor, "n d"], y: Int[Tensor, "n"]
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"], int]:
    """Each example's deviation from its class mean; that mean; and the number of classes. The two add up to features.

    >>> import torch
    >>> within, between, num_classes = split_by_class(torch.tensor([[1.0], [3.0], [7.0]]), torch.tensor([4, 4, 9]))
    >>> within.flatten().tolist(), between.flatten().tolist(), num_classes
    ([-1.0, 1.0, 0.0], [2.0, 2.0, 7.0], 2)
    """
    same = (y[:, None] == y).to(features.dtype)
    first = same.argmax(dim=1)
    # Counted from an example of its class, a constant dimension is exactly 0, not the rounding error of its mean.
    origin = features.detach()[first]
    x = features - origin
    mean = same @ x / same.sum(dim=1, keepdim=True)
    return x - mean, origin + mean, len(first.unique())


@feature_loss
def within_class_decorrelation(
    features: Float[Tensor, "n d"], y: Int[Tensor, "n"], *, matrix: Matrix = "correlation", eps: float = 1e-8
) -> Float[Tensor, ""]:
    """`decorrelation_loss` of the features less their class means: 0 where dimensions agree in classes alone.

    Not changed by a shift of a class, nor by the scale of a dimension. 0 without two examples of a class.

    Args:
        features: the input of the classifier.
        y: labels.
        matrix: as in `decorrelation_loss`.
        eps: added to the variance, which is that of W over n - 1; > 0.

    >>> import torch
    >>> square = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]).repeat(4, 1)
    >>> y = torch.arange(2).repeat_interleave(16)
    >>> within_class_decorrelation(torch.cat([square, square + 10]), y).round(decimals=3)
    tensor(0.)
    """
    within, _, num_classes = split_by_class(features, y)
    return _spread(within, len(y) - num_classes, matrix, eps)


@feature_loss
def between_class_decorrelation(
    features: Float[Tensor, "n d"], y: Int[Tensor, "n"], *, matrix: Matrix = "correlation", eps: float = 1e-8
) -> Float[Tensor, ""]:
    """`decorrelation_loss` of the class means, each as often as its class has examples; 0 with fewer than 3 classes.

    Arguments as in `within_class_decorrelation`.
    """
    _, between, num_classes = split_by_class(features, y)
    return _spread(between, num_classes - 1, matrix, eps)


@dataclass(frozen=True)
class SplitFedDecorr:
    """Spreads the features within classes by one strength and the class means by another.

    Attributes:
        within: strength, >= 0, of `within_class_decorrelation`; means what beta means in `FedDecorr`.
        between: strength, >= 0, of `between_class_decorrelation`.
        matrix: "covariance" for a model without BatchNorm, see `FedDecorr`.
        eps: added to the variance, > 0.
        layers: names in `model.named_modules()`, or "features"; empty for the features alone. The mean over several.
    """

    name: ClassVar[str] = "split_feddecorr"
    within: float = 0.1
    between: float = 0.0
    matrix: Matrix = "correlation"
    eps: float = 1e-8
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_strength(within=self.within, between=self.between)
        check_choice("matrix", self.matrix, get_args(Matrix))
        check_positive(eps=self.eps)

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The penalty of this batch."""

        def within(z: Tensor) -> Tensor:
            return within_class_decorrelation(z, step.y, matrix=self.matrix, eps=self.eps)

        def between(z: Tensor) -> Tensor:
            return between_class_decorrelation(z, step.y, matrix=self.matrix, eps=self.eps)

        penalty = step.output.penalty
        return penalty(self.layers, within, strength=self.within) + penalty(self.layers, between, strength=self.between)


def _spread(part: Tensor, freedom: int, matrix: Matrix, eps: float) -> Tensor:
    strength = RELEASE_STRENGTH_AT_64 * trust(freedom + 1)
    if strength == 0.0:
        return part.sum() * 0.0
    return strength * eigenvalue_spread(part, pooled=matrix == "covariance", eps=eps)
