from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from decollapse.core import ModelState
from decollapse.terms.cross_entropy import CrossEntropy
from decollapse.terms.proximal import Proximal

STEP = SimpleNamespace(
    params={"w": torch.tensor([1.0, 2.0], requires_grad=True)},
    anchor=ModelState({"w": torch.tensor([0.0, 0.0])}),
    output=SimpleNamespace(logits=torch.zeros(2, 4), features=torch.zeros(2, 3)),
    y=torch.tensor([0, 3]),
)


def test_the_penalty_by_hand() -> None:
    assert Proximal(mu=0.1)(STEP).item() == pytest.approx(0.5 * 0.1 * (1 + 4))


def test_its_gradient_is_mu_times_the_distance_and_the_anchor_gets_none() -> None:
    (gradient,) = torch.autograd.grad(Proximal(mu=0.1)(STEP), STEP.params["w"])
    torch.testing.assert_close(gradient, torch.tensor([0.1, 0.2]))


def test_mu_zero_is_zero() -> None:
    assert Proximal(mu=0.0)(STEP).item() == 0.0


def test_a_negative_mu_is_refused() -> None:
    with pytest.raises(ValueError, match="from 0 on, got -1"):
        Proximal(mu=-1)


def test_cross_entropy_of_equal_logits_is_the_logarithm_of_the_number_of_classes() -> None:
    assert CrossEntropy()(STEP).item() == pytest.approx(1.386294)


def test_label_smoothing_is_a_share() -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        CrossEntropy(label_smoothing=1.5)
