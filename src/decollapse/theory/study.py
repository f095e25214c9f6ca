"""Clients whose class priors differ, trained by gradient flow from one start: what grows, and what averaging keeps.

Class means are drawn once a seed, x = mean of its class + N(0, I); values of alpha differ in the class priors alone.
Times are given as N t. Flow for a time t on the summed loss is a fixed number of local epochs at a fixed batch size
and learning rate: a client with twice the examples goes twice as far in N t, as it takes twice the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from decollapse.spectrum import effective_rank
from decollapse.theory.flow import integrate
from decollapse.theory.network import DeepLinear, balanced, gaussian
from decollapse.theory.rates import Examples, class_mean_g

if TYPE_CHECKING:
    from jaxtyping import Float

Start = Literal["balanced", "gaussian"]

ALPHAS: tuple[float | None, ...] = (0.01, 0.05, 0.1, 0.25, 0.5, None)
"""Of the class priors; None is IID, every class equally often."""

GROWN = 2.0
"""A singular value has grown once it exceeds this many times the largest one at the start."""

TOLERANCE = 1e-5
"""Of the integrator: singular values came out right to 4 digits, compared with 1e-7."""


@dataclass(frozen=True)
class Setting:
    """The network and the data of the experiments.

    Attributes:
        num_hidden: L, at least 1.
        width: d.
        num_inputs: d_in.
        num_classes: C.
        num_examples: N of a client; where clients differ in size, their mean.
        separation: standard deviation of a coordinate of the class means, that of the noise being 1.
        start: "balanced" satisfies the theorem's assumptions, "gaussian" is how frameworks begin.
        horizon: N t at the end.

    Raises:
        ValueError: an unknown start, or a number that is not positive.
    """

    num_hidden: int = 3
    width: int = 32
    num_inputs: int = 32
    num_classes: int = 10
    num_examples: int = 500
    separation: float = 0.5
    start: Start = "balanced"
    horizon: float = 40.0

    def __post_init__(self) -> None:
        if self.start not in get_args(Start):
            raise ValueError(f"start must be one of {', '.join(get_args(Start))}, got {self.start!r}.")
        if not min(self.num_examples, self.separation, self.horizon) > 0:
            raise ValueError(f"num_examples, separation and horizon must be above 0, got {self}.")

    def network(self, seed: int) -> DeepLinear:
        """Where every client of this seed begins."""
        make = balanced if self.start == "balanced" else gaussian
        return make(
            num_hidden=self.num_hidden,
            width=self.width,
            num_inputs=self.num_inputs,
            num_classes=self.num_classes,
            seed=seed,
        )

    def client(self, alpha: float | None, *, seed: int, client: int = 0, num_examples: int | None = None) -> Examples:
        """Examples of one client: labels by `class_labels`, inputs around the class means of this seed."""
        rng = np.random.default_rng([seed, 1 + client])
        y = class_labels(alpha, num_examples or self.num_examples, self.num_classes, rng)
        means = np.random.default_rng([seed, 0]).normal(scale=self.separation, size=(self.num_classes, self.num_inputs))
        x = means[y] + rng.normal(size=(len(y), self.num_inputs))
        return Examples(torch.from_numpy(x), torch.from_numpy(y), self.num_classes)


def class_labels(
    alpha: float | None, num_examples: int, num_classes: int, rng: np.random.Generator
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Labels drawn from a class prior p ~ Dir(alpha, ..., alpha); for None, every class equally often.

    Raises ValueError for alpha <= 0.

    >>> class_labels(None, 6, 3, np.random.default_rng(0))
    array([0, 0, 1, 1, 2, 2])
    """
    if alpha is None:
        return np.sort(np.arange(num_examples) % num_classes)
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, got {alpha}; None is IID.")
    return np.sort(rng.choice(num_classes, size=num_examples, p=rng.dirichlet(np.full(num_classes, alpha))))


@dataclass(frozen=True, eq=False)
class Growth:
    """One client, trained alone.

    Attributes:
        alpha: of its class prior; None is IID.
        classes: how many it holds.
        push: singular values of `class_mean_g` at the start, descending.
        times: N t.
        spectra: singular values of Pi at each time, descending.
    """

    alpha: float | None
    classes: int
    push: Float[Tensor, "r"]
    times: tuple[float, ...]
    spectra: Float[Tensor, "times k"]

    @property
    def rank_g(self) -> int:
        """At most min(classes, C - 1)."""
        return int((self.push > 1e-9 * self.push[0]).sum())

    @property
    def strong_g(self) -> int:
        """Singular values of G above a tenth of its largest."""
        return int((self.push > 0.1 * self.push[0]).sum())

    @property
    def grown(self) -> list[int]:
        """Singular values above `GROWN` times the largest at the start, at each time."""
        return [int(count) for count in (self.spectra > GROWN * self.spectra[0, 0]).sum(dim=1)]

    @property
    def entropy_rank(self) -> list[float]:
        """`effective_rank` of the singular values of Pi, at each time."""
        return [effective_rank(spectrum) for spectrum in self.spectra]


