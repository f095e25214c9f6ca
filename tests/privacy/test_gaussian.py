from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch

from decollapse.privacy.gaussian import delta_of, epsilon_of, sigma_of, with_noise

PHI = NormalDist().cdf


def test_at_epsilon_0_delta_is_the_total_variation_distance() -> None:
    assert delta_of(1.0, 0.0) == pytest.approx(PHI(0.5) - PHI(-0.5), rel=1e-12)


@pytest.mark.parametrize(("sigma", "epsilon"), [(0.5, 3.0), (1.0, 1.0), (4.0, 0.5)])
def test_delta_is_the_largest_gap_between_neighbours(sigma: float, epsilon: float) -> None:
    # The gap is largest for S where the ratio of the densities is over e^epsilon: x > epsilon sigma^2 + 1 / 2.
    cut = epsilon * sigma**2 + 0.5
    there, absent = NormalDist(1.0, sigma), NormalDist(0.0, sigma)
    gap = (1 - there.cdf(cut)) - math.exp(epsilon) * (1 - absent.cdf(cut))
    assert delta_of(sigma, epsilon) == pytest.approx(gap, rel=1e-9)


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-10])
@pytest.mark.parametrize("epsilon", [0.01, 0.5, 1.0, 10.0, 300.0])
def test_sigma_and_epsilon_are_each_others_inverse(epsilon: float, delta: float) -> None:
    sigma = sigma_of(epsilon, delta)
    assert epsilon_of(sigma, delta) == pytest.approx(epsilon, rel=1e-6)
    assert delta_of(sigma, epsilon) <= delta


def test_it_needs_less_noise_than_the_classic_bound() -> None:
    classic = math.sqrt(2 * math.log(1.25 / 1e-5)) / 0.5
    assert 0.7 * classic < sigma_of(0.5, 1e-5) < classic


@pytest.mark.parametrize(("sigma", "delta"), [(0.05, 1e-6), (1.0, 1e-5), (30.0, 1e-5)])
def test_the_numbers_are_those_of_googles_accountant(sigma: float, delta: float) -> None:
    accounting = pytest.importorskip("dp_accounting")
    epsilon = accounting.get_epsilon_gaussian(sigma, delta)
    assert epsilon_of(sigma, delta) == pytest.approx(epsilon, rel=1e-7)
    assert sigma_of(epsilon, delta) == pytest.approx(sigma, rel=1e-6)


def test_releases_add_up_as_one_with_less_noise() -> None:
    assert epsilon_of(3.0, 1e-5, releases=9) == pytest.approx(epsilon_of(1.0, 1e-5), rel=1e-8)
    assert sigma_of(1.0, 1e-5, releases=4) == pytest.approx(2 * sigma_of(1.0, 1e-5), rel=1e-8)


def test_no_noise_is_no_privacy_and_no_release_is_free() -> None:
    assert epsilon_of(0.0, 1e-5) == math.inf
    assert epsilon_of(0.0, 1e-5, releases=0) == 0.0


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 1e-5), (1.0, 0.0), (1.0, 1.0)])
def test_what_no_noise_can_give_is_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(ValueError, match="epsilon is positive, delta between 0 and 1"):
        sigma_of(epsilon, delta)


@pytest.mark.parametrize("draw", ["from_seed", "from_system"])
def test_noise_is_normal_with_the_deviation_of_its_leaf(draw: str) -> None:
    tree = {"a": torch.full((20_001,), 5.0), "b": torch.zeros(1, dtype=torch.float64)}
    noisy = with_noise(tree, {"a": 3.0, "b": 0.0}, draw=draw, seed=1)
    sample = (noisy["a"].double() - 5.0) / 3.0
    assert abs(float(sample.mean())) < 5 / math.sqrt(20_001)
    assert abs(float(sample.std()) - 1) < 5 / math.sqrt(2 * 20_001)
    shares = [float((sample < z).double().mean()) for z in (-2.0, -1.0, 0.0, 1.0, 2.0)]
    assert shares == pytest.approx([PHI(z) for z in (-2.0, -1.0, 0.0, 1.0, 2.0)], abs=0.018)
    assert noisy["b"].item() == 0.0
    assert (noisy["a"].dtype, noisy["b"].dtype) == (torch.float32, torch.float64)


def test_from_a_seed_it_is_the_same_again_and_from_the_system_never() -> None:
    def drawn(draw: str, seed: int) -> list[float]:
        return with_noise({"a": torch.zeros(3)}, {"a": 1.0}, draw=draw, seed=seed)["a"].tolist()

    assert drawn("from_seed", 1) == drawn("from_seed", 1) != drawn("from_seed", 2)
    assert drawn("from_system", 1) != drawn("from_system", 1)
