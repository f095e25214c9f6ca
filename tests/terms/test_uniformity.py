from __future__ import annotations

import math

import pytest
import torch
from feature_batches import SHAPES, draw, gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from decollapse import spectrum
from decollapse.terms.uniformity import uniformity_loss


def reference(features: Tensor, t: float = 2.0) -> Tensor:
    return torch.pdist(F.normalize(features)).pow(2).mul(-t).exp().mean().log()


def test_a_right_angle_by_hand() -> None:
    corner = torch.tensor([[3.0, 0.0], [0.0, 2.0]], dtype=torch.float64)

    assert uniformity_loss(corner).item() == pytest.approx(-4.0)
    assert uniformity_loss(corner, t=0.5).item() == pytest.approx(-1.0)


def test_three_directions_by_hand() -> None:
    # Squared distances 2, 2 and 4.
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-5.0, 0.0]], dtype=torch.float64)
    expected = math.log((2 * math.exp(-4) + math.exp(-8)) / 3)

    assert uniformity_loss(features).item() == pytest.approx(expected)


@pytest.mark.parametrize("t", [0.1, 2.0, 5.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradient_equal_the_reference_formula(shape: tuple[int, int], t: float) -> None:
    features = draw(*shape)

    torch.testing.assert_close(uniformity_loss(features, t=t), reference(features, t))
    torch.testing.assert_close(
        gradient(lambda z: uniformity_loss(z, t=t), features),
        gradient(lambda z: reference(z, t), features),
        rtol=1e-6,
        atol=1e-9,
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_equals_finite_differences(shape: tuple[int, int]) -> None:
    assert torch.autograd.gradcheck(uniformity_loss, (draw(*shape).requires_grad_(),))


@settings(deadline=None, max_examples=40)
@given(n=st.integers(2, 12), d=st.integers(2, 8), seed=st.integers(0, 1000))
def test_it_is_the_measure_of_the_same_name(n: int, d: int, seed: int) -> None:
    features = draw(n, d, seed)

    assert uniformity_loss(features).item() == pytest.approx(spectrum.uniformity(features), rel=1e-5, abs=1e-7)
    assert -8.0 <= uniformity_loss(features).item() <= 1e-12


def test_it_agrees_with_the_measure_about_a_vector_of_zeros() -> None:
    features = draw(6, 4)
    features[2] = 0.0

    assert uniformity_loss(features).item() == pytest.approx(spectrum.uniformity(features), rel=1e-6)
    assert gradient(uniformity_loss, features)[2].norm().item() < 1e4


def test_one_direction_costs_the_most() -> None:
    features = torch.arange(1.0, 9.0)[:, None] * torch.tensor([[3.0, 4.0]])

    assert uniformity_loss(features).item() == pytest.approx(0.0, abs=1e-5)


def test_distances_beyond_the_range_of_the_exponential_are_no_trouble() -> None:
    corner = torch.eye(3)

    assert uniformity_loss(corner, t=1000.0).item() == pytest.approx(-2000.0)
    assert gradient(lambda z: uniformity_loss(z, t=1000.0), corner).isfinite().all()
