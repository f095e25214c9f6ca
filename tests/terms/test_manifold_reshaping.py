from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from decollapse.core import Output
from decollapse.terms.manifold_reshaping import IntraClassDecorrelation, intra_class_decorrelation


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def labels(n: int, *, num_classes: int, seed: int = 0) -> Tensor:
    return torch.randint(num_classes, (n,), generator=torch.Generator().manual_seed(seed))


def naive(features: Tensor, y: Tensor, eps: float = 1e-8) -> Tensor:
    total, num_examples = features.sum() * 0, 0
    for c in y.unique():
        members = features[y == c]
        n, d = members.shape
        if n < 2:
            continue
        z = (members - members.mean(0)) / torch.sqrt(members.var(0) + eps)
        pairs = [(z[:, j] * z[:, k]).sum() ** 2 for j in range(d) for k in range(d) if j != k]
        total, num_examples = total + torch.stack(pairs).mean(), num_examples + n
    return total / max(num_examples, 1)


def test_two_repeated_dimensions_by_hand() -> None:
    # One class of 3: both correlations are 1, so X^T X is 2 off the diagonal. 2^2 / 3.
    features = torch.tensor([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]])
    assert intra_class_decorrelation(features, torch.zeros(3)).item() == pytest.approx(4 / 3)


def test_two_uncorrelated_dimensions_cost_nothing() -> None:
    features = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    assert intra_class_decorrelation(features, torch.zeros(4)).item() == pytest.approx(0, abs=1e-6)


def test_dimensions_that_only_classes_have_in_common_cost_nothing() -> None:
    square = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    features, y = torch.cat([square + 10, square - 10]), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    assert intra_class_decorrelation(features, y).item() == pytest.approx(0, abs=1e-6)
    assert intra_class_decorrelation(features, torch.zeros(8)).item() > 5


def test_classes_of_two_and_three_and_one_by_hand() -> None:
    # Every correlation is 1: classes of 2 and 3 have 1^2 and 2^2, over 5 examples; the single example is not counted.
    features = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 5.0], [1.0, 6.0], [2.0, 7.0], [9.0, 3.0]])
    y = torch.tensor([4, 4, 7, 7, 7, 1])
    assert intra_class_decorrelation(features, y).item() == pytest.approx((1 + 4) / 5)


@pytest.mark.parametrize(("n", "d", "num_classes"), [(24, 3, 4), (24, 40, 2), (9, 4, 8), (1, 3, 2), (30, 5, 1)])
def test_it_is_the_formula(n: int, d: int, num_classes: int) -> None:
    features, y = draw(n, d) @ draw(d, d, seed=1), labels(n, num_classes=num_classes)
    torch.testing.assert_close(intra_class_decorrelation(features, y), naive(features, y), rtol=1e-10, atol=1e-14)


def test_its_gradient_is_that_of_the_formula() -> None:
    features, y = draw(24, 8).relu().requires_grad_(), labels(24, num_classes=3)
    (gradient,) = torch.autograd.grad(intra_class_decorrelation(features, y), features)
    (expected,) = torch.autograd.grad(naive(features, y), features)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-14)


def test_its_gradient() -> None:
    features, y = draw(8, 3).requires_grad_(), torch.tensor([0, 0, 0, 1, 1, 1, 1, 2])
    torch.autograd.gradcheck(lambda z: intra_class_decorrelation(z, y), features)


def test_float32_agrees_with_float64() -> None:
    features, y = draw(64, 128).relu(), labels(64, num_classes=5)
    single = intra_class_decorrelation(features.float(), y)
    assert single.dtype == torch.float32
    assert single.item() == pytest.approx(naive(features, y).item(), rel=1e-4)


@given(st.integers(0, 99))
def test_order_of_examples_and_names_of_classes_do_not_matter(seed: int) -> None:
    features, y = draw(12, 4, seed=seed), labels(12, num_classes=4, seed=seed)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        intra_class_decorrelation(features[order], 10 - y[order]), intra_class_decorrelation(features, y)
    )


