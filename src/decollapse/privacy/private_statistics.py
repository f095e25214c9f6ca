"""Feature statistics with noise: count, sum and Gram matrix of clipped features.

The Gaussian mechanism on sums of products is that of Dwork, Talwar, Thakurta, Zhang, "Analyze Gauss: Optimal Bounds for
Privacy-Preserving Principal Component Analysis", STOC 2014. With z_i the features of example i, counted from the origin
and shortened to a length of S at most,

    count = n + N(0, s^2)    sum = sum_i z_i + S N(0, s^2 I)    gram = upper half of sum_i z_i z_i^T + S^2 N(0, s^2 I)

One example changes the three by 1, S and S^2 at most, so by sqrt(3) in units of their noise, and s is sqrt(3) times
the noise of the exact Gaussian mechanism (Balle and Wang 2018) for (epsilon, delta). With classes, an example is in the
count and the sum of its own alone, and nothing changes.

Each client's sums are private by themselves, so no trust in the server is needed, and the total has the noise of every
client. With `split = k`, a client adds 1/k of the variance: only the sum over k or more of them is private, and only
where secure aggregation lets nobody see less.

What it costs: noise on the covariance adds to its spectrum a half-circle of eigenvalues, to both sides of zero and up
to about `noise_floor = 2 s S^2 sqrt(clients d / split) / n`. Eigenvalues below that are noise, half of them are lost as
negative, and the effective rank is too large. It is small only with many examples: see docs/privacy.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from decollapse.privacy.gaussian import Draw, epsilon_of, sigma_of, with_noise
from decollapse.tree import Tree

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True)
class StatisticsPrivacy:
    """What is reported beside a spectrum.

    Attributes:
        epsilon: for an example that is there or not; larger than asked for where fewer than `split` clients answered.
        delta: as asked for.
        noise_floor: the largest eigenvalue, about, that noise alone gives the covariance; what is below may be noise.
    """

    epsilon: float
    delta: float
    noise_floor: float


@dataclass(frozen=True)
class PrivateStatistics:
    """Noise on what a client sends for a federated spectrum.

    WITH `draw = "from_seed"`, THE DEFAULT, NOTHING IS PRIVATE towards anybody who knows the seed, and the server does.
    A real federation must set `draw = "from_system"`.

    Attributes:
        epsilon: of one spectrum, > 0, for an example that is there or not; those of T spectra together are private with
            about `epsilon sqrt(T)`, exactly `epsilon_of(s, delta, releases=T)`.
        delta: well below one over the number of examples.
        clip: S, the longest feature vector, > 0, counted from the origin; longer ones are shortened.
        split: k, of how many clients' noise together the sum is private; 1 unless aggregation is secure.
        draw: where the noise comes from: `from_seed` or `from_system`.
    """

    epsilon: float
    delta: float = 1e-5
    clip: float = 1.0
    split: int = 1
    draw: Draw = "from_seed"

    def __post_init__(self) -> None:
        if not 0 < self.clip < math.inf or self.split < 1:
            raise ValueError(f"clip is positive and finite and split at least 1, got {self.clip} and {self.split}.")
        sigma_of(self.epsilon, self.delta)  # raises where these are out of range

    @property
    def noise(self) -> float:
        """s: its standard deviation on a sum, in units of what one example changes in it at most."""
        return math.sqrt(3) * sigma_of(self.epsilon, self.delta)

    def clipped(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Rows of a length of S at most, in float64; they are counted from the origin already."""
        rows = features.double()
        lengths = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        return rows * torch.div(self.clip, lengths.clamp(min=self.clip))

    def noisy(self, sums: Tree, *, seed: int) -> Tree:
        """A client's sums with noise; counts stay whole numbers, and may be negative."""
        each = self.noise / math.sqrt(self.split)
        stds = {"count": each, "sum": each * self.clip, "gram": each * self.clip**2}
        noisy = with_noise(sums, stds, draw=self.draw, seed=seed)
        return noisy | {"count": noisy["count"].round()}

    def of_sum(self, *, num_clients: int, num_features: int, num_examples: int) -> StatisticsPrivacy:
        """What the sum over so many clients keeps private, and what the noise does to its covariance's spectrum."""
        clients = num_clients / self.split
        floor = 2 * self.noise * self.clip**2 * math.sqrt(clients * num_features) / max(num_examples, 1)
        sigma = self.noise / math.sqrt(3) * math.sqrt(min(clients, 1.0))
        return StatisticsPrivacy(epsilon_of(sigma, self.delta), self.delta, floor)
