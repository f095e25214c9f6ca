from __future__ import annotations

from dataclasses import replace

import torch

from decollapse.aggregate.mean import WeightedMean
from decollapse.core import ClientResult


def result(client: int, num_examples: int, value: float) -> ClientResult:
    buffers = {"running_mean": torch.tensor(value), "num_batches_tracked": torch.tensor(client)}
    return ClientResult(client, num_examples, 1, {"w": torch.tensor(value)}, buffers, {})


RESULTS = [result(0, 10, 1.0), result(1, 30, 5.0)]


def test_weights_are_examples() -> None:
    aggregate = WeightedMean()(RESULTS)
    assert aggregate is not None
    assert aggregate.delta["w"].item() == (10 * 1 + 30 * 5) / 40
    assert (aggregate.num_clients, aggregate.num_examples) == (2, 40)


def test_uniform_weights_count_clients() -> None:
    aggregate = WeightedMean(weights="uniform")(RESULTS)
    assert aggregate is not None
    assert aggregate.delta["w"].item() == 3.0


def test_floating_point_buffers_have_the_same_mean_and_integer_ones_none() -> None:
    aggregate = WeightedMean()(RESULTS)
    assert aggregate is not None
    assert aggregate.buffers["running_mean"].item() == 4.0
    assert "num_batches_tracked" not in aggregate.buffers


def test_no_result_is_no_aggregate() -> None:
    assert WeightedMean()([]) is None


def test_results_are_consumed_one_at_a_time() -> None:
    alive: list[int] = []

    def stream():  # type: ignore[no-untyped-def]
        for client in range(5):
            alive.append(client)
            yield replace(result(client, 1, 1.0))

    assert WeightedMean()(stream()) is not None
    assert alive == [0, 1, 2, 3, 4]
