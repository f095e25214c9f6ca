"""A batch of logits on a client that has no examples of class 1, for the tests of the losses that mind it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

COUNTS = torch.tensor([6, 0, 3, 1])
Y = torch.tensor([0, 2, 3, 0, 0])


def logits(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Five examples of four classes, a leaf of the graph."""
    values = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return values.to(dtype).requires_grad_()


def step_of(scores: torch.Tensor, y: torch.Tensor = Y, counts: torch.Tensor = COUNTS) -> Any:
    """What these losses look at of a step."""
    return SimpleNamespace(output=SimpleNamespace(logits=scores), y=y, data=SimpleNamespace(class_counts=counts))
