from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from quadratics import descent, points, rounds

from decollapse.aggregate import Aggregate
from decollapse.algorithms import Algorithm
from decollapse.server import ServerOptimizer
from decollapse.server.adaptive import FedAdagrad, FedAdam, FedYogi

SERVERS = [FedAdagrad, FedAdam, FedYogi]


def aggregate(*values: float, dtype: torch.dtype = torch.float64) -> Aggregate:
    return Aggregate({"w": torch.tensor(values, dtype=dtype)}, {}, num_clients=1, num_examples=1)


def path(server: ServerOptimizer, deltas: list[float], start: float = 0.0) -> list[float]:
    """The parameter after each round."""
    w = torch.tensor([start], dtype=torch.float64)
    state, seen = server.init({"w": w}, num_clients=1), []
    for delta in deltas:
        step, state = server.update(aggregate(delta), state)
        w = w + step["w"]
        seen.append(w.item())
    return seen


@pytest.mark.parametrize(
    ("server", "expected"), [(FedAdam(), 1.0090503), (FedYogi(), 1.0090499), (FedAdagrad(), 1.0099005)]
)
def test_the_first_round_by_hand(server: ServerOptimizer, expected: float) -> None:
    # From 1 with Delta = 0.1: m = 0.01 (Adagrad 0.1), v = 1.0099e-4 | 1.01e-4 | 0.010001, step 0.01 m / (sqrt v + tau).
    assert path(server, [0.1], start=1.0) == pytest.approx([expected], abs=5e-8)


def test_without_an_initial_second_moment_the_first_step_by_hand() -> None:
    # v = 0.01 * 0.1^2 = 1e-4, so 0.01 * 0.01 / (0.01 + 0.001).
    assert path(FedAdam(initial=0.0), [0.1]) == pytest.approx([1e-4 / 0.011], rel=1e-12)


def reference(rule: str, deltas: list[float], *, lr: float, beta1: float, beta2: float, tau: float) -> list[float]:
    """Algorithm 2 of the paper in plain numbers."""
    w, m, v, seen = 0.0, 0.0, tau**2, []
    for delta in deltas:
        m = beta1 * m + (1 - beta1) * delta
        square = delta**2
        if rule == "adagrad":
            v = v + square
        elif rule == "adam":
            v = beta2 * v + (1 - beta2) * square
        else:
            v = v - (1 - beta2) * square * ((v > square) - (v < square))
        w += lr * m / (math.sqrt(v) + tau)
        seen.append(w)
    return seen


DELTAS = [0.3, -0.2, 0.0, 0.05, -1.0, 1e-3, 0.4]


@pytest.mark.parametrize(
    ("rule", "server"),
    [
        ("adagrad", FedAdagrad(lr=0.3, beta1=0.5, tau=0.02)),
        ("adam", FedAdam(lr=0.3, beta1=0.5, beta2=0.8, tau=0.02)),
        ("yogi", FedYogi(lr=0.3, beta1=0.5, beta2=0.8, tau=0.02)),
    ],
)
def test_seven_rounds_are_those_of_the_papers_algorithm(rule: str, server: ServerOptimizer) -> None:
    expected = reference(rule, DELTAS, lr=0.3, beta1=0.5, beta2=0.8, tau=0.02)
    assert path(server, DELTAS) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("server", SERVERS)
def test_with_a_large_tau_it_is_fedavg(server: type) -> None:
    federation, cohorts = points(0.0, 4.0, 7.0), [[0, 1], [1, 2], [0, 2]]
    limit = server(lr=1e6, tau=1e6, beta1=0.0, initial=0.0)
    adaptive = rounds(Algorithm(descent(), server=limit), federation, cohorts)
    for ours, theirs in zip(adaptive, rounds(Algorithm(descent()), federation, cohorts), strict=True):
        assert ours.model.params["w"].item() == pytest.approx(theirs.model.params["w"].item(), rel=1e-5)


def test_a_second_moment_that_starts_at_tau_squared_halves_that_limit() -> None:
    # lr / (sqrt(tau^2) + tau) = 1 / 2 with lr = tau.
    assert path(FedYogi(lr=1e6, tau=1e6, beta1=0.0), [1.0, 1.0]) == pytest.approx([0.5, 1.0], rel=1e-5)


@pytest.mark.parametrize("server", SERVERS)
@given(deltas=st.lists(st.floats(-1e3, 1e3, width=32), max_size=12))
def test_second_moments_stay_positive_and_steps_finite(server: type, deltas: list[float]) -> None:
    optimizer = server()
    state = optimizer.init({"w": torch.zeros(1)}, num_clients=1)
    for delta in deltas:
        step, state = optimizer.update(aggregate(delta, dtype=torch.float32), state)
        assert state["v/w"].item() > 0
        assert torch.isfinite(step["w"]).all()


@pytest.mark.parametrize("server", SERVERS)
def test_each_entry_has_a_step_size_of_its_own_and_one_that_never_moved_stays(server: type) -> None:
    optimizer = server(lr=0.1)
    state = optimizer.init({"w": torch.zeros(3, dtype=torch.float64)}, num_clients=1)
    for _ in range(3):
        step, state = optimizer.update(aggregate(1.0, 100.0, 0.0), state)
    assert step["w"][2].item() == 0.0
    assert step["w"][1].item() == pytest.approx(step["w"][0].item(), rel=0.02)
    alone = path(server(lr=0.1), [100.0] * 3)
    assert alone[2] - alone[1] == pytest.approx(step["w"][1].item(), rel=1e-9)


@pytest.mark.parametrize("server", SERVERS)
def test_the_state_has_two_moments_for_each_parameter_in_its_dtype(server: type) -> None:
    params = {"a": torch.ones(2, 3), "b": torch.ones(4, dtype=torch.float64)}
    state = server(tau=0.5).init(params, num_clients=1)
    assert state.keys() == {"m/a", "m/b", "v/a", "v/b"}
    for name, leaf in params.items():
        assert torch.equal(state[f"m/{name}"], torch.zeros_like(leaf))
        assert torch.equal(state[f"v/{name}"], torch.full_like(leaf, 0.25))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "lr must be positive and finite, got 0"),
        ({"beta1": 1.0}, "beta1 is a share from 0 to below 1, got 1"),
        ({"tau": 0.0}, "tau keeps the server's steps finite; .* got 0"),
        ({"tau": math.inf}, "tau .* got inf"),
        ({"tau": math.nan}, "tau .* got nan"),
        ({"initial": -1.0}, "initial is a second moment, .* got -1"),
        ({"initial": math.nan}, "initial is a second moment, .* got nan"),
    ],
)
@pytest.mark.parametrize("server", SERVERS)
def test_settings_out_of_range_are_refused(server: type, settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        server(**settings)


@pytest.mark.parametrize("server", [FedAdam, FedYogi])
def test_beta2_is_a_share_below_one(server: type) -> None:
    with pytest.raises(ValueError, match="beta2 is a share from 0 to below 1, got 1"):
        server(beta2=1.0)
