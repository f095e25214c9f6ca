"""A run's weights depend on its recipe and seed, not on the engine, nor on where it was stopped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from members import initial_model, small_federation
from methods import METHODS
from torch import Tensor

from decollapse.algorithms import Algorithm
from decollapse.buffers import OWN_BUFFERS
from decollapse.checkpoint import load_checkpoint, save_checkpoint
from decollapse.client import PERSONAL
from decollapse.core import Broadcast, ModelState
from decollapse.engines import Engine
from decollapse.engines.process import Process
from decollapse.engines.serial import Serial
from decollapse.server_state import ServerState
from decollapse.simulation import simulate
from decollapse.tree import Tree


def run_on(
    engine: Engine, algorithm: Algorithm, *, start: ModelState | ServerState | None = None, rounds: int = 3
) -> ServerState:
    """The last state of a run with 3 of the 5 clients a round."""
    *_, (_, server) = simulate(
        algorithm, engine, start or initial_model(), num_clients=5, rounds=rounds, seed=7, cohort_size=3
    )
    return server


def run(algorithm: Algorithm, *, start: ServerState | None = None, rounds: int = 3) -> ServerState:
    with Serial()(small_federation()) as engine:
        return run_on(engine, algorithm, start=start, rounds=rounds)


@cache
def whole_run(name: str) -> ServerState:
    return run(METHODS[name])


def tensors(server: ServerState) -> dict[tuple[object, ...], Tensor]:
    """Everything a later round depends on, by where it is."""
    trees: dict[tuple[object, ...], Tree] = {
        ("params",): server.model.params,
        ("buffers",): server.model.buffers,
        ("optimizer",): server.optimizer,
        ("shared",): server.shared,
    }
    for client, state in server.clients.items():
        trees |= {("client", client, kept): leaves for kept, leaves in state.items()}
    return {(*place, name): leaf for place, leaves in trees.items() for name, leaf in leaves.items()}


def assert_same_bits(a: ServerState, b: ServerState) -> None:
    ours, theirs = tensors(a), tensors(b)
    assert ours.keys() == theirs.keys()
    for place, leaf in ours.items():
        assert torch.equal(leaf, theirs[place]), place


@pytest.fixture(scope="module")
def processes() -> Iterator[Engine]:
    with Process(workers=2)(small_federation()) as engine:
        yield engine


@pytest.mark.parametrize("name", METHODS)
def test_stopping_and_resuming_from_a_file_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, run(METHODS[name], rounds=2), recipe="r")
    assert_same_bits(whole_run(name), run(METHODS[name], start=load_checkpoint(path, recipe="r")))


@pytest.mark.parametrize("name", METHODS)
def test_the_process_engine_gives_the_bits_of_the_serial_one(name: str, processes: Engine) -> None:
    assert_same_bits(whole_run(name), run_on(processes, METHODS[name]))


@pytest.mark.parametrize(
    ("name", "kept"),
    [("a stateful term of somebody else", "pull_back"), ("local buffers", OWN_BUFFERS), ("fedbn", PERSONAL)],
)
def test_what_clients_keep_is_among_the_compared_bits(name: str, kept: str) -> None:
    server = whole_run(name)
    assert server.clients
    client = min(server.clients)
    changed = {leaf_name: leaf + 1 for leaf_name, leaf in server.clients[client][kept].items()}
    with pytest.raises(AssertionError):
        assert_same_bits(server, replace(server, clients=server.clients | {client: {kept: changed}}))


def test_a_clients_result_does_not_depend_on_who_trained_before_it() -> None:
    federation = small_federation()
    algorithm = METHODS["term feddecorr"]
    broadcast = Broadcast(1, initial_model(), seed=7)
    with Serial()(federation) as engine:
        forwards = {result.client: result for result, _ in engine.run(algorithm.client, broadcast, [0, 1, 2], {})}
        backwards = {result.client: result for result, _ in engine.run(algorithm.client, broadcast, [2, 1, 0], {})}
    for client, result in forwards.items():
        for name, leaf in (result.delta | result.buffers).items():
            assert torch.equal(leaf, (backwards[client].delta | backwards[client].buffers)[name])


def test_the_callers_random_numbers_are_left_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    run(METHODS["fedavg"], rounds=1)
    assert torch.equal(torch.rand(3), expected)


def test_another_seed_gives_other_weights() -> None:
    with Serial()(small_federation()) as engine:
        finals = []
        for seed in (0, 1):
            *_, (_, server) = simulate(METHODS["fedavg"], engine, initial_model(), num_clients=5, rounds=1, seed=seed)
            finals.append(server.model.params["head.weight"])
    assert not torch.equal(*finals)
