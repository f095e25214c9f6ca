"""What becomes of BatchNorm's running statistics, the tensors of a model that no optimiser owns.

| policy | a client starts from | the server keeps |
|---|---|---|
| `average` | the server's | the mean of the clients' floating-point buffers, weighted by examples |
| `local` | its own of the last time it took part (FedBN's statistics) | the same mean, for evaluation only |
| `reset` | mean 0, variance 1 | the same mean |
| `recalibrate` | the server's | statistics of the *averaged* model, measured by the cohort after the round |

Integer buffers (BatchNorm's counters) are taken from the broadcast: a mean of counters counts nothing. Server
optimisers never see buffers: a momentum step drives a variance negative.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from decollapse.core import Broadcast, ClientData, ClientResult, ClientState, ModelState

BufferPolicy = Literal["average", "local", "reset", "recalibrate"]
BUFFER_POLICIES: tuple[str, ...] = get_args(BufferPolicy)
OWN_BUFFERS = "buffers"
"""The key of a client's own buffers in its state."""


def prepare_buffers(model: nn.Module, policy: BufferPolicy, state: ClientState) -> None:
    """Give `model`, freshly loaded with the broadcast, the buffers its client starts from."""
    if policy == "local" and OWN_BUFFERS in state:
        ModelState({}, state[OWN_BUFFERS]).load_into(model)
    elif policy == "reset":
        for layer in _running_statistics(model):
            layer.reset_running_stats()


def own_buffers(local: ModelState, policy: BufferPolicy) -> ClientState:
    """What a client keeps of its buffers for its next round."""
    return {OWN_BUFFERS: local.buffers} if policy == "local" and local.buffers else {}


@contextmanager
def unchanged_buffers(model: nn.Module) -> Iterator[None]:
    """Put every buffer back at the end: for a forward pass whose statistics must not count."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, kept in before:
            buffer.copy_(kept)


@dataclass(frozen=True)
class Recalibrate:
    """A client call that trains nothing: it measures BatchNorm's statistics of the broadcast model on its examples.

    Every batch counts the same (a cumulative average), as in precise BatchNorm (Wu & Johnson 2021,
    https://arxiv.org/abs/2105.07576).

    Attributes:
        batch_size: examples a forward pass.
    """

    batch_size: int = 256

    def __call__(
        self, model: nn.Module, data: ClientData, broadcast: Broadcast, state: ClientState
    ) -> tuple[ClientResult, ClientState]:
        """Return a result with zero steps, no delta and the measured buffers; the state is as it came."""
        broadcast.model.load_into(model)
        layers = _running_statistics(model)
        model.eval()  # dropout is off, as it is wherever these statistics are used
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        dtype = next(model.parameters()).dtype
        with torch.no_grad():
            for x in data.x.split(self.batch_size):
                model(data.preprocess(x).to(dtype))
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        buffers = ModelState.of(model).buffers
        return ClientResult(data.client, len(data), 0, delta={}, buffers=buffers, metrics={}), state


def _running_statistics(model: nn.Module) -> list[_NormBase]:
    return [layer for layer in model.modules() if isinstance(layer, _NormBase) and layer.track_running_stats]
