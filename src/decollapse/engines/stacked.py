"""Many tiny clients at once: their models stacked along a new first dimension, and trained as one.

A client with one small batch is nearly all Python and dispatch, which a stack pays once. How many times longer the same
cohort takes on the serial engine, and in a hand-written loop (`python benchmarks/stacked.py`, one thread of a Xeon core
shared with other work, medians of 15 turns, two runs):

                                                               serial         by hand
    100 clients x 10 examples, MLP 64-128-10                 5.0 and 5.3    3.8 and 4.0
    the same with FedDecorr                                  6.4 and 6.3    5.1 and 5.2
    the same with FedProx, whose term vmap refuses           4.0 and 3.9    3.3 and 3.3
    100 clients x 10 images of 8 x 8, CNN of 8, 16 channels  5.9 and 5.8    5.3 and 5.2
    20 clients x 50 images of 28 x 28, SmallCNN            0.39 and 0.41  0.38 and 0.41

So it does not pay where arithmetic takes the time: a stack's convolutions are one grouped convolution, without the
`channels_last` layout, which makes them slower on the CPU, and max-pooling much slower.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn

from decollapse.client import ClientUpdate
from decollapse.core import Broadcast, ClientCall, ClientData, ClientResult, ClientState, ModelState
from decollapse.diagnosis.local import MeasureLocalModel
from decollapse.engines import DType, Engine, Federation, check_device, placed
from decollapse.engines.serial import Serial
from decollapse.engines.stacked_training import StackedTraining, obstacle
from decollapse.tree import Tree

SMALLEST = 3
"""Clients of a stack at least; two take longer together than one after the other."""
LARGEST = 1 << 26
"""Bytes of weights in a stack at most; gradients, momenta and results take as much again each."""
LOOK_AHEAD = 8
"""How far behind its first client a stack may reach, in stacks: bounds the results that wait for their turn."""

Replies = dict[int, tuple[ClientResult, ClientState]]


@dataclass(frozen=True)
class Stacked:
    """Clients with equal numbers of examples are trained together, the others one after the other as in `Serial`.

    Results are the serial engine's up to rounding. What a stack cannot do is done one by one, with the serial engine's
    bits: terms with a state, parts that a client keeps, other optimisers than SGD and Adam, models with dropout or
    control flow that depends on data, and any call but local training.

    Attributes:
        examples: in one step of a stack, all its clients together, >= 1: bounds the memory of activations. There are
            never more clients in it than 64 MB hold models of.
        device: as in `Serial`.
        dtype: as in `Serial`.
        channels_last: as in `Serial`; of clients that are trained alone.
        threads: as in `Serial`.
    """

    examples: int = 512
    device: str = "cpu"
    dtype: DType = "float32"
    channels_last: bool = True
    threads: int | None = 1

    def __post_init__(self) -> None:
        if self.examples < 1:
            raise ValueError(f"a stack has at least 1 example in a step, got {self.examples}.")
        check_device(self.device)
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads is at least 1, got {self.threads}.")

    @contextmanager
    def __call__(self, federation: Federation) -> Iterator[Engine]:
        """The engine; PyTorch's number of threads is put back at the end."""
        serial = Serial(self.device, self.dtype, self.channels_last, self.threads)
        with serial(federation) as alone:
            yield StackedEngine(self, federation, alone)


