"""Engines: places where client calls run.

An engine is stateless. It is given a call, a broadcast, a cohort and the clients' states, and yields results in
cohort order. The serial engine is the reference; the process engine gives the same bits on more cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import nn

from decollapse.core import Broadcast, ClientCall, ClientData, ClientResult, ClientState


class Clients(Protocol):
    """The clients' data, by client number; built when asked for, so that 10,000 clients cost no more than 10."""

    def __len__(self) -> int:
        """How many clients there are."""
        ...

    def __getitem__(self, client: int) -> ClientData:
        """The data of one client."""
        ...

    def num_examples(self, client: int) -> int:
        """How many training examples a client has."""
        ...

    def share_memory(self) -> object:
        """Move the tensors to memory that other processes can map."""
        ...


@dataclass(frozen=True)
class Federation:
    """What an engine needs to know of a run before it starts.

    Attributes:
        build_model: makes the scratch model; must pickle. Its initial weights are never used.
        clients: everybody's data; must pickle.
    """

    build_model: Callable[[], nn.Module]
    clients: Clients


class Engine(Protocol):
    """A place where client calls run."""

    def run(
        self, call: ClientCall, broadcast: Broadcast, cohort: Sequence[int], states: Mapping[int, ClientState]
    ) -> Iterator[tuple[ClientResult, ClientState]]:
        """Run `call` on each client of `cohort`; yield results and next states in cohort order.

        Result tensors are contiguous and on the CPU. An engine whose clients come and go may yield
        `ClientResult.failed` in place of a client's result.

        Raises:
            ClientError: the call failed on a client, or on too many.
        """
        ...


DType = Literal["float32", "float64"]


class EngineSettings(Protocol):
    """A frozen recipe of an engine; calling it starts one for the length of a `with` block."""

    @property
    def device(self) -> str:
        """Where models and batches live, such as `cpu`, `cuda` or `cuda:1`."""
        ...

    @property
    def dtype(self) -> DType:
        """Of parameters and activations."""
        ...

    @property
    def channels_last(self) -> bool:
        """Whether convolutions' memory is laid out channel by channel."""
        ...

    def __call__(self, federation: Federation) -> AbstractContextManager[Engine]:
        """Start the engine."""
        ...


class ClientError(RuntimeError):
    """A client call failed; the message names client, round and what was raised, which is its cause."""


def check_device(device: str) -> None:
    """Raise ValueError if there is no such device here."""
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise ValueError(f'a device is written "cpu", "cuda" or "cuda:1", got {device!r}.') from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f'the device is {device!r}, but PyTorch sees no GPU here; use "cpu".')


def check_autocast(dtype: DType, autocast: bool) -> None:
    """Raise ValueError where bfloat16 operators are asked for beside float64 weights."""
    if autocast and dtype == "float64":
        raise ValueError('autocast trains in bfloat16, which float64 is not for; use dtype "float32", or no autocast.')


def placed(model: nn.Module, settings: EngineSettings) -> nn.Module:
    """`model` on the device, in the dtype and the memory layout of an engine."""
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    model = model.to(device=settings.device, dtype=getattr(torch, settings.dtype))
    return model.to(memory_format=layout)  # type: ignore[call-overload, no-any-return]  # torch types no memory_format for modules
