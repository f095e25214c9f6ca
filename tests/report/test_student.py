"""Student's t against scipy."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from decollapse.report.student import critical_value, two_sided_p


def test_one_degree_of_freedom_is_cauchys_distribution() -> None:
    assert two_sided_p(1.0, 1) == pytest.approx(0.5, abs=1e-15)
    assert critical_value(0.5, 1) == pytest.approx(1.0, abs=1e-15)


def test_two_degrees_of_freedom_have_a_quantile_in_roots() -> None:
    # P(|T| <= t) = t / sqrt(2 + t^2)
    assert critical_value(0.6, 2) == pytest.approx(math.sqrt(2 * 0.36 / (1 - 0.36)), rel=1e-14)


@pytest.mark.parametrize("df", [*range(1, 31), 63, 100, 999, 5000])
@pytest.mark.parametrize("confidence", [0.5, 0.8, 0.9, 0.95, 0.99, 0.999])
def test_critical_values_are_those_of_scipy(df: int, confidence: float) -> None:
    assert critical_value(confidence, df) == pytest.approx(stats.t.ppf(0.5 + confidence / 2, df), rel=1e-10)


@given(st.floats(0.001, 1e6), st.integers(1, 200))
def test_p_values_are_those_of_scipy(t: float, df: int) -> None:
    assert two_sided_p(t, df) == pytest.approx(2 * stats.t.sf(t, df), abs=1e-10)


@given(st.floats(0.01, 0.999), st.integers(1, 100))
def test_the_p_value_of_a_critical_value_is_what_its_confidence_leaves(confidence: float, df: int) -> None:
    assert two_sided_p(critical_value(confidence, df), df) == pytest.approx(1 - confidence, abs=1e-12)


@pytest.mark.parametrize("df", [1, 2, 7, 1000])
def test_a_p_value_is_1_at_0_and_0_at_infinity_and_does_not_see_the_sign(df: int) -> None:
    assert two_sided_p(0.0, df) == 1.0
    assert two_sided_p(math.inf, df) == pytest.approx(0.0, abs=1e-15)
    assert two_sided_p(-1.3, df) == two_sided_p(1.3, df)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, math.nan])
def test_a_confidence_that_is_no_probability_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="above 0 and below 1"):
        critical_value(confidence, 3)


def test_no_degrees_of_freedom_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 degree of freedom, got 0"):
        two_sided_p(1.0, 0)
