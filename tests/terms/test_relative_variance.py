from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from feature_batches import draw, gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from decollapse.core import Output
from decollapse.terms.relative_variance import RelativeVarianceHinge, relative_variance_loss


def naive(features: Tensor, target: float) -> Tensor:
    std = features.std(0)
    rms = std.square().mean().sqrt()
    return torch.stack([(target - s / rms).clamp(min=0) for s in std]).mean()


def test_one_of_four_dimensions_alive_by_hand() -> None:
    # std 2, 0, 0, 0: the rms is 1, three fall short of it by all of 1.
    features = torch.tensor([[1.0], [-1.0]]) * torch.tensor([2**0.5, 0.0, 0.0, 0.0])
    assert relative_variance_loss(features).item() == pytest.approx(3 / 4, abs=1e-3)
    assert relative_variance_loss(features, target=0.4).item() == pytest.approx(0.3, abs=1e-3)


def test_equal_variances_cost_nothing() -> None:
    features = torch.tensor([[1.0, 5.0], [-1.0, 7.0]])
    assert relative_variance_loss(features).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("target", [0.3, 0.8, 1.0])
@pytest.mark.parametrize("shape", [(6, 17), (17, 6), (2, 5)])
def test_value_and_gradient_are_the_formula(shape: tuple[int, int], target: float) -> None:
    features = draw(*shape) * torch.logspace(-1, 1, shape[1])
    ours, theirs = partial(relative_variance_loss, target=target, eps=1e-14), partial(naive, target=target)
    torch.testing.assert_close(ours(features), theirs(features))
    torch.testing.assert_close(gradient(ours, features), gradient(theirs, features), rtol=1e-6, atol=1e-9)


def test_the_gradient_passes_gradcheck() -> None:
    assert torch.autograd.gradcheck(relative_variance_loss, (draw(7, 5).requires_grad_(),))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), target=st.floats(0, 1))
def test_scale_and_place_of_the_features_do_not_matter(seed: int, target: float) -> None:
    features = draw(12, 5, seed) * torch.logspace(-1, 1, 5)
    loss = partial(relative_variance_loss, target=target, eps=1e-14)
    assert 0 <= loss(features) <= target
    torch.testing.assert_close(loss(100 * features + torch.arange(5)), loss(features))
    assert (gradient(loss, features) * (features - features.mean(0))).sum().abs() < 1e-9


def test_the_gradient_of_a_dying_unit_stays_bounded_and_makes_it_grow() -> None:
    largest = []
    for k in range(1, 9):
        features = draw(16, 4) * torch.tensor([1.0, 1.0, 1.0, 10.0**-k], dtype=torch.float64)
        grad = gradient(relative_variance_loss, features)
        assert (grad[:, 3] * (features - features.mean(0))[:, 3]).sum() <= 0
        largest.append(grad[:, 3].abs().max().item())
    assert max(largest) < 2 * largest[0]


@pytest.mark.parametrize(
    "features", [torch.ones(1, 3), torch.zeros(0, 3), torch.ones(4, 3), draw(5, 3) * torch.tensor([1.0, 1.0, 0.0])]
)
def test_few_examples_and_dead_dimensions_are_finite(features: Tensor) -> None:
    assert relative_variance_loss(features).isfinite()
    grad = gradient(relative_variance_loss, features)
    assert grad.isfinite().all()
    assert not grad[:, 2].any()


def test_the_term_is_its_strength_times_the_mean_over_layers() -> None:
    z, stage = draw(9, 5), draw(9, 3, seed=1)
    step = SimpleNamespace(output=Output(torch.zeros(9, 2), z, {"stage": stage}))
    expected = 0.5 * (relative_variance_loss(z, target=0.9) + relative_variance_loss(stage, target=0.9)) / 2
    torch.testing.assert_close(
        RelativeVarianceHinge(strength=0.5, target=0.9, layers=("features", "stage"))(step), expected
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strength": -1.0}, "strength is a strength"),
        ({"target": 1.5}, "target is a share from 0 to 1, got 1.5"),
        ({"target": math.nan}, "target is a share"),
        ({"eps": 0.0}, "eps must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RelativeVarianceHinge(**settings)
