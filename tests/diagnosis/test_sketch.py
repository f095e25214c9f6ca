from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from decollapse import spectrum
from decollapse.diagnosis.sketch import (
    Sketch,
    SketchedSpectrum,
    bounds_above,
    least_collapsed,
    most_collapsed,
    sketched_spectrum,
    sketched_sums,
)
from decollapse.feature_statistics import FeatureStatistics
from decollapse.tree import Tree, add

SCHUR = [
    spectrum.effective_rank,
    spectrum.participation_ratio,
    spectrum.stable_rank,
    lambda values: spectrum.dims_for(values, 0.9),
]


def draw(n: int, d: int, *, rank: int, tail: float, seed: int = 0, mean: float = 0.0) -> Tensor:
    """Features with `rank` large dimensions, decaying a little, in a random position; `tail` is the others' scale."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.full((d,), tail, dtype=torch.float64)
    scales[:rank] = torch.arange(1, rank + 1, dtype=torch.float64) ** -0.5
    rotation = torch.linalg.qr(torch.randn(d, d, dtype=torch.float64, generator=generator)).Q
    return torch.randn(n, d, dtype=torch.float64, generator=generator) * scales @ rotation + mean


def summed(features: Tensor, sketch: Sketch, *, origin: float = 0.0) -> Tree:
    test, start = sketch.test_matrix(features.shape[1]), torch.full((features.shape[1],), origin)
    classes = torch.zeros(len(features), dtype=torch.int64)
    return sketched_sums(features, classes, test, num_classes=1, origin=start)


def sketched(features: Tensor, sketch: Sketch) -> SketchedSpectrum:
    return sketched_spectrum(summed(features, sketch), sketch)


def exact(features: Tensor, *, correlation: bool = False) -> np.ndarray:
    """Eigenvalues, descending, by numpy."""
    z = features.double().numpy()
    matrix = np.corrcoef(z.T) if correlation else np.cov(z.T, bias=True)
    return np.linalg.eigvalsh(matrix)[::-1]


# By hand


def test_one_direction_needs_one_column():
    result = sketched(torch.tensor([[3.0, 4.0], [-3.0, -4.0]]), Sketch(size=1))
    assert result.spectrum.num_examples == 2
    assert result.spectrum.covariance.tolist() == pytest.approx([25.0, 0.0])
    assert result.spectrum.correlation.tolist() == pytest.approx([2.0, 0.0])
    assert (result.covariance_missing, result.correlation_missing) == pytest.approx((0.0, 0.0), abs=1e-12)


def test_a_sketch_of_nothing_knows_the_variance_and_that_it_misses_all_of_it():
    result = sketched(torch.tensor([[3.0, 4.0], [-3.0, -4.0]]), Sketch(size=0))
    assert result.spectrum.covariance.tolist() == [0.0, 0.0]
    assert (result.covariance_missing, result.correlation_missing) == pytest.approx((25.0, 2.0))


@pytest.mark.parametrize("num_examples", [0, 1])
def test_no_example_and_one_example_span_nothing_and_miss_nothing(num_examples: int):
    result = sketched(torch.full((num_examples, 3), 7.0), Sketch(size=2))
    assert result.spectrum.covariance.tolist() == result.spectrum.correlation.tolist() == [0.0] * 3
    assert (result.spectrum.num_dead, result.covariance_missing, result.correlation_missing) == (3, 0.0, 0.0)


def test_the_extremes_by_hand():
    values = torch.tensor([1.0, 0.0, 3.0])
    assert most_collapsed(values, 0.0).tolist() == least_collapsed(values, 0.0).tolist() == [3.0, 1.0, 0.0]
    assert most_collapsed(values, 2.0).tolist() == [5.0, 1.0, 0.0]
    assert least_collapsed(values, 0.5).tolist() == [3.0, 1.0, 0.5]
    assert least_collapsed(values, 2.0).tolist() == [3.0, 1.5, 1.5]
    assert least_collapsed(values, 8.0).tolist() == [4.0, 4.0, 4.0]


@pytest.mark.parametrize(
    ("missing", "threshold", "expected"),
    [
        (0.0, 0.9, (2, 2)),
        (0.0, 1.0, (1, 1)),
        (0.5, 1.0, (1, 2)),
        (1.0, 1.0, (1, 2)),
        (1.1, 1.0, (1, 3)),
        (9, 3, (0, 3)),
    ],
)
def test_how_many_lie_above_a_threshold_by_hand(missing: float, threshold: float, expected: tuple[int, int]):
    assert bounds_above(torch.tensor([3.0, 1.0, 0.0]), missing, threshold) == expected


def test_what_is_missing_is_spent_once():
    values = torch.tensor([3.0, 0.5, 0.5])
    assert bounds_above(values, missing=0.6, threshold=1.0) == (1, 2)
    assert bounds_above(values, missing=1.1, threshold=1.0) == (1, 3)


# The bound


@settings(max_examples=40, deadline=None)
@given(
    rank=st.integers(1, 30),
    tail=st.sampled_from([0.0, 1e-4, 1e-2, 0.3, 1.0]),
    size=st.integers(0, 30),
    n=st.sampled_from([5, 200]),
    seed=st.integers(0, 100),
)
def test_each_eigenvalue_is_at_most_the_true_one_and_what_is_missing_is_known(rank, tail, size, n, seed):
    features = draw(n, 30, rank=rank, tail=tail, seed=seed, mean=0.5)
    result = sketched(features, Sketch(size, seed=seed))
    for found, missing, true, share in (
        (result.spectrum.covariance.numpy(), result.covariance_missing, exact(features), 1e-10),
        (result.spectrum.correlation.numpy(), result.correlation_missing, exact(features, correlation=True), 1e-7),
    ):
        rounding = share * true.sum()
        assert np.count_nonzero(found) <= size
        assert (np.diff(found) <= 0).all()
        assert (found <= true + rounding).all()
        assert missing == pytest.approx(true.sum() - found.sum(), abs=rounding)
        assert (true <= found + missing + rounding).all()


@settings(max_examples=40, deadline=None)
@given(rank=st.integers(1, 12), size=st.integers(18, 40), seed=st.integers(0, 100))
def test_a_collapsed_spectrum_is_exact(rank, size, seed):
    features = draw(100, 40, rank=rank, tail=0.0, seed=seed, mean=1.0)
    result = sketched(features, Sketch(size, seed=seed))
    true = exact(features)
    np.testing.assert_allclose(result.spectrum.covariance.numpy(), true, rtol=0, atol=1e-10 * true.sum())
    assert result.covariance_missing <= 1e-10 * true.sum()
    # Features of one direction only may have a dimension that varies 1e-4 times as much as its mean: 8 digits go.
    true = exact(features, correlation=True)
    np.testing.assert_allclose(result.spectrum.correlation.numpy(), true, rtol=0, atol=1e-7 * true.sum())


def test_a_sketch_as_wide_as_the_features_is_exact():
    features = draw(200, 15, rank=15, tail=1.0)
    result = sketched(features, Sketch(15))
    np.testing.assert_allclose(result.spectrum.covariance.numpy(), exact(features), rtol=1e-9)
    assert result.covariance_missing <= 1e-12


@pytest.mark.parametrize("r", [1, 3, 5, 7])
def test_on_average_it_misses_no_more_than_the_theorem_says(r: int):
    k, features = 10, draw(300, 30, rank=5, tail=0.1)
    missing = [sketched(features, Sketch(k, seed=seed)).covariance_missing for seed in range(200)]
    true = exact(features)
    bound = (1 + r / (k - r - 1)) * true[r:].sum()
    assert np.mean(missing) <= bound + 3 * np.std(missing) / math.sqrt(200)
    assert min(missing) >= true[k:].sum()  # no rank-k approximation misses less


@settings(max_examples=40, deadline=None)
@given(rank=st.integers(1, 30), tail=st.sampled_from([0.0, 1e-3, 0.1, 0.5]), size=st.integers(0, 30))
def test_the_measures_lie_between_those_of_the_extremes(rank, tail, size):
    features = draw(150, 30, rank=rank, tail=tail, seed=size)
    result, true = sketched(features, Sketch(size)), torch.from_numpy(exact(features).copy())
    values, missing = result.spectrum.covariance, result.covariance_missing
    for measure in SCHUR:
        low, high = measure(most_collapsed(values, missing)), measure(least_collapsed(values, missing))
        assert low - 1e-6 <= measure(true) <= high + 1e-6
    for threshold in (0.001, 0.1, 0.5):
        fewest, most = bounds_above(values, missing, threshold)
        assert fewest <= spectrum.count_above(true, threshold) <= most


@given(
    st.lists(st.floats(0, 10), min_size=1, max_size=6),
    st.lists(st.floats(0, 1), min_size=6, max_size=6),
    st.floats(0.01, 10),
)
def test_no_way_of_sharing_out_what_is_missing_gets_past_the_bounds(values, shares, threshold):
    found, given = np.sort(values)[::-1].copy(), np.array(shares[: len(values)])
    true, found = torch.from_numpy(found + given), torch.from_numpy(found)
    missing = float(given.sum()) + 1e-9
    fewest, most = bounds_above(found, missing, threshold)
    assert fewest <= spectrum.count_above(true, threshold) <= most
    if float(true.sum()) > 1e-3:
        for measure in SCHUR[:3]:
            low, high = measure(most_collapsed(found, missing)), measure(least_collapsed(found, missing))
            assert low - 1e-5 <= measure(true) <= high + 1e-5


# Sums


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(0, 50), size=st.integers(0, 12))
def test_sketches_of_parts_add_up_to_the_sketch_of_the_whole(cut, size):
    features, sketch = draw(50, 12, rank=4, tail=0.1), Sketch(size)
    total = add(summed(features[cut:], sketch), summed(features[:cut], sketch))
    for name, leaf in summed(features, sketch).items():
        torch.testing.assert_close(total[name], leaf, rtol=1e-12, atol=1e-12)


def test_an_origin_near_the_mean_saves_the_digits_of_features_with_a_large_one():
    features, sketch = draw(200, 20, rank=3, tail=0.0, mean=1e6), Sketch(8)
    origin = torch.full((20,), 1e6)
    near = sketched_spectrum(summed(features, sketch, origin=1e6), sketch, origin=origin)
    far = sketched_spectrum(summed(features, sketch), sketch)
    true = exact(features)[0]
    assert abs(float(near.spectrum.covariance[0]) - true) < 1e-9 * true < abs(float(far.spectrum.covariance[0]) - true)


def test_classes_are_counted_and_summed_apart_and_make_no_difference_to_the_spectrum():
    features, sketch, classes = draw(30, 8, rank=3, tail=0.1), Sketch(4), torch.arange(30) % 3
    sums = sketched_sums(features, classes, sketch.test_matrix(8), num_classes=4, origin=torch.zeros(8))
    assert sums["count"].tolist() == [10.0, 10.0, 10.0, 0.0]
    torch.testing.assert_close(sums["sum"][1], features[classes == 1].sum(0))
    one_class = sketched(features, sketch)
    torch.testing.assert_close(sketched_spectrum(sums, sketch).spectrum.covariance, one_class.spectrum.covariance)


def test_dead_dimensions_are_those_of_the_statistics_and_count_for_nothing():
    features = draw(400, 12, rank=12, tail=1.0)
    features[:, 3] = 5.0
    features[:, 7] *= 1e-6
    result = sketched(features, Sketch(12))
    statistics = FeatureStatistics.of(features)
    true = spectrum.Spectrum.of(statistics)
    assert result.spectrum.num_dead == true.num_dead == int(statistics.dead().sum()) == 2
    torch.testing.assert_close(result.spectrum.correlation, true.correlation, rtol=0, atol=3e-8)


@pytest.mark.parametrize("constant", [0.1, 0.3, 7.7, 1e3])
def test_a_constant_dimension_is_no_dimension_however_it_is_rounded(constant: float):
    features = draw(300, 12, rank=12, tail=1.0)
    features[:, [2, 5]] = constant
    result = sketched(features, Sketch(12))
    assert result.spectrum.num_dead == 2
    assert result.spectrum.correlation[10:].tolist() == [0.0, 0.0]
    live = torch.cat([features[:, :2], features[:, 3:5], features[:, 6:]], dim=1)
    np.testing.assert_allclose(result.spectrum.correlation[:10].numpy(), exact(live, correlation=True), rtol=1e-7)


@pytest.mark.parametrize("seed", range(5))
def test_rounding_is_not_taken_for_a_dimension(seed: int):
    features = draw(200, 40, rank=3, tail=0.0, mean=300.0, seed=seed)
    result = sketched(features, Sketch(20, seed=seed))
    true = exact(features)
    np.testing.assert_allclose(result.spectrum.covariance.numpy(), true, rtol=0, atol=1e-7 * true.sum())


def test_whether_a_dimension_is_dead_is_told_from_its_own_mean_and_not_from_the_origin():
    features, sketch = draw(200, 6, rank=6, tail=1.0, mean=1e8), Sketch(6)
    result = sketched_spectrum(summed(features, sketch, origin=1e8), sketch, origin=torch.full((6,), 1e8))
    assert result.spectrum.num_dead == int(FeatureStatistics.of(features).dead().sum()) == 6


# The test matrix


def test_the_test_matrix_is_orthonormal_and_a_function_of_the_seed():
    test = Sketch(5, seed=1).test_matrix(9)
    torch.testing.assert_close(test.T @ test, torch.eye(5, dtype=torch.float64))
    assert torch.equal(test, Sketch(5, seed=1).test_matrix(9))
    assert not torch.allclose(test, Sketch(5, seed=2).test_matrix(9))


def test_its_columns_point_the_way_of_the_gaussian_ones():
    gaussian = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert ((Sketch(5).test_matrix(9) * gaussian).sum(0) > 0).all()


# Bad input


def test_a_sketch_wider_than_the_features_is_refused():
    with pytest.raises(ValueError, match="size 20 is wider than the 12 features; .* fewer than 6 to send less"):
        Sketch(20).test_matrix(12)
    with pytest.raises(ValueError, match="at least 0, got -1"):
        Sketch(-1)


@pytest.mark.parametrize("with_right_ones", [False, True])
def test_clients_with_another_seed_are_noticed(with_right_ones: bool):
    features = draw(50, 12, rank=4, tail=0.1)
    sums = summed(features[:20], Sketch(5, seed=1))
    if with_right_ones:
        sums = add(sums, summed(features[20:], Sketch(5, seed=0)))
    with pytest.raises(ValueError, match="not a sketch with one test matrix; .* same seed and size"):
        sketched_spectrum(sums, Sketch(5, seed=0))


def test_sums_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"a sketch has shape \(12, 6\), the sums have \(12, 5\)"):
        sketched_spectrum(summed(draw(50, 12, rank=4, tail=0.1), Sketch(5)), Sketch(6))


def test_a_weighted_mean_of_sums_is_refused():
    sums = summed(draw(3, 12, rank=4, tail=0.1), Sketch(5))
    with pytest.raises(ValueError, match="must be a whole number, got 1.5; sums are needed, not weighted means"):
        sketched_spectrum({name: leaf / 2 for name, leaf in sums.items()}, Sketch(5))
