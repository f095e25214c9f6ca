"""Robust aggregators: numbers by hand, independent formulas, and what a minority of hostile clients can do."""

from __future__ import annotations

import itertools
from dataclasses import replace
from statistics import median

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from decollapse.aggregate import Aggregate, Aggregator
from decollapse.aggregate.mean import WeightedMean
from decollapse.core import ClientResult
from decollapse.robust import (
    CoordinateMedian,
    GeometricMedian,
    Krum,
    NormClipping,
    TrimmedMean,
    clipped,
    coordinate_median,
    krum_scores,
    trimmed_mean,
    weiszfeld,
)
from decollapse.robust.cohort import BLOCK

RULES: dict[str, Aggregator] = {
    "coordinate_median": CoordinateMedian(),
    "trimmed_mean": TrimmedMean(share=0.3),
    "krum": Krum(num_byzantine=3),
    "multi_krum": Krum(num_byzantine=3, num_selected=5),
    "geometric_median": GeometricMedian(),
    "norm_clipping": NormClipping(max_norm=6.0),
}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
NEUTRAL: dict[str, Aggregator] = {
    "trimmed_mean": TrimmedMean(share=0.0),
    "geometric_median": GeometricMedian(smoothing=float("inf")),
    "norm_clipping": NormClipping(max_norm=float("inf")),
}


def column(*values: float) -> Tensor:
    return torch.tensor(values)[:, None]


