from __future__ import annotations

import copy
import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from decollapse import spectrum
from decollapse.spectrum import CHUNK, FeatureStatistics, Spectrum

SPECTRA = hnp.arrays(np.float64, st.integers(1, 12), elements=st.floats(0, 1e6, allow_subnormal=False))


def draw(n: int, d: int, *, seed: int = 0, mean: float = 0.0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Correlated features with a decaying spectrum."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=generator) / torch.arange(1, d + 1)
    return (torch.randn(n, d, generator=generator) @ mixing + mean).to(dtype)


def covariance(features: torch.Tensor) -> np.ndarray:
    """Independent of the module: numpy, float64, two passes."""
    z = features.double().numpy()
    z = z - z.mean(axis=0)
    return z.T @ z / len(z)


def assert_equal(a: FeatureStatistics, b: FeatureStatistics, rtol: float = 1e-10) -> None:
    assert a.counts.tolist() == b.counts.tolist()
    torch.testing.assert_close(a.means, b.means, rtol=rtol, atol=1e-12)
    torch.testing.assert_close(a.within, b.within, rtol=rtol, atol=rtol * float(b.within.abs().max()))


# Statistics


def test_two_points_by_hand():
    statistics = FeatureStatistics.of(torch.tensor([[0.0, 0.0, 3.0], [2.0, -4.0, 3.0]]))
    assert (statistics.num_examples, statistics.num_features, statistics.num_classes) == (2, 3, 1)
    assert statistics.mean.tolist() == [1.0, -2.0, 3.0]
    assert statistics.covariance().tolist() == [[1.0, -2.0, 0.0], [-2.0, 4.0, 0.0], [0.0, 0.0, 0.0]]
    assert statistics.correlation().tolist() == [[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_covariance_is_that_of_numpy_in_float64_for_every_input_type(dtype: torch.dtype):
    features = draw(200, 7, mean=3.0, dtype=dtype)
    result = FeatureStatistics.of(features).covariance()
    assert result.dtype == torch.float64
    np.testing.assert_allclose(result.numpy(), covariance(features), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("mean", [0.0, 1e3, 1e5])
def test_a_large_mean_in_float32_costs_no_digits(mean: float):
    features = draw(3 * CHUNK // 2, 5, mean=mean)
    statistics = FeatureStatistics.empty(5)
    for batch in features.split(100):
        statistics.update(batch)
    expected = covariance(features)
    np.testing.assert_allclose(statistics.covariance().numpy(), expected, rtol=0, atol=1e-10 * expected.max())


@settings(max_examples=60, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 60), max_size=8),
    order=st.randoms(use_true_random=False),
    mean=st.sampled_from([0.0, 1e4]),
    num_classes=st.sampled_from([1, 3]),
)
def test_any_split_merged_in_any_order_gives_the_statistics_of_the_whole(cuts, order, mean, num_classes):
    features = draw(60, 4, mean=mean)
    labels = torch.arange(60) % 3 if num_classes == 3 else None
    edges = [0, *sorted(cuts), 60]
    parts = []
    for start, stop in pairwise(edges):
        rows = slice(start, stop)
        parts.append(FeatureStatistics.empty(4, num_classes=num_classes))
        parts[-1].update(features[rows], labels if labels is None else labels[rows])
    order.shuffle(parts)
    total = FeatureStatistics.empty(4, num_classes=num_classes)
    for part in parts:
        total.merge(part)
    assert_equal(total, FeatureStatistics.of(features, labels, num_classes=num_classes))


def test_one_example_a_client_is_enough():
    features = draw(50, 6, mean=100.0)
    total = FeatureStatistics.empty(6)
    for row in features:
        total.merge(FeatureStatistics.of(row[None]))
    np.testing.assert_allclose(total.covariance().numpy(), covariance(features), rtol=1e-10, atol=1e-12)


def test_a_batch_larger_than_one_chunk_is_one_batch():
    features = draw(2 * CHUNK + 3, 3)
    np.testing.assert_allclose(FeatureStatistics.of(features).covariance().numpy(), covariance(features), rtol=1e-11)


def test_merging_leaves_the_other_alone_and_adding_leaves_both():
    a, b = FeatureStatistics.of(draw(9, 3)), FeatureStatistics.of(draw(5, 3, seed=1))
    before = copy.deepcopy((a, b))
    total = a + b
    assert_equal(a, before[0], rtol=0)
    a.merge(b)
    assert_equal(b, before[1], rtol=0)
    assert_equal(a, total)


@pytest.mark.parametrize("num_examples", [0, 1])
def test_no_example_and_one_example_span_nothing(num_examples: int):
    statistics = FeatureStatistics.of(torch.full((num_examples, 3), 7.0))
    summary = spectrum.summarize(statistics)
    assert statistics.num_examples == num_examples
    assert statistics.covariance().abs().sum() == 0
    assert summary["covariance_effective_rank"] == summary["correlation_effective_rank"] == 0.0
    assert summary["num_dead"] == 3


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_subtracting_a_part_leaves_the_rest(mean: float):
    features, labels = draw(80, 5, mean=mean), torch.arange(80) % 4
    whole = FeatureStatistics.of(features, labels, num_classes=4)
    rest = whole - FeatureStatistics.of(features[:30], labels[:30], num_classes=4)
    assert_equal(rest, FeatureStatistics.of(features[30:], labels[30:], num_classes=4))


def test_subtracting_everything_leaves_nothing_and_more_is_an_error():
    whole, part = FeatureStatistics.of(draw(9, 3)), FeatureStatistics.of(draw(4, 3))
    nothing = whole + part - whole - part
    assert nothing.num_examples == 0
    assert nothing.within.abs().sum() == nothing.means.abs().sum() == 0
    with pytest.raises(ValueError, match="a count is negative"):
        part - whole


def test_labels_split_the_scatter_and_do_not_change_the_total():
    features, labels = draw(90, 4, mean=50.0), torch.arange(90) % 5
    features = features + 3.0 * labels[:, None]
    statistics = FeatureStatistics.of(features, labels, num_classes=6)
    z, y = features.double().numpy(), labels.numpy()
    means = np.stack([z[y == c].mean(axis=0) for c in range(5)])
    assert statistics.counts.tolist() == [18] * 5 + [0]
    np.testing.assert_allclose(statistics.means.numpy(), np.vstack([means, np.zeros(4)]), rtol=1e-13)
    np.testing.assert_allclose(statistics.within.numpy(), (z - means[y]).T @ (z - means[y]), rtol=1e-10)
    np.testing.assert_allclose(statistics.covariance().numpy(), covariance(features), rtol=1e-10)


# Sums for a reducer


def test_the_sums_are_counts_and_moments_about_the_origin_by_hand():
    sums = FeatureStatistics.of(torch.tensor([[1.0, 2.0], [3.0, 2.0]])).sums(origin=torch.tensor([1.0, 0.0]))
    assert {name: leaf.tolist() for name, leaf in sums.items()} == {
        "count": [2.0],
        "sum": [[2.0, 4.0]],
        "gram": [[4.0, 4.0], [4.0, 8.0]],
    }


@pytest.mark.parametrize("num_classes", [1, 3])
def test_sums_of_parts_add_up_to_the_sums_of_the_whole(num_classes: int):
    features, origin = draw(60, 4, mean=1e4), torch.full((4,), 1e4 + 1)
    labels = torch.arange(60) % 3 if num_classes == 3 else None
    parts = [slice(0, 1), slice(1, 20), slice(20, 60)]
    trees = [
        FeatureStatistics.of(features[p], labels if labels is None else labels[p], num_classes=num_classes).sums(
            origin=origin
        )
        for p in parts
    ]
    total = {name: trees[0][name] + trees[1][name] + trees[2][name] for name in trees[0]}
    whole = FeatureStatistics.of(features, labels, num_classes=num_classes)
    assert_equal(FeatureStatistics.from_sums(total, origin=origin), whole)


def test_a_weighted_mean_of_sums_is_refused():
    sums = FeatureStatistics.of(draw(3, 2)).sums()
    with pytest.raises(ValueError, match="sums are needed, not weighted means"):
        FeatureStatistics.from_sums({name: leaf / 2 for name, leaf in sums.items()})


# Bad input


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_features_that_are_not_finite_are_an_error_and_change_nothing(value: float):
    statistics = FeatureStatistics.of(draw(5, 3))
    features = draw(4, 3, seed=1)
    features[2, 1] = value
    with pytest.raises(ValueError, match="1 of 4 rows"):
        statistics.update(features)
    assert_equal(statistics, FeatureStatistics.of(draw(5, 3)), rtol=0)


def test_a_feature_map_is_an_error_that_says_how_to_pool():
    with pytest.raises(ValueError, match=r"\(2, 3, 4, 4\); pool it: z\.mean\(\(2, 3\)\)"):
        FeatureStatistics.of(torch.zeros(2, 3, 4, 4))


@pytest.mark.parametrize(
    ("features", "labels", "num_classes", "error", "message"),
    [
        (torch.zeros(4), None, 1, ValueError, r"\(n, d\)"),
        (torch.zeros(4, 0), None, 1, ValueError, "at least 1"),
        (torch.zeros(4, 3, dtype=torch.int64), None, 1, TypeError, "floating-point"),
        (torch.zeros(4, 3), None, 2, ValueError, "labels are needed"),
        (torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64), 1, ValueError, "only if num_classes > 1"),
        (torch.zeros(4, 3), torch.zeros(3, dtype=torch.int64), 2, ValueError, "one label for each of 4 rows"),
        (torch.zeros(4, 3), torch.tensor([0, 1, 2, 0]), 2, ValueError, "labels must be 0 to 1, got 0 to 2"),
        (torch.zeros(4, 3), torch.tensor([0, 1, -1, 0]), 2, ValueError, "got -1 to 1"),
    ],
)
def test_input_that_does_not_fit_is_a_clear_error(features, labels, num_classes, error, message):
    with pytest.raises(error, match=message):
        FeatureStatistics.of(features, labels, num_classes=num_classes)


def test_statistics_of_other_sizes_do_not_merge():
    a = FeatureStatistics.empty(3)
    with pytest.raises(ValueError, match="do not merge"):
        a.merge(FeatureStatistics.empty(4))
    with pytest.raises(ValueError, match="expected 3 features"):
        a.update(torch.zeros(2, 1))
    with pytest.raises(ValueError, match="at least 1"):
        FeatureStatistics.empty(0)


def test_statistics_gather_in_inference_mode_and_go_on_outside():
    with torch.inference_mode():
        statistics = FeatureStatistics.of(draw(5, 3))
    statistics.update(draw(4, 3, seed=1).requires_grad_())
    assert statistics.num_examples == 9
    assert not statistics.within.requires_grad


# Eigenvalues


def test_eigenvalues_are_those_of_numpy_descending():
    features = draw(100, 8)
    result = Spectrum.of(FeatureStatistics.of(features))
    expected = np.linalg.eigvalsh(covariance(features))[::-1]
    np.testing.assert_allclose(result.covariance.numpy(), expected, rtol=1e-10)
    expected = np.linalg.eigvalsh(np.corrcoef(features.double().numpy().T))[::-1]
    np.testing.assert_allclose(result.correlation.numpy(), expected, rtol=1e-10)


def test_the_spectrum_saturates_at_one_less_than_the_examples():
    result = Spectrum.of(FeatureStatistics.of(draw(10, 64, mean=5.0)))
    for values in (result.covariance, result.correlation):
        assert spectrum.count_above(values, 0.0) == 9
        assert (values[9:] == 0).all()


def test_eigenvalues_of_something_else_are_a_clear_error():
    for matrix in (torch.zeros(2, 3), torch.full((2, 2), math.nan)):
        with pytest.raises(ValueError, match="square matrix of finite numbers"):
            spectrum.eigenvalues(matrix)


def test_dead_dimensions_are_counted_and_leave_the_other_correlations_alone():
    live = draw(100, 3)
    nearly = 1e-6 * draw(100, 1, seed=1)
    rounding = 1e5 * (1 + 1e-7 * draw(100, 1, seed=2).sign())
    features = torch.cat([live, torch.zeros(100, 1), nearly, rounding], dim=1)
    statistics = FeatureStatistics.of(features)
    result, alone = Spectrum.of(statistics), Spectrum.of(FeatureStatistics.of(live))
    assert statistics.dead().tolist() == [False] * 3 + [True] * 3
    assert (result.num_dead, alone.num_dead) == (3, 0)
    torch.testing.assert_close(result.correlation, torch.cat([alone.correlation, torch.zeros(3, dtype=torch.float64)]))


def test_what_is_dead_does_not_depend_on_scale_and_a_rare_unit_lives():
    features = draw(10_000, 3)
    features[:, 2] = 0.0
    features[0, 2] = 1.0
    for scale in (1e-6, 1.0, 1e6):
        assert not FeatureStatistics.of(scale * features).dead().any()
    assert FeatureStatistics.of(features).dead(dead_below=0.1).tolist() == [False, False, True]


# Measures

HAND = torch.tensor([1.0, 2.0, 1.0])  # shares 1/2, 1/4, 1/4; not sorted


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("effective_rank", (), 2 * math.sqrt(2)),
        ("participation_ratio", (), 16 / 6),
        ("stable_rank", (), 2.0),
        ("nesum", (), 2.0),
        ("dims_for", (0.5,), 1),
        ("dims_for", (0.75,), 2),
        ("dims_for", (0.751,), 3),
        ("dims_for", (1.0,), 3),
        ("count_above", (0.0,), 3),
        ("count_above", (1.0,), 1),
    ],
)
def test_a_measure_by_hand(name: str, arguments: tuple[float, ...], expected: float):
    assert getattr(spectrum, name)(HAND, *arguments) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["effective_rank", "participation_ratio", "stable_rank", "nesum"])
