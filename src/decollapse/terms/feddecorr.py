"""FedDecorr: keep a client's features from collapsing onto few dimensions.

Yujun Shi, Jian Liang, Wenqing Zhang, Vincent Y. F. Tan, Song Bai, "Towards Understanding and Mitigating Dimensional
Collapse in Heterogeneous Federated Learning", ICLR 2023, https://arxiv.org/abs/2210.00226. Reference release:
https://github.com/bytedance/FedDecorr, commit 973e4af.

For a batch of n feature vectors of dimension d, let lambda_1..lambda_d be the eigenvalues of its correlation matrix K.
The paper penalises their variance, `sum (lambda_i - mean)^2 = ||K||_F^2 - d`, through `L = ||K||_F^2 / d^2`. L is
exactly one over the participation ratio of the spectrum: FedDecorr maximises the number of dimensions in use.

Departures. The default strength does not depend on the batch size from 16 on; the release's grows with it.
`matrix="covariance"` is ours: L for the covariance, `||C||_F^2 / (tr C)^2`, the same number where all variances are
equal. A correlation knows no variance, so to the paper's formula a unit that never fires is as good as an independent
one: **without BatchNorm, ReLU units die of it.** C counts a dead dimension as lost, has no 1 / std in its gradient, and
no coefficient of its own.

    use "correlation"                     with BatchNorm in front of the features, and to reproduce the paper
    use "covariance", beta 0.01 to 0.03   without BatchNorm; with it, both did about the same

Measured by benchmarks/dead_units.py: digits, MLP 64-128-128-10, Dirichlet 0.05, 20 rounds of 5 epochs, mean of 3 seeds;
accuracy in % (seeds differ by 7 to 14 points), dead units of 128, effective rank of the test features:

                        without norm: accuracy  dead  rank    with BatchNorm: accuracy  dead  rank
    no penalty                            65.6    23   3.5                        82.9     0    35
    correlation, beta 0.03                63.1    73   3.9                        82.5     0    49
                 beta 0.1                 55.6    93   3.6                        80.6     0    58
    covariance,  beta 0.03                74.3    14  12.6                        82.5     0    50
                 beta 0.1                 59.3     8  26.9                        79.1     0    60

It does not always pay. 1,500 Fashion-MNIST images, well-scaled weights, no norm, 2 seeds: no penalty 72.0 %, 0 dead,
rank 13; correlation, beta 0.1: 62.9 %, 46 dead, rank 8; covariance, beta 0.1: 68.6 %, 0 dead, rank 53. With
BatchNorm: 59.5 %, rank 35; 59.1 %, rank 67; 58.5 %, rank 71.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from torch import Tensor, nn

from decollapse.terms.eigenvalue_spread import eigenvalue_spread
from decollapse.terms.moments import floating_matrix
from decollapse.terms.ranges import check_choice, check_positive, check_strength

if TYPE_CHECKING:
    from jaxtyping import Float

    from decollapse.objective import Step

Normalization = Literal["batch_invariant", "width_invariant", "release", "paper"]
Matrix = Literal["correlation", "covariance"]

RELEASE_STRENGTH_AT_64 = 63**2 / 64
"""62.016, the release's (n - 1)^2 / n at its batch of n = 64: with it, beta means here what it means there."""

RELEASE_WIDTH = 1280
"""MobileNetV2's features, at which `width_invariant` is `batch_invariant`."""

FEW = 16
"""Examples below which a correlation is mostly noise, and `batch_invariant` falls with n as `release` does."""


def decorrelation_loss(
    features: Float[Tensor, "n d"],
    *,
    normalization: Normalization = "batch_invariant",
    matrix: Matrix = "correlation",
    eps: float = 1e-8,
) -> Float[Tensor, ""]:
    """How unequally a batch uses its feature dimensions: 0 if they are uncorrelated, largest if all repeat one.

        s_j^2 = eps + unbiased variance of dimension j     ("covariance": the mean of that over j, for every j)
        z_ij  = (features_ij - mean_j) / s_j
        K     = z^T z / (n - 1)
        P     = sum_i (lambda_i - mean lambda)^2 / (d (d - 1))        = mean of K_ij^2 over i != j, from 0 to 1
        loss  = 62.016 P  |  62.016 sqrt(d / 1280) P  |  (n - 1)^2 / n P  |  (1 + (d - 1) P) / d
                                             the last: ||K||_F^2 / d^2 = 1 / participation ratio

    Independent dimensions have P of about 1 / (n - 1), because the rank of K is below n. The fewer the examples, the
    likelier some dimension hardly differs between them, and its gradient is up to 1 / sqrt(eps): with n below 16 the
    first two forms have 4.41 (n - 1)^2 / n in the place of 62.016, which keeps the gradient about what it is at 16, and
    with n = 2, where every correlation is 1 or -1, they are 0. With n = 1 or 0 every form is 0, connected to the graph.
    A non-finite feature, or an overflowing variance, makes loss and gradient NaN: nothing is masked. There is no second
    derivative: asking for one raises RuntimeError.

    Args:
        features: the input of the classifier. Half precision is computed, and returned, in float32.
        normalization: "batch_invariant" means the same at every batch size from 16 on; "width_invariant" also at every
            feature dimension, as long as the features span as many directions, see docs/remedies.md; "release" is the
            reference release's formula, equal at n = 64, weaker in smaller batches; "paper" is the paper's.
            `convert_beta` translates.
        matrix: "correlation" is the paper's, blind to each dimension's scale: a constant one counts as uncorrelated,
            and the gradient of one with a small s_j is large, as 1 / s_j, down to s_j = sqrt(eps). "covariance" keeps
            the scales: a constant dimension costs as a lost one. The choice for features without BatchNorm.
        eps: > 0, in squared units of the features.

    Raises:
        ValueError: features are no matrix or have one dimension; an unknown option; eps not above 0.
        TypeError: features are not floating-point.

    >>> import torch
    >>> repeated = torch.tensor([[1.0, 2.0], [-1.0, -2.0]]).repeat(32, 1)
    >>> decorrelation_loss(repeated), decorrelation_loss(repeated, normalization="paper")
    (tensor(62.0156), tensor(1.))
    """
    _check_options(normalization, matrix, eps)
    x = floating_matrix(features)
    n, d = x.shape
    if n < 2:
        return x.sum() * 0.0
    penalty = eigenvalue_spread(x, pooled=matrix == "covariance", eps=eps)
    if normalization == "paper":
        return (1 + (d - 1) * penalty) / d
    return penalty * _strength(normalization, n, d)


