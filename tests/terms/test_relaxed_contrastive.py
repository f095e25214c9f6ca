from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from decollapse.core import Output
from decollapse.terms.relaxed_contrastive import RelaxedContrastive, relaxed_contrastive_loss


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def labels(n: int, *, num_classes: int, seed: int = 0) -> Tensor:
    return torch.randint(num_classes, (n,), generator=torch.Generator().manual_seed(seed))


def at_cosine(cosine: float) -> Tensor:
    return torch.tensor([[1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)]], dtype=torch.float64)


def naive(features: Tensor, y: Tensor, *, penalty: float, temperature: float, threshold: float) -> float:
    rows, classes, total = features.tolist(), y.tolist(), 0.0

    def cosine(a: list[float], b: list[float]) -> float:
        return sum(p * q for p, q in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    for b, row in enumerate(rows):
        same = [1.0 if i == b else cosine(row, rows[i]) for i in range(len(rows)) if classes[i] == classes[b]]
        others = [cosine(row, rows[i]) for i in range(len(rows)) if classes[i] == classes[b] and i != b]
        negatives = sorted(cosine(row, rows[i]) for i in range(len(rows)) if classes[i] != classes[b])[-2:]
        positive = math.exp(min(same) / temperature)
        total -= math.log(positive / (positive + sum(math.exp(s / temperature) for s in negatives)))
        if others and min(others) >= threshold:
            total += penalty * math.log(1 + math.exp((min(others) - 1) / temperature))
    return total / len(rows)


@pytest.mark.parametrize(("cosine", "expected"), [(0.8, 0.018150), (0.9, 0.126928), (1.0, 0.693147)])
def test_the_relaxation_of_two_of_a_class_by_hand(cosine: float, expected: float) -> None:
    assert relaxed_contrastive_loss(at_cosine(cosine), torch.tensor([0, 0])).item() == pytest.approx(expected, abs=1e-6)


def test_below_the_threshold_there_is_no_relaxation() -> None:
    features = at_cosine(0.69).requires_grad_()
    loss = relaxed_contrastive_loss(features, torch.tensor([0, 0]))
    (gradient,) = torch.autograd.grad(loss, features)
    assert loss.item() == 0
    assert not gradient.any()
    assert relaxed_contrastive_loss(features, torch.tensor([0, 0]), threshold=0.68).item() > 0


def test_the_relaxation_pushes_two_of_a_class_apart() -> None:
    features = at_cosine(0.9).requires_grad_()
    (gradient,) = torch.autograd.grad(relaxed_contrastive_loss(features, torch.tensor([0, 0])), features)
    assert gradient[1, 1] < 0


def test_the_contrast_of_four_right_angles_by_hand() -> None:
    # Similarities of 0: to one of its class, which is less than the 1 to itself, and to the two negatives.
    loss = relaxed_contrastive_loss(torch.eye(4), torch.tensor([0, 0, 1, 1]), temperature=0.5)
    assert loss.item() == pytest.approx(math.log(3))


def test_an_example_alone_in_its_class_is_its_own_positive() -> None:
    loss = relaxed_contrastive_loss(torch.eye(3), torch.tensor([0, 1, 2]), temperature=0.5)
    assert loss.item() == pytest.approx(math.log(1 + 2 * math.exp(-2)))


def test_only_the_two_nearest_of_other_classes_count() -> None:
    features = torch.cat([torch.eye(8)[:2], -torch.eye(8)[:1]])
    few = relaxed_contrastive_loss(features[:2], torch.tensor([0, 1]), temperature=1.0)
    assert few.item() == pytest.approx(math.log(1 + math.exp(-1)))
    many = relaxed_contrastive_loss(torch.eye(8), torch.arange(8), temperature=1.0)
    assert many.item() == pytest.approx(math.log(1 + 2 * math.exp(-1)))


@pytest.mark.parametrize("temperature", [0.05, 0.5])
@pytest.mark.parametrize(("n", "num_classes", "threshold"), [(12, 3, 0.7), (12, 1, 0.0), (8, 8, 0.7), (16, 6, -1.0)])
def test_it_is_the_formula(n: int, num_classes: int, threshold: float, temperature: float) -> None:
    y = labels(n, num_classes=num_classes)
    features = draw(n, 3) + 2 * draw(8, 3, seed=1)[y]
    options = {"penalty": 0.3, "temperature": temperature, "threshold": threshold}
    assert relaxed_contrastive_loss(features, y, **options).item() == pytest.approx(
        naive(features, y, **options), rel=1e-10
    )


def test_its_gradient() -> None:
    y = torch.tensor([0, 0, 0, 1, 1, 2])
    features = (draw(6, 4) + 2 * draw(3, 4, seed=1)[y]).requires_grad_()
    loss = partial(relaxed_contrastive_loss, y=y, temperature=0.5, threshold=0.2)
    assert loss(features) > loss(features, penalty=0.0)
    torch.autograd.gradcheck(loss, features)


@given(st.integers(0, 99))
def test_order_and_lengths_of_features_and_names_of_classes_do_not_matter(seed: int) -> None:
    features, y = draw(9, 3, seed=seed), labels(9, num_classes=3, seed=seed)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
    lengths = draw(9, 1, seed=seed).exp()
    torch.testing.assert_close(
        relaxed_contrastive_loss((lengths * features)[order], 9 - y[order]), relaxed_contrastive_loss(features, y)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_one_class_has_no_contrast(n: int, dtype: torch.dtype) -> None:
    features = draw(n, 4).to(dtype).requires_grad_()
    loss = relaxed_contrastive_loss(features, torch.zeros(n), penalty=0.0)
    (gradient,) = torch.autograd.grad(loss, features)
    assert loss.item() == 0
    assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("y", [[0], [0, 0, 0, 0], [0, 1, 2, 3], [0, 0, 1, 1]])
@pytest.mark.parametrize("value", [0.0, 1e-30, 1.0])
def test_identical_and_dead_features_have_a_finite_loss_and_gradient(
    y: list[int], value: float, dtype: torch.dtype
) -> None:
    features = torch.full((len(y), 3), value, dtype=dtype, requires_grad=True)
    loss = relaxed_contrastive_loss(features, torch.tensor(y))
    (gradient,) = torch.autograd.grad(loss, features)
    assert loss.isfinite()
    assert gradient.abs().max() < 1e-3


def test_one_dead_feature_among_living_ones_has_no_gradient_and_spoils_none() -> None:
    features = draw(4, 3)
    features[2] = 0
    features.requires_grad_()
    (gradient,) = torch.autograd.grad(relaxed_contrastive_loss(features, torch.tensor([0, 0, 1, 1])), features)
    assert not gradient[2].any()
    assert gradient.isfinite().all()


def test_the_term_is_its_strength_times_the_mean_over_its_layers() -> None:
    z, stage, y = draw(8, 3), draw(8, 5, seed=1), labels(8, num_classes=3)
    step = SimpleNamespace(output=Output(z, z, {"stage": stage}), y=y)
    options = {"penalty": 0.5, "temperature": 0.3, "threshold": 0.1}
    losses = [relaxed_contrastive_loss(x, y, **options) for x in (z, stage)]
    torch.testing.assert_close(RelaxedContrastive(strength=2.0, **options)(step), 2 * losses[0])
    torch.testing.assert_close(
        RelaxedContrastive(strength=2.0, layers=("stage", "features"), **options)(step), losses[0] + losses[1]
    )


def test_strength_zero_is_a_constant_zero() -> None:
    z = torch.full((2, 3), torch.nan, requires_grad=True)
    nothing = RelaxedContrastive(strength=0.0)(SimpleNamespace(output=Output(z, z), y=torch.zeros(2)))
    assert nothing.item() == 0.0
    assert not nothing.requires_grad


@pytest.mark.parametrize("field", ["strength", "penalty"])
@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_a_strength_that_is_none_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} is a strength"):
        RelaxedContrastive(**{field: value})


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        RelaxedContrastive(temperature=temperature)


def test_a_threshold_below_zero_relaxes_more_pairs() -> None:
    z, y = draw(8, 2), torch.zeros(8)
    step = SimpleNamespace(output=Output(z, z), y=y)
    assert RelaxedContrastive(threshold=-1.0, temperature=1.0)(step) > RelaxedContrastive(temperature=1.0)(step)


@pytest.mark.parametrize("threshold", [-1.1, 1.1, math.nan])
def test_a_threshold_that_is_no_cosine_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold is a cosine similarity"):
        RelaxedContrastive(threshold=threshold)
