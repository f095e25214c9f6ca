"""The records that travel between server, engine and client.

    server --Broadcast--> client --ClientResult--> aggregator

Each is a frozen dataclass of plain data, so that it pickles and can be sent anywhere. It is equal to itself alone:
tensors compare entry by entry, so compare those. New methods send more through `extras`; nobody's signature changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from decollapse.tree import Tree, squared_norm

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Shaped

ClientState = dict[str, Tree]
"""What one client keeps between rounds: a tree for each stateful term, by its name, and its own parts of the model."""

MEASURED = "measured/"
"""Prefix of measurements in a result's extras; they go to the round record, never into an average."""

FEATURES = "features"
"""The classifier's input, in a list of layers."""


@dataclass(frozen=True, eq=False)
class ModelState:
    """What the server owns and sends.

    Attributes:
        params: the tensors that are optimised; one that a model has under several names is here under its first.
        buffers: the persistent buffers (BatchNorm's statistics and counters). No optimiser touches them.
    """

    params: Tree
    buffers: Tree = field(default_factory=dict)

    def replaced(self, leaves: Tree) -> ModelState:
        """The same model with some of its parameters and buffers replaced.

        >>> ModelState({"w": torch.zeros(1)}, {"mean": torch.zeros(1)}).replaced({"mean": torch.ones(1)}).buffers
        {'mean': tensor([1.])}
        """
        params = {name: leaves.get(name, leaf) for name, leaf in self.params.items()}
        return ModelState(params, {name: leaves.get(name, leaf) for name, leaf in self.buffers.items()})

    @classmethod
    def inside(cls, model: nn.Module) -> ModelState:
        """A model's own parameters and persistent buffers: what is written into them, the model has."""
        persistent = model.state_dict().keys()  # a tied parameter is there once for each name, so only its names count
        buffers = {name: buffer for name, buffer in model.named_buffers() if name in persistent}
        return cls(dict(model.named_parameters()), buffers)

    @classmethod
    def of(cls, model: nn.Module) -> ModelState:
        """Copy a model's parameters and persistent buffers."""
        return cls.inside(model).copy()

    def copy(self) -> ModelState:
        """The same numbers in memory of their own, laid out as they are."""
        params = {name: leaf.detach().clone() for name, leaf in self.params.items()}
        return ModelState(params, {name: leaf.clone() for name, leaf in self.buffers.items()})

    def load_into(self, model: nn.Module) -> None:
        """Overwrite the weights and buffers of `model` in place, keeping its device, dtype and memory format."""
        self.write_to(ModelState.inside(model))

    @torch.no_grad()
    def write_to(self, other: ModelState) -> None:
        """Overwrite the tensors of `other` that this state has, in place."""
        theirs = other.params | other.buffers
        for name, leaf in (self.params | self.buffers).items():
            theirs[name].copy_(leaf)


@dataclass(frozen=True, eq=False)
class Output:
    """What a model returns.

    Attributes:
        logits: one score a class, before the softmax.
        features: the input of the classifier, where collapse is measured and repaired.
        layers: activations of the layers that a term asked for by name, averaged over pixels or tokens to (n, d).
    """

    logits: Float[Tensor, "n classes"]
    features: Float[Tensor, "n d"]
    layers: Mapping[str, Float[Tensor, "n d"]] = field(default_factory=dict)

    def at(self, layers: tuple[str, ...]) -> list[Float[Tensor, "n d"]]:
        """The activations of `layers` in their order; the features for `()` and for the name "features"."""
        return [self.features if layer == FEATURES else self.layers[layer] for layer in layers or (FEATURES,)]

    def mean_over(self, layers: tuple[str, ...], loss: Callable[[Tensor], Tensor]) -> Float[Tensor, ""]:
        """The mean of `loss` over the activations of `layers`: a coefficient means the same however many there are."""
        return torch.stack([loss(activation) for activation in self.at(layers)]).mean()

    def penalty(
        self, layers: tuple[str, ...], loss: Callable[[Tensor], Tensor], *, strength: float
    ) -> Float[Tensor, ""]:
        """`strength` times the mean of `loss` over `layers`; where it is 0, a zero outside the graph, for no work."""
        return strength * self.mean_over(layers, loss) if strength else self.features.new_zeros(())


