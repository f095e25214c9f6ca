from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from feature_batches import SHAPES, draw, gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from decollapse.core import Output
from decollapse.terms.eigenvalue_variance import EigenvalueVariance, eigenvalue_variance
from decollapse.terms.feddecorr import FedDecorr, Matrix, decorrelation_loss

MATRICES: tuple[Matrix, ...] = ("correlation", "covariance")


def naive(features: Tensor, matrix: Matrix = "correlation") -> Tensor:
    """All d eigenvalues of the whole matrix."""
    K = torch.corrcoef(features.T)
    if matrix == "covariance":
        K = torch.cov(features.T)
        K = K / K.diagonal().mean()
    return torch.linalg.eigvalsh(K).var(correction=0)


def test_a_correlation_of_one_half_by_hand() -> None:
    # Eigenvalues 3/2 and 1/2.
    half = torch.tensor([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)

    assert eigenvalue_variance(half).item() == pytest.approx(0.25)


def test_unequal_variances_by_hand() -> None:
    # Uncorrelated with variances 3 : 1, eigenvalues 3/2 and 1/2 after division by their mean.
    unequal = torch.tensor([[3**0.5, 1.0], [3**0.5, -1.0], [-(3**0.5), 1.0], [-(3**0.5), -1.0]], dtype=torch.float64)

    assert eigenvalue_variance(unequal).item() == pytest.approx(0.0)
    assert eigenvalue_variance(unequal, matrix="covariance").item() == pytest.approx(0.25)


@pytest.mark.parametrize("matrix", MATRICES)
def test_one_direction_by_hand(matrix: Matrix) -> None:
    # Eigenvalues 5, 0, 0, 0, 0: ((5 - 1)^2 + 4) / 5.
    line = torch.arange(4.0, dtype=torch.float64)[:, None] * torch.ones(5, dtype=torch.float64)

    assert eigenvalue_variance(line, matrix=matrix).item() == pytest.approx(4.0)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradient_equal_the_variance_of_all_eigenvalues(shape: tuple[int, int], matrix: Matrix) -> None:
    features = draw(*shape)

    torch.testing.assert_close(eigenvalue_variance(features, matrix=matrix), naive(features, matrix), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        gradient(partial(eigenvalue_variance, matrix=matrix), features),
        gradient(partial(naive, matrix=matrix), features),
        rtol=1e-5,
        atol=1e-7,
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_squared_norm_of_the_correlation_matrix_less_d_over_d(shape: tuple[int, int]) -> None:
    d = shape[1]
    K = torch.corrcoef(draw(*shape).T)

    torch.testing.assert_close(
        eigenvalue_variance(draw(*shape), eps=1e-14), (K.square().sum() - d) / d, rtol=1e-9, atol=1e-12
    )


@settings(deadline=None, max_examples=60)
@given(n=st.integers(2, 9), d=st.integers(2, 9), seed=st.integers(0, 1000), matrix=st.sampled_from(MATRICES))
def test_value_and_gradient_are_feddecorrs_times_a_constant(n: int, d: int, seed: int, matrix: Matrix) -> None:
    features = draw(n, d, seed)
    factor = (d - 1) / ((n - 1) ** 2 / n)
    ours = partial(eigenvalue_variance, matrix=matrix)
    theirs = partial(decorrelation_loss, matrix=matrix, normalization="release")

    torch.testing.assert_close(ours(features), factor * theirs(features), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradient(ours, features), factor * gradient(theirs, features), rtol=1e-7, atol=1e-7)


def test_nearly_constant_dimensions_are_treated_as_feddecorr_treats_them() -> None:
    features = draw(20, 6)
    features[:, 2] = 0.1
    features[:, 4] = 1e-4 * features[:, 4]  # its variance is about eps: 0 < K_44 < 1
    factor = 5 / (63**2 / 64)

    torch.testing.assert_close(eigenvalue_variance(features), factor * decorrelation_loss(features))
    torch.testing.assert_close(gradient(eigenvalue_variance, features), factor * gradient(decorrelation_loss, features))


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_equals_finite_differences(shape: tuple[int, int], matrix: Matrix) -> None:
    assert torch.autograd.gradcheck(partial(eigenvalue_variance, matrix=matrix), (draw(*shape).requires_grad_(),))


def test_repeated_eigenvalues_have_a_finite_gradient() -> None:
    square = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])

    torch.testing.assert_close(gradient(eigenvalue_variance, square), torch.zeros(4, 2), rtol=0, atol=1e-6)


@pytest.mark.parametrize("matrix", MATRICES)
def test_the_default_trains_like_feddecorr_with_64_features(matrix: Matrix) -> None:
    def term_gradient(term: FedDecorr | EigenvalueVariance) -> Tensor:
        return gradient(lambda z: term(SimpleNamespace(output=Output(z[:, :2], z))), draw(64, 64))

    torch.testing.assert_close(
        term_gradient(EigenvalueVariance(matrix=matrix)),
        term_gradient(FedDecorr(beta=0.1, matrix=matrix)),
        rtol=0.02,
        atol=1e-12,
    )


def test_an_unknown_matrix_is_refused_wherever_it_is_given() -> None:
    for build in (partial(eigenvalue_variance, draw(3, 3)), EigenvalueVariance):
        with pytest.raises(ValueError, match="matrix must be one of 'correlation', 'covariance', got 'gram'"):
            build(matrix="gram")
