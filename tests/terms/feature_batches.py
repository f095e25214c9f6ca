"""Batches of features for the tests of the losses on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

SHAPES = [(6, 17), (17, 6), (9, 9)]
"""Fewer examples than dimensions, more, and as many."""


def draw(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Correlated features with a mean."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64) / d**0.5 + torch.eye(d)
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix * 0.5 + 1.0).to(dtype)


def gradient(loss: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """The gradient of `loss` at `features`, which stay as they are."""
    leaf = features.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(leaf), leaf)[0]
