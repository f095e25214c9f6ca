"""A run's weights depend on its recipe and seed, not on the engine, nor on where it was stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from members import PullBack, initial_model, small_federation

from decollapse.algorithms import Algorithm, fedavg, fedavgm, fedprox, with_feddecorr, with_term
from decollapse.checkpoint import load_checkpoint, save_checkpoint
from decollapse.client import ClientUpdate
from decollapse.core import ModelState
from decollapse.data import Crop, Flip
from decollapse.engines.process import Process
from decollapse.engines.serial import Serial
from decollapse.simulation import ServerState, simulate

CLIENT = ClientUpdate(epochs=2, batch_size=8, augment=(Crop(padding=1), Flip()))
ALGORITHMS = {
    "fedavg": fedavg(CLIENT),
    "fedavgm": fedavgm(CLIENT),
    "fedprox": fedprox(CLIENT),
    "fedavg+feddecorr": with_feddecorr(fedavg(CLIENT)),
    "stateful": with_term(fedavg(CLIENT), PullBack()),
    "local buffers": fedavg(replace(CLIENT, buffers="local")),
    "reset buffers": fedavg(replace(CLIENT, buffers="reset")),
    "recalibrated buffers": fedavg(replace(CLIENT, buffers="recalibrate")),
}


def run(
    algorithm: Algorithm,
    settings: Serial | Process,
    start: ModelState | ServerState | None = None,
    rounds: int = 3,
    cohort: int = 3,
) -> ServerState:
    server = None
    with settings(small_federation()) as engine:
        for _, server in simulate(  # noqa: B007  # the last state is what we want
            algorithm, engine, start or initial_model(), num_clients=5, rounds=rounds, seed=7, cohort_size=cohort
        ):
            pass
    assert server is not None
    return server


def assert_same_bits(a: ServerState, b: ServerState) -> None:
    for ours, theirs in (
        (a.model.params, b.model.params),
        (a.model.buffers, b.model.buffers),
        (a.optimizer, b.optimizer),
    ):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert torch.equal(ours[name], theirs[name]), name
    assert a.clients.keys() == b.clients.keys()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_stopping_and_resuming_from_a_file_gives_the_same_bits(name: str, tmp_path: Path) -> None:
    algorithm = ALGORITHMS[name]
    whole = run(algorithm, Serial())
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(path, run(algorithm, Serial(), rounds=2), recipe="r")
    assert_same_bits(whole, run(algorithm, Serial(), start=load_checkpoint(path, recipe="r")))


@pytest.mark.parametrize("name", ["fedavg+feddecorr", "stateful", "recalibrated buffers"])
def test_the_process_engine_gives_the_bits_of_the_serial_one(name: str) -> None:
    assert_same_bits(run(ALGORITHMS[name], Serial()), run(ALGORITHMS[name], Process(workers=2)))


def test_a_clients_result_does_not_depend_on_who_trained_before_it() -> None:
    federation = small_federation()
    algorithm = ALGORITHMS["fedavg+feddecorr"]
    from decollapse.core import Broadcast

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
    run(ALGORITHMS["fedavg"], Serial(), rounds=1)
    assert torch.equal(torch.rand(3), expected)


def test_another_seed_gives_other_weights() -> None:
    with Serial()(small_federation()) as engine:
        finals = []
        for seed in (0, 1):
            *_, (_, server) = simulate(
                ALGORITHMS["fedavg"], engine, initial_model(), num_clients=5, rounds=1, seed=seed
            )
            finals.append(server.model.params["head.weight"])
    assert not torch.equal(*finals)
