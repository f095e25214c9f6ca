from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from feature_batches import SHAPES, draw, gradient
from torch import Tensor
from torch.nn import functional as F

from decollapse.core import Output
from decollapse.terms.barlow_twins import BarlowTwins, barlow_loss
from decollapse.terms.feddecorr import FedDecorr


def two_views(first: Tensor, second: Tensor, off_diagonal: float = 0.0051) -> Tensor:
    """The reference's loss by the book: BatchNorm of each view, cross-correlation, distance to the identity."""
    n, d = first.shape
    z1, z2 = (F.batch_norm(view, None, None, training=True, eps=1e-12) for view in (first, second))
    C = z1.T @ z2 / n
    on = (C.diagonal() - 1).square().sum()
    return on + off_diagonal * (C * (1 - torch.eye(d, dtype=C.dtype))).square().sum()


def test_a_correlation_of_one_half_by_hand() -> None:
    half = torch.tensor([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)

    assert barlow_loss(half).item() == pytest.approx(0.0051 * 2 / 4)
    assert barlow_loss(half, off_diagonal=1.0).item() == pytest.approx(0.5)


@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradient_equal_two_equal_views_of_the_reference(shape: tuple[int, int]) -> None:
    features = draw(*shape)

    torch.testing.assert_close(barlow_loss(features), two_views(features, features), rtol=1e-6, atol=0)
    torch.testing.assert_close(
        gradient(barlow_loss, features), gradient(lambda z: two_views(z, z), features), rtol=1e-5, atol=1e-8
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_equals_finite_differences(shape: tuple[int, int]) -> None:
    assert torch.autograd.gradcheck(barlow_loss, (draw(*shape).requires_grad_(),))


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_it_trains_like_feddecorr_at_the_stated_beta(n: int, d: int) -> None:
    features = torch.cat([draw(n, d, seed) for seed in range(3)])  # at least 16

    def term_gradient(term: FedDecorr | BarlowTwins) -> Tensor:
        return gradient(lambda z: term(SimpleNamespace(output=Output(z[:, :2], z))), features)

    twin = BarlowTwins(strength=63**2 / 64 * 0.1 / (d * (d - 1)))
    torch.testing.assert_close(term_gradient(twin), term_gradient(FedDecorr(beta=0.1)))


@pytest.mark.parametrize(("d", "beta"), [(64, 0.33), (256, 5.4), (1280, 135)])
def test_the_papers_coefficient_as_beta(d: int, beta: float) -> None:
    assert BarlowTwins().strength * d * (d - 1) / (63**2 / 64) == pytest.approx(beta, rel=0.01)
