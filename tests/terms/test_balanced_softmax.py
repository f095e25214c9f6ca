from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from label_skew import COUNTS, Y, logits, step_of

from decollapse.terms.balanced_softmax import BalancedSoftmax, balanced_softmax_loss, log_prior


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


@settings(deadline=None)
@given(counts=st.lists(st.integers(1, 1000), min_size=4, max_size=4))
def test_without_absent_classes_both_priors_are_one(counts: list[int]) -> None:
    one, none = (
        balanced_softmax_loss(logits(), Y, torch.tensor(counts), absent=absent) for absent in ("as_one", "as_none")
    )
    torch.testing.assert_close(one, none, rtol=1e-5, atol=1e-5)  # the 1e-9 of a share of at least 1 / 4000
