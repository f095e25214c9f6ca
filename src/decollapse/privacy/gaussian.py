"""The Gaussian mechanism, exactly: how much noise for how much privacy.

Balle and Wang, "Improving the Gaussian Mechanism for Differential Privacy: Analytical Calibration and Optimal
Denoising", ICML 2018, https://arxiv.org/abs/1805.06530, theorem 8. A release with noise of standard deviation
`sigma` per unit of sensitivity is (epsilon, delta)-private if and only if

    delta >= Phi(1 / (2 sigma) - epsilon sigma) - e^epsilon Phi(-1 / (2 sigma) - epsilon sigma)

T releases with the same noise are as one with `sigma / sqrt(T)`, exactly (Dong, Roth, Su, "Gaussian Differential
Privacy", JRSS B 2022, corollary 3.3).

Departure: samples are floating-point numbers. Their gaps can give a value away to whoever sees all its bits (Mironov,
"On Significance of the Least Significant Bits for Differential Privacy", ACM CCS 2012); what is sent here is rounded
to float32 or to fixed point after the noise, which blurs these, but no proof covers it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from decollapse.tree import Tree

Draw = Literal["from_seed", "from_system"]
"""Where noise comes from. `from_seed`: a function of the run's seed, for simulations that can be repeated, and NOT
PRIVATE towards anybody who knows the seed, since they can subtract it. `from_system`: the operating system's
cryptographic generator, for real data."""


def delta_of(sigma: float, epsilon: float) -> float:
    """The smallest delta of the Gaussian mechanism with noise `sigma` per unit of sensitivity.

    >>> round(delta_of(1.0, 0.0), 4)  # Phi(1/2) - Phi(-1/2)
    0.3829
    """
    a, b = 1 / (2 * sigma) - epsilon * sigma, -1 / (2 * sigma) - epsilon * sigma
    return max(math.exp(_log_phi(a)) - math.exp(epsilon + _log_phi(b)), 0.0)


def epsilon_of(sigma: float, delta: float, *, releases: int = 1) -> float:
    """The smallest epsilon >= 0 of so many releases, to 1e-9 of itself from above; inf without noise.

    Raises:
        ValueError: `delta` is not between 0 and 1, or `releases` is negative.

    >>> epsilon_of(1.0, 0.3830), round(epsilon_of(10.0, 1e-5), 3)
    (0.0, 0.341)
    """
    if not 0 < delta < 1 or releases < 0:
        raise ValueError(f"delta is between 0 and 1 and releases at least 0, got {delta} and {releases}.")
    if releases == 0:
        return 0.0
    if sigma <= 0:
        return math.inf
    each = sigma / math.sqrt(releases)
    return _smallest(lambda epsilon: delta_of(each, epsilon) <= delta)


def sigma_of(epsilon: float, delta: float, *, releases: int = 1) -> float:
    """The least noise per unit of sensitivity that makes so many releases (epsilon, delta)-private together.

    Raises:
        ValueError: `epsilon` is not positive, or `delta` not between 0 and 1, or there is no release.

    >>> round(sigma_of(1.0, 1e-5), 4)
    3.7306
    """
    if not epsilon > 0 or not 0 < delta < 1 or releases < 1:
        raise ValueError(
            f"epsilon is positive, delta between 0 and 1 and releases at least 1, got {epsilon}, {delta}, {releases}."
        )
    return _smallest(lambda sigma: sigma > 0 and delta_of(sigma, epsilon) <= delta) * math.sqrt(releases)


def with_noise(tree: Tree, stds: Mapping[str, float], *, draw: Draw, seed: int) -> Tree:
    """`tree` with independent Gaussian noise on each leaf, drawn in float64, in the dtypes of `tree`.

    Args:
        tree: what is released.
        stds: standard deviation for each leaf.
        draw: from the seed, which is for simulations alone, or from the operating system; see `Draw`.
        seed: not used with `from_system`.
    """
    generator = torch.Generator().manual_seed(seed)
    noisy = {}
    for name, leaf in tree.items():
        normal = (
            torch.randn(leaf.shape, dtype=torch.float64, generator=generator)
            if draw == "from_seed"
            else _system_normal(leaf)
        )
        noisy[name] = (leaf.double() + stds[name] * normal.to(leaf.device)).to(leaf.dtype)
    return noisy


def _system_normal(like: Tensor) -> Tensor:
    """Standard normal numbers, from the operating system's bits by Box and Muller's transform."""
    pairs = (like.numel() + 1) // 2
    bits = np.frombuffer(os.urandom(16 * pairs), dtype="<u8").reshape(2, pairs)
    uniform = ((bits >> 11).astype(np.float64) + 0.5) * 2.0**-53  # between 0 and 1, and neither
    radius, angle = np.sqrt(-2 * np.log(uniform[0])), 2 * math.pi * uniform[1]
    normal = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[: like.numel()]
    return torch.from_numpy(normal).reshape(like.shape)


def _log_phi(x: float) -> float:
    return float(torch.special.log_ndtr(torch.tensor(x, dtype=torch.float64)))


def _smallest(enough: Callable[[float], bool]) -> float:
    """The least x >= 0 from which on `enough` holds, found by bisection, from above."""
    if enough(0.0):
        return 0.0
    high = 1.0
    while not enough(high):
        high *= 2
    low = 0.0
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
