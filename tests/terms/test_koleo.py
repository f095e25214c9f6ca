from __future__ import annotations

import math

import pytest
import torch
from feature_batches import SHAPES, draw, gradient
from torch import Tensor
from torch.nn import functional as F

from decollapse.terms.koleo import koleo_loss


def naive(features: Tensor) -> Tensor:
    """The paper's formula, a pair at a time."""
    z = F.normalize(features)
    nearest = [min(float((a - b).norm()) for j, b in enumerate(z) if j != i) for i, a in enumerate(z)]
    return -torch.tensor(nearest, dtype=torch.float64).log().mean()


def test_two_and_three_vectors_by_hand() -> None:
    opposed = torch.tensor([[2.0, 0.0], [-5.0, 0.0]], dtype=torch.float64)
    corner = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-5.0, 0.0]], dtype=torch.float64)

    assert koleo_loss(opposed).item() == pytest.approx(-math.log(2), rel=1e-6)
    assert koleo_loss(corner).item() == pytest.approx(-math.log(2) / 2, rel=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_value_equals_the_plain_formula(shape: tuple[int, int]) -> None:
    features = draw(*shape) - 1.0

    assert koleo_loss(features, eps=1e-14).item() == pytest.approx(naive(features).item(), rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_equals_finite_differences(shape: tuple[int, int]) -> None:
    assert torch.autograd.gradcheck(koleo_loss, ((draw(*shape) - 1.0).requires_grad_(),))


def test_neighbours_are_pushed_apart() -> None:
    pair = torch.tensor([[1.0, 0.1], [1.0, -0.1], [-1.0, 0.0]], dtype=torch.float64)
    downhill = -gradient(koleo_loss, pair)

    assert downhill[0, 1] > 0
    assert downhill[1, 1] < 0


def test_doubles_cost_half_the_logarithm_of_eps() -> None:
    features = draw(4, 6).repeat(2, 1)

    assert koleo_loss(features, eps=1e-4).item() == pytest.approx(math.log(1e4) / 2)


@pytest.mark.parametrize("gap", [0.0, 1e-7, 1e-5, 1e-3, 1e-2])
def test_the_gradient_of_near_doubles_stays_bounded(gap: float) -> None:
    features = torch.tensor([[1.0, gap], [1.0, 0.0]])
    # Both examples are each other's neighbour and half of the mean: 500 at most, for vectors of length 1.
    assert gradient(koleo_loss, features).norm(dim=1).max().item() <= 500.0


def test_the_length_of_the_vectors_does_not_matter() -> None:
    features = draw(6, 4)
    lengths = torch.linspace(1.0, 20.0, 6, dtype=torch.float64)[:, None]

    torch.testing.assert_close(koleo_loss(features * lengths), koleo_loss(features), rtol=1e-6, atol=0)
