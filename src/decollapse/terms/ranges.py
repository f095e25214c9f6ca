"""Ranges of the coefficients of terms, refused in the same words everywhere."""

from __future__ import annotations

import math


def check_strength(**strengths: float) -> None:
    """Raise ValueError unless every one is finite and 0 or more.

    >>> check_strength(mu=-1.0)
    Traceback (most recent call last):
        ...
    ValueError: mu is a strength, a finite number from 0 on, got -1.0.
    """
    for name, value in strengths.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} is a strength, a finite number from 0 on, got {value}.")


def check_positive(**numbers: float) -> None:
    """Raise ValueError unless every one is finite and above 0."""
    for name, value in numbers.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, got {value}.")


def check_share(**shares: float) -> None:
    """Raise ValueError unless every one is from 0 to 1."""
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is a share from 0 to 1, got {value}.")


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"{option} must be one of {', '.join(map(repr, choices))}, got {value!r}.")
