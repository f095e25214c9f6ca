from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from members import initial_model, small_federation
from torch import Tensor

from decollapse import tree
from decollapse.algorithms import fedavg
from decollapse.compression import EXPONENTS, Float16Updates, SendFloat16, compressed, decompressed, num_bytes
from decollapse.config import load_recipe
from decollapse.core import Broadcast, ClientResult
from decollapse.engines import Engine, EngineSettings
from decollapse.engines.process import Process
from decollapse.engines.serial import Serial
from decollapse.experiment import prepare
from decollapse.guard import guarded
from decollapse.server_state import ServerState
from decollapse.simulation import run_round
from decollapse.tree import Tree

SMALL = ["data=digits", "data.train_size=100", "data.test_size=50", "model=mlp", "num_clients=2", "partition=iid"]
SMALL += ["rounds=1", "engine=serial"]


def result(delta: Tree, extras: Tree | None = None) -> ClientResult:
    return ClientResult(0, 1, 1, delta=delta, buffers={}, metrics={}, extras=extras or {})


def there_and_back(delta: Tensor) -> Tensor:
    update = {"w": delta}
    return decompressed(compressed(result(update)), update).delta["w"]


def test_the_exponent_brings_the_largest_entry_just_below_two_to_the_15() -> None:
    sent = compressed(result({"w": torch.tensor([0.75, -3.0, 1.0])}))

    assert sent.extras[EXPONENTS + "w"].item() == 2  # 2 <= 3 < 4
    assert sent.delta["w"].tolist() == [0.75 * 2**13, -3.0 * 2**13, 2.0**13]


def test_numbers_of_11_digits_come_back_as_they_were() -> None:
    delta = torch.tensor([1.0, -2047.0, 0.0, 2047 * 2.0**-20])

    assert torch.equal(there_and_back(delta), delta)


