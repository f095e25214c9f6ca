"""FedDecorr: keep a client's features from collapsing onto few dimensions.

Yujun Shi, Jian Liang, Wenqing Zhang, Vincent Y. F. Tan, Song Bai, "Towards Understanding and Mitigating Dimensional
Collapse in Heterogeneous Federated Learning", ICLR 2023, https://arxiv.org/abs/2210.00226. Reference release:
https://github.com/bytedance/FedDecorr, commit 973e4af.

For a batch of n feature vectors of dimension d, let lambda_1..lambda_d be the eigenvalues of its correlation matrix K.
The paper penalises their variance, `sum (lambda_i - mean)^2 = ||K||_F^2 - d`, through `L = ||K||_F^2 / d^2`. L is
exactly one over the participation ratio of the spectrum: FedDecorr maximises the number of dimensions in use.

Departures. The default strength does not depend on the batch size; the release's grows with it. `matrix="covariance"`
is ours: L for the covariance, `||C||_F^2 / (tr C)^2`, the same number where all variances are equal. A correlation
knows no variance, so to the paper's formula a unit that never fires is as good as an independent one: **without
BatchNorm, ReLU units die of it.** C counts a dead dimension as lost, has no 1 / std in its gradient, and no coefficient
of its own.

    use "correlation"                     with BatchNorm in front of the features, and to reproduce the paper
    use "covariance", beta 0.01 to 0.03   without BatchNorm; with it, both did about the same

Measured by benchmarks/dead_units.py: digits, MLP 64-128-128-10, Dirichlet 0.05, 20 rounds of 5 epochs, mean of 3 seeds;
accuracy in % (seeds differ by 7 to 14 points), dead units of 128, effective rank of the test features:

                        without norm: accuracy  dead  rank    with BatchNorm: accuracy  dead  rank
    no penalty                            65.6    23   3.5                        82.9     0    35
    correlation, beta 0.03                63.7    74   3.9                        82.6     0    49
                 beta 0.1                 55.7    92   3.6                        80.4     0    58
    covariance,  beta 0.03                74.5    14  12.7                        82.3     0    50
                 beta 0.1                 59.1     8  27.1                        79.3     0    60

It does not always pay. 1,500 Fashion-MNIST images, well-scaled weights, no norm, 2 seeds: no penalty 72.0 %, 0 dead,
rank 13; correlation, beta 0.1: 62.9 %, 46 dead, rank 8; covariance, beta 0.1: 68.6 %, 0 dead, rank 53. With
BatchNorm: 59.5 %, rank 35; 59.1 %, rank 67; 58.5 %, rank 71.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd import Function

if TYPE_CHECKING:
    from jaxtyping import Float

    from decollapse.objective import Step

Normalization = Literal["batch_invariant", "release", "paper"]
Matrix = Literal["correlation", "covariance"]

RELEASE_STRENGTH_AT_64 = 63**2 / 64
"""62.016, the release's (n - 1)^2 / n at its batch of n = 64: with it, beta means here what it means there."""


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
        loss  = 62.016 P  |  (n - 1)^2 / n P  |  (1 + (d - 1) P) / d  = ||K||_F^2 / d^2 = 1 / participation ratio

    Independent dimensions have P of about 1 / (n - 1), because the rank of K is below n. With n = 2, P is 1 and has no
    gradient; with n = 1 or 0 the loss is 0, connected to the graph. A non-finite feature, or an overflowing variance,
    makes loss and gradient NaN: nothing is masked. There is no second derivative: asking for one raises RuntimeError.

    Args:
        features: the input of the classifier. Half precision is computed, and returned, in float32.
        normalization: "batch_invariant" means the same at every batch size; "release" is the reference release's
            formula, equal at n = 64, weaker in smaller batches; "paper" is the paper's. `convert_beta` translates.
        matrix: "correlation" is the paper's, blind to each dimension's scale: a constant one counts as uncorrelated,
            and the gradient of one with a small s_j is large, as 1 / s_j, down to s_j = sqrt(eps). "covariance" keeps
            the scales: a constant dimension costs as a lost one. The choice for features without BatchNorm.
        eps: > 0, in squared units of the features.

    Raises:
        ValueError: features are no matrix or have one dimension; an unknown option; eps not above 0.
        TypeError: features are not floating-point.

    >>> repeated = torch.tensor([[1.0, 2.0], [-1.0, -2.0], [3.0, 6.0]])
    >>> decorrelation_loss(repeated), decorrelation_loss(repeated, normalization="paper")
    (tensor(62.0156), tensor(1.))
    """
    _check_options(normalization, matrix, eps)
    _check_features(features)
    n, d = features.shape
    x = features if features.dtype in (torch.float32, torch.float64) else features.float()
    if n < 2:
        return x.sum() * 0.0
    penalty: Tensor = _Penalty.apply(x, eps, matrix == "covariance")  # type: ignore[no-untyped-call]
    if normalization == "paper":
        return (1 + (d - 1) * penalty) / d
    return penalty * (RELEASE_STRENGTH_AT_64 if normalization == "batch_invariant" else (n - 1) ** 2 / n)


def convert_beta(beta: float, *, source: Normalization, target: Normalization, n: int, d: int) -> float:
    """The beta that gives the same gradient under another normalisation.

    Args:
        beta: the coefficient under `source`.
        source: the normalisation it was chosen for.
        target: the one to use it with.
        n: batch size, >= 2.
        d: feature dimension, >= 2.

    >>> round(convert_beta(0.1, source="release", target="paper", n=64, d=1280), 2)
    6.21
    """
    if n < 2 or d < 2:
        raise ValueError(f"the loss has a gradient from n = 2 examples and d = 2 dimensions on, got n = {n}, d = {d}.")
    strength = {"batch_invariant": RELEASE_STRENGTH_AT_64, "release": (n - 1) ** 2 / n, "paper": (d - 1) / d}
    for normalization in (source, target):
        _check_choice("normalization", normalization, get_args(Normalization))
    return beta * strength[source] / strength[target]


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
        if not 0.0 <= self.beta < math.inf:
            raise ValueError(f"beta is a penalty's strength, a finite number from 0 on, got {self.beta}.")
        _check_options(self.normalization, self.matrix, self.eps)

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The penalty of this batch."""
        if self.beta == 0.0:
            return step.output.features.new_zeros(())
        loss = partial(decorrelation_loss, normalization=self.normalization, matrix=self.matrix, eps=self.eps)
        return self.beta * step.output.mean_over(self.layers, loss)


