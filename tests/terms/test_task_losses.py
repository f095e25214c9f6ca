"""What every loss in the place of cross-entropy promises."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from label_skew import COUNTS, Y, logits, step_of
from torch.nn import functional as F

from decollapse.objective import Term
from decollapse.terms.balanced_softmax import BalancedSoftmax, balanced_softmax_loss
from decollapse.terms.logit_calibration import LogitCalibration, logit_calibration_loss
from decollapse.terms.restricted_softmax import RestrictedSoftmax

LOSSES = [
    BalancedSoftmax(),
    BalancedSoftmax(absent="as_none"),
    LogitCalibration(),
    LogitCalibration(tau=5.0),
    RestrictedSoftmax(),
    RestrictedSoftmax(variant="graded"),
]
"""Every form that is cross-entropy where a client has as many examples of one class as of any other."""

every_loss = pytest.mark.parametrize("term", [*LOSSES, LogitCalibration(denominator="others")], ids=str)


@pytest.mark.parametrize(
    "term",
    [
        BalancedSoftmax(strength=0.0),
        BalancedSoftmax(strength=0.0, absent="as_none"),
        LogitCalibration(tau=0.0),
        RestrictedSoftmax(alpha=1.0),
        RestrictedSoftmax(alpha=1.0, variant="graded"),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_neutral_value_is_cross_entropy_bit_for_bit(term: Term, dtype: torch.dtype) -> None:
    ours, plain = logits(dtype), logits(dtype)
    loss, expected = term(step_of(ours)), F.cross_entropy(plain, Y)
    assert loss.dtype == dtype
    assert torch.equal(loss, expected)
    assert torch.equal(*torch.autograd.grad(loss, ours), *torch.autograd.grad(expected, plain))


@pytest.mark.parametrize("term", LOSSES, ids=str)
@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 1000))
def test_equal_counts_change_nothing(term: Term, count: int) -> None:
    loss = term(step_of(logits(), counts=torch.full((4,), count)))
    torch.testing.assert_close(loss, F.cross_entropy(logits(), Y))


@every_loss
def test_the_gradient_is_that_of_the_value(term: Term) -> None:
    assert torch.autograd.gradcheck(lambda x: term(step_of(x)), logits())


@every_loss
@pytest.mark.parametrize(
    ("scores", "y", "counts"),
    [
        pytest.param(torch.tensor([[1.0, -2.0, 0.5]]), [0], [2, 0, 1], id="one example"),
        pytest.param(torch.tensor([[1.0, -2.0], [0.0, 3.0]]), [1, 1], [0, 9], id="one class"),
        pytest.param(torch.tensor([[1.0, -2.0], [0.0, 3.0]]), [1, 1], [1, 9], id="one class in the batch"),
        pytest.param(torch.zeros(4, 3), [0, 1, 1, 0], [2, 2, 0], id="identical examples"),
        pytest.param(torch.tensor([[1e4, -1e4, 1e4]]), [1], [2, 2, 0], id="large logits"),
    ],
)
def test_loss_and_gradient_are_finite(term: Term, scores: torch.Tensor, y: list[int], counts: list[int]) -> None:
    x = scores.clone().requires_grad_()
    loss = term(step_of(x, torch.tensor(y), torch.tensor(counts)))
    (gradient,) = torch.autograd.grad(loss, x)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("term", "setting", "values", "message"),
    [
        (BalancedSoftmax, "strength", (-0.1, math.inf, math.nan), "is a strength, a finite number from 0 on, got"),
        (LogitCalibration, "tau", (-0.1, math.inf, math.nan), "is a strength, a finite number from 0 on, got"),
        (RestrictedSoftmax, "alpha", (-0.1, 1.1, math.nan), "is a share from 0 to 1, got"),
    ],
)
def test_a_setting_out_of_range_is_refused(term: type, setting: str, values: tuple[float, ...], message: str) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"{setting} {message} {value}"):
            term(**{setting: value})


@pytest.mark.parametrize(
    ("make", "option", "choices"),
    [
        (BalancedSoftmax, "absent", "'as_one', 'as_none'"),
        (partial(balanced_softmax_loss, logits(), Y, COUNTS), "absent", "'as_one', 'as_none'"),
        (LogitCalibration, "denominator", "'all', 'others'"),
        (partial(logit_calibration_loss, logits(), Y, COUNTS, tau=1.0), "denominator", "'all', 'others'"),
        (RestrictedSoftmax, "variant", "'binary', 'graded'"),
    ],
)
def test_an_unknown_choice_is_refused(make: Callable[..., object], option: str, choices: str) -> None:
    with pytest.raises(ValueError, match=f"{option} must be one of {choices}, got 'other'"):
        make(**{option: "other"})
