"""A linear and a quadratic function of all parameters, with its gradient written by hand.

FedProx, FedDyn and SCAFFOLD differ in what they put in. Autograd would keep and walk three nodes a parameter tensor;
here the forward is one pass and the backward another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import Function

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float

    from decollapse.tree import Tree


def linear_and_quadratic(
    params: Tree, center: Tree, *, linear: Tree | None = None, strength: float = 0.0
) -> Float[Tensor, ""]:
    """`<linear, w - center> + strength / 2 ||w - center||^2`; its gradient is `linear + strength (w - center)`.

    Args:
        params: w, inside the autograd graph.
        center: the same names; gets no gradient, as `linear` gets none.
        linear: None is zero.
        strength: of the quadratic.

    >>> w = torch.tensor([3.0], requires_grad=True)
    >>> linear_and_quadratic({"w": w}, {"w": torch.tensor([1.0])}, strength=2.0)
    tensor(4., grad_fn=<_LinearAndQuadraticBackward>)
    """
    pull = None if linear is None else [linear[name] for name in params]
    if torch._C._are_functorch_transforms_active():  # vmap refuses a Function without `setup_context`: autograd then
        return _value([w - center[name] for name, w in params.items()], pull, strength)
    value: Tensor = _LinearAndQuadratic.apply(pull, [center[name] for name in params], strength, *params.values())  # type: ignore[no-untyped-call]
    return value


def _value(distances: Sequence[Tensor], linear: Sequence[Tensor] | None, strength: float) -> Tensor:
    value = distances[0].new_zeros(())
    if linear is not None:
        value = value + sum(torch.dot(a.flatten(), b.flatten()) for a, b in zip(linear, distances, strict=True))
    if strength:
        value = value + 0.5 * strength * sum(torch.dot(d.flatten(), d.flatten()) for d in distances)
    return value


class _LinearAndQuadratic(Function):
    @staticmethod
    def forward(
        ctx: Any, linear: list[Tensor] | None, center: list[Tensor], strength: float, *params: Tensor
    ) -> Tensor:
        """The value; the distances are kept for the gradient."""
        distances = torch._foreach_sub(params, center)
        ctx.save_for_backward(*params)
        ctx.center, ctx.linear, ctx.distances, ctx.strength = center, linear, distances, strength
        return _value(distances, linear, strength)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """`grad (linear + strength (w - center))`."""
        # For a second derivative (create_graph) the distances have to depend on w again.
        distances = torch._foreach_sub(ctx.saved_tensors, ctx.center) if torch.is_grad_enabled() else ctx.distances
        gradients = torch._foreach_mul(distances, ctx.strength)
        if ctx.linear is not None:
            torch._foreach_add_(gradients, ctx.linear)
        torch._foreach_mul_(gradients, grad)
        return None, None, None, *gradients
