"""The FedDecorr loss and its term."""

from __future__ import annotations

import subprocess
import sys
import warnings
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from decollapse.core import Broadcast, ClientData, ModelState, Output
from decollapse.objective import Step, Term
from decollapse.terms.feddecorr import (
    RELEASE_STRENGTH_AT_64,
    FedDecorr,
    FedDecorrLoss,
    Matrix,
    Normalization,
    convert_beta,
    decorrelation_loss,
)

if TYPE_CHECKING:
    from collections.abc import Callable

NORMALIZATIONS: tuple[Normalization, ...] = ("batch_invariant", "width_invariant", "release", "paper")
MATRICES: tuple[Matrix, ...] = ("correlation", "covariance")
RECORDED = Path(__file__).with_name("feddecorr_release.npz")
"""Features, loss and gradient of bytedance/FedDecorr at 973e4af, run in float64 on the CPU."""
OPTIONS = [
    {"normalization": normalization, "matrix": matrix} for normalization, matrix in product(NORMALIZATIONS, MATRICES)
]
SHAPES = [(6, 17), (17, 6), (9, 9), (3, 2), (18, 25)]


def draw(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Correlated features of very different scales and means."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64) + torch.eye(d)
    features = torch.randn(n, d, generator=generator, dtype=torch.float64) @ mix * torch.logspace(-1, 1, d) + 3.0
    return features.to(dtype)


def gradient(loss: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    leaf = features.detach().clone().requires_grad_()
    return torch.autograd.grad(loss(leaf), leaf)[0]


def naive_penalty(features: Tensor, matrix: Matrix, eps: float) -> Tensor:
    """P by the book: a d x d matrix and its eigenvalues' variance, in float64, by autograd."""
    n, d = features.shape
    x = features.double() - features.double().mean(0)
    C = x.T @ x / (n - 1)
    if matrix == "correlation":
        std = (C.diagonal() + eps).sqrt()
        C = C / torch.outer(std, std)
        return (C - torch.diag(C.diagonal())).square().sum() / (d * (d - 1))
    C = C / (C.trace() / d + eps)
    return (C - torch.eye(d, dtype=C.dtype) * C.trace() / d).square().sum() / (d * (d - 1))


def naive_loss(features: Tensor, normalization: Normalization, matrix: Matrix, eps: float = 1e-8) -> Tensor:
    n, d = features.shape
    penalty = naive_penalty(features, matrix, eps)
    if normalization == "paper":
        return 1 / d + (d - 1) / d * penalty
    release = (n - 1) ** 2 / n
    if normalization == "release":
        return penalty * release
    width = (features.shape[1] / 1280) ** 0.5 if normalization == "width_invariant" else 1
    return penalty * (62.015625 * width * min(release / (15**2 / 16), 1) if n > 2 else 0)


# Numbers one can do by hand.


def test_uncorrelated_dimensions_cost_nothing() -> None:
    square = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])

    assert decorrelation_loss(square).item() == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("matrix", MATRICES)
def test_dimensions_that_repeat_one_another_cost_the_most(matrix: Matrix) -> None:
    repeated = torch.tensor([[1.0, 1.0, -1.0], [3.0, 3.0, -3.0], [-4.0, -4.0, 4.0], [0.0, 0.0, 0.0]])
    loss = partial(decorrelation_loss, repeated.repeat(4, 1), matrix=matrix)

    assert loss(normalization="batch_invariant").item() == pytest.approx(63**2 / 64)
    assert loss(normalization="width_invariant").item() == pytest.approx(63**2 / 64 * (3 / 1280) ** 0.5)
    assert loss(normalization="release").item() == pytest.approx(15**2 / 16)
    assert loss(normalization="paper").item() == pytest.approx(1.0)


def test_a_correlation_of_one_half_costs_a_quarter() -> None:
    # Sums of squares 2 and 2, product 1: K_01 = 1/2.
    half = torch.tensor([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], dtype=torch.float64).repeat(6, 1)

    assert decorrelation_loss(half).item() == pytest.approx(RELEASE_STRENGTH_AT_64 / 4)
    assert decorrelation_loss(half, normalization="paper").item() == pytest.approx((2 + 2 / 4) / 4)


