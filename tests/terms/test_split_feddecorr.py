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
from decollapse.terms.feddecorr import Matrix, decorrelation_loss, trust
from decollapse.terms.split_feddecorr import (
    SplitFedDecorr,
    between_class_decorrelation,
    split_by_class,
    within_class_decorrelation,
)

MATRICES: tuple[Matrix, ...] = ("correlation", "covariance")
PARTS = (within_class_decorrelation, between_class_decorrelation)
SCALE = 63**2 / 64
SQUARE = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64).repeat(4, 1)


def labels(n: int, *, num_classes: int, seed: int = 0) -> Tensor:
    return torch.randint(num_classes, (n,), generator=torch.Generator().manual_seed(seed))


def penalty(scatter: Tensor, matrix: Matrix) -> Tensor:
    """P of a scatter matrix."""
    d = len(scatter)
    if matrix == "covariance":
        K = scatter / scatter.diagonal().mean()
        return (K - torch.eye(d, dtype=K.dtype)).square().sum() / (d * (d - 1))
    std = scatter.diagonal().sqrt()
    K = scatter / torch.outer(std, std)
    return (K - torch.diag(K.diagonal())).square().sum() / (d * (d - 1))


def scatters(features: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """W and B, class by class."""
    W = B = features.new_zeros(features.shape[1], features.shape[1])
    for c in y.unique():
        members = features[y == c]
        x, m = members - members.mean(0), members.mean(0) - features.mean(0)
        W, B = W + x.T @ x, B + len(members) * torch.outer(m, m)
    return W, B


def naive_within(features: Tensor, y: Tensor, matrix: Matrix) -> Tensor:
    return SCALE * trust(len(y) - len(y.unique()) + 1) * penalty(scatters(features, y)[0], matrix)


def naive_between(features: Tensor, y: Tensor, matrix: Matrix) -> Tensor:
    return SCALE * trust(len(y.unique())) * penalty(scatters(features, y)[1], matrix)


def test_dimensions_that_only_classes_have_in_common_by_hand() -> None:
    # Within: no correlation. All together both dimensions have variance 1 + 100 and covariance 100.
    features, y = torch.cat([SQUARE + 10, SQUARE - 10]), torch.arange(2).repeat_interleave(16)
    assert within_class_decorrelation(features, y).item() == pytest.approx(0, abs=1e-9)
    assert decorrelation_loss(features).item() == pytest.approx(SCALE * (100 / 101) ** 2)


def test_dimensions_that_agree_within_classes_alone_by_hand() -> None:
    line = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64).repeat(8, 1)
    away = torch.tensor([20.0, -20.0], dtype=torch.float64)
    features, y = torch.cat([line + away, line - away]), torch.arange(2).repeat_interleave(16)
    assert within_class_decorrelation(features, y).item() == pytest.approx(SCALE)


def test_four_means_in_a_square_and_four_on_a_line_by_hand() -> None:
    # Four classes: trust is (3^2 / 4) / (15^2 / 16) = 0.16.
    square, line = SQUARE[:4].repeat_interleave(5, 0), SQUARE[[0, 0, 3, 3]].repeat_interleave(5, 0)
    y = torch.arange(4).repeat_interleave(5)
    assert between_class_decorrelation(square, y).item() == pytest.approx(0, abs=1e-9)
    assert between_class_decorrelation(line, y).item() == pytest.approx(0.16 * SCALE)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize(("n", "d", "num_classes"), [(40, 6, 4), (24, 40, 2), (12, 5, 3), (60, 8, 20)])
def test_both_parts_are_the_formulas(n: int, d: int, num_classes: int, matrix: Matrix) -> None:
    features, y = draw(n, d), labels(n, num_classes=num_classes)
    for part, naive in zip(PARTS, (naive_within, naive_between), strict=True):
        ours, theirs = partial(part, y=y, matrix=matrix, eps=1e-14), partial(naive, y=y, matrix=matrix)
        torch.testing.assert_close(ours(features), theirs(features), rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(gradient(ours, features), gradient(theirs, features), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("part", PARTS)
def test_the_gradient_passes_gradcheck(part: partial[Tensor], matrix: Matrix) -> None:
    y = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 3, 4])
    assert torch.autograd.gradcheck(partial(part, y=y, matrix=matrix), (draw(10, 4).requires_grad_(),))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), n=st.integers(1, 30), num_classes=st.integers(1, 8))
def test_the_two_parts_of_an_example_add_up_and_their_scatters_too(seed: int, n: int, num_classes: int) -> None:
    features, y = draw(n, 4, seed), labels(n, num_classes=num_classes, seed=seed)
    within, between, found = split_by_class(features, y)
    assert found == len(y.unique())
    torch.testing.assert_close(within + between, features)
    centred, means = features - features.mean(0), between - features.mean(0)
    torch.testing.assert_close(within.T @ within + means.T @ means, centred.T @ centred)


