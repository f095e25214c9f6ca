from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from feature_batches import SHAPES, draw, gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from decollapse.terms.correlation_estimate import decorrelation_around, deviation, estimate, with_batch
from decollapse.terms.feddecorr import Matrix, decorrelation_loss, trust

MATRICES: tuple[Matrix, ...] = ("correlation", "covariance")
SCALE = 63**2 / 64
SHARES = [0.0, 0.3, 0.9, 1.0]


def naive_deviation(features: Tensor, matrix: Matrix) -> Tensor:
    """By the book, and inside the autograd graph."""
    C = torch.cov(features.T)
    d = len(C)
    if matrix == "covariance":
        C = C / C.diagonal().mean()
        return C - torch.eye(d, dtype=C.dtype) * C.diagonal().mean()
    return torch.corrcoef(features.T) - torch.eye(d, dtype=C.dtype)


def naive_loss(features: Tensor, reference: Tensor, share: float, matrix: Matrix) -> Tensor:
    D = naive_deviation(features, matrix)
    n, d = features.shape
    entries = (1 - share) * D**2 + share * (2 * reference * D - reference**2)
    return SCALE * trust(n) * entries.sum() / (d * (d - 1))


def some_reference(d: int, matrix: Matrix) -> Tensor:
    return naive_deviation(draw(2 * d, d, seed=7), matrix)


def test_a_correlation_of_one_half_around_minus_one_by_hand() -> None:
    # (1 - 0.25) 0.5^2 + 0.25 (2 (-1) (0.5) - 1)
    half = torch.tensor([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], dtype=torch.float64).repeat(6, 1)
    opposite = torch.tensor([[0.0, -1.0], [-1.0, 0.0]], dtype=torch.float64)
    value = decorrelation_around(half, opposite, share=0.25).item() / SCALE
    assert value == pytest.approx(0.75 * 0.25 + 0.25 * (-1 - 1))


def test_the_deviation_of_unequal_variances_by_hand() -> None:
    # Variances as 3 : 1, over their mean 1.5 and 0.5; no correlation.
    unequal = torch.tensor([[3**0.5, 1.0], [3**0.5, -1.0], [-(3**0.5), 1.0], [-(3**0.5), -1.0]], dtype=torch.float64)
    expected = torch.diag(torch.tensor([0.5, -0.5], dtype=torch.float64))
    torch.testing.assert_close(deviation(unequal, matrix="covariance"), expected, atol=1e-7, rtol=0)
    torch.testing.assert_close(deviation(unequal), torch.zeros(2, 2, dtype=torch.float64), atol=1e-7, rtol=0)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("shape", [*SHAPES, (24, 40)])
