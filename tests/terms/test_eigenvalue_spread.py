from __future__ import annotations

import pytest
import torch

from decollapse.terms.eigenvalue_spread import eigenvalue_spread


def test_the_value_by_hand() -> None:
    # both dimensions have variance 1 and correlation 1/2: lambda = 1.5 and 0.5, 2 (1/2)^2 / (2 * 1)
    assert eigenvalue_spread(torch.tensor([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])).item() == pytest.approx(0.25)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("shape", [(3, 8), (12, 4)])
def test_vmap_over_batches_gives_each_batch_its_own_value_and_gradient(shape: tuple[int, int], pooled: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    stack = torch.randn(5, *shape, generator=generator, dtype=torch.float64, requires_grad=True)
    values = torch.func.vmap(lambda features: eigenvalue_spread(features, pooled=pooled))(stack)
    (gradients,) = torch.autograd.grad(values.sum(), stack)
    for features, value, gradient in zip(stack.detach(), values, gradients, strict=True):
        leaf = features.clone().requires_grad_()
        alone = eigenvalue_spread(leaf, pooled=pooled)
        torch.testing.assert_close(value, alone, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(gradient, torch.autograd.grad(alone, leaf)[0], rtol=1e-9, atol=1e-14)
