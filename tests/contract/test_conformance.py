"""What every method promises, whatever it is."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import cache

import pytest
import torch
from members import initial_model, small_federation, unequal_federation
from methods import METHODS, plus_feddecorr

from decollapse.algorithms import Algorithm
from decollapse.config import from_table, to_table
from decollapse.engines.serial import Serial
from decollapse.experiment import Experiment
from decollapse.server_state import ServerState
from decollapse.simulation import run_round, simulate
from decollapse.tree import Tree

VARIANCES = ("encoder.1.running_var", "encoder.4.running_var")
COUNTER = "encoder.1.num_batches_tracked"


def rounds(algorithm: Algorithm, number: int) -> ServerState:
    """The state after some rounds of a federation of very unequal clients, 3 of 5 a round."""
    with Serial()(unequal_federation()) as engine:
        *_, (record, server) = simulate(
            algorithm, engine, initial_model(), num_clients=5, rounds=number, seed=2, cohort_size=3
        )
        assert not record.rejected
    return server


def first_round(algorithm: Algorithm, cohort: list[int]) -> ServerState:
    with Serial()(small_federation()) as engine:
        start = ServerState.initial(initial_model(), algorithm, num_clients=5)
        return run_round(algorithm, start, engine, cohort, seed=2)[0]


def largest_difference(a: Tree, b: Tree) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@cache
def three_rounds(name: str) -> ServerState:
    return rounds(METHODS[name], 3)


@pytest.mark.parametrize("name", METHODS)
def test_it_trains_with_a_client_of_one_example_unequal_steps_and_partial_participation(name: str) -> None:
    model = three_rounds(name).model
    assert all(torch.isfinite(leaf).all() for leaf in (model.params | model.buffers).values())
    assert largest_difference(model.params, initial_model().params) > 1e-4


@pytest.mark.parametrize("name", METHODS)
def test_feddecorr_can_be_added_and_changes_the_result(name: str) -> None:
    added = plus_feddecorr(METHODS[name])
    if added == METHODS[name]:
        assert "feddecorr" in [term.name for term in added.client.objective]
        return
    with_it = rounds(added, 3).model.params
    assert all(torch.isfinite(leaf).all() for leaf in with_it.values())
    assert largest_difference(with_it, three_rounds(name).model.params) > 1e-6


@pytest.mark.parametrize("name", METHODS)
def test_it_pickles(name: str) -> None:
    assert pickle.loads(pickle.dumps(METHODS[name])) == METHODS[name]


@pytest.mark.parametrize("name", METHODS)
def test_it_comes_back_from_a_recipe(name: str) -> None:
    experiment = Experiment().with_algorithm(plus_feddecorr(METHODS[name]))
    assert from_table(to_table(experiment)) == experiment


@pytest.mark.parametrize("name", METHODS)
def test_the_order_of_the_clients_does_not_matter(name: str) -> None:
    forwards, backwards = (first_round(METHODS[name], cohort).model for cohort in ([0, 1, 3, 4], [4, 1, 0, 3]))
    for ours, theirs in ((forwards.params, backwards.params), (forwards.buffers, backwards.buffers)):
        for leaf_name, leaf in ours.items():
            torch.testing.assert_close(leaf, theirs[leaf_name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in METHODS if not name.startswith("term ")])
def test_fifty_rounds_leave_variances_positive_and_counters_integer(name: str) -> None:
    server = rounds(replace(METHODS[name], client=replace(METHODS[name].client, epochs=1)), 50)
    for variance in VARIANCES:
        assert server.model.buffers[variance].min() >= 0
    assert server.model.buffers[COUNTER].dtype == torch.int64
    assert all(torch.isfinite(leaf).all() for leaf in (server.model.params | server.model.buffers).values())


@pytest.mark.parametrize("name", METHODS)
def test_a_clients_result_does_not_depend_on_its_predecessor(name: str) -> None:
    algorithm = METHODS[name]
    broadcast = ServerState.initial(initial_model(), algorithm, num_clients=5).broadcast(algorithm, seed=7)
    with Serial()(unequal_federation()) as engine:
        ((alone, _),) = engine.run(algorithm.client, broadcast, [3], {})
        *_, (after, _) = engine.run(algorithm.client, broadcast, [4, 0, 3], {})
    for leaf_name, leaf in (alone.delta | alone.buffers).items():
        assert torch.equal(leaf, (after.delta | after.buffers)[leaf_name])
