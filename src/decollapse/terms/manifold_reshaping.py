"""FedMR, the half within classes: keep the features of each class from collapsing onto few dimensions.

Ziqing Fan, Jiangchao Yao, Ruipeng Zhang, Lingjuan Lyu, Ya Zhang, Yanfeng Wang, "Federated Learning under Partially
Class-Disjoint Data via Manifold Reshaping", TMLR 2023, https://arxiv.org/abs/2405.18983. Authors' code:
https://github.com/MediaBrain-SJTU/FedMR.

    X_c = features of the n_c examples of class c, minus their mean, over sqrt(their unbiased variance + eps)
    L   = sum over classes with n_c >= 2 of [ mean over j != k of (X_c^T X_c)_jk^2 ]  /  sum of their n_c

The other half of FedMR, a margin between a client's features and the mean features ("prototypes") of all clients'
classes, is not here: the public code does not contain it, and we could not check its equation against the paper.

The formula is that of the code. As there, X_c^T X_c is not divided by n_c - 1, so L grows with the batch: within a
class, uncorrelated dimensions contribute about n_c - 1 and repeated ones (n_c - 1)^2, over the number of examples.

Departures, none of which changes the value: one n x n Gram matrix for all classes instead of a d x d matrix for each;
features are taken relative to an example of their class first, so that a constant dimension is exactly 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from decollapse.terms.ranges import check_positive, check_strength

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from decollapse.objective import Step


def intra_class_decorrelation(
    features: Float[Tensor, "n d"], y: Int[Tensor, "n"], *, eps: float = 1e-8
) -> Float[Tensor, ""]:
    """How strongly the feature dimensions of the examples of one class repeat each other: 0 if they are uncorrelated.

    Classes with one example in the batch do not count; without any other the loss is 0, connected to the graph. A class
    of two has correlations of 1 and -1 only, and no gradient. To the formula a dimension that is constant in a class is
    uncorrelated there: it costs nothing, as an independent one does, and has no gradient. Of one with a small standard
    deviation s the gradient is large, as 1 / s, down to s = sqrt(eps); without BatchNorm a larger eps bounds it.

    Args:
        features: the input of the classifier.
        y: labels.
        eps: > 0, added to the variance, in squared units of the features.

    Raises:
        ValueError: features are not of shape (n, d) with d of 2 or more.

    >>> import torch
    >>> repeated = torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0], [5.0, 0.0]])
    >>> intra_class_decorrelation(repeated, torch.tensor([0, 0, 0, 1]))
    tensor(1.3333)
    """
    if features.ndim != 2 or features.shape[1] < 2:
        raise ValueError(f"features need shape (n, d) with at least 2 dimensions, got {tuple(features.shape)}.")
    d = features.shape[1]
    same = (y[:, None] == y).to(features.dtype)
    size = same.sum(dim=1, keepdim=True)
    # Against an example of its class, a constant dimension is exactly 0, not the rounding error of its mean.
    x = features - features.detach()[same.argmax(dim=1)]
    x = x - same @ x / size
    variance = same @ x.square() / (size - 1).clamp_min(1)
    z = x * (variance + eps).rsqrt()
    # ||X_c^T X_c||_F = ||X_c X_c^T||_F: all classes at once, in the blocks of one n x n matrix.
    all_entries = (same * (z @ z.T)).square().sum()
    diagonal = (((size - 1) * variance / (variance + eps)).square() / size).sum()
    num_examples = (size >= 2).sum().clamp_min(1)
    return (all_entries - diagonal) / (d * (d - 1) * num_examples)


@dataclass(frozen=True)
class IntraClassDecorrelation:
    """Spreads the features of each class over all dimensions: `mu * intra_class_decorrelation(features, y)`.

    Attributes:
        mu: strength, >= 0 and finite; 0 is FedAvg. The authors' default is 0.01, at batches of 64.
        eps: > 0, added to the variance, see `intra_class_decorrelation`.
        layers: names in `model.named_modules()` whose activations are used, or "features"; empty for the features.
    """

    name: ClassVar[str] = "intra_class_decorrelation"
    mu: float = 0.01
    eps: float = 1e-8
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_strength(mu=self.mu)
        check_positive(eps=self.eps)

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The penalty of this batch, a mean over `layers`."""
        return step.output.penalty(
            self.layers, lambda z: intra_class_decorrelation(z, step.y, eps=self.eps), strength=self.mu
        )
