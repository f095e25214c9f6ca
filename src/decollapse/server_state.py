"""What the server of a run owns between two rounds: what a checkpoint holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from decollapse.algorithm import Algorithm
from decollapse.buffers import OWN_BUFFERS
from decollapse.client import PERSONAL
from decollapse.core import Broadcast, ClientState, ModelState
from decollapse.models.parts import ALL
from decollapse.server import AveragingServer, BroadcastingServer
from decollapse.tree import Tree


@dataclass(frozen=True, eq=False)
class ServerState:
    """Everything a run needs to go on: what a checkpoint holds.

    Attributes:
        round: rounds done; 0 before the first.
        model: the global model.
        optimizer: the server optimiser's state.
        clients: what each stateful client keeps, by its number.
        shared: what the terms of the objective make of what their clients sent, for the next broadcast.
    """

    round: int
    model: ModelState
    optimizer: Tree
    clients: dict[int, ClientState] = field(default_factory=dict)
    shared: Tree = field(default_factory=dict)

    @classmethod
    def initial(cls, model: ModelState, algorithm: Algorithm, *, num_clients: int) -> ServerState:
        """The state before the first round of a federation of `num_clients`."""
        return cls(round=0, model=model, optimizer=algorithm.server.init(model.params, num_clients=num_clients))

    def broadcast(self, algorithm: Algorithm, *, seed: int) -> Broadcast:
        """What the clients of the next round receive."""
        params: Tree = self.model.params
        extras: Tree = {}
        if isinstance(algorithm.server, BroadcastingServer):
            params, extras = algorithm.server.broadcast(params, self.optimizer)
        return Broadcast(self.round + 1, ModelState(params, self.model.buffers), seed, self.shared | extras)

    def evaluated(self, algorithm: Algorithm) -> ModelState:
        """The model to evaluate and to keep: the global one, unless the server averages its iterates (FedExP)."""
        if not isinstance(algorithm.server, AveragingServer):
            return self.model
        return ModelState(algorithm.server.evaluated(self.model.params, self.optimizer), self.model.buffers)


def own_models(server: ServerState, algorithm: Algorithm) -> list[ModelState]:
    """The whole models that clients keep for themselves, where they train without a federation; else none."""
    if ALL not in algorithm.client.personal:
        return []
    return [
        ModelState(state[PERSONAL], server.model.buffers | state.get(OWN_BUFFERS, {}))
        for _, state in sorted(server.clients.items())
    ]