def test_value_and_gradient_are_the_formulas(shape: tuple[int, int], share: float, matrix: Matrix) -> None:
    features, R = draw(*shape), some_reference(shape[1], matrix)
    ours = partial(decorrelation_around, reference=R, share=share, matrix=matrix, eps=1e-14)
    naive = partial(naive_loss, reference=R, share=share, matrix=matrix)
    torch.testing.assert_close(ours(features), naive(features), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(gradient(ours, features), gradient(naive, features), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_the_gradient_passes_gradcheck(share: float, matrix: Matrix) -> None:
    loss = partial(decorrelation_around, reference=some_reference(5, matrix), share=share, matrix=matrix)
    assert torch.autograd.gradcheck(loss, (draw(7, 5).requires_grad_(),))


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("share", SHARES)
def test_around_its_own_deviation_it_is_feddecorr_whatever_the_share(share: float, matrix: Matrix) -> None:
    features = draw(20, 9)
    ours = partial(decorrelation_around, reference=deviation(features, matrix=matrix), share=share, matrix=matrix)
    theirs = partial(decorrelation_loss, matrix=matrix)
    torch.testing.assert_close(ours(features), theirs(features), rtol=1e-9, atol=0)
    torch.testing.assert_close(gradient(ours, features), gradient(theirs, features), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("matrix", MATRICES)
def test_its_gradient_is_that_of_the_mixed_estimate_over_what_is_the_batchs(matrix: Matrix) -> None:
    features, R, share = draw(20, 9), some_reference(9, matrix), 0.7

    def of_the_estimate(z: Tensor) -> Tensor:
        mixed = (1 - share) * naive_deviation(z, matrix) + share * R
        return SCALE * mixed.square().sum() / (9 * 8) / (1 - share)

    ours = partial(decorrelation_around, reference=R, share=share, matrix=matrix, eps=1e-14)
    torch.testing.assert_close(gradient(ours, features), gradient(of_the_estimate, features), rtol=1e-8, atol=1e-10)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 999), share=st.floats(0, 1), matrix=st.sampled_from(MATRICES))
def test_it_is_at_most_feddecorr_and_does_not_see_the_scale(seed: int, share: float, matrix: Matrix) -> None:
    features, R = draw(18, 5, seed), some_reference(5, matrix)
    loss = partial(decorrelation_around, reference=R, share=share, matrix=matrix, eps=1e-12)
    plain = decorrelation_loss(features, matrix=matrix, eps=1e-12)
    assert -3 * SCALE <= loss(features) <= plain + 1e-9
    torch.testing.assert_close(loss(7 * features - 3), loss(features), rtol=1e-6, atol=1e-8)


def test_the_reference_gets_no_gradient() -> None:
    R = some_reference(5, "correlation").requires_grad_()
    features = draw(20, 5).requires_grad_()
    decorrelation_around(features, R, share=0.5).backward()
    assert R.grad is None


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize(
    "features",
    [torch.ones(1, 3), torch.zeros(0, 3), draw(2, 3), torch.ones(20, 3), draw(20, 3) * torch.tensor([1.0, 0.0, 1e-6])],
    ids=["one", "none", "two", "identical", "dead and nearly dead"],
)
def test_few_examples_and_dead_dimensions_are_finite(features: Tensor, share: float, matrix: Matrix) -> None:
    loss = partial(decorrelation_around, reference=some_reference(3, matrix), share=share, matrix=matrix)
    value = loss(features.double())
    assert value.isfinite()
    assert gradient(loss, features.double()).isfinite().all()
    assert value.item() == 0 or len(features) > 2


def test_a_dead_dimension_has_no_gradient_of_its_own() -> None:
    features = draw(20, 4)
    features[:, 1] = 0.1
    assert not gradient(partial(decorrelation_around, reference=torch.ones(4, 4), share=1.0), features)[:, 1].any()
    assert not deviation(features)[:, 1].any()


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_a_feature_that_is_not_finite_is_not_hidden(share: float) -> None:
    features = draw(20, 4)
    features[3, 1] = torch.inf
    assert decorrelation_around(features, torch.ones(4, 4), share=share).isnan()


def test_half_precision_is_computed_in_single() -> None:
    features, R = draw(20, 6).bfloat16(), some_reference(6, "correlation")
    value = decorrelation_around(features, R, share=0.5)
    assert value.dtype == deviation(features).dtype == torch.float32
    assert value.item() == pytest.approx(naive_loss(features.double(), R, 0.5, "correlation").item(), rel=1e-4)


OPTIONS: dict[str, Any] = {"matrix": "correlation", "eps": 1e-8}


def test_without_forgetting_the_estimate_is_the_mean_by_degrees_of_freedom() -> None:
    # 5 and 2 degrees of freedom; a single example has none.
    batches = [draw(6, 4), draw(3, 4, seed=1), draw(1, 4, seed=2)]
    known: dict[str, Tensor] = {}
    for batch in batches:
        known = with_batch(known, batch, memory=1.0, **OPTIONS)
    first, second = (naive_deviation(batch, "correlation") for batch in batches[:2])
    torch.testing.assert_close(estimate(known), (5 * first + 2 * second) / 7, rtol=1e-6, atol=1e-7)


def test_a_memory_weighs_by_age_and_has_no_bias_at_the_start() -> None:
    batches = [draw(6, 4, seed=seed) for seed in range(4)]
    known: dict[str, Tensor] = {}
    for batch in batches:
        known = with_batch(known, batch, memory=0.5, **OPTIONS)
    weights = torch.tensor([1 / 8, 1 / 4, 1 / 2, 1.0], dtype=torch.float64)
    D = torch.stack([naive_deviation(batch, "correlation") for batch in batches])
    expected = torch.tensordot(weights / weights.sum(), D, dims=1)
    torch.testing.assert_close(estimate(known), expected, rtol=1e-6, atol=1e-7)
    once = with_batch({}, batches[0], memory=0.99, **OPTIONS)
    torch.testing.assert_close(estimate(once), D[0], rtol=1e-6, atol=1e-7)


def test_many_batches_see_more_dimensions_than_one() -> None:
    known: dict[str, Tensor] = {}
    for seed in range(20):
        known = with_batch(
            known, torch.randn(8, 30, generator=torch.Generator().manual_seed(seed)), memory=1, **OPTIONS
        )
    one = decorrelation_loss(torch.randn(8, 30, generator=torch.Generator().manual_seed(0)), normalization="paper")
    K = estimate(known) + torch.eye(30)
    assert 30**2 / K.square().sum() > 20  # participation ratio
    assert 1 / one < 8


def test_nothing_known_is_zeros() -> None:
    assert not estimate(with_batch({}, draw(1, 3), memory=0.9, **OPTIONS)).any()


def test_adding_a_batch_leaves_what_was_known_alone() -> None:
    before = with_batch({}, draw(6, 4), memory=0.9, **OPTIONS)
    copy = {name: leaf.clone() for name, leaf in before.items()}
    with_batch(before, draw(6, 4, seed=1), memory=0.9, **OPTIONS)
    assert all(torch.equal(before[name], copy[name]) for name in copy)
