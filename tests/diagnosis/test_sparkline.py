"""A spectrum in one line of text: the right heights, the right places, and nothing that makes it fail."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decollapse.diagnosis.sparkline import ASCII, BLOCKS, few_examples, sparkline, spectrum_table
from decollapse.feature_statistics import FeatureStatistics
from decollapse.spectrum import Spectrum, participation_ratio

spectra = st.lists(st.floats(min_value=0, max_value=1e300), min_size=1, max_size=200)


def test_a_step_of_height_is_half_a_decade():
    halves = [10.0**-power for power in (0.1, 0.6, 1.1, 1.6, 2.1, 2.6, 3.1, 3.6)]
    assert sparkline([1.0, *halves]) == "█" + BLOCKS[::-1]


def test_the_largest_value_has_the_highest_bar_and_a_ten_thousandth_of_it_the_lowest():
    assert sparkline([5e6, 5e2]) == "█▁"
    assert sparkline([5e-9, 5e-13]) == "█▁"


def test_what_is_below_the_scale_stays_on_it():
    assert sparkline([1.0, 1e-5, 1e-300]) == "█▁▁"


def test_the_scale_has_as_many_decades_as_asked_for():
    assert sparkline([1.0, 1e-4], decades=8.0) == "█▅"
    assert sparkline([1.0, 0.1], decades=1.0) == "█▁"


def test_a_zero_is_blank():
    assert sparkline([1.0, 0.0, 0.0]) == "█  "


def test_zeros_alone_are_blanks():
    assert sparkline([0.0, 0.0]) == "  "
    assert sparkline([0.0] * 100) == " " * 40


def test_a_single_value_is_one_full_bar():
    assert sparkline([3.0]) == "█"
    assert sparkline([1e-300]) == "█"


def test_equal_values_are_full_bars():
    assert sparkline([2.0] * 5) == "█████"


def test_negative_values_are_rounding_and_count_as_zero():
    assert sparkline([1.0, -1e-17]) == "█ "


def test_values_may_come_in_any_order_and_as_a_tensor():
    assert sparkline(torch.tensor([0.0, 1.0, 100.0])) == sparkline([100.0, 1.0, 0.0]) == "█▅ "


def test_more_values_than_columns_are_averaged_in_logarithms_over_groups_of_neighbours():
    # (1, 1), (1e-1, 1e-3): geometric means 1 and 1e-2.
    assert sparkline([1.0, 1.0, 1e-1, 1e-3], width=2) == "█▅"


def test_groups_are_as_equal_as_can_be():
    # Five values in two columns are two and three.
    assert sparkline([1.0, 1.0, 1e-2, 1e-2, 1e-2], width=2) == "█▅"


def test_a_group_with_zeros_is_the_mean_of_its_others_and_one_of_zeros_is_blank():
    assert sparkline([1.0, 1.0, 1e-2, 0.0, 0.0, 0.0], width=3) == "█▅ "


def test_the_input_is_left_alone():
    values = [1.0, 3.0, -1.0]
    sparkline(values)
    assert values == [1.0, 3.0, -1.0]


@given(spectra, st.integers(1, 60))
def test_it_is_as_long_as_the_spectrum_or_as_wide_as_allowed(values, width):
    assert len(sparkline(values, width=width)) == min(len(values), width)


@given(spectra, st.integers(1, 60))
def test_bars_never_rise(values, width):
    heights = [" _.:-=+*#".index(bar) for bar in sparkline(values, width=width, ascii_only=True)]
    assert heights == sorted(heights, reverse=True)


@given(spectra)
def test_the_fallback_draws_the_same_bars_in_ascii(values):
    plain = sparkline(values, ascii_only=True)
    assert plain.isascii()
    assert plain.translate(str.maketrans(ASCII, BLOCKS)) == sparkline(values)


@given(st.lists(st.floats(min_value=1e-3, max_value=1e3), min_size=1, max_size=50), st.sampled_from([2.0**-9, 2.0**20]))
def test_the_unit_does_not_matter(values, unit):
    heights = [BLOCKS.index(bar) for bar in sparkline(values)]
    scaled = [BLOCKS.index(bar) for bar in sparkline([value * unit for value in values])]
    assert all(abs(a - b) <= 1 for a, b in zip(heights, scaled, strict=True))  # a logarithm may round over an edge


@pytest.mark.parametrize("values", [[], [1.0, math.nan], [math.inf], [1.0, -math.inf]])
def test_no_values_and_values_that_are_not_finite_are_refused(values):
    with pytest.raises(ValueError, match="a sparkline needs at least one number, all of them finite, got"):
        sparkline(values)


@pytest.mark.parametrize("settings", [dict(width=0), dict(decades=0.0), dict(decades=math.inf), dict(decades=math.nan)])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="a sparkline needs width >= 1 and finite decades > 0, got"):
        sparkline([1.0], **settings)


def test_a_value_on_an_edge_is_drawn_above_it_whatever_its_rounding():
    tenths = torch.tensor([9.0, 0.9, 0.09, 0.009])  # in float32, 0.9 / 9 is a little below 0.1
    assert sparkline(tenths) == "█▇▅▃"


@pytest.mark.parametrize(("num_examples", "num_features"), [(60, 30), (31, 30), (10, 30), (2, 30)])
def test_white_noise_has_the_participation_ratio_that_few_examples_says(num_examples, num_features):
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(num_examples, num_features, generator=generator) for _ in range(40)]
    ratios = [participation_ratio(Spectrum.of(FeatureStatistics.of(draw)).correlation) for draw in draws]
    n = num_examples - 1
    stated = num_features * n / (n + num_features - 1)
    assert sum(ratios) / len(ratios) == pytest.approx(stated, rel=0.03)
    assert f"white noise has a participation ratio of about {stated:,.0f};" in few_examples(num_examples, num_features)


def test_few_examples_ends_at_five_a_dimension():
    assert "2,499 for d = 500. Ranks are at most min(d, N - 1) = 500" in few_examples(2499, 500)
    assert few_examples(2500, 500) == ""


@pytest.mark.parametrize(("num_examples", "num_features"), [(0, 1), (1, 1), (0, 5), (1, 5)])
def test_no_example_and_one_have_no_rank(num_examples, num_features):
    sentence = few_examples(num_examples, num_features)
    assert "Ranks are at most min(d, N - 1) = 0, and white noise has a participation ratio of about 0;" in sentence


def test_the_table_of_few_examples_ends_with_what_can_be_trusted():
    spectrum = Spectrum.of(FeatureStatistics.of(torch.eye(3)))
    assert spectrum_table(spectrum).splitlines()[-1] == few_examples(3, 3)


def test_the_table_of_no_example_is_zeros():
    table = spectrum_table(Spectrum.of(FeatureStatistics.empty(2)))
    assert "N = 0 examples, d = 2, dead dimensions: 2" in table
    assert "covariance   |  |" in table


def test_the_columns_of_the_table_stay_in_line_for_large_numbers():
    values = torch.ones(12345)
    lines = spectrum_table(Spectrum(10**6, num_dead=0, covariance=values, correlation=values)).splitlines()
    assert {len(line) for line in lines[1:6]} == {44}
    assert lines[2].split() == ["effective", "rank", "12345.00", "12345.00"]
