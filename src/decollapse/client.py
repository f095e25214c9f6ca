"""Local training: the one training loop of this package.

    w <- anchor
    for each epoch, for each batch:   w <- optimizer(w, gradient of sum_j term_j)
    delta = w - anchor

What happens is a function of (seed, round, client): batch order, augmentation and dropout never depend on who trained
before, nor on where.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from decollapse import tree
from decollapse.buffers import OWN_BUFFERS, BufferPolicy, own_buffers, prepare_buffers, unchanged_buffers
from decollapse.core import FEATURES, Broadcast, ClientData, ClientResult, ClientState, ModelState, derive_seed
from decollapse.data.augment import Augmentation
from decollapse.frozen import FrozenModels
from decollapse.models.activations import forward
from decollapse.models.parts import parameter_names
from decollapse.objective import BatchwiseTerm, LayerTerm, StatefulTerm, Step, Term, Trained
from decollapse.optim import SGD, LocalOptimizer
from decollapse.schedule import Scheduled
from decollapse.stopwatch import Stopwatch
from decollapse.term_states import following_states, starting_states
from decollapse.terms.cross_entropy import CrossEntropy
from decollapse.terms.proximal import Proximal
from decollapse.tree import Tree

PERSONAL = "personal"
"""The key of a client's own parameters in its state."""


