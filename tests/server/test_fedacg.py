from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
from members import initial_model, small_federation
from quadratics import descent, points, rounds
from torch import Tensor

from decollapse.aggregate import Aggregate
from decollapse.algorithms import fedacg
from decollapse.engines.serial import Serial
from decollapse.objective import Step
from decollapse.server.fedacg import FedACG
from decollapse.server_state import ServerState
from decollapse.simulation import simulate


def test_two_rounds_by_hand() -> None:
    server, w = FedACG(momentum=0.5), {"w": torch.zeros(1, dtype=torch.float64)}
    update = Aggregate({"w": torch.ones(1, dtype=torch.float64)}, {}, num_clients=1, num_examples=1)
    state = server.init(w, num_clients=1)
    sent, models, momenta = [], [], []
    for _ in range(3):
        ahead, extras = server.broadcast(w, state)
        step, state = server.update(update, state)
        w = {"w": w["w"] + step["w"]}
        sent.append(ahead["w"].item())
        models.append(w["w"].item())
        momenta.append(state["w"].item())
        assert extras == {}
    assert sent == [0.0, 1.5, 3.25]
    assert models == [1.0, 2.5, 4.25]
    assert momenta == [1.0, 1.5, 1.75]


@dataclass(frozen=True)
class Starts:
    """Notes what a client starts from."""

    name: ClassVar[str] = "starts"
    seen: list[float] = field(default_factory=list)

    def __call__(self, step: Step) -> Tensor:
        self.seen.append(step.anchor.params["w"].item())
        return 0 * step.params["w"].sum()


def test_the_model_is_the_mean_of_what_its_cohort_found_from_one_momentum_step_ahead() -> None:
    # Clients that reach their target in a step: the model is the mean of the targets, whatever the momentum.
    starts = Starts()
    algorithm = fedacg(descent(starts, lr=1.0, steps=1), momentum=0.5, mu=0.0)
    servers = list(rounds(algorithm, points(0.0, 4.0, 10.0), [[0, 1], [1, 2], [0, 2]]))
    assert [server.model.params["w"].item() for server in servers] == pytest.approx([2.0, 7.0, 5.0])
    # m = 2, then 5, then -2; w + m / 2 is where the next cohort starts.
    assert starts.seen == pytest.approx([0.0, 0.0, 3.0, 3.0, 9.5, 9.5])
    assert [server.optimizer["w"].item() for server in servers] == pytest.approx([2.0, 5.0, -2.0])


def test_means_are_uniform() -> None:
    algorithm = fedacg(descent(lr=1.0, steps=1), mu=0.0)
    (server,) = rounds(algorithm, points(0.0, 4.0, sizes=[1, 9]), [[0, 1]])
    assert server.model.params["w"].item() == pytest.approx(2.0)


def test_what_is_evaluated_is_the_model_and_not_the_look_ahead() -> None:
    algorithm = fedacg(descent())
    (server,) = rounds(algorithm, points(0.0, 4.0), [[0, 1]])
    assert torch.equal(server.evaluated(algorithm).params["w"], server.model.params["w"])
    assert not torch.equal(server.broadcast(algorithm, seed=0).model.params["w"], server.model.params["w"])


def test_the_look_ahead_is_of_parameters_only() -> None:
    algorithm = fedacg()
    with Serial()(small_federation()) as engine:
        *_, (_, server) = simulate(algorithm, engine, initial_model(), num_clients=5, rounds=2, seed=0, cohort_size=2)
    broadcast = server.broadcast(algorithm, seed=0)
    assert server.optimizer.keys() == server.model.params.keys()
    for name, leaf in server.model.buffers.items():
        assert torch.equal(broadcast.model.buffers[name], leaf)


def test_before_the_first_round_the_look_ahead_is_the_model() -> None:
    server = ServerState.initial(initial_model(), fedacg(), num_clients=5)
    sent = server.broadcast(fedacg(), seed=0).model.params
    assert all(torch.equal(leaf, server.model.params[name]) for name, leaf in sent.items())


@pytest.mark.parametrize("momentum", [-0.1, 1.0, float("nan")])
def test_a_momentum_out_of_range_is_refused(momentum: float) -> None:
    with pytest.raises(ValueError, match=f"momentum is a share from 0 to below 1, got {momentum}"):
        FedACG(momentum=momentum)
