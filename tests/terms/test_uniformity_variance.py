from __future__ import annotations

import math
import statistics
from itertools import combinations
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from decollapse.core import Output
from decollapse.terms.uniformity_variance import (
    ClassifierVariance,
    HypersphericalUniformity,
    classifier_variance_loss,
    hyperspherical_uniformity_loss,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def step(features: Tensor, logits: Tensor, **layers: Tensor) -> SimpleNamespace:
    return SimpleNamespace(output=Output(logits, features, layers))


@pytest.mark.parametrize("num_classes", [2, 3, 10, 100])
def test_equal_predictions_cost_the_standard_deviation_of_the_identity_matrix(num_classes: int) -> None:
    target = torch.eye(num_classes).std(dim=0).mean().item()
    assert classifier_variance_loss(torch.zeros(7, num_classes)).item() == pytest.approx(target)
    assert target == pytest.approx(1 / math.sqrt(num_classes))


def test_one_sure_prediction_of_every_class_costs_nothing() -> None:
    assert classifier_variance_loss(1000 * torch.eye(6, dtype=torch.float64)).item() == pytest.approx(0, abs=1e-12)


def test_sure_and_balanced_predictions_of_a_larger_batch_fall_short_of_the_target() -> None:
    logits = 1000 * torch.eye(4, dtype=torch.float64).repeat(5, 1)
    expected = 1 / math.sqrt(4) - math.sqrt(20 / 19 * 1 / 4 * 3 / 4)
    assert classifier_variance_loss(logits).item() == pytest.approx(expected)


def test_two_examples_of_two_classes_by_hand() -> None:
    # Probabilities (3/4, 1/4) and (1/4, 3/4): std sqrt(2) / 4 for both classes.
    logits = torch.tensor([[3.0, 1.0], [1.0, 3.0]]).log()
    assert classifier_variance_loss(logits).item() == pytest.approx(1 / math.sqrt(2) - math.sqrt(2) / 4)


def test_a_class_that_varies_more_than_the_target_earns_nothing_for_it() -> None:
    # Standard deviations sqrt(1/2), sqrt(1/2), 0 and 0 of 2 one-hot predictions; the target is 1/2.
    logits = 1000 * torch.eye(4, dtype=torch.float64)[:2]
    assert classifier_variance_loss(logits).item() == pytest.approx((0 + 0 + 0.5 + 0.5) / 4)


def test_the_variance_loss_is_the_formula() -> None:
    logits = 2 * draw(9, 4)
    probabilities = [[math.exp(s) / sum(map(math.exp, row)) for s in row] for row in logits.tolist()]
    short = [max(0.0, 0.5 - statistics.stdev(column)) for column in zip(*probabilities, strict=True)]
    assert classifier_variance_loss(logits).item() == pytest.approx(statistics.mean(short), rel=1e-12)


def test_the_gradient_of_the_variance_loss() -> None:
    torch.autograd.gradcheck(classifier_variance_loss, draw(5, 3).requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [0.0, 1e-9, 0.3, 1e4])
@pytest.mark.parametrize("n", [1, 2, 16])
def test_predictions_that_agree_have_a_finite_gradient(n: int, scale: float, dtype: torch.dtype) -> None:
    logits = (torch.tensor([0.3, -0.2, 0.1]) * scale).to(dtype).repeat(n, 1).requires_grad_()
    loss = classifier_variance_loss(logits)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(0 if n == 1 else 1 / math.sqrt(3), rel=1e-5)
    assert gradient.abs().max() < 1


def test_three_points_on_a_line_by_hand() -> None:
    # Squared distances 1, 1 and 4; their median is 1.
    features = torch.tensor([[0.0], [1.0], [2.0]])
    expected = (2 * math.exp(-1) + math.exp(-4)) / 3
    assert hyperspherical_uniformity_loss(features).item() == pytest.approx(expected)


def test_equal_distances_cost_one_over_e() -> None:
    assert hyperspherical_uniformity_loss(5 * torch.eye(7)).item() == pytest.approx(math.exp(-1))


def test_the_median_is_over_the_pairs_that_differ() -> None:
    # Squared distances 0, 0, 0, 4, 4 and 4: with zeros the median would be 0.
    features = torch.tensor([[1.0], [1.0], [1.0], [3.0]])
    assert hyperspherical_uniformity_loss(features).item() == pytest.approx((3 + 3 * math.exp(-1)) / 6)


def test_an_even_number_of_distances_has_the_lower_median() -> None:
    # Squared distances 1, 4, 9, 25, 36 and 49, in an order of their own; the lower of 9 and 25.
    features = torch.tensor([[0.0], [5.0], [-1.0], [2.0]])
    expected = sum(math.exp(-square / 9) for square in (25, 1, 4, 36, 9, 9)) / 6
    assert hyperspherical_uniformity_loss(features).item() == pytest.approx(expected)


@pytest.mark.parametrize(("n", "d"), [(2, 3), (6, 2), (9, 20)])
def test_the_uniformity_loss_is_the_formula(n: int, d: int) -> None:
    features = draw(n, d)
    squares = [math.dist(a, b) ** 2 for a, b in combinations(features.tolist(), 2)]
    median = statistics.median_low(squares)
    expected = statistics.mean(math.exp(-square / median) for square in squares)
    assert hyperspherical_uniformity_loss(features).item() == pytest.approx(expected, rel=1e-12)


def test_the_gradient_of_the_uniformity_loss_goes_through_the_median() -> None:
    torch.autograd.gradcheck(hyperspherical_uniformity_loss, draw(5, 3).requires_grad_())


@given(st.integers(2, 9), st.integers(0, 99), st.floats(1e-3, 1e3))
def test_shift_rotation_and_scale_of_the_features_do_not_matter(n: int, seed: int, factor: float) -> None:
    features = draw(n, 4, seed=seed)
    rotation = torch.linalg.qr(draw(4, 4, seed=seed + 1)).Q
    torch.testing.assert_close(
        hyperspherical_uniformity_loss(factor * features @ rotation + 3), hyperspherical_uniformity_loss(features)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
@pytest.mark.parametrize("n", [2, 3, 16])
def test_identical_features_cost_1_without_a_gradient(n: int, value: float, dtype: torch.dtype) -> None:
    features = torch.full((n, 5), value, dtype=dtype, requires_grad=True)
    loss = hyperspherical_uniformity_loss(features)
    (gradient,) = torch.autograd.grad(loss, features)
    assert loss.item() == 1
    assert not gradient.any()


def test_one_feature_costs_0_without_a_gradient() -> None:
    features = torch.ones(1, 5, requires_grad=True)
    loss = hyperspherical_uniformity_loss(features)
    (gradient,) = torch.autograd.grad(loss, features)
    assert loss.item() == 0
    assert not gradient.any()


@pytest.mark.parametrize("scale", [10.0**-k for k in range(0, 44, 3)])
def test_features_that_nearly_agree_have_a_bounded_gradient(scale: float) -> None:
    features = (draw(6, 3).float() * scale).requires_grad_()
    (gradient,) = torch.autograd.grad(hyperspherical_uniformity_loss(features), features)
    assert gradient.abs().max() < 1e6


def test_dead_dimensions_have_no_gradient() -> None:
    features = draw(6, 3)
    features[:, 1] = 0.1
    features.requires_grad_()
    (gradient,) = torch.autograd.grad(hyperspherical_uniformity_loss(features), features)
    assert not gradient[:, 1].any()
    assert gradient[:, [0, 2]].all()


def test_the_variance_term_is_its_strength_times_the_loss_of_the_logits() -> None:
    z, logits = draw(5, 3), draw(5, 4, seed=1)
    torch.testing.assert_close(ClassifierVariance(strength=3.0)(step(z, logits)), 3 * classifier_variance_loss(logits))


def test_the_uniformity_term_is_its_strength_times_the_mean_over_its_layers() -> None:
    z, stage = draw(5, 3), draw(5, 4, seed=1)
    both = HypersphericalUniformity(strength=3.0, layers=("stage", "features"))(step(z, z, stage=stage))
    losses = hyperspherical_uniformity_loss(z), hyperspherical_uniformity_loss(stage)
    torch.testing.assert_close(both, 3 * (losses[0] + losses[1]) / 2)
    torch.testing.assert_close(HypersphericalUniformity(strength=3.0)(step(z, z)), 3 * losses[0])


@pytest.mark.parametrize("term", [ClassifierVariance, HypersphericalUniformity])
def test_strength_zero_is_a_constant_zero(term: type[ClassifierVariance | HypersphericalUniformity]) -> None:
    z = torch.full((2, 3), torch.nan, requires_grad=True)
    nothing = term(strength=0.0)(step(z, z))
    assert nothing.item() == 0.0
    assert not nothing.requires_grad


@pytest.mark.parametrize("term", [ClassifierVariance, HypersphericalUniformity])
@pytest.mark.parametrize("strength", [-1.0, math.inf, math.nan])
def test_a_strength_that_is_none_is_refused(
    term: type[ClassifierVariance | HypersphericalUniformity], strength: float
) -> None:
    with pytest.raises(ValueError, match="strength is a strength"):
        term(strength=strength)
