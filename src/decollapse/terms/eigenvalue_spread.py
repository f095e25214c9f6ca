"""How unequal the eigenvalues of a batch of features are, with its gradient written by hand.

P of `decorrelation_loss` costs one matrix product forward and one back, n x n where n < d and d x d elsewhere. With
q_j = sum_i z_ij^2, C = z^T z and G = z z^T, `sum_ij C_ij^2 = sum_ij G_ij^2` gives

    sum (lambda_i - mean)^2 (n - 1)^2 = ||G||_F^2 - sum_j q_j^2 = ||C - diag(q)||_F^2

for both matrices, if "covariance" replaces q_j, and the p_j of the gradient, by their means over j.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

from decollapse.terms.moments import centre

if TYPE_CHECKING:
    from jaxtyping import Float


def eigenvalue_spread(features: Float[Tensor, "n d"], *, pooled: bool = False, eps: float = 1e-8) -> Float[Tensor, ""]:
    """`sum_i (lambda_i - mean lambda)^2 / (d (d - 1))`, from 0 to 1; its second derivative raises RuntimeError.

    Inside `torch.func.vmap` and its kin the gradient is autograd's own, equal up to rounding.

    Args:
        features: at least two examples of at least two dimensions, in float32 or float64.
        pooled: scale all dimensions alike, by their mean variance: lambda are then the eigenvalues of the covariance
            over their mean, not those of the correlation.
        eps: > 0, added to the variance.

    >>> eigenvalue_spread(torch.tensor([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]))  # a correlation of 1/2
    tensor(0.2500)
    """
    if torch._C._are_functorch_transforms_active():
        # vmap refuses a Function without `setup_context`; with one, `apply` inspects a signature at every call, and the
        # loss of a small batch takes half as long again everywhere. So autograd is asked here.
        return _spread(features, eps, pooled)[0]
    value: Tensor = _EigenvalueSpread.apply(features, eps, pooled)  # type: ignore[no-untyped-call]
    return value


def _spread(features: Tensor, eps: float, pooled: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The value, then z, its products, q and 1 / s, which the gradient is made of."""
    n, d = features.shape
    with torch.autocast(features.device.type, enabled=False):
        x = centre(features)
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
        return spread / ((n - 1) ** 2 * d * (d - 1)), z, products, energy, inverse_std


class _EigenvalueSpread(Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, eps: float, pooled: bool) -> Tensor:
        """Values only; the gradient is `_SpreadGradient`."""
        value, *kept = _spread(features, eps, pooled)
        ctx.save_for_backward(features, *kept)
        ctx.pooled = pooled
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """The gradient with respect to the features, as a function that itself refuses to be differentiated."""
        return _SpreadGradient.apply(grad, *ctx.saved_tensors, ctx.pooled), None, None  # type: ignore[no-untyped-call]


class _SpreadGradient(Function):
    """The gradient of `eigenvalue_spread`: `4 / s (C z - z q - z (p - q^2) / (n - 1))`, p_j = sum_i z_ij (G z)_ij.

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