@pytest.mark.parametrize("rank", [1, 5])
def test_equal_eigenvalues_count_exactly(name: str, rank: int):
    values = torch.cat([torch.full((rank,), 0.3), torch.zeros(3)])
    assert getattr(spectrum, name)(values) == pytest.approx(rank, rel=1e-12)


def test_a_spectrum_of_zeros_has_no_dimensions():
    measures = spectrum.measure(torch.zeros(4))
    assert math.isnan(measures.pop("alpha_req"))
    assert set(measures.values()) == {0}


@pytest.mark.parametrize("values", [torch.zeros(0), torch.ones(2, 2), torch.tensor([1.0, math.nan])])
def test_something_that_is_no_spectrum_is_a_clear_error(values: torch.Tensor):
    with pytest.raises(ValueError, match="a spectrum is a vector"):
        spectrum.effective_rank(values)


def test_negative_eigenvalues_count_as_zero():
    assert spectrum.measure(torch.tensor([1.0, 1.0, -1e-9])) == spectrum.measure(torch.tensor([1.0, 1.0, 0.0]))


@given(SPECTRA, st.floats(1e-3, 1e3))
def test_dimensions_are_ordered_bounded_and_free_of_scale(values: np.ndarray, scale: float):
    lambdas = torch.from_numpy(values)
    ranks = [f(lambdas) for f in (spectrum.stable_rank, spectrum.participation_ratio, spectrum.effective_rank)]
    if values.max() == 0:
        assert ranks == [0, 0, 0]
        return
    low, middle, high = ranks
    assert 1 - 1e-9 <= low <= middle * (1 + 1e-9) <= high * (1 + 2e-9) <= (values > 0).sum() * (1 + 3e-9)
    assert spectrum.effective_rank(lambdas.flip(0) * scale) == pytest.approx(high, rel=1e-9)


