"""Where the examples of a federation are.

`DealtData`: the recipe's data set, dealt by the recipe's partition at every client alike. For trying out.
`OwnData`: functions of the app, each called only where its data are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from decollapse.config import from_table
from decollapse.core import ClientData
from decollapse.data import ByColumn, Dataset, DataSource
from decollapse.engines import Federation
from decollapse.experiment import Experiment, Prepared, prepare
from decollapse.schema import Table

if TYPE_CHECKING:
    from jaxtyping import Int, Shaped


class DataOfApp(Protocol):
    """Tells server and clients what each may know of the data."""

    def at_server(self, experiment: Experiment) -> Prepared:
        """What the server needs to run: a test set, the classes, the shape of an example, and no client's examples."""
        ...

    def at_client(self, recipe: Table, client: int) -> Federation:
        """What one client needs: the model's shape, and its own examples."""
        ...


@dataclass(frozen=True)
class DealtData:
    """The data set and the partition that the recipe names; the server has it all, as `decollapse run` does."""

    def at_server(self, experiment: Experiment) -> Prepared:
        """The same as for a run in one place, with the same fingerprint."""
        return prepare(experiment)

    def at_client(self, recipe: Table, client: int) -> Federation:
        """Everybody's examples, of which an engine takes the client's."""
        prepared = _dealt(json.dumps(recipe))
        return Federation(prepared.build_model, prepared.clients)


@lru_cache(maxsize=1)
def _dealt(recipe: str) -> Prepared:
    """Kept, for one process may be client after client in a simulation."""
    return prepare(from_table(json.loads(recipe)))


@dataclass(frozen=True)
class OwnData:
    """Data of several owners.

    Attributes:
        client: called at a client with its partition id and the number of partitions; its examples and labels: uint8
            images (n, channels, height, width) or floating-point features (n, ...), and int64 labels (n,).
        test: called at the server; public or held-out examples of the same kind, on which the model is evaluated and
            local models are compared. They are sent to the clients where `evaluation.local_every` asks for that.
        classes: names of the classes, in the order of the labels.
        preprocess: turns a batch of examples into the model's input, at all clients and the server alike; see
            `decollapse.data.Normalize`.
    """

    client: Callable[[int, int], tuple[Tensor, Tensor]]
    test: Callable[[], tuple[Tensor, Tensor]]
    classes: tuple[str, ...]
    preprocess: Callable[[Tensor], Tensor]

    def at_server(self, experiment: Experiment) -> Prepared:
        """The test set, and clients that are a number; what the recipe says of data and partition is not of this run.

        Raises:
            ValueError: what `test` returns is no test set.
        """
        x, y = self.test()
        dataset = Dataset("the app's test data", x[:0], y[:0], x, y, self.classes, self.preprocess)
        elsewhere = replace(experiment, data=DataSource("clients"), partition=ByColumn("client"))
        return Prepared(elsewhere, dataset, OwnClients(self, experiment.num_clients))

    def at_client(self, recipe: Table, client: int) -> Federation:
        """The client's own examples, and a model that fits them.

        Raises:
            ValueError: what `client` returns are no examples.
        """
        experiment = from_table(recipe)
        clients = OwnClients(self, experiment.num_clients)
        shape = tuple(clients[client].x.shape[1:])
        return Federation(partial(experiment.model, shape, len(self.classes)), clients)


@dataclass(frozen=True, eq=False)
class OwnClients:
    """Clients whose examples are loaded where somebody asks for them, which the server of a federation never does.

    Attributes:
        data: the app's.
        num_clients: how many there are.
    """

    data: OwnData
    num_clients: int

    def __len__(self) -> int:
        return self.num_clients

    def __getitem__(self, client: int) -> ClientData:
        """The examples of one client."""
        return _loaded(self.data, client, self.num_clients)

    def num_examples(self, client: int) -> int:
        """How many examples one client has."""
        return len(self[client])

    def class_counts(self) -> Int[Tensor, "clients classes"] | None:
        """Which classes a client has is its own affair."""
        return None

    def share_memory(self) -> object:
        """Nothing is shared."""
        return self


@lru_cache(maxsize=1)
def _loaded(data: OwnData, client: int, num_clients: int) -> ClientData:
    x, y = data.client(client, num_clients)
    _check_examples(x, y, client, data.classes)
    return ClientData(client, x, y, len(data.classes), data.preprocess)


def _check_examples(x: Shaped[Tensor, "n ..."], y: Int[Tensor, "n"], client: int, classes: tuple[str, ...]) -> None:
    """Raise ValueError unless a data set could be made of these."""
    where = f"the data of client {client}"
    if not isinstance(x, Tensor) or not isinstance(y, Tensor):
        raise ValueError(f"{where} are two tensors, got {type(x).__name__} and {type(y).__name__}.")
    Dataset(where, x, y, x, y, classes, torch.nn.Identity())
