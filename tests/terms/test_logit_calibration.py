from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from label_skew import COUNTS, Y, logits, step_of

from decollapse.terms.logit_calibration import LogitCalibration, logit_calibration_loss


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
@given(count=st.integers(2, 1000))
def test_the_rarer_class_costs_more(count: int) -> None:
    frequent, rare = (
        logit_calibration_loss(torch.zeros(1, 2), torch.tensor([y]), torch.tensor([count, count - 1]), tau=1.0)
        for y in (0, 1)
    )
    assert rare > frequent


@pytest.mark.parametrize("denominator", ["all", "others"])
def test_a_client_with_one_class_has_nothing_to_learn(denominator: Any) -> None:
    x = torch.randn(3, 4, requires_grad=True)
    step = step_of(x, torch.tensor([2, 2, 2]), torch.tensor([0, 0, 9, 0]))
    loss = LogitCalibration(denominator=denominator)(step)
    (gradient,) = torch.autograd.grad(loss, x)
    assert loss == 0
    assert (gradient == 0).all()
