from __future__ import annotations

import pytest

from decollapse.privacy.accounting import epsilon_of_secret_cohorts
from decollapse.privacy.gaussian import epsilon_of


@pytest.fixture(autouse=True)
def accountant() -> None:
    pytest.importorskip("dp_accounting")


def test_with_everybody_in_every_round_there_is_nothing_to_hide_in() -> None:
    # A replaced update moves the sum by twice the clip; Renyi's bound is at most a little above the exact epsilon.
    bound = epsilon_of_secret_cohorts(8.0, rounds=10, num_clients=20, cohort_size=20)
    exact = epsilon_of(4.0, 1e-5, releases=10)
    assert exact <= bound < 1.15 * exact


def test_smaller_secret_cohorts_spend_less() -> None:
    spent = [epsilon_of_secret_cohorts(4.0, rounds=50, num_clients=1000, cohort_size=m) for m in (10, 100, 1000)]
    assert spent[0] < spent[1] < spent[2]
    assert spent[0] < epsilon_of(2.0, 1e-5, releases=50) / 5


@pytest.mark.parametrize(
    "wrong", [{"noise_multiplier": 0.0}, {"rounds": 0}, {"cohort_size": 0}, {"cohort_size": 11}, {"delta": 1.0}]
)
def test_numbers_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    settings = {"noise_multiplier": 1.0, "rounds": 1, "num_clients": 10, "cohort_size": 5, "delta": 1e-5} | wrong
    with pytest.raises(ValueError, match="noise_multiplier is positive"):
        epsilon_of_secret_cohorts(settings.pop("noise_multiplier"), **settings)