@dataclass(frozen=True, eq=False)
class ClientData:
    """The examples of one client, in memory.

    Attributes:
        client: its number, 0 to K - 1.
        x: uint8 images (n, channels, height, width) or floating-point features; see `preprocess`.
        y: labels, 0 to num_classes - 1.
        num_classes: of the whole federation, not of this client.
        preprocess: turns a batch of `x`, augmented or not, into the model's floating-point input.
    """

    client: int
    x: Shaped[Tensor, "n ..."]
    y: Int[Tensor, "n"]
    num_classes: int
    preprocess: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        return len(self.y)

    @cached_property
    def class_counts(self) -> Int[Tensor, "classes"]:
        """How many training examples of each class this client holds."""
        return torch.bincount(self.y, minlength=self.num_classes)


@dataclass(frozen=True, eq=False)
class Broadcast:
    """What every client of a cohort receives.

    Attributes:
        round: 1 in the first round.
        model: where local training starts, the *anchor*.
        seed: of the run; a client derives its own from (seed, round, client).
        extras: what some methods send beside the model (SCAFFOLD's control variate).
    """

    round: int
    model: ModelState
    seed: int
    extras: Tree = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class ClientResult:
    """What a client sends back.

    Attributes:
        client: its number.
        num_examples: its weight in the average.
        num_steps: local optimiser steps taken.
        delta: local parameters minus the broadcast's; zeros for the client's personal ones.
        buffers: the local model's buffers as they are after training, and its personal parameters: what is averaged,
            and optimised by nobody.
        metrics: means over the local steps, one for each term of the objective, and `accuracy`.
        extras: what some methods and measurements send beside the update.
        step_size: the factor between a constant gradient and the update it would have caused (lr times FedNova's
            `||a_i||_1`); None where the local optimiser has no such factor.
        seconds: wall-clock time of the local training; this and the next differ between two runs of one seed.
        parts: the same by part of a step: `data`, `forward`, `loss`, `backward`, `optimizer`.
        failure: why there is no update, in an engine that goes on without a client; such a result is in no average.
        members: the clients whose mean this is, where a secure aggregation let the server see no single result.
    """

    client: int
    num_examples: int
    num_steps: int
    delta: Tree
    buffers: Tree
    metrics: dict[str, float]
    extras: Tree = field(default_factory=dict)
    step_size: float | None = None
    seconds: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    failure: str | None = None
    members: tuple[int, ...] = ()

    @property
    def clients(self) -> tuple[int, ...]:
        """Whose result this is: one client's, but for a mean of several."""
        return self.members or (self.client,)

    @classmethod
    def failed(cls, client: int, reason: str) -> ClientResult:
        """In the place of the result of a client that sent none."""
        return cls(client, num_examples=0, num_steps=0, delta={}, buffers={}, metrics={}, failure=reason)

    @cached_property
    def squared_norm(self) -> float:
        """Of the update, over parameters only."""
        return float(squared_norm(self.delta)) if self.delta else 0.0


class ClientCall(Protocol):
    """Anything an engine can run on a client: local training, or a measurement."""

    def __call__(
        self, model: nn.Module, data: ClientData, broadcast: Broadcast, state: ClientState
    ) -> tuple[ClientResult, ClientState]:
        """Use `model` as scratch memory, and return the result with the client's next state."""
        ...


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that is a function of `parts` alone: the same in every process, on every machine.

    >>> derive_seed(0, 1, 2) == derive_seed(0, 1, 2), derive_seed(0, 1, 2) == derive_seed(0, 2, 1)
    (True, False)
    """
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
