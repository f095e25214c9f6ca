"""The reference engine: one client after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from decollapse.core import Broadcast, ClientCall, ClientData, ClientResult, ClientState, ModelState
from decollapse.engines import ClientError, DType, Engine, Federation, check_autocast, check_device, placed
from decollapse.engines.acceleration import accelerate
from decollapse.tree import Tree


@dataclass(frozen=True)
class Serial:
    """One client after the other.

    Attributes:
        device: where models and batches live, such as `cpu`, `cuda` or `cuda:1`.
        dtype: of parameters and activations.
        channels_last: lay convolutions' memory out channel by channel; several times faster on the CPU.
        threads: for PyTorch's operators. 1 gives the same bits on every machine with the same processor type, and the
            same as the process engine; None keeps PyTorch's own setting.
        compile: fuse the model's operators with PyTorch's compiler, which needs a C++ compiler on the CPU: 1.15 times
            as fast on ResNet-20 after 5 to 25 s, other rounding.
        autocast: train in bfloat16 where PyTorch holds it safe; weights, losses and measurements keep their dtype. Pays
            on GPUs, and on CPUs with AMX.
    """

    device: str = "cpu"
    dtype: DType = "float32"
    channels_last: bool = True
    threads: int | None = 1
    compile: bool = False
    autocast: bool = False

    def __post_init__(self) -> None:
        check_device(self.device)
        check_autocast(self.dtype, self.autocast)
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads is at least 1, got {self.threads}.")

    @contextmanager
    def __call__(self, federation: Federation) -> Iterator[Engine]:
        """The engine; PyTorch's number of threads is put back at the end."""
        before = torch.get_num_threads()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        try:
            yield SerialEngine(self, federation)
        finally:
            torch.set_num_threads(before)


class SerialEngine:
    """A started `Serial`: holds the scratch model that every client trains in turn."""

    def __init__(self, settings: Serial, federation: Federation) -> None:
        with torch.random.fork_rng(devices=[]):
            model = placed(federation.build_model(), settings)
        self._model = accelerate(model, device=settings.device, compile=settings.compile, autocast=settings.autocast)
        self._device = settings.device
        self._clients = federation.clients

    def run(
        self, call: ClientCall, broadcast: Broadcast, cohort: Sequence[int], states: Mapping[int, ClientState]
    ) -> Iterator[tuple[ClientResult, ClientState]]:
        """See `Engine.run`."""
        for client in cohort:
            yield self.run_one(call, broadcast, client, states.get(client, {}))

    def run_one(
        self, call: ClientCall, broadcast: Broadcast, client: int, state: ClientState
    ) -> tuple[ClientResult, ClientState]:
        """One client's result and next state."""
        try:
            result, state = call(self._model, *self._on_device(self._clients[client], broadcast, state))
        except Exception as error:
            what = f"{type(error).__name__}: {error}{_advice(error)}"
            raise ClientError(f"client {client} failed in round {broadcast.round}: {what}") from error
        result = replace(result, delta=_home(result.delta), buffers=_home(result.buffers), extras=_home(result.extras))
        _ = result.squared_norm  # kept with the result: here clients compute it side by side
        return result, {name: _home(leaf) for name, leaf in state.items()}

    def _on_device(
        self, data: ClientData, broadcast: Broadcast, state: ClientState
    ) -> tuple[ClientData, Broadcast, ClientState]:
        if self._device == "cpu":
            return data, broadcast, state

        def there(tree: Tree) -> Tree:
            return {name: leaf.to(self._device) for name, leaf in tree.items()}

        model = ModelState(there(broadcast.model.params), there(broadcast.model.buffers))
        return (
            replace(data, x=data.x.to(self._device), y=data.y.to(self._device)),
            replace(broadcast, model=model, extras=there(broadcast.extras)),
            {name: there(kept) for name, kept in state.items()},
        )


def _advice(error: Exception) -> str:
    """What to do about it, where memory ran out; PyTorch says so on the CPU in a RuntimeError of its own."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return "; memory ran out: use a smaller client.batch_size, evaluation.batch_size, or fewer workers."
    return ""


def _home(tree: Tree) -> Tree:
    """On the CPU and contiguous: a sum over a tensor has bits that depend on its memory layout."""
    return {name: leaf.to("cpu").contiguous() for name, leaf in tree.items()}
