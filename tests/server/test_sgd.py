from __future__ import annotations

import pytest
import torch

from decollapse.aggregate import Aggregate
from decollapse.server.sgd import ServerSGD


def aggregate(value: float) -> Aggregate:
    return Aggregate({"w": torch.tensor([value], dtype=torch.float64)}, {}, num_clients=1, num_examples=1)


def path(server: ServerSGD, deltas: list[float]) -> list[float]:
    """The parameter after each round, from 0 on."""
    w = torch.zeros(1, dtype=torch.float64)
    state, seen = server.init({"w": w}, num_clients=1), []
    for delta in deltas:
        step, state = server.update(aggregate(delta), state)
        w = w + step["w"]
        seen.append(w.item())
    return seen


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        (ServerSGD(momentum=0.5), [1.0, 2.5, 4.25]),
        (ServerSGD(momentum=0.5, damped=True), [0.5, 1.25, 2.125]),
        (ServerSGD(momentum=0.5, nesterov=True), [1.5, 3.25, 5.125]),
    ],
)
def test_three_rounds_by_hand(server: ServerSGD, expected: list[float]) -> None:
    assert path(server, [1.0, 1.0, 1.0]) == expected


@pytest.mark.parametrize(
    ("lr", "momentum", "nesterov"), [(1.0, 0.0, False), (0.3, 0.0, False), (1.0, 0.9, False), (0.3, 0.5, True)]
)
def test_it_is_torch_sgd_on_the_pseudo_gradient_from_round_one(lr: float, momentum: float, nesterov: bool) -> None:
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    reference = torch.optim.SGD([parameter], lr=lr, momentum=momentum, nesterov=nesterov)
    deltas, expected = [0.3, -0.2, 0.05, 1.0], []
    for delta in deltas:
        parameter.grad = torch.tensor([-delta], dtype=torch.float64)
        reference.step()
        expected.append(parameter.item())
    assert path(ServerSGD(lr=lr, momentum=momentum, nesterov=nesterov), deltas) == pytest.approx(expected, rel=1e-12)


def test_fedavg_takes_the_mean_bitwise() -> None:
    delta = aggregate(0.1)
    step, state = ServerSGD().update(delta, {})
    assert torch.equal(step["w"], delta.delta["w"])
    assert state == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "lr must be positive and finite, got 0"),
        ({"lr": float("nan")}, "lr must be positive and finite, got nan"),
        ({"lr": float("inf")}, "lr must be positive and finite, got inf"),
        ({"momentum": 1.0}, "momentum is a share"),
        ({"momentum": float("nan")}, "momentum is a share"),
        ({"momentum": float("inf")}, "momentum is a share"),
        ({"damped": True}, "set a momentum above 0"),
        ({"momentum": 0.9, "damped": True, "nesterov": True}, "exclude each other"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServerSGD(**settings)
