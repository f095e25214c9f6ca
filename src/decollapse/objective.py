"""What a term of the client objective may look at, and what it must return.

A client minimises the sum of its terms, `F(w) = sum_j term_j(step)`. A term is any callable with a `name`, usually a
frozen dataclass that carries its own coefficient; see `terms/proximal.py` for the shortest one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor

from decollapse.core import Broadcast, ClientData, ModelState, Output
from decollapse.tree import Tree

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True, eq=False)
class Step:
    """One local optimisation step, as a term sees it.

    Attributes:
        x: the batch as the model received it: augmented and normalised.
        y: its labels.
        output: logits and features of the local model, inside the autograd graph.
        params: the live local parameters, inside the autograd graph.
        anchor: the global model this client started the round from.
        data: all of this client's examples; `data.class_counts` for losses that correct label skew.
        broadcast: everything the server sent.
        state: what this term's `init_state` or `next_state` returned; empty for a term without state.
        frozen: output of another model on the same `x`, in eval mode and without gradient. Pass the same `ModelState`
            or the same tree of parameters at every step: without augmentation it then runs once a round.
    """

    x: Float[Tensor, "n ..."]
    y: Int[Tensor, "n"]
    output: Output
    params: Tree
    anchor: ModelState
    data: ClientData
    broadcast: Broadcast
    state: Tree
    frozen: Callable[[ModelState], Output]


class Term(Protocol):
    """One summand of the client objective."""

    @property
    def name(self) -> str:
        """Its name in metrics, states and recipes; unique within an objective."""
        ...

    def __call__(self, step: Step) -> Float[Tensor, ""]:
        """The value of this summand, coefficient included."""
        ...


@dataclass(frozen=True, eq=False)
class Trained:
    """What a round of local training came to, as a stateful term sees it.

    Attributes:
        local: the client's model after training.
        anchor: the model it started from.
        data: the client's examples.
        broadcast: everything the server sent.
        num_steps: local optimiser steps taken.
        step_size: the factor between a constant gradient and the update it would have caused, `-delta / gradient`: the
            sum of the learning rates, and with momentum more; None where the optimiser has no such factor (Adam).
        metrics: mean of each term over the steps, by name.
    """

    local: ModelState
    anchor: ModelState
    data: ClientData
    broadcast: Broadcast
    num_steps: int
    step_size: float | None
    metrics: Mapping[str, float]


@runtime_checkable
class StatefulTerm(Term, Protocol):
    """A term that remembers something of its client between rounds."""

    def init_state(self, anchor: ModelState) -> Tree:
        """The state before the client's first round."""
        ...

    def next_state(self, state: Tree, trained: Trained) -> Tree:
        """The state after a round of training."""
        ...


@runtime_checkable
class SendingTerm(StatefulTerm, Protocol):
    """A stateful term that tells the server about its state (SCAFFOLD's control variates)."""

    def upload(self, before: Tree, after: Tree) -> Tree:
        """What goes into the result's extras after a round, under the term's name and the leaf's."""
        ...


@runtime_checkable
class BatchwiseTerm(StatefulTerm, Protocol):
    """A stateful term whose state goes on within a round, from batch to batch (a memory of past batches)."""

    def after_batch(self, step: Step) -> Tree:
        """The state that the next batch finds in `step.state`; asked once a batch, outside the autograd graph.

        `next_state`, and `upload` as what was before it, get the state after the last batch.
        """
        ...


@runtime_checkable
class SharingTerm(SendingTerm, Protocol):
    """A sending term whose clients get the mean of what they sent back, whatever the server's optimiser."""

    def share(self, shared: Tree, mean: Tree) -> Tree:
        """What the next broadcast has in its extras, under the term's name, from the cohort's mean.

        Args:
            shared: what the last broadcast had; empty in the first round.
            mean: of what `upload` returned, over the cohort; empty where the aggregator drops it.
        """
        ...


@runtime_checkable
class LayerTerm(Term, Protocol):
    """A term that reads activations; its `layers` are recorded in every forward pass."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Names in `model.named_modules()`, or "features"; empty for the features alone."""
        ...
