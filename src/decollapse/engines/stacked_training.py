"""Local training of several clients at once: the steps of `decollapse.client`, along a new first dimension.

    W <- K copies of the anchor
    for each batch:   W <- optimizer(W, gradient of sum_k sum_j term_j of client k)

No client's loss depends on the parameters of another, so row k of the gradient is client k's own, and an optimiser that
works number by number moves each client as it would alone. The batches are those that `ClientUpdate` draws.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from decollapse.buffers import prepare_buffers
from decollapse.client import ClientUpdate, client_seed, without_gradient
from decollapse.core import Broadcast, ClientData, ClientResult, ModelState, Output
from decollapse.frozen import FrozenModels
from decollapse.models.activations import recorded
from decollapse.objective import StatefulTerm, Step
from decollapse.optim import SGD, Adam
from decollapse.schedule import Scheduled
from decollapse.stopwatch import Stopwatch
from decollapse.tree import Tree

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Shaped

    Parts = tuple[Tensor, Tensor, Tree]  # of an Output, which vmap cannot return
    Own = tuple[Tensor, Tensor, Tensor, Tensor]  # number, x, y and class counts of a client

NO_ROWS = torch.empty(0, dtype=torch.long)
"""A batch's place in the data, for frozen models that remember nothing."""


def obstacle(call: ClientUpdate) -> str | None:
    """Why `call` cannot train clients as a stack, as far as that is known before it is tried."""
    for term in call.objective:
        plain = term.term if isinstance(term, Scheduled) else term
        if isinstance(plain, StatefulTerm):
            return f"the term {term.name!r} keeps something of each client"
    if call.personal or call.buffers == "local":
        return "each client keeps a part of the model for itself"
    if type(call.optimizer) not in (SGD, Adam):
        return f"{type(call.optimizer).__name__} is not known to move every number by itself, as SGD and Adam do"
    return None


class StackedTraining:
    """Trains clients with equal numbers of examples together, in the architecture of one model.

    A term that vmap refuses is asked client by client from then on; a model that it refuses raises.

    Attributes:
        call: the local training of each of them.
    """

    def __init__(self, call: ClientUpdate, model: nn.Module) -> None:
        self.call = call
        self._model = model
        self._one_by_one: set[str] = set()

    def __call__(self, clients: Sequence[ClientData], broadcast: Broadcast) -> list[ClientResult]:
        """The result of each client; its `seconds` and `parts` are a K-th of the time of all."""
        began = time.perf_counter()
        call, inside = self.call, ModelState.inside(self._model)
        broadcast.model.write_to(inside)
        anchor = inside.copy()
        prepare_buffers(self._model, call.buffers, {})
        with without_gradient(self._model, call.frozen):
            params = {
                name: nn.Parameter(_repeated(leaf, len(clients)), requires_grad=leaf.requires_grad)
                for name, leaf in inside.params.items()
            }
        buffers = {name: _repeated(leaf, len(clients)) for name, leaf in inside.buffers.items()}
        others = FrozenModels(self._model, call.layers, None, call.batch_size)
        watch = Stopwatch()
        group = _Group(clients, broadcast, anchor, others, watch)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop")  # of an operator that vmap loops over
            means, num_steps = self._train(params, buffers, group)

        deltas = _home({name: leaf.detach() - anchor.params[name] for name, leaf in params.items()}, len(clients))
        step_size = call.step_size(num_steps, broadcast.round)
        parts = {part: seconds / len(clients) for part, seconds in watch.parts.items()}
        seconds = (time.perf_counter() - began) / len(clients)
        return [
            ClientResult(
                client=data.client,
                num_examples=len(data),
                num_steps=num_steps,
                delta=delta,
                buffers=own,
                metrics=call.metrics(row),
                step_size=step_size,
                seconds=seconds,
                parts=parts,
            )
            for data, delta, own, row in zip(clients, deltas, _home(buffers, len(clients)), means.tolist(), strict=True)
        ]

    def _train(
        self, params: dict[str, nn.Parameter], buffers: Tree, group: _Group
    ) -> tuple[Float[Tensor, "K terms"], int]:
        """Change `params` and `buffers`; return the means of each term and of accuracy, and the number of steps."""
        leaves = [leaf for leaf in params.values() if leaf.requires_grad]
        reference = next(iter(params.values()))
        optimizer = self.call.optimizer(leaves)
        totals, num_steps = torch.zeros(len(group.clients), 1, device=reference.device, dtype=torch.float64), 0
        self._model.train()
        for x, y in group.batches(self.call):
            group.watch.lap("data")
            values, accuracy = self._values(dict(params), buffers, x.to(reference.dtype), y, group)
            gradients = torch.autograd.grad(torch.stack(values).sum(), leaves, allow_unused=True)
            group.watch.lap("backward")
            for leaf, gradient in zip(leaves, gradients, strict=True):
                # A fused optimiser walks both memories side by side; `backward` would have laid it out as the leaf.
                leaf.grad = None if gradient is None else gradient.contiguous()
            optimizer.step()
            totals = totals + torch.stack([*(value.detach().double() for value in values), accuracy], dim=1)
            num_steps += 1
            group.watch.lap("optimizer")
        return totals / num_steps, num_steps

    def _values(
        self, params: Tree, buffers: Tree, x: Float[Tensor, "K n ..."], y: Int[Tensor, "K n"], group: _Group
    ) -> tuple[list[Float[Tensor, "K"]], Float[Tensor, "K"]]:
        """Each term, in the objective's order, and the accuracy; the forward pass changes `buffers`."""

        def of_one(params: Tree, buffers: Tree, x: Tensor, y: Tensor, own: Own) -> tuple[Tree, Tensor, Tree, Parts]:
            weights = params | buffers
            output = self._output(weights, x)
            group.watch.lap("forward")
            step = group.step(x, y, output, params, group.data(own))
            values = {}
            for term in self.call.objective:
                if term.name not in self._one_by_one:
                    try:
                        values[term.name] = term(step)
                    except Exception:  # a term that is wrong, and not only refused, raises where it is asked again
                        self._one_by_one.add(term.name)
            accuracy = (output.logits.detach().argmax(dim=1) == y).double().mean()
            buffers = {name: weights[name].detach() for name in buffers}
            return values, accuracy, buffers, (output.logits, output.features, dict(output.layers))

        values, accuracy, after, parts = vmap(of_one)(params, buffers, x, y, group.own)
        buffers.update(after)
        asked = [term for term in self.call.objective if term.name in self._one_by_one]
        if asked:
            rows = zip(x, y, _outputs(parts), _rows(params, len(x)), group.clients, strict=True)
            steps = [group.step(*row) for row in rows]
            values |= {term.name: torch.stack([term(step) for step in steps]) for term in asked}
        group.watch.lap("loss")
        return [values[term.name] for term in self.call.objective], accuracy

    def _output(self, weights: Tree, x: Tensor) -> Output:
        with recorded(self._model, self.call.layers) as layers:
            output: Output = functional_call(self._model, weights, (x,))
        return Output(output.logits, output.features, dict(layers))


