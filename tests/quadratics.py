"""A federation one can follow by hand: client i minimises `1/2 (w - b_i)^2` over one number w, in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from decollapse.algorithms import Algorithm
from decollapse.client import ClientUpdate
from decollapse.core import ClientCall, ClientData, ModelState, Output
from decollapse.engines import Federation
from decollapse.engines.serial import Serial
from decollapse.guard import GuardPolicy
from decollapse.objective import Step, Term
from decollapse.optim import SGD
from decollapse.server_state import ServerState
from decollapse.simulation import run_round


class Point(nn.Module):
    """The parameter w; what it returns of an input is the input."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Output:
        return Output(logits=x.expand(-1, 2), features=x)


@dataclass(frozen=True)
class Distance:
    """Half the squared distance to the client's number: its mean over a batch is that of its examples."""

    name: ClassVar[str] = "distance"

    def __call__(self, step: Step) -> Tensor:
        return 0.5 * (step.params["w"] - step.x.mean()).square().sum()


class Points(list[ClientData]):
    """Clients that are in a list already."""

    def num_examples(self, client: int) -> int:
        return len(self[client])

    def share_memory(self) -> object:
        return self


def points(*targets: float, sizes: Sequence[int] | None = None) -> Federation:
    """One client for each target b_i, with as many copies of it as `sizes` says: one unless told otherwise."""
    clients = Points()
    for client, (target, size) in enumerate(zip(targets, sizes or [1] * len(targets), strict=True)):
        x = torch.full((size, 1), target, dtype=torch.float64)
        clients.append(ClientData(client, x, torch.zeros(size, dtype=torch.long), 2, preprocess=lambda x: x))
    return Federation(Point, clients)


def descent(*terms: Term, lr: float = 0.5, steps: int = 2, momentum: float = 0.0) -> ClientUpdate:
    """Gradient descent on the distance plus `terms`; on a client of one example, `steps` steps."""
    return ClientUpdate((Distance(), *terms), SGD(lr=lr, momentum=momentum), epochs=steps, batch_size=1)


def rounds(
    algorithm: Algorithm,
    federation: Federation,
    cohorts: Sequence[Sequence[int]],
    *,
    guard: GuardPolicy = "reject",
    measure: Callable[[ClientCall], ClientCall] | None = None,
) -> Iterator[ServerState]:
    """The state after each round, from w = 0 on, with the given cohorts."""
    start = ModelState({"w": torch.zeros(1, dtype=torch.float64)})
    server = ServerState.initial(start, algorithm, num_clients=len(federation.clients))
    with Serial(dtype="float64", channels_last=False)(federation) as engine:
        for cohort in cohorts:
            server, _, _ = run_round(algorithm, server, engine, cohort, seed=0, guard=guard, measure=measure)
            yield server
