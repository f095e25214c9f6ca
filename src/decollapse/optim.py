"""Local optimisers, as picklable recipes that start a fresh one for each client and round."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.sgd import sgd

Closure = Callable[[], Tensor]
"""Computes the loss and the gradients at the current weights."""


class StartedOptimizer(Protocol):
    """An optimiser at work on the parameters of one client; those of `torch.optim` are such."""

    def zero_grad(self) -> None:
        """Forget the gradients."""
        ...

    def step(self, closure: Closure | None = None) -> Tensor | None:
        """Move the parameters once; with a closure, call it first for the gradients, and return its loss."""
        ...


class LocalOptimizer(Protocol):
    """Starts the optimiser of one client's local training."""

    def __call__(self, params: Iterable[nn.Parameter]) -> StartedOptimizer:
        """An optimiser over `params`."""
        ...

    def step_size(self, num_steps: int, *, pull: float = 0.0) -> float | None:
        """The factor between a constant gradient and the update it causes in `num_steps`; None if there is none.

        SCAFFOLD and FedNova divide by it. With `pull`, the gradient falls by `pull` times the update so far, as it does
        under a proximal term of that strength.
        """
        ...


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with heavy-ball momentum; `v <- momentum v + g + weight_decay w; w <- w - lr v`.

    Attributes:
        lr: step size, > 0 and finite.
        momentum: 0 to below 1. The buffer starts at zero every round, as in the FedDecorr release.
        weight_decay: added to the gradient, >= 0 and finite; also of biases and normalisation weights, as in PyTorch.
        nesterov: look ahead by one momentum step; needs momentum.
    """

    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr is a step size and must be positive and finite, got {self.lr}.")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum is a share from 0 to below 1, got {self.momentum}.")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be finite and cannot be negative, got {self.weight_decay}.")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0, got 0.")

    def __call__(self, params: Iterable[nn.Parameter]) -> StartedSGD:
        """PyTorch's fused SGD: one pass over each parameter."""
        return StartedSGD(self, list(params))

    def step_size(self, num_steps: int, *, pull: float = 0.0) -> float:
        """`lr` times FedNova's `||a||_1`, by a scalar shadow of this optimiser. Weight decay is no part of it.

        >>> round(SGD(lr=0.1, momentum=0.9).step_size(3), 3), round(SGD(lr=0.1, momentum=0.9).step_size(3, pull=1.0), 3)
        (0.561, 0.514)
        """
        moved = velocity = 0.0
        for _ in range(num_steps):
            gradient = 1 - pull * moved
            velocity = self.momentum * velocity + gradient
            moved += self.lr * (gradient + self.momentum * velocity if self.nesterov else velocity)
        return moved


class StartedSGD:
    """PyTorch's fused SGD by its functional form, with the same bits.

    `torch.optim.SGD` itself imports `torch._dynamo` when it is first made: 0.8 s in every process. A step of it takes
    0.025 ms for the six tensors of an MLP, and this one 0.017 (`benchmarks/hot_path.py`).
    """

    def __init__(self, settings: SGD, params: list[nn.Parameter]) -> None:
        self._settings = settings
        self._params = params
        self._velocities = [torch.zeros_like(param) if settings.momentum else None for param in params]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for param in self._params:
            param.grad = None

    def step(self, closure: Closure | None = None) -> Tensor | None:
        """Move every parameter that has a gradient."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        moved = [(w, w.grad, v) for w, v in zip(self._params, self._velocities, strict=True) if w.grad is not None]
        if moved:
            params, gradients, velocities = map(list, zip(*moved, strict=True))
            with torch.no_grad():
                sgd(
                    params,
                    gradients,
                    velocities,
                    fused=True,
                    foreach=False,
                    lr=self._settings.lr,
                    momentum=self._settings.momentum,
                    weight_decay=self._settings.weight_decay,
                    nesterov=self._settings.nesterov,
                    dampening=0.0,
                    maximize=False,
                )
        return loss


@dataclass(frozen=True)
class Adam:
    """Adam with decoupled weight decay (Kingma & Ba 2015; Loshchilov & Hutter 2019), fresh every round.

    Attributes:
        lr: step size, > 0 and finite.
        betas: decay of the first and second moment, each from 0 to below 1.
        eps: added to the root of the second moment, > 0 and finite.
        weight_decay: `w <- w - lr * weight_decay * w`, >= 0 and finite.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        if not (0 < self.lr < math.inf and 0 < self.eps < math.inf):
            raise ValueError(f"lr and eps must be positive and finite, got {self.lr} and {self.eps}.")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are shares from 0 to below 1, got {self.betas}.")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be finite and cannot be negative, got {self.weight_decay}.")

    def __call__(self, params: Iterable[nn.Parameter]) -> torch.optim.AdamW:
        """PyTorch's fused AdamW."""
        return torch.optim.AdamW(
            params, lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay, fused=True
        )

    def step_size(self, num_steps: int, *, pull: float = 0.0) -> None:
        """None: Adam's update is not proportional to the gradient."""