def test_the_participation_ratio_of_the_correlation_is_one_over_the_papers_penalty():
    features = draw(64, 16)
    K = np.corrcoef(features.double().numpy().T)
    values = Spectrum.of(FeatureStatistics.of(features)).correlation
    assert spectrum.participation_ratio(values) == pytest.approx(1 / (np.square(K).sum() / 16**2), rel=1e-10)


def test_rankme_is_the_papers_formula_on_the_features_as_they_are():
    features = draw(50, 6, mean=2.0)
    s = np.linalg.svd(features.double().numpy(), compute_uv=False)
    p = s / s.sum() + 1e-7
    expected = np.exp(-(p * np.log(p)).sum())
    assert spectrum.rankme(torch.from_numpy(s)) == pytest.approx(expected, rel=1e-12)
    gram = FeatureStatistics.of(features).sums()["gram"]
    assert spectrum.rankme(spectrum.eigenvalues(gram).sqrt()) == pytest.approx(expected, rel=1e-9)


def test_rankme_adds_its_epsilon_to_every_share():
    assert spectrum.rankme(torch.tensor([3.0])) == pytest.approx(1.0, abs=2e-7)
    assert spectrum.rankme(torch.tensor([1.0, 0.0]), eps=0.5) == pytest.approx(1.5**-1.5 * 0.5**-0.5)


