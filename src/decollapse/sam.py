"""Sharpness-aware minimisation as a client's optimiser: FedSAM and FedASAM.

Foret, Kleiner, Mobahi, Neyshabur, "Sharpness-Aware Minimization for Efficiently Improving Generalization", ICLR 2021,
https://arxiv.org/abs/2010.01412; on clients: Qu, Li, Duan, Liu, Tang, Lu, "Generalized Federated Learning via Sharpness
Aware Minimization", ICML 2022, https://arxiv.org/abs/2206.02618, and Caldarola, Caputo, Ciccone, "Improving
Generalization in Federated Learning by Seeking Flat Minima", ECCV 2022, https://arxiv.org/abs/2203.11834:

    eps = rho g(w) / (||g(w)|| + 1e-16),    w <- base optimiser's step from w with g(w + eps)

The adaptive form measures sharpness relative to the size of the weights: Kwon, Kim, Park, Choi, "ASAM: Adaptive
Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural Networks", ICML 2021,
https://arxiv.org/abs/2102.11600: `T = |w| + eta` and `eps = rho T^2 g / (||T g|| + 1e-16)`.

Departures from the authors' code (SamsungLabs/ASAM, debcaldarola/fedsam). Their T is 1 for parameters without "weight"
in their name. An optimiser sees no names: here it is 1 for vectors and scalars, so for the weights of normalisation
layers too. They come back from `w + eps` by subtraction, which rounds; here w is kept and put back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from decollapse.optim import SGD, Closure, LocalOptimizer, StartedOptimizer

if TYPE_CHECKING:
    from collections.abc import Sequence


def perturbation(
    params: Sequence[Tensor], gradients: Sequence[Tensor], *, rho: float, eta: float | None = None
) -> list[Tensor]:
    """The step of length `rho` up the gradient; the norm is over all parameters together.

    Args:
        params: the weights w.
        gradients: of the loss at w, in the order of `params`.
        rho: the length, in units of T for ASAM.
        eta: ASAM's addend to |w|; None for SAM.

    >>> perturbation([torch.zeros(2)], [torch.tensor([3.0, 4.0])], rho=0.05)
    [tensor([0.0300, 0.0400])]
    """
    if not params:
        return []
    scales: list[Tensor | float] = [1.0 if eta is None or param.ndim < 2 else param.abs() + eta for param in params]
    directions = [scale * gradient for scale, gradient in zip(scales, gradients, strict=True)]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(direction) for direction in directions]))
    length = rho / (norm + 1e-16)
    return [scale * direction * length for scale, direction in zip(scales, directions, strict=True)]


@dataclass(frozen=True)
class SAM:
    """Steps `base` with the gradient a distance `rho` uphill, which favours flat minima; costs two passes a step.

    Attributes:
        base: the optimiser that takes the step.
        rho: how far uphill, >= 0 and finite; 0 is `base`, at its cost.
        adaptive: ASAM's distance, relative to the size of each weight; the authors' rho is 0.5.
        eta: what ASAM adds to |w|, > 0 and finite, so that weights of zero move too.
    """

    base: LocalOptimizer = SGD()
    rho: float = 0.05
    adaptive: bool = False
    eta: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.rho < math.inf:
            raise ValueError(f"rho is a distance, must be finite and cannot be negative, got {self.rho}.")
        if not 0 < self.eta < math.inf:
            raise ValueError(f"eta must be positive and finite, got {self.eta}.")
        if isinstance(self.base, SAM):
            raise ValueError(
                "SAM's base takes the step with a gradient it is given, so it cannot be SAM; use sgd or adam."
            )

    def __call__(self, params: Iterable[nn.Parameter]) -> StartedOptimizer:
        """An optimiser whose `step` calls its closure twice: at w, and at w + eps."""
        moved = list(params)
        base = self.base(moved)
        return SharpnessAware(base, moved, rho=self.rho, eta=self.eta if self.adaptive else None) if self.rho else base

    def step_size(self, num_steps: int, *, pull: float = 0.0) -> float | None:
        """The base optimiser's: a constant gradient is the same uphill. How a pull changes over `rho` is left out."""
        return self.base.step_size(num_steps, pull=pull)


class SharpnessAware:
    """SAM around any optimiser of the same parameters that needs no closure."""

    def __init__(
        self, base: StartedOptimizer, params: list[nn.Parameter], *, rho: float, eta: float | None = None
    ) -> None:
        self._base, self._params, self._rho, self._eta = base, params, rho, eta

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._base.zero_grad()

    def step(self, closure: Closure | None = None) -> Tensor:
        """One base step from w, restored bit by bit even if the closure raises uphill; returns the loss at w.

        Raises:
            TypeError: there is no closure, and so no second gradient.
        """
        if closure is None:
            raise TypeError("SAM takes the gradient at two places, so its step needs a closure that computes it.")
        evaluate = torch.enable_grad()(closure)
        loss = evaluate()
        params = [param for param in self._params if param.grad is not None]
        gradients = [param.grad for param in params if param.grad is not None]
        with torch.no_grad():
            kept = [param.clone() for param in params]
            uphill = perturbation(params, gradients, rho=self._rho, eta=self._eta)
            for param, eps in zip(params, uphill, strict=True):
                param.add_(eps)
        try:
            evaluate()
        finally:
            with torch.no_grad():
                for param, w in zip(params, kept, strict=True):
                    param.copy_(w)
        self._base.step()
        return loss
