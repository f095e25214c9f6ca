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
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from decollapse import tree
from decollapse.buffers import BufferPolicy, own_buffers, prepare_buffers
from decollapse.core import Broadcast, ClientData, ClientResult, ClientState, ModelState, Output, derive_seed
from decollapse.data.augment import Augmentation
from decollapse.objective import StatefulTerm, Step, Term
from decollapse.optim import SGD, LocalOptimizer
from decollapse.terms.cross_entropy import CrossEntropy
from decollapse.tree import Tree


@dataclass(frozen=True)
class ClientUpdate:
    """Local training of one client: the sum of the terms of `objective`, minimised for `epochs` epochs.

    Attributes:
        objective: the summands of the loss; each has its own coefficient and a unique name.
        optimizer: built anew for every client and round.
        epochs: passes over the client's examples, >= 1.
        batch_size: examples a step, >= 1; the last batch of an epoch may be smaller and is kept.
        augment: changes of a batch, applied in order before the data set's `preprocess`.
        shuffle: a new order of the examples each epoch; False keeps the order of the data.
        buffers: what becomes of BatchNorm's statistics; see `decollapse.buffers`.
    """

    objective: tuple[Term, ...] = (CrossEntropy(),)
    optimizer: LocalOptimizer = SGD()
    epochs: int = 1
    batch_size: int = 64
    augment: tuple[Augmentation, ...] = ()
    shuffle: bool = True
    buffers: BufferPolicy = "average"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(f"epochs and batch_size are at least 1, got {self.epochs} and {self.batch_size}.")
        names = [term.name for term in self.objective]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"an objective needs at least one term and no two of the same name, got {names}.")

    def __call__(
        self, model: nn.Module, data: ClientData, broadcast: Broadcast, state: ClientState
    ) -> tuple[ClientResult, ClientState]:
        """Train `model`, the scratch memory, from the broadcast on; return the update and the client's next state.

        Raises:
            ValueError: the client has no examples.
        """
        started = time.perf_counter()
        if len(data) == 0:
            raise ValueError(f"client {data.client} has no examples; a cohort takes clients with at least one.")
        broadcast.model.load_into(model)
        prepare_buffers(model, self.buffers, state)
        anchor = ModelState.of(model)
        states = {
            term.name: state.get(term.name) or term.init_state(anchor)
            for term in self.objective
            if isinstance(term, StatefulTerm)
        }

        seed = derive_seed("client", broadcast.seed, broadcast.round, data.client)
        device = next(model.parameters()).device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            metrics, num_steps = self._train(model, data, broadcast, anchor, states, seed)

        local = ModelState.of(model)
        states = {
            term.name: term.next_state(states[term.name], local, anchor)
            for term in self.objective
            if isinstance(term, StatefulTerm)
        }
        result = ClientResult(
            client=data.client,
            num_examples=len(data),
            num_steps=num_steps,
            delta=tree.sub(local.params, anchor.params),
            buffers=local.buffers,
            metrics=metrics,
            seconds=time.perf_counter() - started,
        )
        return result, states | own_buffers(local, self.buffers)

    def _train(
        self,
        model: nn.Module,
        data: ClientData,
        broadcast: Broadcast,
        anchor: ModelState,
        states: ClientState,
        seed: int,
    ) -> tuple[dict[str, float], int]:
        """Change `model` in place; return the mean of each term over the steps, and the number of steps."""
        params: Tree = dict(model.named_parameters())
        reference = next(iter(params.values()))
        optimizer = self.optimizer(model.parameters())
        seen: list[Tensor] = []

        def loss_and_gradient(x: Tensor, y: Tensor) -> Tensor:
            optimizer.zero_grad()
            output = model(x)
            values = torch.stack(
                [
                    term(
                        Step(
                            x=x,
                            y=y,
                            output=output,
                            params=params,
                            anchor=anchor,
                            data=data,
                            broadcast=broadcast,
                            state=states.get(term.name, {}),
                            frozen=lambda other: _frozen_output(model, other, x),
                        )
                    )
                    for term in self.objective
                ]
            )
            loss = values.sum()
            loss.backward()
            accuracy = (output.logits.argmax(dim=1) == y).double().mean()
            seen.append(torch.cat([values.detach().double(), accuracy[None]]))
            return loss

        num_steps, totals = 0, torch.zeros(len(self.objective) + 1, device=reference.device, dtype=torch.float64)
        model.train()
        for x, y in self._batches(data, torch.Generator().manual_seed(seed)):
            seen.clear()
            optimizer.step(partial(loss_and_gradient, x.to(reference.dtype), y))  # type: ignore[arg-type]  # typed as a function that returns float, but tensors are what PyTorch passes on
            totals += seen[0]  # an optimiser may call the closure again, elsewhere than at the current weights
            num_steps += 1
        names = [*(term.name for term in self.objective), "accuracy"]
        return dict(zip(names, (totals / num_steps).tolist(), strict=True)), num_steps

    def _batches(self, data: ClientData, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Input and labels of each batch of each epoch."""
        for _ in range(self.epochs):
            order = torch.randperm(len(data), generator=generator) if self.shuffle else torch.arange(len(data))
            for batch in order.split(self.batch_size):
                x = data.x[batch]
                for change in self.augment:
                    x = change(x, generator)
                yield data.preprocess(x), data.y[batch]


def _frozen_output(model: nn.Module, other: ModelState, x: Tensor) -> Output:
    """The output of the architecture of `model` with the weights `other`, in eval mode and without gradient."""
    model.eval()
    with torch.no_grad():
        output: Output = functional_call(model, other.params | other.buffers, (x,))
    model.train()
    return output
