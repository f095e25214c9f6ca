from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from members import initial_model, small_federation

from decollapse.algorithms import fedavg
from decollapse.core import Broadcast, ClientCall, ClientResult, ModelState
from decollapse.engines.serial import Serial
from decollapse.guard import UnusableUpdateError, guarded
from decollapse.server_state import ServerState
from decollapse.simulation import run_round

MODEL = ModelState({"w": torch.zeros(2)}, {"running_var": torch.ones(2)})
BROADCAST = Broadcast(round=4, model=MODEL, seed=0)
GOOD = ClientResult(7, 10, 1, {"w": torch.ones(2)}, {"running_var": torch.ones(2)}, {})
NOT_A_NUMBER = replace(GOOD, delta={"w": torch.tensor([1.0, float("nan")])})
SENDING = replace(GOOD, extras={"scaffold/w": torch.tensor([1.0, 2.0])})
BAD_EXTRA = replace(GOOD, extras={"scaffold/w": torch.tensor([1.0, torch.nan])})


def test_a_usable_result_passes_as_it_is() -> None:
    assert guarded(GOOD, BROADCAST, "reject") == (GOOD, None)


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (NOT_A_NUMBER, "'w' has NaN or infinite values"),
        (replace(GOOD, buffers={"running_var": torch.tensor([1.0, float("inf")])}), "'running_var' has NaN"),
        (replace(GOOD, delta={"w": torch.ones(3)}), r"'w' has shape \(3,\), the model's has \(2,\)"),
        (replace(GOOD, delta={}), "differ in 'w'"),
        (replace(GOOD, buffers={}), "differ in 'running_var'"),
    ],
)
def test_an_unusable_result_is_rejected_with_its_first_offending_tensor(result: ClientResult, reason: str) -> None:
    kept, rejection = guarded(result, BROADCAST, "reject")
    assert kept is None
    assert rejection is not None
    assert rejection.client == 7
    with pytest.raises(UnusableUpdateError, match=reason):
        guarded(result, BROADCAST, "abort")


def test_abort_names_round_and_client() -> None:
    with pytest.raises(UnusableUpdateError, match="round 4, client 7"):
        guarded(NOT_A_NUMBER, BROADCAST, "abort")


def test_clip_puts_back_the_non_finite_entries_and_says_so() -> None:
    result = replace(NOT_A_NUMBER, buffers={"running_var": torch.tensor([float("inf"), 3.0])})
    kept, rejection = guarded(result, BROADCAST, "clip")
    assert kept is not None
    assert kept.delta["w"].tolist() == [1.0, 0.0]
    assert kept.buffers["running_var"].tolist() == [1.0, 3.0]
    assert rejection is not None


def test_extras_that_are_finite_pass() -> None:
    assert guarded(SENDING, BROADCAST, "reject", state={"scaffold": {"w": torch.ones(2)}}) == (SENDING, None)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_non_finite_extra_is_rejected_by_name(value: float) -> None:
    kept, rejection = guarded(replace(SENDING, extras={"scaffold/w": torch.tensor([1.0, value])}), BROADCAST, "reject")
    assert kept is None
    assert rejection is not None
    assert rejection.reason == "'scaffold/w' has NaN or infinite values"


def test_abort_names_a_non_finite_extra() -> None:
    with pytest.raises(UnusableUpdateError, match="round 4, client 7: 'scaffold/w' has NaN"):
        guarded(BAD_EXTRA, BROADCAST, "abort")


def test_clip_leaves_no_non_finite_extra() -> None:
    kept, rejection = guarded(BAD_EXTRA, BROADCAST, "clip")
    assert kept is not None
    assert rejection is not None
    assert torch.isfinite(kept.extras["scaffold/w"]).all()
    assert kept.extras["scaffold/w"][1].item() == 0.0
    assert torch.equal(kept.delta["w"], SENDING.delta["w"])


def test_measurements_may_be_non_finite() -> None:
    measured = replace(SENDING, extras=SENDING.extras | {"measured/spectrum": torch.tensor([torch.nan])})
    assert guarded(measured, BROADCAST, "reject") == (measured, None)


@pytest.mark.parametrize("policy", ["reject", "clip"])
def test_a_non_finite_state_is_named_with_its_term(policy: str) -> None:
    state = {"moon": {"w": torch.ones(2)}, "scaffold": {"w": torch.tensor([torch.inf, 0.0])}}
    _, rejection = guarded(SENDING, BROADCAST, policy, state=state)  # type: ignore[arg-type]  # parametrised
    assert rejection is not None
    assert rejection.reason.startswith("'w' of scaffold has NaN or infinite values")


def test_the_norm_of_a_clipped_update_is_its_own() -> None:
    result = replace(SENDING, delta={"w": torch.tensor([3.0, torch.nan])})
    assert result.squared_norm != result.squared_norm
    kept, _ = guarded(result, BROADCAST, "clip")
    assert kept is not None
    assert kept.squared_norm == 9.0


def test_one_client_with_nan_does_not_end_the_round() -> None:
    def poison(call: ClientCall) -> ClientCall:
        def poisoned(model, data, broadcast, state):  # type: ignore[no-untyped-def]
            result, state = call(model, data, broadcast, state)
            if data.client == 2:
                name = next(iter(result.delta))
                result = replace(result, delta=result.delta | {name: torch.full_like(result.delta[name], torch.nan)})
            return result, state

        return poisoned

    algorithm = fedavg()
    start = ServerState.initial(initial_model(), algorithm, num_clients=5)
    with Serial()(small_federation()) as engine:
        server, clients, rejected = run_round(algorithm, start, engine, range(5), seed=0, measure=poison)
        without, _, _ = run_round(algorithm, start, engine, [0, 1, 3, 4], seed=0)
    assert [rejection.client for rejection in rejected] == [2]
    assert len(clients) == 5
    for name, leaf in server.model.params.items():
        assert torch.equal(leaf, without.model.params[name])


def test_a_round_in_which_nobody_is_usable_leaves_the_server_as_it_was() -> None:
    def poison(call: ClientCall) -> ClientCall:
        def poisoned(model, data, broadcast, state):  # type: ignore[no-untyped-def]
            result, state = call(model, data, broadcast, state)
            return replace(result, delta={name: leaf * torch.inf for name, leaf in result.delta.items()}), state

        return poisoned

    algorithm = fedavg()
    start = ServerState.initial(initial_model(), algorithm, num_clients=5)
    with Serial()(small_federation()) as engine:
        server, _, rejected = run_round(algorithm, start, engine, [0, 1], seed=0, measure=poison)
    assert len(rejected) == 2
    assert server.round == 1
    assert all(torch.equal(leaf, start.model.params[name]) for name, leaf in server.model.params.items())
