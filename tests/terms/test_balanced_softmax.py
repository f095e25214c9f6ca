from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from decollapse.terms.balanced_softmax import BalancedSoftmax, balanced_softmax_loss, log_prior

COUNTS = torch.tensor([6, 0, 3, 1])
Y = torch.tensor([0, 2, 3, 0, 0])


def logits(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    values = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return values.to(dtype).requires_grad_()


def step_of(scores: torch.Tensor, y: torch.Tensor = Y, counts: torch.Tensor = COUNTS) -> Any:
    return SimpleNamespace(output=SimpleNamespace(logits=scores), y=y, data=SimpleNamespace(class_counts=counts))


def naive(scores: torch.Tensor, y: torch.Tensor, prior: list[float]) -> float:
    """The loss as a product: `-log prior_y e^s_y / sum_c prior_c e^s_c`."""
    losses = []
    for row, label in zip(scores.tolist(), y.tolist(), strict=True):
        weights = [share * math.exp(score) for share, score in zip(prior, row, strict=True)]
        losses.append(-math.log(weights[label] / sum(weights)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("absent", ["as_one", "as_none"])
def test_three_examples_against_one_by_hand(absent: Any) -> None:
    scores, y = torch.zeros(2, 2), torch.tensor([0, 1])
    loss = balanced_softmax_loss(scores, y, torch.tensor([3, 1]), absent=absent)
    assert loss.item() == pytest.approx((math.log(4 / 3) + math.log(4)) / 2)


def test_an_absent_class_as_one_is_a_class_with_one_example() -> None:
    loss = BalancedSoftmax()(step_of(logits()))
    assert loss.item() == pytest.approx(naive(logits(), Y, [6, 1, 3, 1]), rel=1e-12)


def test_an_absent_class_as_none_has_a_billionth_of_the_examples() -> None:
    loss = BalancedSoftmax(absent="as_none")(step_of(logits()))
    assert loss.item() == pytest.approx(naive(logits(), Y, [0.6 + 1e-9, 1e-9, 0.3 + 1e-9, 0.1 + 1e-9]), rel=1e-12)


def test_the_logarithm_of_the_prior_by_hand() -> None:
    counts = COUNTS.double()
    torch.testing.assert_close(log_prior(counts, absent="as_one").exp(), torch.tensor([6.0, 1, 3, 1]).double())
    shares = torch.tensor([0.6, 0, 0.3, 0.1], dtype=torch.float64) + 1e-9
    torch.testing.assert_close(log_prior(counts, absent="as_none").exp(), shares, rtol=1e-12, atol=0)


@pytest.mark.parametrize("absent", ["as_one", "as_none"])
def test_strength_is_a_power_of_the_prior(absent: Any) -> None:
    loss = BalancedSoftmax(strength=0.5, absent=absent)(step_of(logits()))
    prior = [6, 1, 3, 1] if absent == "as_one" else [share + 1e-9 for share in (0.6, 0, 0.3, 0.1)]
    assert loss.item() == pytest.approx(naive(logits(), Y, [share**0.5 for share in prior]), rel=1e-12)


@pytest.mark.parametrize("absent", ["as_one", "as_none"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_strength_zero_is_cross_entropy_bit_for_bit(absent: Any, dtype: torch.dtype) -> None:
    ours, plain = logits(dtype), logits(dtype)
    loss, expected = BalancedSoftmax(strength=0.0, absent=absent)(step_of(ours)), F.cross_entropy(plain, Y)
    assert loss.dtype == dtype
    assert torch.equal(loss, expected)
    assert torch.equal(*torch.autograd.grad(loss, ours), *torch.autograd.grad(expected, plain))


@settings(deadline=None)
@given(counts=st.lists(st.integers(1, 1000), min_size=4, max_size=4))
def test_without_absent_classes_both_priors_are_one(counts: list[int]) -> None:
    one, none = (
        balanced_softmax_loss(logits(), Y, torch.tensor(counts), absent=absent) for absent in ("as_one", "as_none")
    )
    torch.testing.assert_close(one, none, rtol=1e-5, atol=1e-5)  # the 1e-9 of a share of at least 1 / 4000


@settings(deadline=None)
@given(count=st.integers(1, 1000))
def test_equal_counts_change_nothing(count: int) -> None:
    loss = balanced_softmax_loss(logits(), Y, torch.full((4,), count))
    torch.testing.assert_close(loss, F.cross_entropy(logits(), Y))


@pytest.mark.parametrize("absent", ["as_one", "as_none"])
def test_the_gradient_is_that_of_the_value(absent: Any) -> None:
    assert torch.autograd.gradcheck(lambda x: balanced_softmax_loss(x, Y, COUNTS, absent=absent), logits())


@pytest.mark.parametrize("absent", ["as_one", "as_none"])
@pytest.mark.parametrize(
    ("scores", "y", "counts"),
    [
        pytest.param(torch.tensor([[1.0, -2.0, 0.5]]), [0], [2, 0, 1], id="one example"),
        pytest.param(torch.tensor([[1.0, -2.0], [0.0, 3.0]]), [1, 1], [0, 9], id="one class"),
        pytest.param(torch.zeros(4, 3), [0, 1, 1, 0], [2, 2, 0], id="identical examples"),
        pytest.param(torch.tensor([[1e4, -1e4, 1e4]]), [1], [2, 2, 0], id="large logits"),
    ],
)
def test_loss_and_gradient_are_finite(absent: Any, scores: torch.Tensor, y: list[int], counts: list[int]) -> None:
    x = scores.clone().requires_grad_()
    loss = BalancedSoftmax(absent=absent)(step_of(x, torch.tensor(y), torch.tensor(counts)))
    (gradient,) = torch.autograd.grad(loss, x)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("strength", [-0.1, math.inf, math.nan])
def test_a_strength_is_finite_and_not_negative(strength: float) -> None:
    with pytest.raises(ValueError, match="strength is a strength, a finite number from 0 on, got"):
        BalancedSoftmax(strength=strength)


def test_an_unknown_treatment_of_absent_classes_is_refused() -> None:
    message = "absent must be one of 'as_one', 'as_none', got 'masked'"
    with pytest.raises(ValueError, match=message):
        BalancedSoftmax(absent="masked")  # type: ignore[arg-type]  # what a recipe may say
    with pytest.raises(ValueError, match=message):
        balanced_softmax_loss(logits(), Y, COUNTS, absent="masked")  # type: ignore[arg-type]
