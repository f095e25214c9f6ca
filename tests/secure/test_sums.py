"""The one result that stands for many gives what the many would have given."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from decollapse.aggregate import Aggregate, SummingAggregator
from decollapse.aggregate.mean import WeightedMean
from decollapse.aggregate.normalized import NormalizedMean
from decollapse.core import MEASURED, Broadcast, ClientResult, ModelState
from decollapse.privacy.private_mean import PrivateMean
from decollapse.secure.sums import COHORT, summand, summed
from decollapse.tree import add

COUNTER = {"steps": torch.tensor(7)}
BROADCAST = Broadcast(3, ModelState({}, COUNTER), seed=0)


def result(client: int, num_examples: int, value: float, *, step_size: float | None = 0.5) -> ClientResult:
    return ClientResult(
        client,
        num_examples,
        num_steps=2,
        delta={"w": torch.tensor([value, 1.0], dtype=torch.float64)},
        buffers={"mean": torch.tensor(value, dtype=torch.float64), "steps": torch.tensor(client)},
        metrics={"loss": value},
        step_size=step_size,
    )


RESULTS = [result(0, 10, 1.0), result(4, 30, 5.0, step_size=1.5)]


def merged(results: list[ClientResult], aggregate: SummingAggregator) -> ClientResult:
    """Without fixed point: the summands' own arithmetic."""
    total, layout = summand(results[0], aggregate)
    for other in results[1:]:
        total = add(total, summand(other, aggregate)[0])
    return summed(total, layout, tuple(each.client for each in results), BROADCAST, aggregate)


def test_two_clients_by_hand() -> None:
    found = merged(RESULTS, WeightedMean())
    assert found.delta["w"].tolist() == [4.0, 1.0]
    assert (found.client, found.members, found.num_examples, found.num_steps) == (COHORT, (0, 4), 40, 4)
    assert found.metrics == {"loss": 4.0}
    assert found.buffers == {"mean": torch.tensor(4.0, dtype=torch.float64), **COUNTER}
    assert found.squared_norm == (10 * 2 + 30 * 26) / 40
    assert found.step_size == (10 * 0.5 + 30 * 1.5) / 40


@pytest.mark.parametrize(
    "aggregate",
    [
        WeightedMean(),
        WeightedMean(weights="uniform"),
        NormalizedMean(),
        PrivateMean(clip=2.0, noise_multiplier=0.0),
        PrivateMean(clip=float("inf"), noise_multiplier=0.0),
    ],
    ids=str,
)
def test_an_aggregator_makes_the_same_of_it_as_of_all(aggregate: SummingAggregator) -> None:
    ours, theirs = aggregate([merged(RESULTS, aggregate)]), aggregate(RESULTS)
    assert isinstance(ours, Aggregate)
    assert isinstance(theirs, Aggregate)
    for mine, other in ((ours.delta, theirs.delta), (ours.buffers, theirs.buffers), (ours.extras, theirs.extras)):
        assert mine.keys() == other.keys()
        for name, leaf in mine.items():
            torch.testing.assert_close(leaf, other[name], rtol=1e-14, atol=0.0)
    assert (ours.num_clients, ours.num_examples) == (theirs.num_clients, theirs.num_examples) == (2, 40)
    assert ours.squared_norm == pytest.approx(theirs.squared_norm)


def test_extras_are_averaged_and_measured_sums_are_not() -> None:
    results = [
        replace(each, delta={}, extras={"s/w": torch.tensor([x]), MEASURED + "gram": torch.tensor([x])})
        for each, x in zip(RESULTS, (2.0, 6.0), strict=True)
    ]
    found = merged(results, WeightedMean())
    assert found.extras["s/w"].tolist() == [5.0]
    assert found.extras[MEASURED + "gram"].tolist() == [8.0]


def test_a_measured_local_model_is_refused() -> None:
    with pytest.raises(ValueError, match="client 0 measured its local model.*local_every = 0"):
        summand(replace(RESULTS[0], extras={MEASURED + "spectrum": torch.zeros(2)}), WeightedMean())


def test_clients_without_an_example_that_counts_have_no_mean() -> None:
    nothing = replace(RESULTS[0], num_examples=0, delta={}, extras={MEASURED + "count": torch.zeros(1)})
    found = merged([nothing, nothing], WeightedMean())
    assert found.num_examples == 0
    assert found.metrics == {"loss": 0.0}


def test_dtypes_come_back_and_say_how_many_digits_are_sent() -> None:
    small = replace(RESULTS[0], delta={"w": torch.ones(2)})
    _, layout = summand(small, WeightedMean())
    assert ("delta/w", (2,), "torch.float32") in layout.leaves
    assert ("buffers/mean", (), "torch.float64") in layout.leaves
    assert merged([small, small], WeightedMean()).delta["w"].dtype == torch.float32