def grow(setting: Setting, alpha: float | None, *, seed: int, num_times: int = 41) -> Growth:
    """Train one client by gradient flow and watch the singular values of Pi, at evenly spaced times from 0.

    >>> one = grow(Setting(width=8, num_inputs=8, num_classes=4, num_examples=40), 0.01, seed=0, num_times=2)
    >>> one.classes, one.rank_g, one.grown
    (1, 1, [0, 1])
    """
    examples, start = setting.client(alpha, seed=seed), setting.network(seed)
    times = [setting.horizon * step / (num_times - 1) for step in range(num_times)]
    networks = integrate(start, examples, [time / len(examples) for time in times], tolerance=TOLERANCE)
    push: Tensor = torch.linalg.svdvals(class_mean_g(start, examples))
    spectra = torch.stack([network.singular_values for network in networks])
    return Growth(alpha, int((examples.counts > 0).sum()), push, tuple(times), spectra)


def average(networks: Sequence[DeepLinear], weights: Sequence[float]) -> DeepLinear:
    """Every matrix averaged over the clients, as a server does; `weights` sum to 1.

    >>> mean = average([balanced(seed=0), balanced(seed=1)], [0.5, 0.5])
    >>> mean.num_hidden
    3
    """
    layers = zip(*(network.weights for network in networks), strict=True)
    return DeepLinear(
        tuple(
            torch.stack([weight * matrix for weight, matrix in zip(weights, layer, strict=True)]).sum(dim=0)
            for layer in layers
        )
    )


@dataclass(frozen=True, eq=False)
class Averaging:
    """One round: clients trained from one start, and four ways to look at them together.

    Attributes:
        alpha: of the class priors; None is IID.
        sizes: examples of each client.
        start: singular values of Pi before the round.
        clients: of each client's own Pi.
        mean_features: of `sum_k w_k Pi_k`, w_k = N_k / N: the clients' features averaged example by example.
        averaged: of Pi of the averaged weights: what federated averaging does.
        pooled: of one network trained on all the data for the clients' mean N t.
    """

    alpha: float | None
    sizes: tuple[int, ...]
    start: Float[Tensor, "k"]
    clients: Float[Tensor, "clients k"]
    mean_features: Float[Tensor, "k"]
    averaged: Float[Tensor, "k"]
    pooled: Float[Tensor, "k"]

    def grown(self, spectrum: Float[Tensor, "... k"]) -> float:
        """Singular values above `GROWN` times the largest at the start; the mean over clients of several spectra."""
        return float((spectrum > GROWN * self.start[0]).sum(dim=-1).double().mean())


def averaging_round(
    setting: Setting, alpha: float | None, *, seed: int, num_clients: int = 10, largest_to_smallest: float = 1.0
) -> Averaging:
    """Train `num_clients` clients for the same time t from one start, and average their weights by size.

    Sizes are a geometric sequence, the last client's `largest_to_smallest` times the first's, of mean `num_examples`.
    Raises ValueError for no clients, or a ratio that is not positive.

    >>> small = Setting(width=8, num_inputs=8, num_classes=4, num_examples=20, horizon=5)
    >>> averaging_round(small, None, seed=0, num_clients=3, largest_to_smallest=4).sizes
    (9, 17, 34)
    """
    if num_clients < 1 or not largest_to_smallest > 0:
        raise ValueError(
            f"a round needs at least one client and a ratio of sizes above 0, got {num_clients} clients and a ratio of "
            f"{largest_to_smallest}."
        )
    ratios = np.geomspace(1.0, largest_to_smallest, num_clients)
    sizes = [max(1, round(num_clients * setting.num_examples * float(ratio / ratios.sum()))) for ratio in ratios]
    held = [setting.client(alpha, seed=seed, client=client, num_examples=n) for client, n in enumerate(sizes)]
    start, time = setting.network(seed), setting.horizon / setting.num_examples
    trained = [integrate(start, examples, [time], tolerance=TOLERANCE)[0] for examples in held]
    weights = [len(examples) / sum(sizes) for examples in held]
    everything = Examples(
        torch.cat([examples.x for examples in held]), torch.cat([examples.y for examples in held]), setting.num_classes
    )
    pooled = integrate(start, everything, [setting.horizon / len(everything)], tolerance=TOLERANCE)[0]
    features = sum(
        (w * network.encoder for w, network in zip(weights, trained, strict=True)),
        start=torch.zeros((), dtype=torch.float64),
    )
    return Averaging(
        alpha,
        tuple(sizes),
        start.singular_values,
        torch.stack([network.singular_values for network in trained]),
        torch.linalg.svdvals(features),
        average(trained, weights).singular_values,
        pooled.singular_values,
    )
