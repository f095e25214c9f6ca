from __future__ import annotations

import pytest
import torch
from members import initial_model, small_federation
from quadratics import descent, points, rounds

from decollapse.aggregate import Aggregate
from decollapse.algorithms import feddyn
from decollapse.engines.serial import Serial
from decollapse.server.feddyn import ServerFedDyn
from decollapse.server_state import ServerState
from decollapse.simulation import simulate

EXACT = descent(lr=0.5, steps=1)
"""With alpha 1 a client's loss has curvature 2, so a step of 1/2 ends at its minimum."""


def w(server: ServerState) -> float:
    return server.model.params["w"].item()


def u(server: ServerState) -> float:
    return server.optimizer["u/w"].item()


def own(server: ServerState) -> dict[int, float]:
    """d_i; those of clients that never took part are 0 and not kept."""
    return {client: state["feddyn"]["w"].item() for client, state in server.clients.items()}


def test_three_rounds_of_two_exact_clients_by_hand() -> None:
    # Local minima (0, 2), then (1, 2); g_i = -d_i, h = -u.
    servers = list(rounds(feddyn(EXACT, alpha=1.0), points(0.0, 4.0), [[0, 1]] * 2))
    assert [w(server) for server in servers] == [2.0, 2.0]
    assert [own(server) for server in servers] == [{0: 0.0, 1: 2.0}, {0: -1.0, 1: 2.0}]
    assert [u(server) for server in servers] == [1.0, 0.5]


def test_the_correction_grows_by_the_share_of_the_federation_and_comes_on_top_of_the_mean() -> None:
    server = ServerFedDyn()
    state = server.init({"w": torch.zeros(1)}, num_clients=5)
    step, state = server.update(Aggregate({"w": torch.tensor([10.0])}, {}, num_clients=2, num_examples=9), state)
    assert (step["w"].item(), state["u/w"].item()) == (14.0, 4.0)
    step, state = server.update(Aggregate({"w": torch.tensor([-5.0])}, {}, num_clients=1, num_examples=9), state)
    assert (step["w"].item(), state["u/w"].item()) == (-5.0 + 3.0, 3.0)
    assert state["num_clients"].item() == 5


COHORTS = [[0, 1], [1, 2], [1, 2], [0, 2], [0, 1]]


def test_the_model_is_the_mean_of_the_local_models_plus_the_correction() -> None:
    algorithm = feddyn(EXACT, alpha=1.0)
    federation = points(0.0, 4.0, -7.0)
    before = 0.0
    past = {0: 0.0, 1: 0.0, 2: 0.0}
    targets = {0: 0.0, 1: 4.0, 2: -7.0}
    for cohort, server in zip(COHORTS, rounds(algorithm, federation, COHORTS), strict=True):
        # argmin (v - b)^2 / 2 + d v + (v - before)^2 / 2
        local = {client: (targets[client] + before - past[client]) / 2 for client in cohort}
        past |= {client: past[client] + local[client] - before for client in cohort}
        before = sum(local.values()) / 2 + sum(past.values()) / 3
        assert w(server) == pytest.approx(before, abs=1e-12)


def test_with_absent_clients_it_ends_at_the_optimum_of_all() -> None:
    cohorts = [[0, 1], [1, 2], [0, 2]] * 30
    servers = list(rounds(feddyn(EXACT, alpha=1.0), points(0.0, 4.0, 8.0, sizes=[1, 4, 1]), cohorts))
    assert [w(server) for server in servers[-3:]] == pytest.approx([4.0] * 3, abs=0.05)


def test_the_correction_is_of_parameters_only() -> None:
    with Serial()(small_federation()) as engine:
        *_, (_, server) = simulate(feddyn(), engine, initial_model(), num_clients=5, rounds=2, seed=0, cohort_size=3)
    assert server.optimizer.keys() == {f"u/{name}" for name in server.model.params} | {"num_clients"}
    for name in server.model.params:
        mean = sum(state["feddyn"][name].double() for state in server.clients.values()) / 5
        torch.testing.assert_close(server.optimizer[f"u/{name}"].double(), mean, rtol=1e-4, atol=1e-6)
