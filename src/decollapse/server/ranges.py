"""Ranges of the settings of server optimisers, refused in the same words everywhere."""

from __future__ import annotations

import math


def check_lr(lr: float) -> None:
    """Raise ValueError unless it is a step size."""
    if not 0 < lr < math.inf:
        raise ValueError(f"the server's lr must be positive and finite, got {lr}.")


def check_decay(**decays: float) -> None:
    """Raise ValueError unless every one is from 0 to below 1."""
    for name, value in decays.items():
        if not 0 <= value < 1:
            raise ValueError(f"the server's {name} is a share from 0 to below 1, got {value}.")