class StackedEngine:
    """A started `Stacked`: a model in whose architecture stacks are trained, and an engine for single clients."""

    def __init__(self, settings: Stacked, federation: Federation, alone: Engine) -> None:
        with torch.random.fork_rng(devices=[]):
            self._model = placed(federation.build_model(), settings)
        self._settings = settings
        self._clients = federation.clients
        self._alone = alone
        self._model_bytes = sum(leaf.nbytes for leaf in ModelState.inside(self._model).params.values())
        self._call: ClientUpdate | None = None
        self._training: StackedTraining | None = None

    def run(
        self, call: ClientCall, broadcast: Broadcast, cohort: Sequence[int], states: Mapping[int, ClientState]
    ) -> Iterator[tuple[ClientResult, ClientState]]:
        """See `Engine.run`. Warns, once for a call, where every client has to be trained alone."""
        training = self._training_of(call.train if isinstance(call, MeasureLocalModel) else call)
        stacks = self._stacks(training.call, cohort) if training else {}
        done: Replies = {}
        for client in cohort:
            if client not in done:
                if training and client in stacks:
                    try:
                        done |= self._together(training, call, broadcast, stacks[client])
                    except Exception as error:
                        done |= self._alone_each(call, broadcast, stacks[client], states)  # raises if it was a client
                        training = self._training = None
                        _warn(f"{type(error).__name__}: {' '.join(str(error).split()).partition('. ')[0]}")
                else:
                    done |= self._alone_each(call, broadcast, [client], states)
            yield done.pop(client)

    def _training_of(self, call: ClientCall) -> StackedTraining | None:
        """What trains stacks for `call`, the same one in every round; None where there can be none."""
        if not isinstance(call, ClientUpdate):
            return None
        if call is not self._call:
            reason = obstacle(call)
            self._call, self._training = call, None if reason else StackedTraining(call, self._model)
            if reason:
                _warn(reason)
        return self._training

    def _stacks(self, call: ClientUpdate, cohort: Sequence[int]) -> dict[int, list[int]]:
        """For each client that is not trained alone, those it is trained with, itself among them, in cohort order."""
        filling: dict[int, list[int]] = {}
        begun: dict[int, int] = {}
        stacks: list[list[int]] = []
        for position, client in enumerate(cohort):
            n = self._clients.num_examples(client)
            room = min(self._settings.examples // max(1, min(n, call.batch_size)), LARGEST // self._model_bytes)
            if n not in filling or len(filling[n]) >= room or position - begun[n] >= LOOK_AHEAD * room:
                filling[n], begun[n] = [], position
                stacks.append(filling[n])
            filling[n].append(client)
        return {client: stack for stack in stacks if len(stack) >= SMALLEST for client in stack}

    def _together(
        self, training: StackedTraining, call: ClientCall, broadcast: Broadcast, clients: Sequence[int]
    ) -> Replies:
        results = training([self._data(client) for client in clients], self._there(broadcast))
        replies: Replies = {result.client: (result, {}) for result in results}
        if isinstance(call, MeasureLocalModel):  # else measuring a round would change its rounding
            for result in results:
                measured = replace(call, train=_AlreadyTrained(result))
                replies |= self._alone_each(measured, broadcast, [result.client], {})
        return replies

    def _alone_each(
        self, call: ClientCall, broadcast: Broadcast, clients: Sequence[int], states: Mapping[int, ClientState]
    ) -> Replies:
        return dict(zip(clients, self._alone.run(call, broadcast, clients, states), strict=True))

    def _data(self, client: int) -> ClientData:
        data = self._clients[client]
        return replace(data, x=data.x.to(self._settings.device), y=data.y.to(self._settings.device))

    def _there(self, broadcast: Broadcast) -> Broadcast:
        def there(tree: Tree) -> Tree:
            return {name: leaf.to(self._settings.device) for name, leaf in tree.items()}

        model = ModelState(there(broadcast.model.params), there(broadcast.model.buffers))
        return replace(broadcast, model=model, extras=there(broadcast.extras))


@dataclass(frozen=True, eq=False)
class _AlreadyTrained:
    """A client call that is made: it leaves the local model where it would have been trained.

    Attributes:
        result: of the training.
    """

    result: ClientResult

    def __call__(
        self, model: nn.Module, data: ClientData, broadcast: Broadcast, state: ClientState
    ) -> tuple[ClientResult, ClientState]:
        inside = ModelState.inside(model)
        broadcast.model.write_to(inside)
        ModelState({}, self.result.buffers).write_to(inside)
        with torch.no_grad():
            for name, leaf in self.result.delta.items():
                inside.params[name].add_(leaf.to(inside.params[name].device))
        return self.result, state


def _warn(reason: str) -> None:
    warnings.warn(f"every client is trained alone, none in a stack: {reason}.", stacklevel=3)
