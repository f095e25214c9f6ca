"""Coefficients that change from round to round.

A term's value is its coefficient times something, so a schedule is a factor from 0 to 1 on the value of a whole term.
In a recipe it stands beside the term's settings: `schedule = { name = "warm_up", rounds = 10 }`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from decollapse.objective import BatchwiseTerm, LayerTerm, SendingTerm, SharingTerm, StatefulTerm, Step, Term, Trained
from decollapse.tree import Tree

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from decollapse.core import ModelState


class Schedule(Protocol):
    """A factor for each round."""

    def __call__(self, round: int) -> float:
        """From 0 to 1; rounds begin at 1."""
        ...


@dataclass(frozen=True)
class Constant:
    """The same factor in every round.

    Attributes:
        factor: 0 to 1.
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.factor <= 1:
            raise ValueError(f"a schedule's factor is from 0 to 1, got {self.factor}.")

    def __call__(self, round: int) -> float:
        """`factor`."""
        return self.factor


@dataclass(frozen=True)
class WarmUp:
    """Rises in equal steps from `1 / rounds` in the first round to 1 in round `rounds`, and stays there.

    Attributes:
        rounds: >= 1; 1 is no warm-up.

    >>> [WarmUp(rounds=4)(round) for round in (1, 2, 4, 9)]
    [0.25, 0.5, 1.0, 1.0]
    """

    rounds: int = 10

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ValueError(f"a warm-up takes at least 1 round, got {self.rounds}.")

    def __call__(self, round: int) -> float:
        """`min(1, round / rounds)`."""
        return min(1.0, round / self.rounds)


@dataclass(frozen=True)
class Cosine:
    """Falls along half a cosine from 1 in the first round to `end` in round `rounds`, and stays there.

    Attributes:
        rounds: >= 1; usually those of the run.
        end: the last factor, 0 to 1.

    >>> [round(Cosine(rounds=3)(number), 3) for number in (1, 2, 3, 9)]
    [1.0, 0.5, 0.0, 0.0]
    """

    rounds: int = 100
    end: float = 0.0

    def __post_init__(self) -> None:
        if self.rounds < 1 or not 0 <= self.end <= 1:
            raise ValueError(f"cosine takes rounds >= 1 and an end from 0 to 1, got {self.rounds} and {self.end}.")

    def __call__(self, round: int) -> float:
        """`end + (1 - end) (1 + cos(pi t)) / 2`, t from 0 in round 1 to 1 in round `rounds`."""
        t = min(1.0, (round - 1) / (self.rounds - 1)) if self.rounds > 1 else 1.0
        return self.end + (1 - self.end) * (1 + math.cos(math.pi * t)) / 2


@dataclass(frozen=True)
class Scheduled:
    """A term times the factor of the round, under the term's own name.

    Attributes:
        term: the term; its coefficient is the value at a factor of 1.
        schedule: the factors.
    """

    term: Term
    schedule: Schedule

    @property
    def name(self) -> str:
        """The term's."""
        return self.term.name

    @property
    def layers(self) -> tuple[str, ...]:
        """The term's."""
        return self.term.layers if isinstance(self.term, LayerTerm) else ()

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The scaled value; a factor of 0 leaves the term out."""
        factor = self.schedule(step.broadcast.round)
        return factor * self.term(step) if factor else step.output.features.new_zeros(())

    def init_state(self, anchor: ModelState) -> Tree:
        """The term's, or nothing."""
        return self.term.init_state(anchor) if isinstance(self.term, StatefulTerm) else {}

    def next_state(self, state: Tree, trained: Trained) -> Tree:
        """The term's, or nothing; the term finds its own value in the metrics, without the factor."""
        if not isinstance(self.term, StatefulTerm):
            return {}
        factor = self.schedule(trained.broadcast.round)
        if factor:
            trained = replace(trained, metrics={**trained.metrics, self.name: trained.metrics[self.name] / factor})
        return self.term.next_state(state, trained)

    def upload(self, before: Tree, after: Tree) -> Tree:
        """The term's, or nothing."""
        return self.term.upload(before, after) if isinstance(self.term, SendingTerm) else {}

    def after_batch(self, step: Step) -> Tree:
        """The term's, or the state as it is."""
        return self.term.after_batch(step) if isinstance(self.term, BatchwiseTerm) else step.state

    def share(self, shared: Tree, mean: Tree) -> Tree:
        """The term's, or nothing."""
        return self.term.share(shared, mean) if isinstance(self.term, SharingTerm) else {}
