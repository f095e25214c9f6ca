"""What a client does with parts of a model that are frozen or its own."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import pytest
import torch
from members import initial_model, noisy_network, one_client, small_federation
from torch import Tensor

from decollapse.algorithms import Algorithm, fedavg, fedbabu, fedbn, fedper
from decollapse.client import PERSONAL, ClientUpdate
from decollapse.core import Broadcast
from decollapse.engines.serial import Serial
from decollapse.models.parts import parameter_names
from decollapse.objective import Step
from decollapse.optim import SGD, Adam, LocalOptimizer
from decollapse.sam import SAM
from decollapse.server_state import ServerState
from decollapse.simulation import run_round
from decollapse.terms.cross_entropy import CrossEntropy
from decollapse.terms.proximal import Proximal
from decollapse.tree import Tree

CLIENT = ClientUpdate(epochs=2, batch_size=8, optimizer=SGD(lr=0.05))
HEAD = {"head.weight", "head.bias"}


@dataclass(frozen=True)
class Looks:
    """Notes the parameters at every step, and the anchor."""

    name: ClassVar[str] = "looks"
    params: list[Tree] = field(default_factory=list)
    anchors: list[Tree] = field(default_factory=list)

    def __call__(self, step: Step) -> Tensor:
        self.params.append({name: leaf.detach().clone() for name, leaf in step.params.items()})
        self.anchors.append(step.anchor.params)
        return step.output.features.new_zeros(())


def own_head(value: float) -> Tree:
    start = initial_model().params
    return {name: torch.full_like(start[name], value) for name in HEAD}


def test_a_client_with_a_part_of_its_own_starts_from_it_and_from_the_broadcast_elsewhere() -> None:
    looks, model = Looks(), noisy_network()
    update = replace(fedper(CLIENT).client, objective=(CrossEntropy(), looks))
    result, state = update(model, one_client(), Broadcast(2, initial_model(), seed=0), {PERSONAL: own_head(0.25)})
    for trees in (looks.params[0], looks.anchors[0]):
        for name, leaf in initial_model().params.items():
            assert torch.equal(trees[name], own_head(0.25)[name] if name in HEAD else leaf), name
    assert state.keys() == {PERSONAL}
    assert state[PERSONAL].keys() == HEAD
    for name, leaf in state[PERSONAL].items():
        assert torch.equal(leaf, dict(model.named_parameters())[name])
        assert not torch.equal(leaf, own_head(0.25)[name])
        assert torch.equal(result.buffers[name], leaf)
        assert not result.delta[name].any()


def test_a_client_without_one_starts_from_the_servers() -> None:
    looks = Looks()
    update = replace(fedper(CLIENT).client, objective=(CrossEntropy(), looks))
    update(noisy_network(), one_client(), Broadcast(1, initial_model(), seed=0), {})
    assert all(torch.equal(leaf, looks.params[0][name]) for name, leaf in initial_model().params.items())


def test_a_proximal_term_pulls_a_part_of_its_own_to_where_it_began() -> None:
    update = replace(
        fedper(CLIENT).client,
        objective=(CrossEntropy(), Proximal(mu=500.0)),
        optimizer=SGD(lr=1e-3, momentum=0.0),
    )
    _, state = update(noisy_network(), one_client(), Broadcast(2, initial_model(), seed=0), {PERSONAL: own_head(0.25)})
    for leaf in state[PERSONAL].values():
        torch.testing.assert_close(leaf, torch.full_like(leaf, 0.25), rtol=0, atol=0.02)


def two_rounds(algorithm: Algorithm, cohorts: list[list[int]]) -> list[ServerState]:
    servers = [ServerState.initial(initial_model(), algorithm, num_clients=5)]
    with Serial()(small_federation()) as engine:
        for cohort in cohorts:
            servers.append(run_round(algorithm, servers[-1], engine, cohort, seed=0)[0])
    return servers[1:]


@pytest.mark.parametrize(("make", "part"), [(fedper, "head"), (fedbn, "norm")])
def test_the_servers_copy_is_the_weighted_mean_of_the_cohorts_own(make, part: str) -> None:  # type: ignore[no-untyped-def]
    federation, cohorts = small_federation(), [[0, 1, 2, 3, 4], [1, 2]]
    names = parameter_names(noisy_network(), (part,))
    for cohort, server in zip(cohorts, two_rounds(make(CLIENT), cohorts), strict=True):
        weights = {client: federation.clients.num_examples(client) for client in cohort}
        for name in names:
            own = sum(n * server.clients[client][PERSONAL][name].double() for client, n in weights.items())
            expected = own / sum(weights.values())
            torch.testing.assert_close(server.model.params[name].double(), expected, rtol=1e-5, atol=1e-6)


def test_absent_clients_keep_their_own_part_and_no_two_have_the_same() -> None:
    first, second = two_rounds(fedper(CLIENT), [[0, 1, 2, 3, 4], [1, 2]])
    weights = {client: state[PERSONAL]["head.weight"] for client, state in second.clients.items()}
    assert weights.keys() == set(range(5))
    for client in (0, 3, 4):
        assert torch.equal(weights[client], first.clients[client][PERSONAL]["head.weight"])
    assert not torch.equal(weights[1], first.clients[1][PERSONAL]["head.weight"])
    assert not torch.equal(weights[1], weights[2])


FREE = [
    SGD(lr=0.05, momentum=0.9, weight_decay=0.1),
    Adam(lr=0.01, weight_decay=0.1),
    SAM(SGD(lr=0.05, momentum=0.9, weight_decay=0.1), rho=0.1),
]


@pytest.mark.parametrize("optimizer", FREE)
@pytest.mark.parametrize("part", ["head", "encoder.0", "norm"])
def test_a_frozen_part_has_an_update_of_exactly_zero_and_the_rest_moves(optimizer: LocalOptimizer, part: str) -> None:
    update = replace(CLIENT, optimizer=optimizer, frozen=(part,), objective=(CrossEntropy(), Proximal(mu=0.1)))
    model = noisy_network()
    result, _ = update(model, one_client(), Broadcast(1, initial_model(), seed=0), {})
    frozen = parameter_names(model, (part,))
    assert frozen
    for name, leaf in result.delta.items():
        assert bool(leaf.any()) != (name in frozen), name


def test_after_the_round_every_parameter_of_the_scratch_model_can_be_trained_again() -> None:
    model = noisy_network()
    replace(CLIENT, frozen=("head",))(model, one_client(), Broadcast(1, initial_model(), seed=0), {})
    assert all(param.requires_grad for param in model.parameters())


def test_a_parameter_that_the_model_froze_itself_stays_so() -> None:
    model = noisy_network()
    model.head.weight.requires_grad_(False)
    result, _ = replace(CLIENT, frozen=("encoder.0",))(model, one_client(), Broadcast(1, initial_model(), seed=0), {})
    assert not result.delta["head.weight"].any()
    assert not model.head.weight.requires_grad
    assert dict(model.named_parameters())["encoder.0.weight"].requires_grad


def test_fedbabus_head_is_the_first_one_after_two_rounds() -> None:
    *_, server = two_rounds(fedbabu(CLIENT), [[0, 1], [2, 3]])
    for name, leaf in server.model.params.items():
        assert torch.equal(leaf, initial_model().params[name]) == (name in HEAD)


def test_a_part_the_model_does_not_have_is_named() -> None:
    with pytest.raises(ValueError, match="haed"):
        replace(CLIENT, frozen=("haed",))(noisy_network(), one_client(), Broadcast(1, initial_model(), seed=0), {})


def test_nothing_frozen_and_nothing_of_ones_own_is_fedavg() -> None:
    plain, named = (
        two_rounds(algorithm, [[0, 1]])[-1]
        for algorithm in (fedavg(CLIENT), fedavg(replace(CLIENT, frozen=(), personal=())))
    )
    assert all(torch.equal(leaf, named.model.params[name]) for name, leaf in plain.model.params.items())
    assert not plain.clients