def test_only_the_covariance_sees_unequal_variances() -> None:
    # Uncorrelated, variances in the ratio 3 : 1, so eigenvalues are 1.5 and 0.5 after scaling: P = (2 * 0.25) / 2.
    unequal = torch.tensor([[3**0.5, 1.0], [3**0.5, -1.0], [-(3**0.5), 1.0], [-(3**0.5), -1.0]]).double().repeat(4, 1)

    assert decorrelation_loss(unequal, matrix="correlation").item() == pytest.approx(0.0)
    assert decorrelation_loss(unequal, matrix="covariance").item() == pytest.approx(RELEASE_STRENGTH_AT_64 / 4)


# Few examples.


def test_the_default_is_the_same_at_every_batch_size_from_16_on() -> None:
    repeated = torch.randn(16, 1, generator=torch.Generator().manual_seed(0)).double().expand(16, 5)

    losses = [decorrelation_loss(repeated.repeat(copies, 1)).item() for copies in (1, 4, 16)]
    assert losses == pytest.approx([63**2 / 64] * 3)


def test_below_16_it_falls_as_the_releases_does() -> None:
    features = draw(15, 4)

    both = [decorrelation_loss(features[:n], normalization="batch_invariant") for n in (15, 8)]
    release = [decorrelation_loss(features[:n], normalization="release") for n in (15, 8)]
    assert both[0] / release[0] == pytest.approx(both[1] / release[1]) == pytest.approx((63**2 / 64) / (15**2 / 16))


def test_two_examples_cost_nothing_and_pull_nowhere() -> None:
    nearly_equal = torch.tensor([[1.0, 2.0, 3.0], [1.0001, 2.0, 4.0]], dtype=torch.float64)

    assert decorrelation_loss(nearly_equal).item() == 0.0
    assert gradient(decorrelation_loss, nearly_equal).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("n", range(2, 16))
def test_a_small_last_batch_of_pooled_relu_features_pulls_no_harder_than_16_examples_could(n: int) -> None:
    def steepness(size: int) -> float:
        generator = torch.Generator().manual_seed(0)
        draws = [torch.relu(0.3 * torch.randn(size, 64, 16, generator=generator) - 0.4).mean(2) for _ in range(30)]
        return float(torch.stack([gradient(decorrelation_loss, draw).norm() for draw in draws]).median())

    assert steepness(n) < 1.5 * steepness(16)


# An independent formula.


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", OPTIONS)
def test_value_and_gradient_equal_the_plain_formula(options: dict[str, Any], shape: tuple[int, int]) -> None:
    features = draw(*shape)

    torch.testing.assert_close(
        decorrelation_loss(features, **options), naive_loss(features, **options), rtol=1e-12, atol=1e-13
    )
    torch.testing.assert_close(
        gradient(partial(decorrelation_loss, **options), features),
        gradient(partial(naive_loss, **options), features),
        rtol=1e-9,
        atol=1e-12,
    )