def test_the_fraction_of_variance_forgives_rounding_and_nothing_else():
    assert spectrum.dims_for(torch.full((170,), 0.1, dtype=torch.float64), 0.9) == 153
    assert spectrum.dims_for(torch.tensor([0.8999, 0.1001]), 0.9) == 2
    for fraction in (0.0, 1.01):
        with pytest.raises(ValueError, match="fraction must be"):
            spectrum.dims_for(HAND, fraction)


def test_alpha_req_finds_the_power_of_a_power_law_in_any_window():
    values = torch.arange(1, 200, dtype=torch.float64) ** -1.3
    assert spectrum.alpha_req(values) == pytest.approx(1.3, rel=1e-10)
    assert spectrum.alpha_req(values, first=4, last=100) == pytest.approx(1.3, rel=1e-10)
    assert spectrum.alpha_req(torch.ones(5)) == pytest.approx(0.0, abs=1e-12)


def test_alpha_req_weights_rank_k_by_one_over_k():
    values = np.array([5.0, 2.0, 1.5, 0.2])
    k = np.arange(1, 5)
    slope = np.polyfit(np.log(k), np.log(values), 1, w=np.sqrt(1 / k))[0]
    assert spectrum.alpha_req(torch.from_numpy(values)) == pytest.approx(-slope, rel=1e-12)


