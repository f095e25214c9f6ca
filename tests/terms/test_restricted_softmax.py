from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from label_skew import Y, logits, step_of
from torch.nn import functional as F

from decollapse.terms.restricted_softmax import RestrictedSoftmax, restricted_softmax_loss

COUNTS = torch.tensor([6, 0, 3, 0])


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
    loss = RestrictedSoftmax(alpha=0.3)(step_of(logits(), counts=COUNTS))
    assert loss.item() == pytest.approx(naive(logits(), Y, [1, 0.3, 1, 0.3]), rel=1e-12)


def test_the_graded_form_scales_by_the_count_relative_to_the_largest() -> None:
    loss = RestrictedSoftmax(alpha=0.2, variant="graded")(step_of(logits(), counts=COUNTS))
    assert loss.item() == pytest.approx(naive(logits(), Y, [1, 0.2, 0.6, 0.2]), rel=1e-12)


@settings(deadline=None)
@given(alpha=st.floats(0, 1))
def test_a_client_with_all_classes_sees_plain_cross_entropy_in_the_binary_form(alpha: float) -> None:
    loss = restricted_softmax_loss(logits(), Y, torch.tensor([1, 2, 3, 4]), alpha=alpha)
    torch.testing.assert_close(loss, F.cross_entropy(logits(), Y), rtol=0, atol=0)


def test_alpha_zero_fixes_absent_logits_at_zero() -> None:
    (gradient,) = torch.autograd.grad(restricted_softmax_loss(x := logits(), Y, COUNTS, alpha=0.0), x)
    assert gradient[:, [1, 3]].abs().max() == 0
    assert gradient[:, [0, 2]].abs().min() > 0
