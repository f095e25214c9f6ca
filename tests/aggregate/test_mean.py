from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decollapse.aggregate import Aggregate
from decollapse.aggregate.mean import WeightedMean
from decollapse.core import ClientResult


def result(client: int, num_examples: int, value: float) -> ClientResult:
    buffers = {"running_mean": torch.tensor(value), "num_batches_tracked": torch.tensor(client)}
    return ClientResult(client, num_examples, 1, {"w": torch.tensor(value)}, buffers, {})


def mean(results: list[ClientResult], weights: str = "examples") -> Aggregate:
    aggregate = WeightedMean(weights=weights)(results)  # type: ignore[arg-type]  # parametrised
    assert aggregate is not None
    return aggregate


RESULTS = [result(0, 10, 1.0), result(1, 30, 5.0)]


def test_weights_are_examples() -> None:
    aggregate = mean(RESULTS)
    assert aggregate.delta["w"].item() == (10 * 1 + 30 * 5) / 40
    assert (aggregate.num_clients, aggregate.num_examples) == (2, 40)


def test_uniform_weights_count_clients() -> None:
    assert mean(RESULTS, "uniform").delta["w"].item() == 3.0


def test_floating_point_buffers_have_the_same_mean_and_integer_ones_none() -> None:
    aggregate = mean(RESULTS)
    assert aggregate.buffers["running_mean"].item() == 4.0
    assert "num_batches_tracked" not in aggregate.buffers


def test_the_squared_norm_is_the_mean_of_the_updates_own_with_the_same_weights() -> None:
    assert mean(RESULTS).squared_norm == (10 * 1 + 30 * 25) / 40
    assert mean(RESULTS, "uniform").squared_norm == 13.0


def test_it_is_over_all_parameters_and_no_buffer_or_extra() -> None:
    update = {"a": torch.tensor([3.0]), "b": torch.tensor([[4.0]])}
    extras = {"scaffold/a": torch.tensor([1e6])}
    only = ClientResult(0, 1, 1, update, {"running_var": torch.tensor([1e6])}, {}, extras)
    assert mean([only]).squared_norm == 25.0


def test_extras_have_the_same_mean_and_measurements_stay_out() -> None:
    sent = [
        replace(known, extras={"scaffold/w": torch.tensor(value), "measured/spectrum": torch.ones(client + 1)})
        for client, (known, value) in enumerate(zip(RESULTS, (2.0, 6.0), strict=True))
    ]
    assert mean(sent).extras.keys() == {"scaffold/w"}
    assert mean(sent).extras["scaffold/w"].item() == 5.0
    assert mean(sent, "uniform").extras["scaffold/w"].item() == 4.0


def test_no_result_is_no_aggregate() -> None:
    assert WeightedMean()([]) is None


@pytest.mark.parametrize("weights", ["examples", "uniform"])
@given(st.lists(st.tuples(st.integers(1, 1000), st.floats(-1e3, 1e3, width=32)), min_size=1, max_size=10))
def test_it_lies_among_the_updates(weights: str, sent: list[tuple[int, float]]) -> None:
    value = mean([result(client, n, delta) for client, (n, delta) in enumerate(sent)], weights).delta["w"].item()
    deltas = [delta for _, delta in sent]
    slack = 1e-5 * max(abs(delta) for delta in deltas)
    assert min(deltas) - slack <= value <= max(deltas) + slack


def test_one_result_at_a_time_is_held() -> None:
    def stream() -> Iterator[ClientResult]:
        alive: list[weakref.ref[ClientResult]] = []
        for client in range(5):
            sent = result(client, 1, 1.0)
            alive.append(weakref.ref(sent))
            yield sent
            del sent
            assert sum(reference() is not None for reference in alive) <= 1

    assert WeightedMean()(stream()) is not None


def test_the_results_are_left_as_they_were() -> None:
    results = [result(0, 10, 1.0), result(1, 30, 5.0)]
    mean(results)
    assert [sent.delta["w"].item() for sent in results] == [1.0, 5.0]
    assert [sent.buffers["running_mean"].item() for sent in results] == [1.0, 5.0]