def test_alpha_req_without_two_eigenvalues_is_not_a_number_and_a_bad_window_an_error():
    assert math.isnan(spectrum.alpha_req(torch.tensor([1.0, 0.0])))
    for first, last in ((0, None), (3, 3)):
        with pytest.raises(ValueError, match="1 <= first < last"):
            spectrum.alpha_req(HAND, first=first, last=last)


def test_uniformity_by_hand():
    east, north = [2.0, 0.0], [0.0, 5.0]
    assert spectrum.uniformity(torch.tensor([east, east])) == pytest.approx(0.0, abs=1e-12)
    assert spectrum.uniformity(torch.tensor([east, [-1.0, 0.0]])) == pytest.approx(-8.0)
    expected = math.log((1 + 2 * math.exp(-4)) / 3)
    assert spectrum.uniformity(torch.tensor([east, east, north])) == pytest.approx(expected)


def test_uniformity_of_many_is_the_papers_formula():
    features = draw(CHUNK + 70, 3)
    z = torch.nn.functional.normalize(features.double(), dim=1)
    expected = torch.pdist(z).square().mul(-3.0).exp().mean().log()
    assert spectrum.uniformity(features, t=3.0) == pytest.approx(float(expected), rel=1e-10)


def test_uniformity_needs_a_pair():
    with pytest.raises(ValueError, match="at least 2 examples"):
        spectrum.uniformity(torch.ones(1, 3))


def test_the_summary_is_a_record_of_plain_numbers():
    statistics = FeatureStatistics.of(draw(40, 5))
    summary = json.loads(json.dumps(spectrum.summarize(statistics)))
    result = Spectrum.of(statistics)
    assert (summary["num_examples"], summary["num_features"], summary["num_dead"]) == (40, 5, 0)
    assert summary["covariance_effective_rank"] == spectrum.effective_rank(result.covariance)
    assert summary["correlation_effective_rank"] == spectrum.effective_rank(result.correlation)
    assert summary["covariance_total"] == pytest.approx(np.trace(covariance(draw(40, 5))))
    assert summary["correlation_total"] == pytest.approx(5)
    assert summary["covariance_dims_90"] <= summary["covariance_dims_99"] <= 5
