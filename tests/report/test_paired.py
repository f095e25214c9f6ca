"""Paired differences: by hand, and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from decollapse.report.paired import Paired

SAMPLES = st.lists(st.floats(-100, 100).map(lambda value: round(value, 3)), min_size=2, max_size=9)


def of(*differences: float, **how: bool) -> Paired:
    found = Paired.of(differences, **how)
    assert found is not None
    return found


def test_three_differences_by_hand() -> None:
    found = of(1.0, 2.0, 3.0)
    assert (found.mean, found.std, found.num) == (2.0, 1.0, 3)
    # 4.302653 is the 97.5 % point of Student's t with two degrees of freedom.
    assert found.interval == pytest.approx((2 - 4.302652730 / 3**0.5, 2 + 4.302652730 / 3**0.5), abs=1e-9)
    assert found.p_sign_flip == 2 / 8  # + + + and - - -


def test_pairs_are_counted_by_what_is_better() -> None:
    assert (of(1.0, -2.0, 0.0, 3.0).wins, of(1.0, -2.0, 0.0, 3.0).ties, of(1.0, -2.0, 0.0, 3.0).losses) == (2, 1, 1)
    lower = of(1.0, -2.0, 0.0, 3.0, higher_is_better=False)
    assert (lower.wins, lower.ties, lower.losses) == (1, 1, 2)


def test_a_spread_over_seeds_that_both_settings_share_is_no_doubt() -> None:
    base = np.array([40.0, 55.0, 70.0, 85.0])
    gain = np.array([1.1, 0.9, 1.0, 1.0])
    assert stats.ttest_ind(base, base + gain).pvalue > 0.9
    found = of(*gain)
    assert found.interval is not None
    assert found.interval[0] > 0.8
    assert found.p_value is not None
    assert found.p_value < 0.001


@settings(deadline=None)
@given(SAMPLES, st.sampled_from([0.9, 0.95, 0.99]))
def test_interval_and_p_value_are_those_of_scipy(values: list[float], confidence: float) -> None:
    found = Paired.of(values, confidence=confidence)
    assert found is not None
    if found.std == 0:
        assert found.p_value is None
        return
    expected = stats.ttest_1samp(values, 0.0)
    ends = expected.confidence_interval(confidence)
    assert found.interval == pytest.approx((ends.low, ends.high), rel=1e-10, abs=1e-10)
    assert found.p_value == pytest.approx(expected.pvalue, abs=1e-10)


@settings(deadline=None, max_examples=30)
@given(SAMPLES)
def test_the_sign_flip_test_is_scipys_exact_permutation_test(values: list[float]) -> None:
    expected = stats.permutation_test(
        (values,), lambda x, axis: abs(np.mean(x, axis=axis)), permutation_type="samples", n_resamples=np.inf,
        alternative="greater", vectorized=True,
    )  # fmt: skip
    found = Paired.of(values)
    assert found is not None
    assert found.p_sign_flip == pytest.approx(expected.pvalue, abs=1e-12)


def test_sums_that_differ_by_rounding_alone_are_equal() -> None:
    # Two signs each way make 0; of the 16 choices, the ten others are as far from it or farther.
    assert of(-0.4, -0.4, -0.4, 0.4).p_sign_flip == of(-4, -4, -4, 4).p_sign_flip == 10 / 16


def test_one_pair_has_a_difference_and_no_interval() -> None:
    found = of(1.5)
    assert (found.mean, found.wins) == (1.5, 1)
    assert (found.std, found.interval, found.p_value) == (None, None, None)


def test_no_pair_is_no_summary() -> None:
    assert Paired.of([]) is None


def test_differences_that_do_not_vary_have_no_t_test() -> None:
    same = of(0.5, 0.5, 0.5)
    assert (same.interval, same.p_value, same.p_sign_flip) == ((0.5, 0.5), None, 0.25)
    nothing = of(0.0, 0.0)
    assert (nothing.ties, nothing.p_value, nothing.p_sign_flip) == (2, None, 1.0)


def test_many_pairs_have_the_t_test_alone() -> None:
    assert of(*range(1, 17)).p_sign_flip == 2 / 2**16
    assert of(*range(1, 18)).p_sign_flip is None