@pytest.mark.parametrize("eps", [1e-8, 0.3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("matrix", MATRICES)
def test_gradient_equals_finite_differences(matrix: Matrix, shape: tuple[int, int], eps: float) -> None:
    features = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)

    assert torch.autograd.gradcheck(partial(decorrelation_loss, matrix=matrix, eps=eps), (features,))


@pytest.mark.parametrize("shape", SHAPES)
def test_paper_loss_is_one_over_the_participation_ratio(shape: tuple[int, int]) -> None:
    features = draw(*shape)

    for matrix, spectrum in (("correlation", torch.corrcoef(features.T)), ("covariance", torch.cov(features.T))):
        eigenvalues = torch.linalg.eigvalsh(spectrum)
        inverse_ratio = eigenvalues.square().sum() / eigenvalues.sum().square()
        loss = decorrelation_loss(features, normalization="paper", matrix=matrix)  # type: ignore[arg-type]
        assert loss.item() == pytest.approx(inverse_ratio.item(), rel=1e-6)


def test_float32_agrees_with_float64() -> None:
    features = draw(64, 256, dtype=torch.float32)

    for matrix in MATRICES:
        loss = partial(decorrelation_loss, matrix=matrix)
        torch.testing.assert_close(loss(features).double(), loss(features.double()), rtol=1e-5, atol=0)
        expected = gradient(loss, features.double())
        scale = float(expected.abs().max())
        torch.testing.assert_close(gradient(loss, features).double(), expected, rtol=0, atol=1e-5 * scale)


# The reference release.


@pytest.mark.parametrize("shape", ["1x8", "2x5", "10x10", "16x64", "64x32"])
def test_release_equals_the_numbers_recorded_from_the_release(shape: str) -> None:
    recorded = np.load(RECORDED)
    features = torch.from_numpy(recorded[f"{shape}/features"])
    loss = partial(decorrelation_loss, normalization="release")
    expected = torch.from_numpy(recorded[f"{shape}/grad"])

    assert loss(features).item() == pytest.approx(recorded[f"{shape}/loss"].item(), rel=1e-9, abs=0)
    largest = float(expected.abs().max())
    torch.testing.assert_close(gradient(loss, features), expected, rtol=0, atol=1e-9 * largest)


# What beta means.


def test_default_equals_the_release_at_a_batch_of_64() -> None:
    features = draw(64, 40)

    assert decorrelation_loss(features).item() == pytest.approx(
        decorrelation_loss(features, normalization="release").item(), rel=1e-14
    )


def test_default_means_the_same_at_every_batch_size() -> None:
    features = draw(40, 5)
    twice = features.repeat(2, 1)

    assert decorrelation_loss(twice, eps=1e-14).item() == pytest.approx(decorrelation_loss(features, eps=1e-14).item())
    assert decorrelation_loss(twice, normalization="release") > 1.9 * decorrelation_loss(
        features, normalization="release"
    )


@pytest.mark.parametrize(("source", "target"), list(product(NORMALIZATIONS, NORMALIZATIONS)))
def test_converted_beta_gives_the_same_gradient(source: Normalization, target: Normalization) -> None:
    features = draw(12, 7)
    beta = convert_beta(0.1, source=source, target=target, n=12, d=7)

    torch.testing.assert_close(
        beta * gradient(partial(decorrelation_loss, normalization=target), features),
        0.1 * gradient(partial(decorrelation_loss, normalization=source), features),
    )


def test_the_release_at_64_is_about_62_times_the_paper() -> None:
    beta = convert_beta(0.1, source="release", target="paper", n=64, d=1280)

    assert beta == pytest.approx(0.1 * 63**2 / 64 * 1280 / 1279)


def test_beta_cannot_be_converted_where_the_loss_has_no_gradient() -> None:
    with pytest.raises(ValueError, match="got n = 1, d = 5"):
        convert_beta(0.1, source="release", target="paper", n=1, d=5)
    with pytest.raises(ValueError, match="normalization must be one of .*, got 'papers'"):
        convert_beta(0.1, source="release", target="papers", n=64, d=5)  # type: ignore[arg-type]


def against_the_task(d: int, rank: int, normalization: Normalization) -> float:
    """How long the penalty's gradient is beside that of cross-entropy, for features of `rank` directions and noise."""
    generator = torch.Generator().manual_seed(d)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    ratios = []
    for _ in range(8):
        features = normal(64, rank) @ normal(rank, d) / rank**0.5 + 0.1 * normal(64, d)
        head = (2 * torch.rand(10, d, generator=generator) - 1) / d**0.5  # as PyTorch draws it
        y = torch.randint(10, (64,), generator=generator)
        task = gradient(lambda z, head=head, y=y: cross_entropy(z @ head.T, y), features)  # type: ignore[misc]
        penalty = gradient(partial(decorrelation_loss, normalization=normalization), features)
        ratios.append((penalty.norm() / task.norm()).item())
    return sum(ratios) / len(ratios)


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_one_beta_serves_narrow_and_wide_features_that_span_as_many_directions(rank: int) -> None:
    narrow, wide = (against_the_task(d, rank, "width_invariant") for d in (64, 1280))
    assert narrow == pytest.approx(wide, rel=0.5)
    narrow, wide = (against_the_task(d, rank, "batch_invariant") for d in (64, 1280))
    assert narrow > 3 * wide  # sqrt(20) is 4.5


def test_width_invariant_is_the_default_at_the_releases_width() -> None:
    features = draw(20, 1280)

    assert torch.equal(decorrelation_loss(features, normalization="width_invariant"), decorrelation_loss(features))


# Invariances.

shapes = st.tuples(st.integers(3, 8), st.integers(2, 12))


@settings(deadline=None, max_examples=40)
@given(shape=shapes, seed=st.integers(0, 1000), matrix=st.sampled_from(MATRICES))
def test_order_of_examples_and_dimensions_does_not_matter(shape: tuple[int, int], seed: int, matrix: Matrix) -> None:
    features = draw(*shape, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    shuffled = features[torch.randperm(shape[0], generator=generator)][:, torch.randperm(shape[1], generator=generator)]

    assert decorrelation_loss(shuffled, matrix=matrix).item() == pytest.approx(
        decorrelation_loss(features, matrix=matrix).item(), rel=1e-9
    )


@settings(deadline=None, max_examples=40)
@given(shape=shapes, seed=st.integers(0, 1000), factor=st.floats(0.1, 1000), shift=st.floats(-100, 100))
def test_one_scale_and_any_shift_do_not_matter(shape: tuple[int, int], seed: int, factor: float, shift: float) -> None:
    features = draw(*shape, seed=seed)
    shifts = torch.linspace(-shift, shift, shape[1], dtype=torch.float64)

    for matrix in MATRICES:
        loss = partial(
            decorrelation_loss, matrix=matrix, eps=1e-20
        )  # nothing beside three values that chance brought close
        assert loss(factor * features + shifts).item() == pytest.approx(loss(features).item(), rel=1e-7)


@settings(deadline=None, max_examples=40)
@given(shape=shapes, seed=st.integers(0, 1000))
def test_each_dimension_has_its_own_scale_and_sign_under_correlation(shape: tuple[int, int], seed: int) -> None:
    features = draw(*shape, seed=seed)
    factors = torch.logspace(-1, 2, shape[1], dtype=torch.float64) * torch.tensor([1.0, -1.0]).repeat(6)[: shape[1]]

    loss = partial(decorrelation_loss, eps=1e-18)  # small beside the least variance that is drawn, 1.7e-7 / 100

    assert loss(features * factors).item() == pytest.approx(loss(features).item(), rel=1e-7)


@settings(deadline=None, max_examples=40)
@given(shape=shapes, seed=st.integers(0, 1000))
def test_a_rotation_of_the_features_does_not_matter_under_covariance(shape: tuple[int, int], seed: int) -> None:
    features = draw(*shape, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    rotation, _ = torch.linalg.qr(torch.randn(shape[1], shape[1], generator=generator, dtype=torch.float64))

    assert decorrelation_loss(features @ rotation, matrix="covariance").item() == pytest.approx(
        decorrelation_loss(features, matrix="covariance").item(), rel=1e-9
    )


@settings(deadline=None, max_examples=40)
@given(shape=shapes, seed=st.integers(0, 1000), options=st.sampled_from(OPTIONS))
def test_penalty_lies_between_independence_of_n_examples_and_one(
    shape: tuple[int, int], seed: int, options: dict[str, Any]
) -> None:
    n, d = shape
    ceiling = {
        "batch_invariant": RELEASE_STRENGTH_AT_64,
        "width_invariant": RELEASE_STRENGTH_AT_64 * (d / 1280) ** 0.5,
        "release": (n - 1) ** 2 / n,
        "paper": 1.0,
    }
    floor = max(1 / d, 1 / (n - 1)) if options["normalization"] == "paper" else 0.0
    loss = decorrelation_loss(draw(n, d, seed=seed), **options).item()

    assert floor - 1e-6 <= loss <= ceiling[options["normalization"]] + 1e-9


@settings(deadline=None, max_examples=40)
@given(shape=shapes, seed=st.integers(0, 1000), options=st.sampled_from(OPTIONS))
def test_gradient_neither_shifts_nor_scales_the_batch(
    shape: tuple[int, int], seed: int, options: dict[str, Any]
) -> None:
    features = draw(*shape, seed=seed)
    grad = gradient(partial(decorrelation_loss, eps=1e-14, **options), features)
    centred = features - features.mean(0)

    torch.testing.assert_close(grad.sum(0), torch.zeros(shape[1], dtype=torch.float64), rtol=0, atol=1e-8)
    assert (grad * centred).sum().item() == pytest.approx(0.0, abs=1e-8)


# Few examples, dead dimensions, strange numbers.


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("options", OPTIONS)
def test_no_example_or_one_gives_zero_connected_to_the_graph(options: dict[str, Any], n: int) -> None:
    features = torch.ones(n, 4, requires_grad=True)
    loss = decorrelation_loss(features, **options)
    loss.backward()

    assert loss.item() == 0.0
    assert features.grad is not None
    assert torch.equal(features.grad, torch.zeros(n, 4))


@pytest.mark.parametrize("matrix", MATRICES)
def test_two_examples_give_a_constant(matrix: Matrix) -> None:
    features = draw(2, 5)
    loss = partial(decorrelation_loss, matrix=matrix, normalization="release", eps=1e-14)

    assert loss(features).item() == pytest.approx(0.5)
    torch.testing.assert_close(gradient(loss, features), torch.zeros_like(features), rtol=0, atol=1e-9)


def test_a_constant_dimension_counts_as_uncorrelated_and_has_no_gradient() -> None:
    features = draw(8, 5)
    alive = decorrelation_loss(features[:, :4])
    features[:, 4] = 0.1

    assert decorrelation_loss(features).item() == pytest.approx(alive.item() * (4 * 3) / (5 * 4))
    assert torch.equal(gradient(decorrelation_loss, features)[:, 4], torch.zeros(8, dtype=torch.float64))


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4, -12345.678])
@pytest.mark.parametrize("options", OPTIONS)
def test_a_batch_of_equal_examples_has_no_gradient(options: dict[str, Any], value: float) -> None:
    features = torch.full((64, 5), value)
    loss = decorrelation_loss(features, **options).item()

    assert loss == pytest.approx(1 / 5 if options["normalization"] == "paper" else 0.0)
    assert torch.equal(gradient(partial(decorrelation_loss, **options), features), torch.zeros(64, 5))


def test_a_dying_dimension_costs_more_and_more_under_covariance_and_less_and_less_under_correlation() -> None:
    features = draw(256, 5)
    features = features / features.std(0)
    mix = torch.tensor([1.0, 1.0, 1.0, 1.0, 1e-5], dtype=torch.float64)
    dying = features * mix

    assert decorrelation_loss(dying, matrix="covariance") > decorrelation_loss(features, matrix="covariance")
    assert decorrelation_loss(dying, matrix="correlation") < decorrelation_loss(features, matrix="correlation")


def test_the_gradient_of_a_nearly_dead_dimension_is_large_under_correlation_and_small_under_covariance() -> None:
    features = draw(64, 32)
    features = features / features.std(0)
    features[:, 7] *= 1e-6

    def relative_size(matrix: Matrix) -> float:
        size = gradient(partial(decorrelation_loss, matrix=matrix, normalization="release"), features).norm(dim=0)
        return float(size[7] / size[:7].mean())

    assert 20 < relative_size("correlation") < 500
    assert relative_size("covariance") < 1e-3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("shape", [(4, 9), (9, 4), (1, 4)])
@pytest.mark.parametrize("matrix", MATRICES)
def test_a_non_finite_feature_is_not_hidden(matrix: Matrix, shape: tuple[int, int], bad: float) -> None:
    features = draw(*shape)
    features[0, 1] = bad

    assert decorrelation_loss(features, matrix=matrix).isnan()


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
@pytest.mark.parametrize("matrix", MATRICES)
def test_a_variance_that_overflows_is_not_hidden(matrix: Matrix, shape: tuple[int, int]) -> None:
    features = 1e25 * draw(*shape, dtype=torch.float32)
    loss = partial(decorrelation_loss, matrix=matrix)

    assert loss(features).isnan()
    assert gradient(loss, features).isnan().any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("matrix", MATRICES)
def test_half_precision_is_computed_in_float32(matrix: Matrix, dtype: torch.dtype) -> None:
    features = (100 * draw(16, 24)).to(dtype)
    loss = partial(decorrelation_loss, matrix=matrix)

    assert loss(features).dtype == torch.float32
    assert loss(features) == loss(features.float())
    assert gradient(loss, features).dtype == dtype
    assert torch.equal(gradient(loss, features), gradient(loss, features.float()).to(dtype))


@pytest.mark.parametrize("shape", [(16, 24), (24, 16)])
def test_autocast_changes_nothing(shape: tuple[int, int]) -> None:
    features = draw(*shape, dtype=torch.float32)
    loss, grad = decorrelation_loss(features), gradient(decorrelation_loss, features)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert decorrelation_loss(features) == loss
        assert torch.equal(gradient(decorrelation_loss, features), grad)


def test_features_are_left_as_they_are() -> None:
    features = draw(8, 12)
    before = features.clone()
    gradient(decorrelation_loss, features)

    assert torch.equal(features, before)


# Errors.


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        (torch.ones(64, 1), ValueError, r"^features need at least 2 dimensions, got shape \(64, 1\)\.$"),
        (torch.ones(64), ValueError, r"features need shape \(n, d\), a batch of n vectors, got shape \(64,\)"),
        (torch.ones(8, 64, 4, 4), ValueError, r"got shape \(8, 64, 4, 4\); pool .* features\.flatten\(2\)\.mean\(2\)"),
        (torch.ones(8, 4, dtype=torch.int64), TypeError, r"got torch\.int64; call \.float\(\)"),
    ],
)
def test_unusable_features_raise_a_sentence(features: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        decorrelation_loss(features)


def test_the_advice_for_feature_maps_works() -> None:
    maps = torch.randn(8, 6, 4, 4, generator=torch.Generator().manual_seed(0))

    assert decorrelation_loss(maps.flatten(2).mean(2)).isfinite()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalization": "sum"}, "normalization must be one of 'batch_invariant', .*, 'paper', got 'sum'"),
        ({"matrix": "gram"}, "matrix must be one of 'correlation', 'covariance', got 'gram'"),
        ({"eps": 0.0}, "eps must be positive and finite, got 0.0"),
        ({"eps": float("nan")}, "eps must be positive and finite, got nan"),
    ],
)
def test_unusable_options_raise_wherever_they_are_given(options: dict[str, Any], message: str) -> None:
    for build in (partial(decorrelation_loss, torch.ones(2, 2)), FedDecorrLoss, FedDecorr):
        with pytest.raises(ValueError, match=message):
            build(**options)


