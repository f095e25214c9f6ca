from __future__ import annotations

import pytest
import torch
from feature_batches import SHAPES, draw, gradient

from decollapse.terms.vicreg import CovariancePenalty, VarianceHinge, covariance_loss, variance_loss

STEP_OF_ONE = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)


def test_both_losses_of_one_step_by_hand() -> None:
    # Variance 1/2 in each dimension, covariance 1/2.
    assert variance_loss(STEP_OF_ONE).item() == pytest.approx(1 - 0.5001**0.5)
    assert variance_loss(STEP_OF_ONE).item() == pytest.approx(0.29282, abs=1e-5)
    assert covariance_loss(STEP_OF_ONE).item() == pytest.approx(2 * 0.25 / 2)


def test_a_dimension_that_varies_more_than_the_target_costs_nothing_and_has_no_gradient() -> None:
    features = torch.tensor([[0.0, 0.0], [1.0, 10.0]], dtype=torch.float64)

    assert variance_loss(features).item() == pytest.approx((1 - 0.5001**0.5) / 2)
    assert variance_loss(features, target=0.5).item() == 0.0
    assert torch.equal(gradient(variance_loss, features)[:, 1], torch.zeros(2, dtype=torch.float64))


def test_the_hinge_pulls_a_narrow_dimension_apart() -> None:
    assert torch.equal(gradient(variance_loss, STEP_OF_ONE).sign()[:, 0], torch.tensor([1.0, -1.0]).double())


def test_eps_is_added_to_the_variance() -> None:
    assert variance_loss(STEP_OF_ONE, eps=0.25).item() == pytest.approx(1 - 0.75**0.5)


@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradient_equal_the_reference_formulas(shape: tuple[int, int]) -> None:
    features = draw(*shape)
    d = shape[1]

    def hinge(z: torch.Tensor) -> torch.Tensor:
        return torch.mean(torch.relu(1 - torch.sqrt(z.var(dim=0) + 1e-4)))

    def penalty(z: torch.Tensor) -> torch.Tensor:
        return ((torch.cov(z.T) * (1 - torch.eye(d, dtype=z.dtype))) ** 2).sum() / d

    for ours, theirs in ((variance_loss, hinge), (covariance_loss, penalty)):
        torch.testing.assert_close(ours(features), theirs(features))
        torch.testing.assert_close(gradient(ours, features), gradient(theirs, features))


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_equal_finite_differences(shape: tuple[int, int]) -> None:
    features = draw(*shape).requires_grad_()

    assert torch.autograd.gradcheck(covariance_loss, (features,))
    assert torch.autograd.gradcheck(lambda z: variance_loss(z, target=9.0), (features,))


def test_a_constant_dimension_counts_as_uncorrelated() -> None:
    features = draw(8, 5)
    alive = covariance_loss(features[:, :4])
    features[:, 4] = 0.1

    torch.testing.assert_close(covariance_loss(features), alive * 4 / 5)
    assert torch.equal(gradient(covariance_loss, features)[:, 4], torch.zeros(8, dtype=torch.float64))


def test_a_shift_does_not_matter_and_a_factor_is_raised_to_the_fourth_power() -> None:
    features = draw(8, 12)

    torch.testing.assert_close(covariance_loss(3 * features + 100), 81 * covariance_loss(features))
    torch.testing.assert_close(variance_loss(features - 100), variance_loss(features))


def test_the_default_strengths_keep_the_papers_ratio() -> None:
    assert VarianceHinge().strength / CovariancePenalty().strength == pytest.approx(25.0)