def result(client: int, delta: Tensor, variance: Tensor | float = 1.0, num_examples: int = 10) -> ClientResult:
    """A client whose update has two leaves of different shapes, with BatchNorm's buffers."""
    delta = delta.flatten()
    leaves = {"w": delta[: len(delta) // 2 * 2].view(2, -1), "b": delta[len(delta) // 2 * 2 :]}
    buffers = {"running_var": torch.as_tensor(variance).to(delta).reshape(-1), "counter": torch.tensor(client)}
    return ClientResult(client, num_examples, 1, leaves, buffers, {})


def cohort(points: Tensor) -> list[ClientResult]:
    return [result(client, point, variance=1.0 + client) for client, point in enumerate(points)]


def honest(num_clients: int = 10, d: int = 21, dtype: torch.dtype = torch.float32) -> Tensor:
    """Updates around a common direction of norm about 4.6, each about 2.3 from it."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(d, generator=generator, dtype=torch.float64)
    return (common + 0.5 * torch.randn(num_clients, d, generator=generator, dtype=torch.float64)).to(dtype)


def row(aggregate: Aggregate | None) -> Tensor:
    assert aggregate is not None
    return torch.cat([leaf.flatten() for leaf in aggregate.delta.values()])


# By hand.


def test_the_median_of_an_odd_number_of_clients_is_the_middle_one() -> None:
    assert coordinate_median(column(5.0, 1.0, 100.0)).item() == 5.0


def test_the_median_of_an_even_number_of_clients_is_the_mean_of_the_middle_two() -> None:
    assert coordinate_median(column(100.0, 0.0, 3.0, 1.0)).item() == 2.0


def test_the_trimmed_mean_drops_the_same_number_at_each_end() -> None:
    assert trimmed_mean(column(-50.0, 1.0, 2.0, 6.0, 900.0), 1).item() == 3.0


def test_krum_of_five_numbers() -> None:
    points = column(0.0, 1.0, 2.0, 3.0, 100.0)
    assert krum_scores(points, 1).tolist() == [5.0, 2.0, 2.0, 5.0, 19013.0]
    assert row(Krum(num_byzantine=1)(cohort(points))).item() == 1.0  # the first of the two lowest
    assert row(Krum(num_byzantine=1, num_selected=4)(cohort(points))).item() == 1.5


def test_the_geometric_median_of_three_numbers_from_their_mean() -> None:
    points = column(0.0, 1.0, 10.0)
    found = [(weiszfeld(points, points.mean(0), iterations=n) @ points.double()).item() for n in (1, 2, 3, 4, 100)]
    assert found == pytest.approx([2.4254, 1.6227, 1.1957, 1.0307, 1.0], abs=5e-5)


def test_an_update_longer_than_the_norm_is_shortened_to_it_as_a_whole() -> None:
    results = [result(0, torch.tensor([3.0, 0.0, 4.0])), result(1, torch.tensor([0.0, 0.5, 0.0]))]
    assert row(NormClipping(max_norm=1.0)(results)).tolist() == pytest.approx([0.3, 0.25, 0.4])


# Independent formulas.


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=12))
def test_the_median_is_that_of_the_statistics_module(values: list[float]) -> None:
    points = column(*values).double()
    assert coordinate_median(points).item() == pytest.approx(median(points.flatten().tolist()), rel=1e-12)


@pytest.mark.parametrize("d", [1, BLOCK - 1, BLOCK, BLOCK + 1])
def test_coordinates_are_independent_of_the_blocks_they_are_worked_on_in(d: int) -> None:
    points = torch.randn(7, d, generator=torch.Generator().manual_seed(0))
    naive = points.double().sort(dim=0).values[2:-2].mean(dim=0)
    torch.testing.assert_close(trimmed_mean(points, 2), naive.float(), rtol=1e-6, atol=1e-7)
    squares = (points.double()[:, None] - points.double()[None]).square().sum(2)
    naive_scores = [sum(sorted(s for j, s in enumerate(line) if j != i)[:4]) for i, line in enumerate(squares.tolist())]
    assert krum_scores(points, 1).tolist() == pytest.approx(naive_scores, rel=1e-12)


def test_krums_distances_do_not_cancel_far_from_the_origin() -> None:
    near = torch.tensor([[0.0], [1.0], [2.0], [4.0], [8.0]])
    torch.testing.assert_close(krum_scores(near + 2**20, 1), krum_scores(near, 1), rtol=1e-12, atol=0.0)


def test_multi_krum_is_the_mean_of_the_lowest_scores() -> None:
    points = honest()
    lowest = sorted(range(10), key=lambda i: krum_scores(points, 3)[i].item())[:5]
    aggregate = Krum(num_byzantine=3, num_selected=5)(cohort(points))
    torch.testing.assert_close(row(aggregate), points[lowest].mean(0))
    assert aggregate is not None
    assert aggregate.buffers["running_var"].item() == pytest.approx(sum(1.0 + i for i in lowest) / 5)


@pytest.mark.parametrize(
    "points",
    [
        honest(dtype=torch.float64),
        honest(num_clients=9, d=3, dtype=torch.float64),
        # Here the coordinate-wise median, where the iteration starts, is one of the updates and not the answer.
        torch.tensor([[0.0, 0.0], [10.0, -1.0], [9.0, -2.0], [-1.0, 10.0], [-2.0, 9.0]], dtype=torch.float64),
    ],
)
def test_at_the_geometric_median_the_unit_vectors_to_the_updates_sum_to_zero(points: Tensor) -> None:
    v = row(GeometricMedian(tolerance=1e-10, iterations=10_000)(cohort(points)))
    away = points - v
    assert (away / away.norm(dim=1, keepdim=True)).sum(0).norm() < 1e-6


def test_a_hundred_iterations_reach_the_geometric_median_by_default() -> None:
    points = honest(dtype=torch.float64)
    exact = row(GeometricMedian(tolerance=0.0, iterations=10_000)(cohort(points)))
    assert (row(GeometricMedian()(cohort(points))) - exact).norm() < 1e-5


def test_from_the_mean_four_iterations_leave_a_far_minority_in() -> None:
    points = torch.cat([honest()[:7], torch.full((3, 21), 1e6)])
    v = weiszfeld(points, points.mean(0), iterations=4) @ points.double()
    assert v.norm() > 1e4
    assert row(GeometricMedian()(cohort(points))).norm() < 20


def test_clipping_is_the_formula_in_float64() -> None:
    points = honest()
    bound = points.norm(dim=1).median().item()  # half are longer, half are not
    naive = torch.stack([p * min(1.0, bound / p.norm()) for p in points.double()]).mean(0)
    torch.testing.assert_close(row(NormClipping(max_norm=bound)(cohort(points))), naive.float())


def test_clipping_survives_updates_as_long_as_float32_allows() -> None:
    delta = {"w": torch.full((10**6,), 3e38)}
    assert clipped(delta, 1.0)["w"].double().norm().item() == pytest.approx(1.0, rel=1e-5)


def test_an_update_that_is_short_enough_is_not_touched() -> None:
    delta = {"w": torch.tensor([3.0, 4.0])}
    assert clipped(delta, 5.0) is delta


def test_clipping_can_weight_by_examples() -> None:
    results = [result(0, torch.tensor([0.0]), num_examples=10), result(1, torch.tensor([4.0]), num_examples=30)]
    assert row(NormClipping(max_norm=2.0, weights="examples")(results)).item() == 1.5
    assert row(NormClipping(max_norm=2.0)(results)).item() == 1.0


# What every rule has in common.


@every_rule
def test_the_order_of_the_cohort_does_not_matter(rule: Aggregator) -> None:
    results = cohort(honest())
    shuffled = [results[i] for i in torch.randperm(10, generator=torch.Generator().manual_seed(1)).tolist()]
    one, other = rule(results), rule(shuffled)
    assert one is not None
    assert other is not None
    torch.testing.assert_close(row(one), row(other))
    torch.testing.assert_close(one.buffers, other.buffers)


@every_rule
def test_the_number_of_examples_a_client_claims_does_not_matter(rule: Aggregator) -> None:
    results = cohort(honest())
    assert torch.equal(row(rule(results)), row(rule([replace(results[0], num_examples=10**6), *results[1:]])))


@pytest.mark.parametrize("name", [name for name in RULES if name != "norm_clipping"])
def test_moving_all_updates_moves_the_aggregate_as_much(name: str) -> None:
    points, shift = honest(dtype=torch.float64), torch.linspace(-3, 3, 21, dtype=torch.float64)
    moved = row(RULES[name](cohort(points + shift)))
    torch.testing.assert_close(moved, row(RULES[name](cohort(points))) + shift, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [name for name in RULES if name != "norm_clipping"])
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_scale_of_the_updates_does_not_matter(name: str, scale: float) -> None:
    points = honest(dtype=torch.float64)
    scaled = row(RULES[name](cohort(points * scale)))
    torch.testing.assert_close(scaled / scale, row(RULES[name](cohort(points))), rtol=1e-9, atol=1e-9)


@every_rule
def test_names_shapes_and_dtypes_are_those_of_the_updates(rule: Aggregator) -> None:
    results = [replace(r, delta=r.delta | {"b": r.delta["b"].double()}) for r in cohort(honest())]
    aggregate = rule(results)
    assert aggregate is not None
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in aggregate.delta.items()} == {
        "w": ((2, 10), torch.float32),
        "b": ((1,), torch.float64),
    }
    assert aggregate.buffers["running_var"].dtype == torch.float32
    assert (aggregate.num_clients, aggregate.num_examples, aggregate.extras) == (10, 100, {})


@every_rule
def test_integer_buffers_are_left_out(rule: Aggregator) -> None:
    aggregate = rule(cohort(honest()))
    assert aggregate is not None
    assert aggregate.buffers.keys() == {"running_var"}


@every_rule
def test_a_model_without_buffers_has_none(rule: Aggregator) -> None:
    aggregate = rule([replace(r, buffers={}) for r in cohort(honest())])
    assert aggregate is not None
    assert aggregate.buffers == {}


@every_rule
def test_buffers_stay_among_those_that_were_sent(rule: Aggregator) -> None:
    generator = torch.Generator().manual_seed(2)
    variances = torch.rand(10, 8, generator=generator)
    aggregate = rule([result(i, p, variance=v) for i, (p, v) in enumerate(zip(honest(), variances, strict=True))])
    assert aggregate is not None
    variance = aggregate.buffers["running_var"]
    assert ((variance >= variances.min(0).values - 1e-6) & (variance <= variances.max(0).values + 1e-6)).all()
    assert (variance > 0).all()


@every_rule
def test_results_that_are_buffers_alone_are_aggregated_without_their_outliers(rule: Aggregator) -> None:
    variances = torch.cat([torch.full((3, 21), 1e6), 1 + 0.1 * honest(7)])
    aggregate = rule([replace(result(i, torch.zeros(3), variance=v), delta={}) for i, v in enumerate(variances)])
    assert aggregate is not None
    assert aggregate.delta == {}
    assert (aggregate.buffers["running_var"] - 1).abs().max() < 1


@every_rule
def test_no_result_is_no_aggregate(rule: Aggregator) -> None:
    assert rule([]) is None


@every_rule
def test_the_results_may_be_a_generator(rule: Aggregator) -> None:
    results = cohort(honest())
    assert torch.equal(row(rule(iter(results))), row(rule(results)))


@every_rule
def test_results_are_not_changed(rule: Aggregator) -> None:
    points = honest()
    results = cohort(points.clone())
    rule(results)
    for point, sent in zip(points, results, strict=True):
        assert torch.equal(torch.cat([leaf.flatten() for leaf in sent.delta.values()]), point)


@every_rule
def test_single_updates_are_needed(rule: Aggregator) -> None:
    assert rule.needs_single_updates


@every_rule
def test_identical_updates_are_their_own_aggregate(rule: Aggregator) -> None:
    update = honest()[:1]
    torch.testing.assert_close(row(rule(cohort(update.expand(10, -1)))), update[0])


@every_rule
def test_updates_of_zero_are_no_update(rule: Aggregator) -> None:
    assert torch.equal(row(rule(cohort(torch.zeros(10, 21)))), torch.zeros(21))


@pytest.mark.parametrize("name", ["coordinate_median", "geometric_median", "norm_clipping"])
def test_one_client_is_aggregated_alone(name: str) -> None:
    update = honest()[:1]
    torch.testing.assert_close(row(RULES[name](cohort(update))), update[0] * min(1.0, 6.0 / update.norm().item()))


@every_rule
def test_an_algorithm_that_sends_more_than_an_update_is_refused(rule: Aggregator) -> None:
    first, *rest = cohort(honest())
    with pytest.raises(ValueError, match="client 0 sends 'control/w' beside its update.*SCAFFOLD.*weighted_mean"):
        rule([replace(first, extras={"control/w": torch.zeros(1)}), *rest])


@pytest.mark.parametrize("rule", NEUTRAL.values(), ids=NEUTRAL.keys())
def test_a_neutral_rule_refuses_it_too(rule: Aggregator) -> None:
    with pytest.raises(ValueError, match="beside its update"):
        rule([replace(r, extras={"control/w": torch.zeros(1)}) for r in cohort(honest())])


@every_rule
def test_measurements_are_let_through(rule: Aggregator) -> None:
    assert rule([replace(r, extras={"measured/covariance": torch.eye(2)}) for r in cohort(honest())]) is not None


# Neutral settings.


@pytest.mark.parametrize("rule", NEUTRAL.values(), ids=NEUTRAL.keys())
def test_neutral_settings_are_the_uniform_mean_bit_by_bit(rule: Aggregator) -> None:
    results = [replace(r, num_examples=1 + r.client) for r in cohort(honest())]
    mean, robust = WeightedMean(weights="uniform")(results), rule(results)
    assert mean is not None
    assert robust is not None
    for mine, theirs in ((robust.delta, mean.delta), (robust.buffers, mean.buffers)):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)


@pytest.mark.parametrize("max_norm", [100.0, float("inf")])
def test_a_norm_nobody_exceeds_is_fedavgs_update_bit_by_bit(max_norm: float) -> None:
    results = [replace(r, num_examples=1 + r.client) for r in cohort(honest())]
    assert torch.equal(row(NormClipping(max_norm=max_norm, weights="examples")(results)), row(WeightedMean()(results)))


def test_krum_that_selects_everybody_is_the_uniform_mean() -> None:
    results = cohort(honest())
    everybody = row(Krum(num_byzantine=0, num_selected=10)(results))
    torch.testing.assert_close(everybody, row(WeightedMean(weights="uniform")(results)))


def test_much_smoothing_comes_near_the_uniform_mean() -> None:
    results = cohort(honest())
    smooth = row(GeometricMedian(smoothing=1e3)(results))
    torch.testing.assert_close(smooth, row(WeightedMean(weights="uniform")(results)))


# Breakdown: three of ten clients send what they like. With these updates every rule stays within r of the honest mean,
# where r is the distance of the honest client that is furthest from it.

ATTACKS = {
    "noise": lambda points: 10 * torch.randn(3, points.shape[1], generator=torch.Generator().manual_seed(3)),
    "sign flip": lambda points: -points[:3],
    "1e6 times": lambda points: 1e6 * points[:3],
    "-1e6 times": lambda points: -1e6 * points[:3],
    "the largest number": lambda points: torch.full((3, points.shape[1]), torch.finfo(points.dtype).max),
    "nothing": lambda points: torch.zeros(3, points.shape[1]),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("places", [(0, 1, 2), (2, 5, 9)])
@pytest.mark.parametrize("name", [name for name in RULES if name != "norm_clipping"])
def test_three_of_ten_clients_cannot_carry_the_aggregate_away(name: str, attack: str, places: tuple[int, ...]) -> None:
    points = honest()
    points[list(places)] = ATTACKS[attack](points)
    others = points[[i for i in range(10) if i not in places]]
    r = (others - others.mean(0)).norm(dim=1).max()
    found = row(RULES[name](cohort(points)))
    assert torch.isfinite(found).all()
    assert (found - others.mean(0)).norm() <= r
    if name in ("coordinate_median", "trimmed_mean"):
        assert ((found >= others.min(0).values - 1e-5) & (found <= others.max(0).values + 1e-5)).all()


@pytest.mark.parametrize("attack", ATTACKS)
def test_clipped_clients_move_the_mean_by_their_share_of_the_norm(attack: str) -> None:
    points = honest()
    others = points[3:]
    found = row(NormClipping(max_norm=6.0)(cohort(torch.cat([ATTACKS[attack](points), others]))))
    without = row(NormClipping(max_norm=6.0)(cohort(torch.cat([torch.zeros(3, 21), others]))))
    assert (found - without).norm() <= 0.3 * 6.0 + 1e-5


@pytest.mark.parametrize("attack", [attack for attack in ATTACKS if attack not in ("sign flip", "nothing")])
def test_the_mean_is_carried_away(attack: str) -> None:
    points = honest()
    others = points[3:]
    r = (others - others.mean(0)).norm(dim=1).max()
    found = row(WeightedMean()(cohort(torch.cat([ATTACKS[attack](points), others]))))
    assert not (found - others.mean(0)).norm() <= r


# Cohorts that are too small, and numbers that are out of range.


@pytest.mark.parametrize(
    ("rule", "num_clients", "message"),
    [
        (
            Krum(num_byzantine=3),
            8,
            "f = 3 .* at least 9, got 8, not counting updates the guard rejected.*lower num_byz",
        ),
        (Krum(num_byzantine=0), 2, "at least 3, got 2"),
        (Krum(num_byzantine=2, num_selected=6), 7, "num_selected = 6 needs a cohort of at least 8, got 7"),
        (
            TrimmedMean(share=0.2),
            2,
            "share = 0.2 .* f = 1 .* at least 3, got 2, not counting updates the guard rejected",
        ),
        (TrimmedMean(share=0.4999999999), 4, "f = 2 .* at least 5, got 4"),
    ],
)
def test_a_cohort_that_is_too_small_is_refused_with_its_size(rule: Aggregator, num_clients: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rule(cohort(honest(num_clients)))


@pytest.mark.parametrize(("rule", "smallest"), [(Krum(num_byzantine=3), 9), (TrimmedMean(share=0.2), 3)])
def test_the_smallest_cohort_is_accepted(rule: Aggregator, smallest: int) -> None:
    assert rule(cohort(honest(smallest))) is not None


def test_a_small_share_leaves_out_at_least_one_client_at_each_end() -> None:
    assert row(TrimmedMean(share=0.1)(cohort(column(-900.0, 1.0, 2.0, 900.0)))).item() == 1.5


@pytest.mark.parametrize(("share", "num_clients", "num_trimmed"), [(0.29, 100, 29), (0.3, 10, 3), (0.2, 19, 3)])
def test_the_number_left_out_is_not_one_too_few_by_rounding(share: float, num_clients: int, num_trimmed: int) -> None:
    points = torch.randn(num_clients, 3, generator=torch.Generator().manual_seed(0))
    expected = trimmed_mean(points, num_trimmed)
    assert torch.equal(row(TrimmedMean(share=share)(cohort(points)))[:3].sort().values, expected.sort().values)


@pytest.mark.parametrize(
    ("rule", "setting", "value"),
    [
        *itertools.product([TrimmedMean], ["share"], [-0.1, 0.5, float("nan")]),
        *itertools.product([Krum], ["num_byzantine"], [-1]),
        *itertools.product([Krum], ["num_selected"], [0]),
        *itertools.product([GeometricMedian], ["smoothing"], [-1.0, float("nan")]),
        *itertools.product([GeometricMedian], ["iterations"], [0]),
        *itertools.product([GeometricMedian], ["tolerance"], [-1.0, float("inf"), float("nan")]),
        *itertools.product([NormClipping], ["max_norm"], [0.0, -1.0, float("nan")]),
    ],
)
def test_a_setting_out_of_range_is_refused(rule: type, setting: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{setting} .*got {value}"):
        rule(**{setting: value})
