from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from decollapse.optim import SGD, Adam


def displacement(optimizer: SGD, num_steps: int, pull: float = 0.0) -> float:
    """How far PyTorch's optimiser goes under a gradient of 1 that falls by `pull` times the way."""
    w = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    built = optimizer([w])
    for _ in range(num_steps):
        w.grad = 1 + pull * w.detach()
        built.step()
    return -w.item()


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_has_the_bits_of_pytorchs(momentum: float, weight_decay: float, nesterov: bool) -> None:
    settings = {"lr": 0.1, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov and momentum > 0}
    ours, theirs = ([nn.Parameter(torch.linspace(-1, 1, n)) for n in (7, 3, 5)] for _ in range(2))
    started, peer = SGD(**settings)(ours), torch.optim.SGD(theirs, fused=True, **settings)
    for _ in range(4):
        for params, optimizer in ((ours, started), (theirs, peer)):
            optimizer.zero_grad()
            sum((param**3).sum() for param in params).backward()
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_parameter_may_get_its_first_gradient_late() -> None:
    late, early = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    started = SGD(lr=1.0, momentum=0.5)([late, early])
    for used in ([early], [late, early]):
        started.zero_grad()
        sum(used).backward()
        started.step()
    assert (late.item(), early.item()) == (-1.0, -2.5)


def test_training_does_not_import_the_compiler() -> None:
    code = (
        "import sys, torch; from decollapse.client import ClientUpdate; from decollapse.models import MLP;"
        "from decollapse.core import Broadcast, ClientData, ModelState; model = MLP()((4,), 2);"
        "data = ClientData(0, torch.ones(3, 4), torch.tensor([0, 1, 0]), 2, torch.clone);"
        "ClientUpdate()(model, data, Broadcast(1, ModelState.of(model), 0), {});"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# tau = 3, rho = 0.9, eta mu = 0.1; in units of the learning rate these are FedNova's ||a||_1.


def test_without_momentum_it_is_the_number_of_steps() -> None:
    assert SGD(lr=0.1, momentum=0.0).step_size(3) / 0.1 == pytest.approx(3.0)


def test_momentum_by_hand() -> None:
    assert SGD(lr=0.1, momentum=0.9).step_size(3) / 0.1 == pytest.approx(1 + 1.9 + 2.71)


def test_a_proximal_pull_without_momentum_by_hand() -> None:
    assert SGD(lr=0.1, momentum=0.0).step_size(3, pull=1.0) / 0.1 == pytest.approx(1 + 0.9 + 0.81)


def test_a_proximal_pull_through_the_momentum_buffer_by_hand() -> None:
    # m = 1, 0.9 + 0.9, 1.62 + 1 - 0.28; a is their sum.
    assert SGD(lr=0.1, momentum=0.9).step_size(3, pull=1.0) / 0.1 == pytest.approx(1 + 1.8 + 2.34)


@given(st.integers(1, 40), st.floats(0, 0.95))
def test_the_closed_form_of_momentum(num_steps: int, momentum: float) -> None:
    a = (num_steps - momentum * (1 - momentum**num_steps) / (1 - momentum)) / (1 - momentum)
    assert SGD(lr=0.2, momentum=momentum).step_size(num_steps) == pytest.approx(0.2 * a, rel=1e-9)


@given(st.integers(1, 40), st.floats(0.01, 5))
def test_the_closed_form_of_a_pull(num_steps: int, pull: float) -> None:
    expected = (1 - (1 - 0.2 * pull) ** num_steps) / pull
    assert SGD(lr=0.2, momentum=0.0).step_size(num_steps, pull=pull) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@given(st.integers(0, 30), st.floats(0.01, 0.95), st.booleans(), st.floats(0, 3))
def test_it_is_where_pytorchs_optimiser_ends(num_steps: int, momentum: float, nesterov: bool, pull: float) -> None:
    optimizer = SGD(lr=0.2, momentum=momentum, nesterov=nesterov)
    expected = displacement(optimizer, num_steps, pull)
    assert optimizer.step_size(num_steps, pull=pull) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_weight_decay_is_no_part_of_it() -> None:
    assert SGD(weight_decay=0.5).step_size(7) == SGD().step_size(7)


def test_adam_has_none() -> None:
    assert Adam().step_size(3) is None
    assert Adam().step_size(3, pull=1.0) is None


@pytest.mark.parametrize(
    ("recipe", "settings", "message"),
    [
        (SGD, {"lr": 0.0}, "lr is a step size .* got 0"),
        (SGD, {"lr": math.inf}, "lr is a step size .* got inf"),
        (SGD, {"lr": math.nan}, "lr is a step size .* got nan"),
        (SGD, {"momentum": 1.0}, "momentum is a share .* got 1"),
        (SGD, {"momentum": math.nan}, "momentum is a share .* got nan"),
        (SGD, {"weight_decay": -1.0}, "weight_decay .* got -1"),
        (SGD, {"weight_decay": math.inf}, "weight_decay .* got inf"),
        (SGD, {"nesterov": True, "momentum": 0.0}, "nesterov needs a momentum above 0"),
        (Adam, {"lr": math.nan}, "lr and eps must be positive and finite"),
        (Adam, {"eps": 0.0}, "lr and eps must be positive and finite"),
        (Adam, {"betas": (0.9, 1.0)}, "betas are shares"),
        (Adam, {"weight_decay": -1.0}, "weight_decay .* got -1"),
    ],
)
def test_settings_out_of_range_are_refused(recipe: type, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(**settings)