@pytest.mark.parametrize("matrix", MATRICES)
def test_of_one_class_the_inner_part_is_feddecorr(matrix: Matrix) -> None:
    features, y = draw(20, 9), torch.full((20,), 3)
    ours = partial(within_class_decorrelation, y=y, matrix=matrix)
    theirs = partial(decorrelation_loss, matrix=matrix)
    torch.testing.assert_close(ours(features), theirs(features))
    torch.testing.assert_close(gradient(ours, features), gradient(theirs, features))
    assert not gradient(partial(between_class_decorrelation, y=y), features).any()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999))
def test_the_inner_part_does_not_see_where_classes_are_nor_what_they_are_called(seed: int) -> None:
    features, y = draw(30, 5, seed), labels(30, num_classes=3, seed=seed)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    moved = torch.logspace(-1, 1, 5) * (features + 10 * draw(3, 5, seed + 1)[y])
    torch.testing.assert_close(
        within_class_decorrelation(moved[order], 7 - y[order], eps=1e-14),
        within_class_decorrelation(features, y, eps=1e-14),
    )


def test_the_inner_part_does_not_move_class_means() -> None:
    features, y = draw(30, 5), labels(30, num_classes=3)
    grad = gradient(partial(within_class_decorrelation, y=y), features)
    for c in range(3):
        torch.testing.assert_close(grad[y == c].sum(0), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-9)


def test_the_outer_part_moves_a_class_as_one() -> None:
    features, y = draw(30, 5), labels(30, num_classes=4)
    grad = gradient(partial(between_class_decorrelation, y=y), features)
    for c in range(4):
        members = grad[y == c]
        torch.testing.assert_close(members, members[:1].expand_as(members))


def test_a_class_with_one_example_adds_nothing_to_the_inner_part() -> None:
    features, y = draw(31, 5), torch.tensor([0] * 15 + [1] * 15 + [9])
    grad = gradient(partial(within_class_decorrelation, y=y), features)
    assert not grad[-1].any()
    with_it, without = (within_class_decorrelation(features[:m], y[:m], eps=1e-14) for m in (31, 30))
    torch.testing.assert_close(with_it, without)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    ("features", "y"),
    [
        (torch.ones(1, 3), torch.tensor([2])),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long)),
        (draw(2, 3), torch.tensor([0, 0])),
        (draw(2, 3), torch.tensor([0, 1])),
        (draw(20, 3), torch.arange(20)),
        (torch.ones(20, 3), torch.arange(20) % 3),
        (draw(20, 3) * torch.tensor([1.0, 0.0, 1e-6]), torch.arange(20) % 4),
    ],
    ids=["one", "none", "two alike", "two classes", "no two of a class", "identical", "dead and nearly dead"],
)
def test_few_examples_and_dead_dimensions_are_finite(
    features: Tensor, y: Tensor, part: partial[Tensor], matrix: Matrix
) -> None:
    loss = partial(part, y=y, matrix=matrix)
    assert loss(features.double()).isfinite()
    assert gradient(loss, features.double()).isfinite().all()


def test_two_classes_have_no_outer_part() -> None:
    features, y = draw(30, 5), labels(30, num_classes=2)
    assert between_class_decorrelation(features, y).item() == 0
    assert not gradient(partial(between_class_decorrelation, y=y), features).any()


def test_a_dimension_that_is_constant_in_each_class_costs_nothing_within() -> None:
    features, y = draw(30, 4).float(), labels(30, num_classes=3)
    features[:, 1] = torch.tensor([0.1, 0.7, 1e6])[y]
    grad = gradient(partial(within_class_decorrelation, y=y), features)
    assert not grad[:, 1].any()
    living = within_class_decorrelation(features[:, [0, 2, 3]], y)
    assert within_class_decorrelation(features, y).item() == pytest.approx(living.item() * (3 * 2) / (4 * 3), rel=1e-5)


def test_the_term_is_each_strength_times_its_part_over_layers() -> None:
    z, stage, y = draw(24, 5), draw(24, 3, seed=1), labels(24, num_classes=4)
    step = SimpleNamespace(output=Output(torch.zeros(24, 4), z, {"stage": stage}), y=y)
    expected = sum(
        (0.3 * within_class_decorrelation(x, y) + 0.7 * between_class_decorrelation(x, y)) / 2 for x in (z, stage)
    )
    term = SplitFedDecorr(within=0.3, between=0.7, layers=("stage", "features"))
    torch.testing.assert_close(term(step), expected)


def test_at_zero_it_is_a_constant_zero() -> None:
    features = torch.full((2, 3), torch.nan, requires_grad=True)
    nothing = SplitFedDecorr(within=0.0)(SimpleNamespace(output=Output(features, features), y=torch.zeros(2)))
    assert nothing.item() == 0.0
    assert not nothing.requires_grad


@pytest.mark.parametrize("name", ["within", "between"])
@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_what_is_no_strength_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} is a strength"):
        SplitFedDecorr(**{name: value})
