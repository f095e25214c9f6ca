"""DP-FedAvg with a central server: clipped updates, and Gaussian noise on their mean.

McMahan, Ramage, Talwar, Zhang, "Learning Differentially Private Recurrent Language Models", ICLR 2018,
https://arxiv.org/abs/1710.06963, algorithm 1 with the flat clipping and uniform weights:

    delta = (sum_i delta_i min(1, S / ||delta_i||) + N(0, z^2 S^2 I)) / m

z is the noise multiplier, m the number of clients in the mean. Neighbours are federations in which the update of one
client is there, or zero: the sum then changes by S at most, and m, which everybody may know, not at all. After T rounds
in which a client took part, epsilon is `epsilon_of(z, delta, releases=T)`, see `spent`.

Departures. Cohorts have a fixed size, where the paper's are sampled client by client, and m is the number that
answered. BatchNorm's statistics are not released: the server keeps its own, and evaluates with them; train with
GroupNorm, which has none. Algorithms that send more than an update (SCAFFOLD) are refused.

Under secure aggregation each client clips its own update before it is masked, and is trusted to do so; otherwise the
server, which then sees single updates, clips.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from decollapse import tree
from decollapse.aggregate import Aggregate, sent_extras
from decollapse.aggregate.mean import WeightedMean
from decollapse.core import ClientResult, derive_seed
from decollapse.privacy.gaussian import Draw, epsilon_of, with_noise
from decollapse.robust.norm_clipping import clipped
from decollapse.tree import Tree


@dataclass(frozen=True)
class PrivateMean:
    """The mean of clipped updates, every client alike, with noise.

    WITH `draw = "from_seed"`, THE DEFAULT, NOTHING IS PRIVATE towards anybody who knows the seed: the noise is a
    function of seed and round, so that a simulation can be repeated. A real federation must set `draw = "from_system"`.

    Attributes:
        clip: S, the longest Euclidean norm of an update, > 0. The median `delta_norm` in the records of a run without
            noise is a good start. inf, only without noise, is `WeightedMean`, buffers included.
        noise_multiplier: z, >= 0; 0 adds no noise, and is not private. Around 1 for thousands of clients a round;
            the noise on the mean has a standard deviation of `z S / m` in each coordinate.
        draw: where the noise comes from: `from_seed` or `from_system`.
    """

    needs_single_updates: ClassVar[bool] = False
    clip: float = 1.0
    noise_multiplier: float = 1.0
    draw: Draw = "from_seed"

    def __post_init__(self) -> None:
        if not self.clip > 0 or not 0 <= self.noise_multiplier < math.inf:
            raise ValueError(
                f"clip is a length and positive, and noise_multiplier at least 0, got {self.clip} and "
                f"{self.noise_multiplier}."
            )
        if math.isinf(self.clip) and self.noise_multiplier > 0:
            raise ValueError("a clip of inf bounds no update, so no noise makes it private; set a finite clip.")

    def __call__(self, results: Iterable[ClientResult]) -> Aggregate | None:
        """The aggregate outside of a run, where no round is known: noise comes from the operating system."""
        return _InRound(replace(self, draw="from_system"), seed=0)(results)

    def in_round(self, *, seed: int, round: int) -> _InRound:
        """The aggregator with the noise of one round."""
        return _InRound(self, derive_seed("private mean", seed, round))

    def share(self, result: ClientResult) -> tuple[float, ClientResult]:
        """See `SummingAggregator`: the client clips its own update."""
        if math.isinf(self.clip):
            return 1.0, result
        if extras := sent_extras(result):
            raise ValueError(
                f"client {result.client} sends {min(extras)!r} beside its update, which private_mean neither clips nor "
                "noises; use it with algorithms that send an update alone, such as fedavg and fedprox."
            )
        return 1.0, replace(result, delta=clipped(result.delta, self.clip))

    def of_mean(self, mean: ClientResult) -> ClientResult:
        """The mean itself; its noise is added when it is aggregated."""
        return mean


@dataclass(frozen=True)
class _InRound:
    """A `PrivateMean` and what its noise is drawn from."""

    needs_single_updates: ClassVar[bool] = False
    settings: PrivateMean
    seed: int

    def __call__(self, results: Iterable[ClientResult]) -> Aggregate | None:
        """The noisy mean of the clipped deltas, and no buffers."""
        settings, mean = self.settings, WeightedMean(weights="uniform")
        if math.isinf(settings.clip):
            return mean(results)
        total: Tree = {}
        num_clients = num_examples = 0
        for result in results:
            delta = tree.scale(settings.share(result)[1].delta, len(result.clients))
            total = tree.add(total, delta) if total else delta
            num_clients += len(result.clients)
            num_examples += result.num_examples
        if num_clients == 0:
            return None
        stds = dict.fromkeys(total, settings.noise_multiplier * settings.clip)
        noisy = with_noise(total, stds, draw=settings.draw, seed=self.seed)
        return Aggregate(tree.scale(noisy, 1 / num_clients), {}, num_clients, num_examples)


@dataclass(frozen=True)
class PrivacySpent:
    """What a run has spent.

    Attributes:
        epsilon: against one client's update being there or not, in all rounds.
        delta: the probability, about, that this does not hold.
        rounds: the most that any client took part in.
    """

    epsilon: float
    delta: float
    rounds: int


def spent(aggregate: PrivateMean, cohorts: Iterable[Sequence[int]], *, delta: float = 1e-5) -> PrivacySpent:
    """The privacy of a run towards somebody who sees the model of every round, and knows the cohorts.

    Whoever knows the recipe knows its seed, and with it the cohorts; so nothing is gained by sampling, save that no
    client takes part in every round. Where cohorts are secret, see `accounting.epsilon_of_secret_cohorts`.

    Args:
        aggregate: of the run.
        cohorts: of each round, as in its records.
        delta: well below one over the number of clients.

    >>> found = spent(PrivateMean(noise_multiplier=8.0), [[0, 1], [1, 2], [0, 1]])
    >>> found.rounds, round(found.epsilon, 3)
    (3, 0.791)
    """
    taken: dict[int, int] = {}
    for cohort in cohorts:
        for client in cohort:
            taken[client] = taken.get(client, 0) + 1
    rounds = max(taken.values(), default=0)
    return PrivacySpent(epsilon_of(aggregate.noise_multiplier, delta, releases=rounds), delta, rounds)