@pytest.mark.parametrize("size", [1e-38, 1e-12, 1e-4, 1.0, 1e6, 3e38])
def test_an_entry_is_off_by_2_to_the_minus_11_of_itself_and_a_tiny_one_by_less_than_the_largest_makes_visible(
    size: float,
) -> None:
    spread = torch.logspace(0, -20, 2001, dtype=torch.float64)  # from the largest entry to 1e-20 of it
    delta = (spread * torch.randn(2001, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).float()
    delta = (delta / delta.abs().max()).double().mul(size).float()

    error = (there_and_back(delta).double() - delta.double()).abs()
    bound = torch.maximum(2.0**-11 * delta.double().abs(), torch.tensor(2.0**-39 * size, dtype=torch.float64))

    assert error.max() > 0
    assert (error <= bound.clamp(min=2.0**-149)).all()  # the smallest step of float32 itself


def test_float64_updates_beyond_the_range_of_float32_survive() -> None:
    delta = torch.tensor([1e300, 1e-300], dtype=torch.float64)

    assert there_and_back(delta[:1]).item() == pytest.approx(1e300, rel=2**-11)
    assert there_and_back(delta[1:]).item() == pytest.approx(1e-300, rel=2**-11)


def test_zeros_and_empty_tensors_stay_what_they_are() -> None:
    assert torch.equal(there_and_back(torch.zeros(3)), torch.zeros(3))
    assert there_and_back(torch.zeros(0, 3)).shape == (0, 3)


def test_the_guard_sees_what_is_not_finite_and_the_rest_as_it_is() -> None:
    back = there_and_back(torch.tensor([math.nan, math.inf, -math.inf, 2.0**20]))

    assert back.isnan().tolist() == [True, False, False, False]
    assert back[1:].tolist() == [math.inf, -math.inf, 2.0**20]


def test_other_extras_and_updates_that_nobody_compressed_pass() -> None:
    plain = result({"w": torch.tensor([0.1])}, {"own": torch.tensor([0.1])})

    assert decompressed(plain, plain.delta).delta["w"] is plain.delta["w"]
    back = decompressed(compressed(plain), plain.delta)
    assert back.extras.keys() == {"own"}
    assert back.extras["own"] is plain.extras["own"]


def test_a_tensor_that_is_not_the_models_is_left_for_the_guard_to_name() -> None:
    start = initial_model()
    sent = compressed(result({"no_such_layer": torch.ones(1)}))

    kept, rejection = guarded(decompressed(sent, start.params), Broadcast(1, start, seed=0), "reject")

    assert kept is None
    assert rejection is not None
    assert "differ in" in rejection.reason


@pytest.mark.parametrize(
    "exponent",
    [torch.tensor(math.nan), torch.tensor([1, 2], dtype=torch.int16), torch.tensor(32767, dtype=torch.int16)],
)
def test_an_exponent_that_is_none_costs_the_client_its_update_and_no_more(exponent: Tensor) -> None:
    start = initial_model()
    honest = compressed(result(start.params))
    name = next(iter(start.params))
    sent = replace(honest, extras=honest.extras | {EXPONENTS + name: exponent}, buffers=start.buffers)

    kept, rejection = guarded(decompressed(sent, start.params), Broadcast(1, start, seed=0), "reject")

    assert kept is None
    assert rejection is not None
    assert repr(name) in rejection.reason


def test_a_secure_sum_is_refused() -> None:
    mean = replace(compressed(result({"w": torch.ones(1)})), members=(0, 1))

    with pytest.raises(ValueError, match="use one of the two"):
        decompressed(mean, mean.delta)


def one_round(engine: EngineSettings, around: Callable[[Engine], Engine] = lambda engine: engine) -> ServerState:
    algorithm = fedavg()
    start = ServerState.initial(initial_model(), algorithm, num_clients=5)
    with engine(small_federation()) as started:
        server, _, rejected = run_round(algorithm, start, around(started), [0, 2, 4], seed=7)
    assert not rejected
    return server


def test_a_round_moves_the_model_by_the_same_update_up_to_2_to_the_minus_11() -> None:
    before, exact, rounded = initial_model(), one_round(Serial()), one_round(Serial(), Float16Updates)

    moved = tree.squared_norm(tree.sub(exact.model.params, before.params))
    error = tree.squared_norm(tree.sub(rounded.model.params, exact.model.params))
    assert 0 < math.sqrt(error / moved) < 2**-11
    for name, leaf in exact.model.buffers.items():
        assert torch.equal(leaf, rounded.model.buffers[name])


def test_every_engine_rounds_alike() -> None:
    serial, processes = one_round(Serial(), Float16Updates), one_round(Process(workers=2), Float16Updates)

    for name, leaf in serial.model.params.items():
        assert torch.equal(leaf, processes.model.params[name])


def test_measured_rounds_and_states_pass_through() -> None:
    experiment = load_recipe(None, [*SMALL, "algorithm=moon", "evaluation.local_every=1"])
    *_, (record, server) = prepare(experiment).run(watch=Float16Updates)

    assert record.diagnosis is not None
    assert server.clients.keys() == {0, 1}
    assert not any(name.startswith(EXPONENTS) for client in record.clients for name in client.measurements)


def test_a_client_sends_half_the_bytes_of_its_update_and_two_more_a_tensor() -> None:
    broadcast, call = Broadcast(1, initial_model(), seed=7), fedavg().client
    with Serial()(small_federation()) as engine:
        ((exact, _),) = engine.run(call, broadcast, [0], {})
        ((sent, _),) = engine.run(SendFloat16(call), broadcast, [0], {})

    assert num_bytes(exact.delta) == num_bytes(broadcast.model.params)
    assert num_bytes(sent.delta, sent.extras) == num_bytes(exact.delta) // 2 + 2 * len(exact.delta)
    assert all(torch.equal(leaf, sent.buffers[name]) for name, leaf in exact.buffers.items())


def test_an_update_in_float16_is_sent_as_it_is_by_flower() -> None:
    pytest.importorskip("flwr")
    from decollapse.flower.messages import decode_result, encode_result

    generator = torch.Generator().manual_seed(0)
    sent = compressed(result({"w": torch.randn(1000, generator=generator)}))
    arrived, _ = decode_result(encode_result(sent, {}), 0)

    assert arrived.delta["w"].dtype == torch.float16
    assert torch.equal(arrived.delta["w"], sent.delta["w"])
    assert arrived.extras[EXPONENTS + "w"].item() == sent.extras[EXPONENTS + "w"].item()
