from __future__ import annotations

import math

import pytest
import torch
from feature_batches import SHAPES, draw, gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from decollapse.terms.feddecorr import decorrelation_loss
from decollapse.terms.log_determinant import log_determinant_loss


def naive(features: Tensor, eps: float = 1e-2) -> Tensor:
    """By the eigenvalues of the whole correlation matrix."""
    return -(torch.linalg.eigvalsh(torch.corrcoef(features.T)) + eps).log().mean()


def with_correlation(r: float) -> Tensor:
    """Four examples of two dimensions whose correlation is r."""
    square = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    return square @ torch.tensor([[1.0, r], [0.0, (1 - r * r) ** 0.5]], dtype=torch.float64)


@pytest.mark.parametrize("r", [0.0, 0.6, -0.6, 0.9])
def test_two_dimensions_by_hand(r: float) -> None:
    assert log_determinant_loss(with_correlation(r), eps=1e-12).item() == pytest.approx(
        -0.5 * math.log(1 - r * r), abs=1e-7
    )


def test_a_correlation_of_six_tenths() -> None:
    assert log_determinant_loss(with_correlation(0.6), eps=1e-12).item() == pytest.approx(0.22314, abs=1e-5)


def test_dimensions_that_repeat_one_another_by_hand() -> None:
    # Eigenvalues 2 and 0.
    repeated = with_correlation(1.0)

    assert log_determinant_loss(repeated).item() == pytest.approx(-(math.log(2.01) + math.log(0.01)) / 2, rel=1e-6)


@pytest.mark.parametrize("eps", [1e-3, 1e-2, 0.5])
@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradient_equal_the_eigenvalues_formula(shape: tuple[int, int], eps: float) -> None:
    features = draw(*shape)

    torch.testing.assert_close(log_determinant_loss(features, eps=eps), naive(features, eps), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        gradient(lambda z: log_determinant_loss(z, eps=eps), features),
        gradient(lambda z: naive(z, eps), features),
        rtol=1e-3,
        atol=1e-5,
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_equals_finite_differences(shape: tuple[int, int]) -> None:
    assert torch.autograd.gradcheck(log_determinant_loss, (draw(*shape).requires_grad_(),))


def test_both_sides_of_the_determinant_agree() -> None:
    features = draw(8, 9)

    torch.testing.assert_close(  # n < d, then n > d with every example twice, which is the same correlation
        log_determinant_loss(features), log_determinant_loss(features.repeat(2, 1)), rtol=1e-5, atol=0
    )


@settings(deadline=None, max_examples=40)
@given(n=st.integers(2, 9), d=st.integers(2, 9), seed=st.integers(0, 1000))
def test_it_lies_between_independence_and_one_direction(n: int, d: int, seed: int) -> None:
    assert -math.log(1.01) - 1e-9 <= log_determinant_loss(draw(n, d, seed)).item() <= -math.log(0.01)


@pytest.mark.parametrize("n", [3, 40])
def test_a_constant_dimension_counts_as_uncorrelated_and_has_no_gradient(n: int) -> None:
    features = draw(n, 5)
    alive = log_determinant_loss(features[:, :4])
    features[:, 4] = 0.1

    torch.testing.assert_close(log_determinant_loss(features), (4 * alive - math.log(1.01)) / 5)
    assert torch.equal(gradient(log_determinant_loss, features)[:, 4], torch.zeros(n, dtype=torch.float64))


def test_scale_and_shift_of_a_dimension_do_not_matter() -> None:
    features = draw(12, 5)
    factors = torch.tensor([0.1, 1.0, -3.0, 20.0, 7.0], dtype=torch.float64)

    torch.testing.assert_close(
        log_determinant_loss(features * factors - 50.0), log_determinant_loss(features), rtol=1e-4, atol=0
    )


def test_float32_resolves_wide_collapsed_features() -> None:
    features = (draw(64, 3) @ torch.randn(3, 1280, generator=torch.Generator().manual_seed(0)).double()).float()

    torch.testing.assert_close(
        log_determinant_loss(features).double(), log_determinant_loss(features.double()), rtol=1e-4, atol=0
    )


def test_its_pull_on_the_emptiest_direction_outgrows_that_of_feddecorr() -> None:
    def ratio(r: float) -> float:
        """Gradients of both at two dimensions of correlation r."""
        features = with_correlation(r)
        size = gradient(log_determinant_loss, features).norm() / gradient(decorrelation_loss, features).norm()
        return float(size)

    assert ratio(0.99) > 5 * ratio(0.5)
