from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from decollapse.terms.restricted_softmax import RestrictedSoftmax, restricted_softmax_loss

COUNTS = torch.tensor([6, 0, 3, 0])
Y = torch.tensor([0, 2, 2, 0, 0])


def logits(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    values = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return values.to(dtype).requires_grad_()


def step_of(scores: torch.Tensor, y: torch.Tensor = Y, counts: torch.Tensor = COUNTS) -> Any:
    return SimpleNamespace(output=SimpleNamespace(logits=scores), y=y, data=SimpleNamespace(class_counts=counts))


def naive(scores: torch.Tensor, y: torch.Tensor, factors: list[float]) -> float:
    losses: list[float] = []
    for row, label in zip(scores.tolist(), y.tolist(), strict=True):
        scaled = [factor * score for factor, score in zip(factors, row, strict=True)]
        losses.append(math.log(sum(map(math.exp, scaled))) - scaled[label])
    return sum(losses) / len(losses)


def test_one_absent_class_by_hand() -> None:
    loss = restricted_softmax_loss(torch.tensor([[2.0, 2.0]]), torch.tensor([0]), torch.tensor([3, 0]), alpha=0.5)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)))


def test_the_binary_form_scales_every_absent_class_and_no_other() -> None:
    loss = RestrictedSoftmax(alpha=0.3)(step_of(logits()))
    assert loss.item() == pytest.approx(naive(logits(), Y, [1, 0.3, 1, 0.3]), rel=1e-12)


def test_the_graded_form_scales_by_the_count_relative_to_the_largest() -> None:
    loss = RestrictedSoftmax(alpha=0.2, variant="graded")(step_of(logits()))
    assert loss.item() == pytest.approx(naive(logits(), Y, [1, 0.2, 0.6, 0.2]), rel=1e-12)


@pytest.mark.parametrize("variant", ["binary", "graded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alpha_one_is_cross_entropy_bit_for_bit(variant: Any, dtype: torch.dtype) -> None:
    ours, plain = logits(dtype), logits(dtype)
    loss, expected = RestrictedSoftmax(alpha=1.0, variant=variant)(step_of(ours)), F.cross_entropy(plain, Y)
    assert loss.dtype == dtype
    assert torch.equal(loss, expected)
    assert torch.equal(*torch.autograd.grad(loss, ours), *torch.autograd.grad(expected, plain))


@settings(deadline=None)
@given(alpha=st.floats(0, 1))
def test_a_client_with_all_classes_sees_plain_cross_entropy_in_the_binary_form(alpha: float) -> None:
    loss = restricted_softmax_loss(logits(), Y, torch.tensor([1, 2, 3, 4]), alpha=alpha)
    torch.testing.assert_close(loss, F.cross_entropy(logits(), Y), rtol=0, atol=0)


def test_alpha_zero_fixes_absent_logits_at_zero() -> None:
    (gradient,) = torch.autograd.grad(restricted_softmax_loss(x := logits(), Y, COUNTS, alpha=0.0), x)
    assert gradient[:, [1, 3]].abs().max() == 0
    assert gradient[:, [0, 2]].abs().min() > 0


@pytest.mark.parametrize("graded", [False, True])
def test_the_gradient_is_that_of_the_value(graded: bool) -> None:
    assert torch.autograd.gradcheck(lambda x: restricted_softmax_loss(x, Y, COUNTS, alpha=0.5, graded=graded), logits())


@pytest.mark.parametrize("variant", ["binary", "graded"])
@pytest.mark.parametrize(
    ("scores", "y", "counts"),
    [
        pytest.param(torch.tensor([[1.0, -2.0, 0.5]]), [0], [2, 0, 1], id="one example"),
        pytest.param(torch.tensor([[1.0, -2.0], [0.0, 3.0]]), [1, 1], [0, 9], id="one class"),
        pytest.param(torch.zeros(4, 3), [0, 1, 1, 0], [2, 2, 0], id="identical examples"),
        pytest.param(torch.tensor([[1e4, -1e4, 1e4]]), [1], [2, 2, 0], id="large logits"),
    ],
)
def test_loss_and_gradient_are_finite(variant: Any, scores: torch.Tensor, y: list[int], counts: list[int]) -> None:
    x = scores.clone().requires_grad_()
    loss = RestrictedSoftmax(variant=variant)(step_of(x, torch.tensor(y), torch.tensor(counts)))
    (gradient,) = torch.autograd.grad(loss, x)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_alpha_is_a_share(alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha is a share from 0 to 1, got"):
        RestrictedSoftmax(alpha=alpha)


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ValueError, match="variant must be one of 'binary', 'graded', got 'soft'"):
        RestrictedSoftmax(variant="soft")  # type: ignore[arg-type]  # what a recipe may say