@given(st.integers(0, 99))
def test_shifting_a_class_and_scaling_a_dimension_do_not_matter(seed: int) -> None:
    features, y = draw(12, 4, seed=seed), labels(12, num_classes=2, seed=seed)
    moved = 10 * features * torch.tensor([1, 2, 3, 4]) + 5 * y[:, None]
    torch.testing.assert_close(
        intra_class_decorrelation(moved, y), intra_class_decorrelation(features, y), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_dimension_that_is_constant_in_its_class_costs_nothing_and_has_no_gradient(dtype: torch.dtype) -> None:
    features, y = draw(30, 4).to(dtype), labels(30, num_classes=3)
    features[:, 1] = torch.tensor([0.1, 0.7, 1e6])[y].to(dtype)
    features.requires_grad_()
    loss = intra_class_decorrelation(features, y)
    (gradient,) = torch.autograd.grad(loss, features)
    living = intra_class_decorrelation(features[:, [0, 2, 3]], y)
    assert loss.item() == pytest.approx(living.item() * (3 * 2) / (4 * 3), rel=1e-5)
    assert gradient[:, 1].abs().max() == 0
    assert gradient.isfinite().all()


def test_a_nearly_dead_dimension_has_a_gradient_that_eps_bounds() -> None:
    y = torch.zeros(16)

    def largest_gradient(scale: float, eps: float) -> float:
        features = (draw(16, 3) * torch.tensor([scale, 1, 1])).requires_grad_()
        (gradient,) = torch.autograd.grad(intra_class_decorrelation(features, y, eps=eps), features)
        return gradient.abs().max().item()

    usual = largest_gradient(1, 1e-8)
    assert max(largest_gradient(10.0**-k, 1e-8) for k in range(12)) < 1e4 * 2 * usual
    assert max(largest_gradient(10.0**-k, 1e-2) for k in range(12)) < 1e1 * 2 * usual


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("features", "y"),
    [
        (torch.randn(1, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([2])),
        (torch.randn(3, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2])),
        (torch.ones(5, 3), torch.tensor([0, 0, 0, 1, 1])),
        (torch.zeros(4, 3), torch.zeros(4, dtype=torch.long)),
    ],
    ids=["one example", "no two of a class", "identical examples", "dead features"],
)
def test_a_batch_with_nothing_to_decorrelate_is_a_zero_with_a_zero_gradient(
    features: Tensor, y: Tensor, dtype: torch.dtype
) -> None:
    features = features.to(dtype, copy=True).requires_grad_()
    loss = intra_class_decorrelation(features, y)
    (gradient,) = torch.autograd.grad(loss, features)
    assert loss.item() == 0
    assert not gradient.any()


def test_a_feature_that_is_not_finite_is_not_hidden() -> None:
    features = draw(4, 3)
    features[0, 0] = torch.nan
    assert intra_class_decorrelation(features, torch.zeros(4)).isnan()


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3, 2)])
def test_features_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        intra_class_decorrelation(torch.zeros(shape), torch.zeros(4))


def test_the_term_is_mu_times_the_mean_over_its_layers() -> None:
    z, stage, y = draw(9, 3), draw(9, 5, seed=1), labels(9, num_classes=2)
    step = SimpleNamespace(output=Output(torch.zeros(9, 2), z, {"stage": stage}), y=y)
    features_alone, stage_alone = (intra_class_decorrelation(x, y, eps=0.1) for x in (z, stage))
    torch.testing.assert_close(IntraClassDecorrelation(mu=0.5, eps=0.1)(step), 0.5 * features_alone)
    torch.testing.assert_close(
        IntraClassDecorrelation(mu=0.5, eps=0.1, layers=("stage", "features"))(step),
        0.5 * (features_alone + stage_alone) / 2,
    )


def test_mu_zero_is_a_constant_zero() -> None:
    features = torch.full((2, 3), torch.nan, requires_grad=True)
    nothing = IntraClassDecorrelation(mu=0.0)(SimpleNamespace(output=Output(features, features), y=torch.zeros(2)))
    assert nothing.item() == 0.0
    assert not nothing.requires_grad


@pytest.mark.parametrize("mu", [-1.0, math.inf, math.nan])
def test_a_mu_that_is_no_strength_is_refused(mu: float) -> None:
    with pytest.raises(ValueError, match="mu is a strength"):
        IntraClassDecorrelation(mu=mu)


@pytest.mark.parametrize("eps", [0.0, -1.0, math.inf, math.nan])
def test_an_eps_that_is_not_positive_is_refused(eps: float) -> None:
    with pytest.raises(ValueError, match="eps must be positive"):
        IntraClassDecorrelation(eps=eps)