@dataclass(frozen=True)
class ClientUpdate:
    """Local training of one client: the sum of the terms of `objective`, minimised for `epochs` epochs.

    A part of a model is the name of a module or parameter ("head"), "norm" for all normalisation layers, or "all".

    Attributes:
        objective: the summands of the loss; each has its own coefficient and a unique name.
        optimizer: built anew for every client and round.
        epochs: passes over the client's examples, >= 1.
        batch_size: examples a step, >= 1; the last batch of an epoch may be smaller and is kept.
        augment: changes of a batch, applied in order before the data set's `preprocess`.
        shuffle: a new order of the examples each epoch; False keeps the order of the data.
        buffers: what becomes of BatchNorm's statistics; see `decollapse.buffers`.
        frozen: parts that keep the weights the server sent (FedBABU's head). BatchNorm's statistics follow `buffers`.
        personal: parts whose weights each client keeps for itself (FedBN's norm). The server has the cohort's mean of
            them, for evaluation: no client that has its own ever starts from it, and no server optimiser moves it.
    """

    objective: tuple[Term, ...] = (CrossEntropy(),)
    optimizer: LocalOptimizer = SGD()
    epochs: int = 1
    batch_size: int = 64
    augment: tuple[Augmentation, ...] = ()
    shuffle: bool = True
    buffers: BufferPolicy = "average"
    frozen: tuple[str, ...] = ()
    personal: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(f"epochs and batch_size are at least 1, got {self.epochs} and {self.batch_size}.")
        names = [term.name for term in self.objective]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"an objective needs at least one term and no two of the same name, got {names}.")
        if {PERSONAL, OWN_BUFFERS} & set(names):
            raise ValueError(f"{PERSONAL!r} and {OWN_BUFFERS!r} are what a client keeps of its model; no term's name.")

    def check(self, model: nn.Module, data: ClientData) -> None:
        """Raise ValueError where `model` lacks a part or layer that is named here, or nothing is left to train."""
        parameter_names(model, self.personal)
        if parameter_names(model, self.frozen) == {name for name, _ in model.named_parameters()}:
            raise ValueError(f"frozen = {list(self.frozen)} is the whole model, and leaves nothing to train.")
        x = data.preprocess(data.x[:2]).to(next(model.parameters()).dtype)
        with torch.no_grad():
            forward(model.eval(), x.to(next(model.parameters()).device), self.layers)

    def __call__(
        self, model: nn.Module, data: ClientData, broadcast: Broadcast, state: ClientState
    ) -> tuple[ClientResult, ClientState]:
        """Train `model`, the scratch memory, from the broadcast on; return the update and the client's next state.

        Raises:
            ValueError: the client has no examples, its state does not fit, or the model lacks a part or layer.
        """
        started = time.perf_counter()
        if len(data) == 0:
            raise ValueError(f"client {data.client} has no examples; a cohort takes clients with at least one.")
        inside = ModelState.inside(model)
        broadcast.model.write_to(inside)
        ModelState(state.get(PERSONAL, {})).write_to(inside)
        anchor = inside.copy()
        prepare_buffers(model, self.buffers, state)
        states = starting_states(self._stateful, state, anchor, data.client)

        seed = client_seed(broadcast, data.client)
        device = next(model.parameters()).device
        cuda = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda), without_gradient(model, self.frozen):
            _seed_all(seed, device)
            watch = Stopwatch()
            metrics, num_steps = self._train(model, inside.params, data, broadcast, anchor, states, seed, watch)

        local = ModelState.of(model) if inside.buffers else inside.copy()  # a model may have replaced a buffer
        trained = Trained(local, anchor, data, broadcast, num_steps, self.optimizer.step_size(num_steps), metrics)
        states, extras = following_states(self._stateful, states, trained)
        personal = {name: local.params[name] for name in sorted(parameter_names(model, self.personal))}
        delta = tree.sub(local.params, anchor.params)
        result = ClientResult(
            client=data.client,
            num_examples=len(data),
            num_steps=num_steps,
            delta=delta | {name: torch.zeros_like(leaf) for name, leaf in personal.items()},
            buffers=local.buffers | personal,
            metrics=metrics,
            extras=extras,
            step_size=self.step_size(num_steps, broadcast.round),
            seconds=time.perf_counter() - started,
            parts=watch.parts,
        )
        return result, states | own_buffers(local, self.buffers) | ({PERSONAL: personal} if personal else {})

    def _train(
        self,
        model: nn.Module,
        params: Tree,
        data: ClientData,
        broadcast: Broadcast,
        anchor: ModelState,
        states: ClientState,
        seed: int,
        watch: Stopwatch,
    ) -> tuple[dict[str, float], int]:
        """Change `model` and `states` in place; return the mean of each term over the steps, and their number."""
        reference = next(iter(params.values()))
        optimizer = self.optimizer(param for param in model.parameters() if param.requires_grad)
        layers = self.layers
        others = FrozenModels(model, layers, None if self.augment else data, self.batch_size)
        seen: list[Tensor] = []
        following: ClientState = {}

        def loss_and_gradient(x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
            optimizer.zero_grad()
            output = forward(model, x, layers)
            watch.lap("forward")
            step = Step(
                x=x,
                y=y,
                output=output,
                params=params,
                anchor=anchor,
                data=data,
                broadcast=broadcast,
                state={},
                frozen=lambda other: others.output(other, x, rows),
            )
            steps = {name: replace(step, state=state) for name, state in states.items()}
            values = [term(steps.get(term.name, step)) for term in self.objective]
            loss = torch.stack(values).sum() if len(values) > 1 else values[0]
            if not seen:
                with torch.no_grad():
                    following.update({term.name: term.after_batch(steps[term.name]) for term in self._batchwise})
            watch.lap("loss")
            loss.backward()
            watch.lap("backward")
            with torch.no_grad():
                accuracy = (output.logits.argmax(dim=1) == y).double().mean()
                seen.append(torch.stack([*(value.double() for value in values), accuracy]))
            return loss

        def closure(x: Tensor, y: Tensor, rows: Tensor) -> Tensor:
            # An optimiser may call again, elsewhere than at the current weights (SAM): that batch is not counted twice.
            with unchanged_buffers(model) if seen else nullcontext():
                return loss_and_gradient(x, y, rows)

        num_steps, totals = 0, torch.zeros(len(self.objective) + 1, device=reference.device, dtype=torch.float64)
        model.train()
        for x, y, rows in self.batches(data, torch.Generator().manual_seed(seed)):
            seen.clear()
            watch.lap("data")
            optimizer.step(partial(closure, x.to(reference.dtype), y, rows))
            states.update(following)
            totals += seen[0]
            num_steps += 1
            watch.lap("optimizer")
        return self.metrics((totals / num_steps).tolist()), num_steps

    @cached_property
    def _stateful(self) -> tuple[StatefulTerm, ...]:
        """The terms that keep something from round to round; asking a protocol takes as long as a small step."""
        return tuple(term for term in self.objective if isinstance(term, StatefulTerm))

    @cached_property
    def _batchwise(self) -> tuple[BatchwiseTerm, ...]:
        """The terms that keep something from batch to batch."""
        return tuple(term for term in self.objective if isinstance(term, BatchwiseTerm))

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """The layers that any term reads, each once; the features need no recording."""
        asked = (layer for term in self.objective if isinstance(term, LayerTerm) for layer in term.layers)
        return tuple(dict.fromkeys(layer for layer in asked if layer != FEATURES))

    def metrics(self, means: list[float]) -> dict[str, float]:
        """What a result states of the local steps: the mean of each term, in the objective's order, and accuracy."""
        return dict(zip([*(term.name for term in self.objective), "accuracy"], means, strict=True))

    def step_size(self, num_steps: int, round: int) -> float | None:
        """What a result states as its step size: the optimiser's, with the pull of the proximal terms."""
        pull = _pull(self.objective, round)
        return self.optimizer.step_size(num_steps, pull=pull) if pull else self.optimizer.step_size(num_steps)

    def batches(self, data: ClientData, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Input, labels and numbers of the examples of each batch of each epoch."""
        for _ in range(self.epochs):
            order = torch.randperm(len(data), generator=generator) if self.shuffle else torch.arange(len(data))
            for rows in order.split(self.batch_size):
                x = data.x[rows]
                for change in self.augment:
                    x = change(x, generator)
                yield data.preprocess(x), data.y[rows], rows


def client_seed(broadcast: Broadcast, client: int) -> int:
    """What everything random of a client in a round is drawn from, whoever trains it."""
    return derive_seed("client", broadcast.seed, broadcast.round, client)


def _pull(objective: tuple[Term, ...], round: int) -> float:
    """The strength of all proximal terms, for FedNova's effective steps."""
    total = 0.0
    for term in objective:
        plain, factor = (term.term, term.schedule(round)) if isinstance(term, Scheduled) else (term, 1.0)
        total += factor * plain.mu if isinstance(plain, Proximal) else 0.0
    return total


def _seed_all(seed: int, device: torch.device) -> None:
    """Seed what a model may draw from on its device; `torch.manual_seed` takes 0.1 ms, most of it for absent ones."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)


@contextmanager
def without_gradient(model: nn.Module, parts: tuple[str, ...]) -> Iterator[None]:
    """Without gradient for the parameters of `parts`: no term, weight decay or momentum moves them."""
    names = parameter_names(model, parts)
    params = [param for name, param in model.named_parameters() if name in names and param.requires_grad]
    for param in params:
        param.requires_grad_(False)
    try:
        yield
    finally:
        for param in params:
            param.requires_grad_(True)