def convert_beta(beta: float, *, source: Normalization, target: Normalization, n: int, d: int) -> float:
    """The beta that gives the same gradient under another normalisation.

    Args:
        beta: the coefficient under `source`.
        source: the normalisation it was chosen for.
        target: the one to use it with.
        n: batch size, >= 3.
        d: feature dimension, >= 2.

    >>> round(convert_beta(0.1, source="release", target="paper", n=64, d=1280), 2)
    6.21
    """
    if n < 3 or d < 2:
        raise ValueError(f"the loss has a gradient from n = 3 examples and d = 2 dimensions on, got n = {n}, d = {d}.")
    for normalization in (source, target):
        check_choice("normalization", normalization, get_args(Normalization))
    of_source, of_target = ((d - 1) / d if each == "paper" else _strength(each, n, d) for each in (source, target))
    return beta * of_source / of_target


def _strength(normalization: Normalization, n: int, d: int) -> float:
    """The factor of P."""
    if normalization == "release":
        return (n - 1) ** 2 / n
    width = (d / RELEASE_WIDTH) ** 0.5 if normalization == "width_invariant" else 1.0
    return RELEASE_STRENGTH_AT_64 * trust(n) * width


def trust(n: int) -> float:
    """How much of its strength a penalty on the correlations of n examples keeps: 0 up to n = 2, 1 from 16 on.

    >>> [round(trust(n), 2) for n in (2, 3, 8, 16, 64)]
    [0.0, 0.09, 0.44, 1.0, 1.0]
    """
    return min(1.0, ((n - 1) ** 2 / n) / ((FEW - 1) ** 2 / FEW)) if n > 2 else 0.0


class FedDecorrLoss(nn.Module):
    """`decorrelation_loss` as a module, for a training loop of your own: `loss + 0.1 * FedDecorrLoss()(features)`.

    Takes the same options. It has no parameters and no state.

    >>> FedDecorrLoss(matrix="covariance")
    FedDecorrLoss(normalization='batch_invariant', matrix='covariance', eps=1e-08)
    """

    def __init__(
        self,
        *,
        normalization: Normalization = "batch_invariant",
        matrix: Matrix = "correlation",
        eps: float = 1e-8,
    ) -> None:
        super().__init__()
        _check_options(normalization, matrix, eps)
        self.normalization, self.matrix, self.eps = normalization, matrix, eps

    def forward(self, features: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
        """The loss of one batch, without a coefficient."""
        return decorrelation_loss(features, normalization=self.normalization, matrix=self.matrix, eps=self.eps)

    def extra_repr(self) -> str:
        """The options, for `print(model)`."""
        return f"normalization={self.normalization!r}, matrix={self.matrix!r}, eps={self.eps}"


@dataclass(frozen=True)
class FedDecorr:
    """Spreads a client's features over all dimensions: `beta * decorrelation_loss(features)`.

    Attributes:
        beta: strength, >= 0; 0 costs nothing and leaves the gradient as it is. The release's protocol has 0.1, and 0.05
            on CIFAR-100, for MobileNetV2's 1280 features.
        normalization: what beta means, see `decorrelation_loss`.
        matrix: "covariance" for a model without BatchNorm, whose units "correlation" kills; see this module's numbers.
        eps: added to the variance, see `decorrelation_loss`.
        layers: names in `model.named_modules()`, or "features"; empty for the features alone. The mean over several.
    """

    name: ClassVar[str] = "feddecorr"
    beta: float = 0.1
    normalization: Normalization = "batch_invariant"
    matrix: Matrix = "correlation"
    eps: float = 1e-8
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_strength(beta=self.beta)
        _check_options(self.normalization, self.matrix, self.eps)

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The penalty of this batch."""
        loss = partial(decorrelation_loss, normalization=self.normalization, matrix=self.matrix, eps=self.eps)
        return step.output.penalty(self.layers, loss, strength=self.beta)


def _check_options(normalization: str, matrix: str, eps: float) -> None:
    check_choice("normalization", normalization, get_args(Normalization))
    check_choice("matrix", matrix, get_args(Matrix))
    check_positive(eps=eps)
