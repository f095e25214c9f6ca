from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from decollapse.terms.logit_calibration import LogitCalibration, logit_calibration_loss

COUNTS = torch.tensor([6, 0, 3, 1])
Y = torch.tensor([0, 2, 3, 0, 0])


def logits(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    values = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return values.to(dtype).requires_grad_()


def step_of(scores: torch.Tensor, y: torch.Tensor = Y, counts: torch.Tensor = COUNTS) -> Any:
    return SimpleNamespace(output=SimpleNamespace(logits=scores), y=y, data=SimpleNamespace(class_counts=counts))


def naive(scores: torch.Tensor, y: torch.Tensor, counts: list[int], tau: float, denominator: str) -> float:
    losses: list[float] = []
    for row, label in zip(scores.tolist(), y.tolist(), strict=True):
        margined = {c: score - tau / n**0.25 for c, (score, n) in enumerate(zip(row, counts, strict=True)) if n}
        others = sum(math.exp(score) for c, score in margined.items() if denominator == "all" or c != label)
        losses.append(math.log(others) - margined[label])
    return sum(losses) / len(losses)


@pytest.mark.parametrize(
    ("denominator", "label", "expected"),
    [("all", 0, 0.474077), ("all", 1, 0.974077), ("others", 0, -0.5), ("others", 1, 0.5)],
)
def test_sixteen_examples_against_one_by_hand(denominator: Any, label: int, expected: float) -> None:
    loss = logit_calibration_loss(
        torch.zeros(1, 2), torch.tensor([label]), torch.tensor([16, 1]), tau=1.0, denominator=denominator
    )
    assert loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("denominator", ["all", "others"])
@pytest.mark.parametrize("tau", [0.1, 1.0, 3.0])
def test_it_is_the_sum_of_the_definition(denominator: Any, tau: float) -> None:
    loss = LogitCalibration(tau=tau, denominator=denominator)(step_of(logits()))
    assert loss.item() == pytest.approx(naive(logits(), Y, COUNTS.tolist(), tau, denominator), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tau_zero_is_cross_entropy_bit_for_bit(dtype: torch.dtype) -> None:
    ours, plain = logits(dtype), logits(dtype)
    loss, expected = LogitCalibration(tau=0.0)(step_of(ours)), F.cross_entropy(plain, Y)
    assert loss.dtype == dtype
    assert torch.equal(loss, expected)
    assert torch.equal(*torch.autograd.grad(loss, ours), *torch.autograd.grad(expected, plain))


def test_tau_zero_without_the_true_class_keeps_all_others() -> None:
    loss = logit_calibration_loss(logits(), Y, COUNTS, tau=0.0, denominator="others")
    assert loss.item() == pytest.approx(naive(logits(), Y, [1, 1, 1, 1], 0.0, "others"), rel=1e-12)


@pytest.mark.parametrize("denominator", ["all", "others"])
def test_an_absent_class_has_a_gradient_of_exactly_zero(denominator: Any) -> None:
    loss = logit_calibration_loss(x := logits(), Y, COUNTS, tau=0.1, denominator=denominator)
    (gradient,) = torch.autograd.grad(loss, x)
    assert (gradient[:, 1] == 0).all()
    assert (gradient[:, [0, 2, 3]] != 0).all()


@settings(deadline=None)
@given(tau=st.floats(0.01, 5), count=st.integers(1, 1000))
def test_equal_counts_are_no_calibration(tau: float, count: int) -> None:
    loss = logit_calibration_loss(logits(), Y, torch.full((4,), count), tau=tau)
    torch.testing.assert_close(loss, F.cross_entropy(logits(), Y))


@settings(deadline=None)
@given(count=st.integers(2, 1000))
def test_the_rarer_class_costs_more(count: int) -> None:
    frequent, rare = (
        logit_calibration_loss(torch.zeros(1, 2), torch.tensor([y]), torch.tensor([count, count - 1]), tau=1.0)
        for y in (0, 1)
    )
    assert rare > frequent


@pytest.mark.parametrize("denominator", ["all", "others"])
def test_the_gradient_is_that_of_the_value(denominator: Any) -> None:
    assert torch.autograd.gradcheck(
        lambda x: logit_calibration_loss(x, Y, COUNTS, tau=1.0, denominator=denominator), logits()
    )


@pytest.mark.parametrize("denominator", ["all", "others"])
def test_a_client_with_one_class_has_nothing_to_learn(denominator: Any) -> None:
    x = torch.randn(3, 4, requires_grad=True)
    step = step_of(x, torch.tensor([2, 2, 2]), torch.tensor([0, 0, 9, 0]))
    loss = LogitCalibration(denominator=denominator)(step)
    (gradient,) = torch.autograd.grad(loss, x)
    assert loss == 0
    assert (gradient == 0).all()


@pytest.mark.parametrize("denominator", ["all", "others"])
@pytest.mark.parametrize(
    ("scores", "y", "counts"),
    [
        pytest.param(torch.tensor([[1.0, -2.0, 0.5]]), [0], [2, 0, 1], id="one example"),
        pytest.param(torch.tensor([[1.0, -2.0], [0.0, 3.0]]), [1, 1], [1, 9], id="one class in the batch"),
        pytest.param(torch.zeros(4, 3), [0, 1, 1, 0], [2, 2, 0], id="identical examples"),
        pytest.param(torch.tensor([[1e4, -1e4, 1e4]]), [1], [2, 2, 0], id="large logits"),
    ],
)
def test_loss_and_gradient_are_finite(denominator: Any, scores: torch.Tensor, y: list[int], counts: list[int]) -> None:
    x = scores.clone().requires_grad_()
    loss = LogitCalibration(denominator=denominator)(step_of(x, torch.tensor(y), torch.tensor(counts)))
    (gradient,) = torch.autograd.grad(loss, x)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("tau", [-0.1, math.inf, math.nan])
def test_tau_is_a_strength(tau: float) -> None:
    with pytest.raises(ValueError, match="tau is a strength, a finite number from 0 on, got"):
        LogitCalibration(tau=tau)


def test_an_unknown_denominator_is_refused() -> None:
    message = "denominator must be one of 'all', 'others', got 'other'"
    with pytest.raises(ValueError, match=message):
        LogitCalibration(denominator="other")  # type: ignore[arg-type]  # what a recipe may say
    with pytest.raises(ValueError, match=message):
        logit_calibration_loss(logits(), Y, COUNTS, tau=1.0, denominator="other")  # type: ignore[arg-type]
