from __future__ import annotations

import pytest
import torch
from feature_batches import SHAPES, draw, gradient
from torch import Tensor

from decollapse.terms.decov import decov_loss
from decollapse.terms.vicreg import covariance_loss


def naive(features: Tensor) -> Tensor:
    C = torch.cov(features.T, correction=0)
    return 0.5 * (C.norm() ** 2 - C.diagonal().norm() ** 2)


def test_one_step_by_hand() -> None:
    # Divisor n: every entry of C is 1/4, two of them off the diagonal.
    assert decov_loss(torch.tensor([[0.0, 0.0], [1.0, 1.0]])).item() == pytest.approx(2 / 16 / 2)


def test_uncorrelated_dimensions_cost_nothing() -> None:
    square = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])

    assert decov_loss(square).item() == 0.0


@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradient_equal_the_plain_formula(shape: tuple[int, int]) -> None:
    torch.testing.assert_close(decov_loss(draw(*shape)), naive(draw(*shape)))
    torch.testing.assert_close(gradient(decov_loss, draw(*shape)), gradient(naive, draw(*shape)))


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_equals_finite_differences(shape: tuple[int, int]) -> None:
    assert torch.autograd.gradcheck(decov_loss, (draw(*shape).requires_grad_(),))


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_it_is_vicregs_covariance_loss_in_another_unit(n: int, d: int) -> None:
    factor = d / 2 * ((n - 1) / n) ** 2

    torch.testing.assert_close(decov_loss(draw(n, d)), factor * covariance_loss(draw(n, d)))


def test_a_constant_dimension_counts_as_uncorrelated() -> None:
    features = draw(8, 5)
    alive = decov_loss(features[:, :4])
    features[:, 4] = 0.1

    torch.testing.assert_close(decov_loss(features), alive)
    assert torch.equal(gradient(decov_loss, features)[:, 4], torch.zeros(8, dtype=torch.float64))
