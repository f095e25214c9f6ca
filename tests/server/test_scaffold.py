from __future__ import annotations

import pytest
import torch
from quadratics import descent, points, rounds
from torch import Tensor

from decollapse.aggregate import Aggregate
from decollapse.aggregate.mean import WeightedMean
from decollapse.algorithms import Algorithm, scaffold
from decollapse.server.scaffold import ServerScaffold
from decollapse.server_state import ServerState


def w(server: ServerState) -> float:
    return server.model.params["w"].item()


def c(server: ServerState) -> float:
    return server.optimizer["scaffold/w"].item()


def own(server: ServerState) -> dict[int, float]:
    """The clients' variates; those of clients that never took part are 0 and not kept."""
    return {client: state["scaffold"]["w"].item() for client, state in server.clients.items()}


def test_three_rounds_of_two_clients_by_hand() -> None:
    servers = list(rounds(scaffold(descent(lr=0.5, steps=2)), points(0.0, 4.0), [[0, 1]] * 3))
    assert [w(server) for server in servers] == [1.5, 1.875, 1.96875]
    assert [c(server) for server in servers] == [-1.5, -0.375, -0.09375]
    assert own(servers[0]) == {0: 0.0, 1: -3.0}


def test_the_variate_of_the_server_moves_by_the_share_of_the_federation_that_took_part() -> None:
    update = Aggregate(
        {"w": torch.tensor([1.0])}, {}, num_clients=2, num_examples=9, extras={"scaffold/w": torch.tensor([8.0])}
    )
    server = ServerScaffold()
    step, state = server.update(update, server.init({"w": torch.zeros(1)}, num_clients=5))
    assert step["w"].tolist() == [1.0]
    assert state["scaffold/w"].item() == pytest.approx(8.0 * 2 / 5)
    assert state["num_clients"].item() == 5


def test_lr_scales_the_step_and_not_the_variate() -> None:
    (plain,) = rounds(scaffold(descent()), points(0.0, 4.0), [[0, 1]])
    (half,) = rounds(scaffold(descent(), lr=0.5), points(0.0, 4.0), [[0, 1]])
    assert (w(half), c(half)) == (0.5 * w(plain), c(plain))


def test_with_absent_clients_it_ends_at_the_optimum_of_all_where_fedavg_does_not() -> None:
    federation, cohorts = points(0.0, 4.0, 8.0, sizes=[1, 4, 1]), [[0, 1], [1, 2], [0, 2]] * 25

    def last(algorithm: Algorithm) -> list[float]:
        return [w(server) for server in rounds(algorithm, federation, cohorts)][-3:]

    client = descent(lr=0.2, steps=1)
    assert last(scaffold(client)) == pytest.approx([4.0] * 3, abs=0.05)
    averaged = last(Algorithm(client, WeightedMean(weights="uniform")))
    assert max(abs(value - 4.0) for value in averaged) > 0.2


def test_without_a_past_a_round_is_uniform_fedavg_bitwise() -> None:
    federation, client = points(0.1, 4.3, -7.7, sizes=[1, 5, 2]), descent(lr=0.13, momentum=0.9)
    (ours,) = rounds(scaffold(client), federation, [[0, 1, 2]])
    (theirs,) = rounds(Algorithm(client, WeightedMean(weights="uniform")), federation, [[0, 1, 2]])
    assert torch.equal(ours.model.params["w"], theirs.model.params["w"])


def test_the_variate_is_broadcast_beside_the_parameters() -> None:
    algorithm = scaffold(descent())
    (server,) = rounds(algorithm, points(0.0, 4.0), [[0, 1]])
    broadcast = server.broadcast(algorithm, seed=0)
    assert broadcast.model.params["w"] is server.model.params["w"]
    assert broadcast.extras.keys() == {"scaffold/w"}
    assert broadcast.extras["scaffold/w"].item() == -1.5


@pytest.mark.parametrize("extras", [{}, {"other/w": torch.zeros(1)}])
def test_results_without_variates_are_refused(extras: dict[str, Tensor]) -> None:
    server = ServerScaffold()
    update = Aggregate({"w": torch.zeros(1)}, {}, num_clients=1, num_examples=1, extras=extras)
    with pytest.raises(ValueError, match='the term "scaffold" sends'):
        server.update(update, server.init({"w": torch.zeros(1)}, num_clients=1))


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan"), float("inf")])
def test_a_step_size_out_of_range_is_refused(lr: float) -> None:
    with pytest.raises(ValueError, match=f"lr must be positive and finite, got {lr}"):
        ServerScaffold(lr=lr)
