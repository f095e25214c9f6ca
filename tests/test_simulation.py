from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from members import initial_model, small_federation

from decollapse.algorithms import fedavg
from decollapse.engines.serial import Serial
from decollapse.server_state import ServerState
from decollapse.simulation import sample_cohort, simulate


@given(st.integers(1, 200), st.integers(0, 2**31), st.integers(1, 1000), st.data())
def test_a_cohort_is_a_function_of_seed_and_round(num_clients: int, seed: int, round: int, data: st.DataObject) -> None:
    size = data.draw(st.integers(1, num_clients))
    cohort = sample_cohort(num_clients, size, seed=seed, round=round)
    assert cohort == sample_cohort(num_clients, size, seed=seed, round=round)
    assert len(set(cohort)) == size
    assert cohort == sorted(cohort)
    assert 0 <= cohort[0] <= cohort[-1] < num_clients


def test_over_many_rounds_every_client_takes_part_equally_often() -> None:
    counts = [0] * 10
    for round in range(1, 1001):
        for client in sample_cohort(10, 3, seed=0, round=round):
            counts[client] += 1
    assert min(counts) > 240
    assert max(counts) < 360


@pytest.mark.parametrize("size", [0, 11])
def test_a_cohort_larger_than_the_federation_or_empty_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"from 1 to 10 clients .* got {size}"):
        sample_cohort(10, size, seed=0, round=1)


def test_a_run_begins_with_the_untrained_model_and_ends_at_the_last_round() -> None:
    asked: list[int] = []
    with Serial()(small_federation()) as engine:
        steps = list(
            simulate(
                fedavg(),
                engine,
                initial_model(),
                num_clients=5,
                rounds=2,
                seed=0,
                cohort_size=2,
                evaluate=lambda server: asked.append(server.round),
            )
        )
    assert [record.round for record, _ in steps] == asked == [0, 1, 2]
    assert [len(record.cohort) for record, _ in steps] == [0, 2, 2]
    assert steps[0][1].model.params["head.bias"].equal(initial_model().params["head.bias"])
    for record, _ in steps[1:]:
        assert [client.client for client in record.clients] == list(record.cohort)
        assert all(client.delta_norm > 0 for client in record.clients)


def test_nothing_happens_after_the_last_round() -> None:
    server = ServerState.initial(initial_model(), fedavg(), num_clients=5)
    with Serial()(small_federation()) as engine:
        assert not list(simulate(fedavg(), engine, server, num_clients=5, rounds=0, seed=0))