class _Penalty(Function):
    """P of `decorrelation_loss`, with n x n products where n < d and d x d ones elsewhere.

    With q_j = sum_i z_ij^2, C = z^T z and G = z z^T, `sum_ij C_ij^2 = sum_ij G_ij^2` gives

        sum (lambda_i - mean)^2 (n - 1)^2 = ||G||_F^2 - sum_j q_j^2 = ||C - diag(q)||_F^2

    for both matrices, if "covariance" replaces q_j, and the p_j of the gradient, by their means over j.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, eps: float, pooled: bool) -> Tensor:
        """Values only; the gradient is `_PenaltyGradient`."""
        n, d = features.shape
        with torch.autocast(features.device.type, enabled=False):
            # Against the first example, a constant dimension is exactly 0, not the rounding error of its mean.
            x = features - features[0]
            x = x - x.mean(0)
            variance = torch.linalg.vecdot(x, x, dim=0) / (n - 1)
            if pooled:
                variance = variance.mean()
            # 0 * inf is NaN: a variance that overflows must not pass for a loss of 0.
            inverse_std = (variance + eps).rsqrt() + 0 * variance
            z = x * inverse_std
            energy = torch.linalg.vecdot(z, z, dim=0)
            if pooled:
                energy = energy.mean().expand(d)
            if n < d:
                products = z @ z.T
                spread = products.square().sum() - energy.square().sum()
            else:
                products = z.T @ z - torch.diag(energy)
                spread = products.square().sum()
        ctx.save_for_backward(features, z, products, energy, inverse_std)
        ctx.pooled = pooled
        value: Tensor = spread / ((n - 1) ** 2 * d * (d - 1))
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """The gradient with respect to the features, as a function that itself refuses to be differentiated."""
        return _PenaltyGradient.apply(grad, *ctx.saved_tensors, ctx.pooled), None, None  # type: ignore[no-untyped-call]


class _PenaltyGradient(Function):
    """The gradient of `_Penalty`: `4 / s (C z - z q - z (p - q^2) / (n - 1))`, p_j = sum_i z_ij (G z)_ij.

    A function of its own because `once_differentiable` lets a second derivative of `cross_entropy + penalty` pass in
    silence, without the penalty's part. `features` is among the arguments for the same reason.
    """

    @staticmethod
    def forward(
        ctx: Any,
        grad: Tensor,
        features: Tensor,
        z: Tensor,
        products: Tensor,
        energy: Tensor,
        inverse_std: Tensor,
        pooled: bool,
    ) -> Tensor:
        """One product with the saved matrix, then the way back through the normalisation."""
        n, d = z.shape
        with torch.autocast(z.device.type, enabled=False):
            pull = torch.addcmul(products @ z, z, energy, value=-1) if n < d else z @ products
            along = torch.linalg.vecdot(z, pull, dim=0)
            pull = torch.addcmul(pull, z, (along.mean() if pooled else along) / (n - 1), value=-1)
            return pull * (inverse_std * grad * (4 / ((n - 1) ** 2 * d * (d - 1))))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Refuses."""
        raise RuntimeError(
            "decorrelation_loss has no second derivative: leave it out of the loss you differentiate twice, "
            "or call backward without create_graph=True."
        )


def _check_features(features: Tensor) -> None:
    shape = tuple(features.shape)
    if features.dim() > 2:
        raise ValueError(
            f"features need one vector an example, shape (n, d), got shape {shape}; "
            "pool feature maps first: features.flatten(2).mean(2) for (n, channels, height, width)."
        )
    if features.dim() < 2:
        raise ValueError(f"features need shape (n, d), a batch of n vectors, got shape {shape}.")
    if shape[1] < 2:
        raise ValueError(f"features need at least 2 dimensions, got shape {shape}.")
    if not features.is_floating_point():
        raise TypeError(f"features must be real floating-point numbers, got {features.dtype}; call .float() on them.")


def _check_options(normalization: str, matrix: str, eps: float) -> None:
    _check_choice("normalization", normalization, get_args(Normalization))
    _check_choice("matrix", matrix, get_args(Matrix))
    if not 0.0 < eps < math.inf:
        raise ValueError(f"eps keeps a division finite and must be above 0, got {eps}.")


def _check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{option} is one of {', '.join(choices)}, got {value!r}.")
