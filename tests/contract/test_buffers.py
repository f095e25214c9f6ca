"""Buffers are the mean of the clients', by the stated policy, and no server optimiser touches them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from members import initial_model, one_client, small_federation

from decollapse.algorithms import Algorithm, fedavg, fedavgm
from decollapse.buffers import BUFFER_POLICIES, OWN_BUFFERS, Recalibrate
from decollapse.client import ClientUpdate
from decollapse.core import Broadcast
from decollapse.engines.serial import Serial
from decollapse.server_state import ServerState
from decollapse.simulation import run_round, simulate

CLIENT = ClientUpdate(epochs=1, batch_size=8)
MEAN, VARIANCE, COUNTER = "encoder.1.running_mean", "encoder.1.running_var", "encoder.1.num_batches_tracked"


@pytest.mark.parametrize("algorithm", [fedavg(CLIENT), fedavgm(CLIENT, momentum=0.9)], ids=["fedavg", "fedavgm"])
def test_variances_stay_positive_and_counters_integer_over_fifty_rounds(algorithm: Algorithm) -> None:
    with Serial()(small_federation()) as engine:
        for _, server in simulate(algorithm, engine, initial_model(), num_clients=5, rounds=50, seed=0, cohort_size=2):
            assert server.model.buffers[VARIANCE].min() >= 0
            assert server.model.buffers[COUNTER].dtype == torch.int64
            assert all(torch.isfinite(leaf).all() for leaf in server.model.params.values())


def test_the_servers_buffers_are_the_weighted_mean_of_the_clients() -> None:
    algorithm = fedavgm(CLIENT)
    start = ServerState.initial(initial_model(), algorithm, num_clients=5)
    with Serial()(small_federation()) as engine:
        broadcast = Broadcast(1, start.model, seed=0)
        results = [result for result, _ in engine.run(CLIENT, broadcast, range(5), {})]
        server, _, _ = run_round(algorithm, start, engine, range(5), seed=0)
    total = sum(result.num_examples for result in results)
    expected = sum(result.num_examples * result.buffers[MEAN].double() for result in results) / total
    torch.testing.assert_close(server.model.buffers[MEAN].double(), expected, rtol=1e-5, atol=1e-7)
    assert torch.equal(server.model.buffers[COUNTER], start.model.buffers[COUNTER])


@pytest.mark.parametrize("policy", BUFFER_POLICIES)
def test_every_policy_trains(policy: str) -> None:
    algorithm = fedavg(replace(CLIENT, buffers=policy))
    with Serial()(small_federation()) as engine:
        *_, (_, server) = simulate(algorithm, engine, initial_model(), num_clients=5, rounds=3, seed=0)
    assert all(torch.isfinite(leaf).all() for leaf in (server.model.params | server.model.buffers).values())


def test_local_buffers_come_back_to_their_client_alone() -> None:
    call = replace(CLIENT, buffers="local")
    broadcast = Broadcast(1, initial_model(), seed=0)
    with Serial()(small_federation()) as engine:
        (_, first), (_, other) = engine.run(call, broadcast, [0, 1], {})
        assert not torch.equal(first[OWN_BUFFERS][MEAN], other[OWN_BUFFERS][MEAN])
        ((with_own, _),) = engine.run(call, broadcast, [0], {0: first})
        ((without, _),) = engine.run(call, broadcast, [0], {})
    assert not torch.equal(with_own.buffers[MEAN], without.buffers[MEAN])


def test_reset_buffers_forget_what_the_server_sent() -> None:
    model = initial_model()
    spoiled = replace(model, buffers=model.buffers | {MEAN: torch.full_like(model.buffers[MEAN], 1e3)})
    call = replace(CLIENT, buffers="reset")
    with Serial()(small_federation()) as engine:
        ((clean, _),) = engine.run(call, Broadcast(1, model, seed=0), [0], {})
        ((other, _),) = engine.run(call, Broadcast(1, spoiled, seed=0), [0], {})
    assert torch.equal(clean.buffers[MEAN], other.buffers[MEAN])


def test_recalibration_measures_the_statistics_of_the_examples() -> None:
    data, model = one_client(), initial_model()
    with Serial(channels_last=False)(small_federation()) as engine:
        scratch = engine._model  # the engine's own scratch network
        result, _ = Recalibrate(batch_size=len(data))(scratch, data, Broadcast(1, model, seed=0), {})
        model.load_into(scratch)
        with torch.no_grad():
            activations = scratch.encoder[0](data.preprocess(data.x))
    torch.testing.assert_close(result.buffers[MEAN], activations.mean((0, 2, 3)))
    torch.testing.assert_close(result.buffers[VARIANCE], activations.var((0, 2, 3)))
    assert all(layer.momentum == 0.1 for layer in scratch.modules() if isinstance(layer, torch.nn.BatchNorm2d))