@pytest.mark.parametrize("beta", [-0.1, float("inf"), float("nan")])
def test_an_unusable_beta_raises(beta: float) -> None:
    with pytest.raises(ValueError, match="a finite number from 0 on"):
        FedDecorr(beta=beta)


@pytest.mark.parametrize("shape", [(4, 9), (9, 4)])
def test_a_second_derivative_raises_even_inside_a_sum_that_has_one(shape: tuple[int, int]) -> None:
    features = draw(*shape).requires_grad_()
    loss = features.pow(3).sum() + decorrelation_loss(features)
    (grad,) = torch.autograd.grad(loss, features, create_graph=True)

    with pytest.raises(RuntimeError, match="has no second derivative"):
        grad.square().sum().backward()


# The term and the module.


def step(features: Tensor) -> Step:
    n = len(features)
    y = torch.zeros(n, dtype=torch.int64)
    data = ClientData(0, features.detach(), y, 2, preprocess=lambda x: x)
    output = Output(logits=features[:, :2], features=features)
    anchor = ModelState({})
    return Step(features, y, output, {}, anchor, data, Broadcast(1, anchor, 0), {}, lambda model: output)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_term_is_beta_times_the_loss(options: dict[str, Any]) -> None:
    features = draw(8, 12)
    term: Term = FedDecorr(beta=0.3, **options)

    assert term.name == "feddecorr"
    torch.testing.assert_close(term(step(features)), 0.3 * decorrelation_loss(features, **options))
    torch.testing.assert_close(FedDecorrLoss(**options)(features), decorrelation_loss(features, **options))