@dataclass(frozen=True, eq=False)
class _Group:
    """Clients that are trained together, and what all of them see.

    Attributes:
        clients: with equal numbers of examples.
        broadcast: what the server sent.
        anchor: the model they start from.
        others: runs other models.
        watch: times the parts of a step.
    """

    clients: Sequence[ClientData]
    broadcast: Broadcast
    anchor: ModelState
    others: FrozenModels
    watch: Stopwatch

    def step(self, x: Tensor, y: Tensor, output: Output, params: Tree, data: ClientData) -> Step:
        """What the terms of one client see."""
        return Step(
            x=x,
            y=y,
            output=output,
            params=params,
            anchor=self.anchor,
            data=data,
            broadcast=self.broadcast,
            state={},
            frozen=lambda other: self.others.output(other, x, NO_ROWS),
        )

    def batches(self, call: ClientUpdate) -> Iterator[tuple[Shaped[Tensor, "K n ..."], Int[Tensor, "K n"]]]:
        """Input and labels of each batch of each epoch, every client's drawn as if it were alone."""
        generators = [torch.Generator().manual_seed(client_seed(self.broadcast, it.client)) for it in self.clients]
        own = [call.batches(data, generator) for data, generator in zip(self.clients, generators, strict=True)]
        for batches in zip(*own, strict=True):
            xs, ys, _ = zip(*batches, strict=True)
            yield torch.stack(xs), torch.stack(ys)

    @cached_property
    def own(self) -> Own:
        """The clients' data as a stack."""
        x, y = torch.stack([data.x for data in self.clients]), torch.stack([data.y for data in self.clients])
        counts = y.new_zeros(len(y), self.clients[0].num_classes).scatter_add(1, y, torch.ones_like(y))
        return torch.tensor([data.client for data in self.clients], device=y.device), x, y, counts

    def data(self, own: Own) -> ClientData:
        """One client's data inside vmap, of a row of `self.own`; its number is a tensor that refuses to be an int."""
        client, x, y, counts = own
        data = ClientData(client, x, y, self.clients[0].num_classes, _refused)  # type: ignore[arg-type]  # the number
        vars(data)["class_counts"] = counts  # vmap refuses the `bincount` they are otherwise made with
        return data


def _refused(x: Tensor) -> Tensor:
    """Stands for `preprocess`, which may differ between clients: a term that uses it is asked client by client."""
    raise NotImplementedError("there is no preprocess inside vmap.")


def _repeated(leaf: Tensor, times: int) -> Tensor:
    return leaf.detach().expand(times, *leaf.shape).clone(memory_format=torch.contiguous_format)


def _rows(stacked: Tree, count: int) -> list[Tree]:
    """The tree of each client."""
    rows = {name: leaf.unbind() for name, leaf in stacked.items()}
    return [{name: row[k] for name, row in rows.items()} for k in range(count)]


def _home(stacked: Tree, count: int) -> list[Tree]:
    """The tree of each client, on the CPU and contiguous."""
    return _rows({name: leaf.to("cpu").contiguous() for name, leaf in stacked.items()}, count)


def _outputs(parts: Parts) -> list[Output]:
    logits, features, layers = parts
    rows = zip(logits.unbind(), features.unbind(), _rows(layers, len(logits)), strict=True)
    return [Output(*row) for row in rows]
