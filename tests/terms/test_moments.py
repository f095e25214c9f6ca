"""What every loss on a batch of features promises, and the sums they share."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
import torch
from feature_batches import SHAPES, draw, gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from decollapse.core import Output
from decollapse.terms.barlow_twins import BarlowTwins, barlow_loss
from decollapse.terms.decov import DeCov, decov_loss
from decollapse.terms.eigenvalue_variance import EigenvalueVariance, eigenvalue_variance
from decollapse.terms.feddecorr import decorrelation_loss
from decollapse.terms.koleo import KoLeo, koleo_loss
from decollapse.terms.log_determinant import LogDeterminant, log_determinant_loss
from decollapse.terms.moments import (
    centre,
    feature_loss,
    off_diagonal_energy,
    squared_distances,
    standardize,
    unit_length,
    variances,
)
from decollapse.terms.uniformity import Uniformity, uniformity_loss
from decollapse.terms.vicreg import CovariancePenalty, VarianceHinge, covariance_loss, variance_loss

if TYPE_CHECKING:
    from collections.abc import Callable

LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "variance": variance_loss,
    "covariance": covariance_loss,
    "decov": decov_loss,
    "barlow": barlow_loss,
    "uniformity": uniformity_loss,
    "koleo": koleo_loss,
    "log determinant": log_determinant_loss,
    "eigenvalues of the correlation": eigenvalue_variance,
    "eigenvalues of the covariance": partial(eigenvalue_variance, matrix="covariance"),
    "feddecorr": decorrelation_loss,
}
TERMS = [
    (VarianceHinge, "variance_hinge", variance_loss),
    (CovariancePenalty, "covariance_penalty", covariance_loss),
    (DeCov, "decov", decov_loss),
    (BarlowTwins, "barlow_twins", partial(barlow_loss, off_diagonal=1.0)),
    (Uniformity, "uniformity", uniformity_loss),
    (KoLeo, "koleo", koleo_loss),
    (LogDeterminant, "log_determinant", log_determinant_loss),
    (EigenvalueVariance, "eigenvalue_variance", eigenvalue_variance),
]
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
every_shape = pytest.mark.parametrize("shape", SHAPES)
every_term = pytest.mark.parametrize(("term", "name", "loss"), TERMS, ids=[name for _, name, _ in TERMS])


def step(features: Tensor, layers: dict[str, Tensor] | None = None) -> SimpleNamespace:
    return SimpleNamespace(output=Output(logits=features[:, :2], features=features, layers=layers or {}))


# The sums, by hand and by the book.


def test_centring_makes_a_constant_dimension_exactly_zero() -> None:
    x = torch.tensor([[0.1, 1.0]] * 7 + [[0.1, 9.0]])

    assert torch.equal(centre(x)[:, 0], torch.zeros(8))
    torch.testing.assert_close(centre(x), x - x.mean(0), rtol=0, atol=1e-6)


@every_shape
def test_variances_are_the_unbiased_ones(shape: tuple[int, int]) -> None:
    torch.testing.assert_close(variances(centre(draw(*shape))), draw(*shape).var(0))


@every_shape
def test_standardized_features_multiply_to_the_correlation_matrix(shape: tuple[int, int]) -> None:
    z, variance = standardize(draw(*shape), eps=1e-14)

    torch.testing.assert_close(z.T @ z, torch.corrcoef(draw(*shape).T))
    torch.testing.assert_close(variance, draw(*shape).var(0))


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 9), d=st.integers(2, 9), seed=st.integers(0, 1000))
def test_off_diagonal_energy_is_that_of_the_d_by_d_product(n: int, d: int, seed: int) -> None:
    z = draw(n, d, seed)
    product = z.T @ z
    product.fill_diagonal_(0.0)

    torch.testing.assert_close(off_diagonal_energy(z), product.square().sum(), rtol=1e-10, atol=1e-10)


def test_wide_features_need_no_product_of_d_by_d() -> None:
    d = 200_000  # d x d would take 320 GB

    assert off_diagonal_energy(torch.ones(2, d, dtype=torch.float64)).item() == pytest.approx(4.0 * d * (d - 1))


def test_many_examples_need_no_product_of_n_by_n() -> None:
    examples = torch.ones(200_000, 2, dtype=torch.float64)

    assert off_diagonal_energy(examples).item() == pytest.approx(2.0 * 200_000**2)
    assert log_determinant_loss(examples).isfinite()
    assert eigenvalue_variance(examples).isfinite()


def test_unit_length_leaves_a_vector_of_zeros_and_its_gradient_finite() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)

    torch.testing.assert_close(unit_length(x), torch.tensor([[0.6, 0.8], [0.0, 0.0]], dtype=torch.float64))
    assert gradient(lambda x: unit_length(x).sum(), x).abs().max() <= 1e4


def test_squared_distances_are_those_of_the_pairs() -> None:
    z = draw(7, 4)

    torch.testing.assert_close(squared_distances(z), torch.cdist(z, z).square())


def test_rounding_makes_no_squared_distance_negative() -> None:
    assert (squared_distances(draw(64, 64, dtype=torch.float32)) >= 0).all()


def test_a_decorated_loss_keeps_its_name_its_documentation_and_its_options() -> None:
    @feature_loss
    def scaled(features: Tensor, *, factor: float) -> Tensor:
        """A loss."""
        return factor * features.sum()

    assert (scaled.__name__, scaled.__doc__) == ("scaled", "A loss.")
    assert scaled(torch.ones(2, 2), factor=3.0).item() == 12.0


# What every loss promises.


@every_shape
@every_loss
def test_a_loss_is_a_scalar_with_a_finite_gradient(loss: Callable[[Tensor], Tensor], shape: tuple[int, int]) -> None:
    assert loss(draw(*shape)).shape == ()
    assert gradient(loss, draw(*shape)).isfinite().all()
    assert gradient(loss, draw(*shape)).any()


@pytest.mark.parametrize("n", [0, 1])
@every_loss
def test_no_example_or_one_gives_zero_connected_to_the_graph(loss: Callable[[Tensor], Tensor], n: int) -> None:
    features = torch.ones(n, 4, requires_grad=True)
    value = loss(features)
    value.backward()

    assert value.item() == 0.0
    assert features.grad is not None
    assert torch.equal(features.grad, torch.zeros(n, 4))


@pytest.mark.parametrize("shape", [(2, 5), (2, 2), (3, 2)])
@every_loss
def test_few_examples_give_finite_numbers(loss: Callable[[Tensor], Tensor], shape: tuple[int, int]) -> None:
    assert loss(draw(*shape)).isfinite()
    assert gradient(loss, draw(*shape)).isfinite().all()


@pytest.mark.parametrize("value", [0.0, 0.1, 1e4, -12345.678])
@every_shape
@every_loss
def test_equal_examples_give_a_finite_loss_and_no_gradient(
    loss: Callable[[Tensor], Tensor], shape: tuple[int, int], value: float
) -> None:
    features = torch.full(shape, value)

    assert loss(features).isfinite()
    torch.testing.assert_close(gradient(loss, features), torch.zeros(shape), rtol=0, atol=1e-10)


@every_shape
@every_loss
def test_dead_dimensions_and_dead_examples_give_finite_numbers(
    loss: Callable[[Tensor], Tensor], shape: tuple[int, int]
) -> None:
    features = draw(*shape, dtype=torch.float32)
    features[:, 1:3] = 0.0
    features[1:3] = 0.0

    assert loss(features).isfinite()
    assert gradient(loss, features).isfinite().all()


@every_loss
def test_duplicated_examples_give_finite_numbers(loss: Callable[[Tensor], Tensor]) -> None:
    features = draw(8, 12, dtype=torch.float32).repeat(2, 1)

    assert loss(features).isfinite()
    assert gradient(loss, features).isfinite().all()
    assert gradient(loss, features + 1e-6 * draw(16, 12, dtype=torch.float32)).isfinite().all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("row", [0, 3])
@every_shape
@every_loss
def test_a_non_finite_feature_is_not_hidden(
    loss: Callable[[Tensor], Tensor], shape: tuple[int, int], row: int, bad: float
) -> None:
    features = draw(*shape)
    features[row, 1] = bad

    assert loss(features).isnan()
    assert gradient(loss, features).isnan().any()


@every_loss
def test_a_non_finite_single_example_is_not_hidden(loss: Callable[[Tensor], Tensor]) -> None:
    assert loss(torch.tensor([[1.0, float("nan")]])).isnan()


@every_shape
@every_loss
def test_a_variance_or_a_length_that_overflows_is_not_hidden(
    loss: Callable[[Tensor], Tensor], shape: tuple[int, int]
) -> None:
    features = 1e25 * draw(*shape, dtype=torch.float32)

    assert loss(features).isnan()
    assert gradient(loss, features).isnan().any()


@every_shape
@every_loss
def test_float32_agrees_with_float64(loss: Callable[[Tensor], Tensor], shape: tuple[int, int]) -> None:
    features = draw(*shape, dtype=torch.float32)

    torch.testing.assert_close(loss(features).double(), loss(features.double()), rtol=1e-4, atol=1e-5)
    expected = gradient(loss, features.double())
    scale = float(expected.abs().max())
    torch.testing.assert_close(gradient(loss, features).double(), expected, rtol=0, atol=1e-3 * scale)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_loss
def test_half_precision_is_computed_in_float32(loss: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
    features = draw(8, 12).to(dtype)

    assert loss(features).dtype == torch.float32
    assert loss(features) == loss(features.float())
    assert torch.equal(gradient(loss, features), gradient(loss, features.float()).to(dtype))


@every_shape
@every_loss
def test_a_forward_pass_under_autocast_changes_nothing(
    loss: Callable[[Tensor], Tensor], shape: tuple[int, int]
) -> None:
    features = draw(*shape, dtype=torch.float32).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(features)

    assert value == loss(features)
    assert torch.equal(torch.autograd.grad(value, features)[0], gradient(loss, features))


@every_loss
def test_features_are_left_as_they_are(loss: Callable[[Tensor], Tensor]) -> None:
    features = draw(8, 12)
    gradient(loss, features)

    assert torch.equal(features, draw(8, 12))


@settings(deadline=None, max_examples=60)
@given(
    shape=st.tuples(st.integers(3, 8), st.integers(2, 12)), seed=st.integers(0, 1000), name=st.sampled_from([*LOSSES])
)
def test_order_of_examples_and_dimensions_does_not_matter(shape: tuple[int, int], seed: int, name: str) -> None:
    features = draw(*shape, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    shuffled = features[torch.randperm(shape[0], generator=generator)][:, torch.randperm(shape[1], generator=generator)]

    assert LOSSES[name](shuffled).item() == pytest.approx(LOSSES[name](features).item(), rel=1e-8, abs=1e-10)


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        (torch.ones(64, 1), ValueError, r"^features need at least 2 dimensions, got shape \(64, 1\)\.$"),
        (torch.ones(64), ValueError, r"features need shape \(n, d\), a batch of n vectors, got shape \(64,\)"),
        (torch.ones(()), ValueError, r"features need shape \(n, d\), a batch of n vectors, got shape \(\)"),
        (torch.ones(8, 64, 4, 4), ValueError, r"got shape \(8, 64, 4, 4\); pool .* features\.flatten\(2\)\.mean\(2\)"),
        (torch.ones(8, 4, dtype=torch.int64), TypeError, r"got torch\.int64; call \.float\(\)"),
    ],
)
@every_loss
def test_unusable_features_raise_a_sentence(
    loss: Callable[[Tensor], Tensor], features: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        loss(features)


# What every term promises.


@every_term
def test_a_term_is_its_strength_times_its_loss(term: type, name: str, loss: Callable[[Tensor], Tensor]) -> None:
    assert term.name == name
    torch.testing.assert_close(term(strength=0.3)(step(draw(8, 12))), 0.3 * loss(draw(8, 12)))


@every_term
def test_a_term_takes_the_mean_over_its_layers(term: type, name: str, loss: Callable[[Tensor], Tensor]) -> None:
    features, block = draw(8, 12), draw(8, 5, seed=1)
    both = term(strength=0.3, layers=("features", "block"))(step(features, {"block": block}))

    torch.testing.assert_close(both, 0.3 * (loss(features) + loss(block)) / 2)


@every_term
def test_strength_zero_looks_at_nothing_and_is_outside_the_graph(
    term: type, name: str, loss: Callable[[Tensor], Tensor]
) -> None:
    features = torch.tensor([[float("inf"), 1.0], [0.0, 0.5]], requires_grad=True)
    value = term(strength=0.0, layers=("missing",))(step(features))

    assert value.item() == 0.0
    assert not value.requires_grad


@pytest.mark.parametrize("strength", [-0.1, float("inf"), float("nan")])
@every_term
def test_an_unusable_strength_raises(term: type, name: str, loss: Callable[[Tensor], Tensor], strength: float) -> None:
    with pytest.raises(ValueError, match="strength is a strength, a finite number from 0 on, got"):
        term(strength=strength)


@pytest.mark.parametrize(
    ("term", "option"),
    [
        (VarianceHinge, "target"),
        (VarianceHinge, "eps"),
        (Uniformity, "t"),
        (KoLeo, "eps"),
        (LogDeterminant, "eps"),
        (EigenvalueVariance, "eps"),
    ],
)
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_an_option_that_is_not_positive_raises(term: type, option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{option} must be positive and finite, got"):
        term(**{option: value})


@every_term
def test_training_on_a_term_alone_lowers_it(term: type, name: str, loss: Callable[[Tensor], Tensor]) -> None:
    features = (draw(16, 4) * 0.3).requires_grad_()
    optimizer = torch.optim.Adam([features], lr=0.01)
    before = loss(features).item()
    for _ in range(20):
        optimizer.zero_grad()
        term(strength=1.0)(step(features)).backward()
        optimizer.step()

    assert loss(features).item() < before - 1e-4