def test_beta_zero_looks_at_nothing_and_leaves_the_gradient_bitwise_unchanged() -> None:
    features = torch.tensor([[float("inf"), 1.0], [-0.0, 0.5]], requires_grad=True)
    term = FedDecorr(beta=0.0)(step(features))

    def grad(extra: Tensor) -> Tensor:
        return torch.autograd.grad((features[1] * torch.tensor([-0.0, 0.3])).sum() + extra, features)[0]

    assert term.item() == 0.0
    assert not term.requires_grad
    assert torch.equal(grad(term).view(torch.int32), grad(torch.tensor(0.0)).view(torch.int32))


def test_training_on_the_loss_alone_spreads_the_features() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(6, 4)
    with torch.no_grad():
        layer.weight.copy_(layer.weight[:1].expand(4, 6) + 0.01 * layer.weight)
    x, loss = torch.randn(200, 6), FedDecorrLoss(matrix="covariance", normalization="paper")
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    before = loss(layer(x)).item()
    for _ in range(300):
        optimizer.zero_grad()
        value = loss(layer(x))
        value.backward()
        optimizer.step()

    assert before > 0.95
    assert loss(layer(x)).item() == pytest.approx(1 / 4, abs=0.01)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6)])
@pytest.mark.parametrize("matrix", MATRICES)
def test_it_compiles_without_a_graph_break(matrix: Matrix, shape: tuple[int, int]) -> None:
    loss = partial(decorrelation_loss, matrix=matrix)
    features = draw(*shape, dtype=torch.float32)
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of the compiler itself, in some versions
        compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
        value, grad = compiled(features), gradient(compiled, features)

    torch.testing.assert_close(value, loss(features))
    torch.testing.assert_close(grad, gradient(loss, features))


def test_importing_it_imports_none_of_the_heavy_packages() -> None:
    heavy = "sklearn pandas plotly pydantic rich cyclopts safetensors datasets jaxtyping"
    code = f"import sys, decollapse.terms.feddecorr; print([m for m in {heavy.split()} if m in sys.modules])"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
