"""What FedDyn and SCAFFOLD promise alike: the server keeps the mean of what all clients, absent ones too, keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quadratics import descent, points, rounds

from decollapse.algorithms import Algorithm, feddyn, scaffold
from decollapse.core import ClientCall
from decollapse.server_state import ServerState

COHORTS = [[0, 1], [1, 2], [1, 2], [0, 2], [0, 1]]
FEDERATION = points(0.0, 4.0, -7.0, sizes=[1, 3, 2])

both_methods = pytest.mark.parametrize(
    ("method", "term", "leaf"),
    [(partial(feddyn, alpha=0.3), "feddyn", "u/w"), (scaffold, "scaffold", "scaffold/w")],
    ids=["feddyn", "scaffold"],
)
Method = Callable[..., Algorithm]


def own(server: ServerState, term: str) -> dict[int, float]:
    """What the clients keep; of those that never took part it is 0 and not there."""
    return {client: state[term]["w"].item() for client, state in server.clients.items()}


def kept(server: ServerState, leaf: str) -> float:
    return server.optimizer[leaf].item()


@both_methods
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_with_absent_clients_it_is_the_mean_of_all(method: Method, term: str, leaf: str, momentum: float) -> None:
    for server in rounds(method(descent(lr=0.1, momentum=momentum)), FEDERATION, COHORTS):
        assert kept(server, leaf) == pytest.approx(sum(own(server, term).values()) / 3, abs=1e-12)
        assert any(own(server, term).values())


@both_methods
@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from([[0], [1], [2], [0, 1], [0, 2], [1, 2]]), min_size=1, max_size=5))
def test_it_is_so_for_any_cohorts(method: Method, term: str, leaf: str, cohorts: list[list[int]]) -> None:
    *_, server = rounds(method(descent(lr=0.3)), FEDERATION, cohorts)
    assert kept(server, leaf) == pytest.approx(sum(own(server, term).values()) / 3, abs=1e-9)


@both_methods
def test_and_when_a_client_is_rejected(method: Method, term: str, leaf: str) -> None:
    def poison(call: ClientCall) -> ClientCall:
        def poisoned(model, data, broadcast, state):  # type: ignore[no-untyped-def]
            result, state = call(model, data, broadcast, state)
            if data.client == 1 and broadcast.round == 2:
                result = replace(result, delta={"w": result.delta["w"] * torch.nan})
            return result, state

        return poisoned

    cohorts = [[0, 1], [0, 1], [1, 2]]
    servers = list(rounds(method(descent()), points(0.0, 4.0, -7.0), cohorts, measure=poison))
    first, second, third = (own(server, term)[1] for server in servers)
    assert first == second != third
    for server in servers:
        assert kept(server, leaf) == pytest.approx(sum(own(server, term).values()) / 3, abs=1e-12)


@both_methods
def test_absent_clients_keep_theirs(method: Method, term: str, leaf: str) -> None:
    servers = list(rounds(method(descent()), points(0.0, 4.0, -7.0), COHORTS))
    for cohort, (before, after) in zip(COHORTS[1:], pairwise(servers), strict=True):
        for client, value in own(before, term).items():
            assert (own(after, term)[client] == value) == (client not in cohort)


@both_methods
def test_a_round_without_a_result_changes_nothing(method: Method, term: str, leaf: str) -> None:
    before, after = rounds(method(descent()), points(0.0, 4.0), [[0, 1], []])
    assert torch.equal(after.model.params["w"], before.model.params["w"])
    assert (kept(after, leaf), own(after, term)) == (kept(before, leaf), own(before, term))
