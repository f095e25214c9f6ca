from __future__ import annotations

import pytest
import torch

from decollapse.aggregate import Aggregate
from decollapse.server import ServerSGD


def aggregate(value: float) -> Aggregate:
    return Aggregate({"w": torch.tensor([value], dtype=torch.float64)}, {}, num_clients=1, num_examples=1)


def test_heavy_ball_by_hand() -> None:
    server, w = ServerSGD(momentum=0.5), torch.zeros(1, dtype=torch.float64)
    state, seen = server.init({"w": w}), []
    for _ in range(3):
        step, state = server.update(aggregate(1.0), state)
        w = w + step["w"]
        seen.append(w.item())
    assert seen == [1.0, 2.5, 4.25]


@pytest.mark.parametrize(("lr", "momentum"), [(1.0, 0.0), (0.3, 0.0), (1.0, 0.9), (0.3, 0.5)])
def test_it_is_torch_sgd_on_the_pseudo_gradient_from_round_one(lr: float, momentum: float) -> None:
    parameter = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    reference = torch.optim.SGD([parameter], lr=lr, momentum=momentum)
    server, w = ServerSGD(lr=lr, momentum=momentum), torch.ones(1, dtype=torch.float64)
    state = server.init({"w": w})
    for delta in (0.3, -0.2, 0.05, 1.0):
        parameter.grad = torch.tensor([-delta], dtype=torch.float64)
        reference.step()
        step, state = server.update(aggregate(delta), state)
        w = w + step["w"]
        torch.testing.assert_close(w, parameter.detach(), rtol=1e-12, atol=0)


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
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServerSGD(**settings)
