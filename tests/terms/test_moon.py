from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from decollapse.core import ModelState, Output
from decollapse.objective import StatefulTerm
from decollapse.terms.moon import MOON, model_contrastive_loss


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def output(features: Tensor, **layers: Tensor) -> Output:
    return Output(logits=torch.zeros(len(features), 2), features=features, layers=layers)


def step(local: Output, anchor: Output, previous: Output) -> SimpleNamespace:
    model, state = ModelState({"w": torch.zeros(1)}), {"w": torch.ones(1), "running_mean": torch.ones(1)}

    def frozen(other: ModelState) -> Output:
        assert other is model or (other.params is state and not other.buffers)
        return anchor if other is model else previous

    return SimpleNamespace(output=local, anchor=model, state=state, frozen=frozen)


def trained(local: ModelState) -> SimpleNamespace:
    return SimpleNamespace(local=local)


def test_a_feature_at_the_global_model_and_across_the_previous_one_by_hand() -> None:
    z = torch.tensor([[3.0, 0.0]])
    loss = model_contrastive_loss(z, global_features=2 * z, previous_features=torch.tensor([[0.0, 1.0]]))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2)))
    assert loss.item() == pytest.approx(0.12693, abs=1e-5)


def test_the_temperature_divides_the_cosines() -> None:
    z = torch.tensor([[3.0, 0.0]])
    loss = model_contrastive_loss(z, global_features=z, previous_features=-z, temperature=4.0)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2 / 4)))


def test_it_is_the_cross_entropy_of_the_two_cosines() -> None:
    z, z_global, z_previous = (draw(7, 5, seed=seed) for seed in range(3))
    examples = zip(z, z_global, z_previous, strict=True)
    cosines = [[torch.dot(a, b) / a.norm() / b.norm() for b in (g, p)] for a, g, p in examples]
    expected = F.cross_entropy(torch.tensor(cosines, dtype=torch.float64) / 0.5, torch.zeros(7, dtype=torch.long))
    loss = model_contrastive_loss(z, global_features=z_global, previous_features=z_previous)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


def test_its_gradient() -> None:
    z, z_global, z_previous = (draw(4, 3, seed=seed) for seed in range(3))

    def loss(z: Tensor) -> Tensor:
        return model_contrastive_loss(z, global_features=z_global, previous_features=z_previous)

    torch.autograd.gradcheck(loss, z.requires_grad_())


def test_only_the_local_features_get_a_gradient() -> None:
    z, z_global, z_previous = (draw(4, 3, seed=seed).requires_grad_() for seed in range(3))
    model_contrastive_loss(z, global_features=z_global, previous_features=z_previous).backward()
    assert z.grad is not None
    assert z_global.grad is None
    assert z_previous.grad is None


def test_a_previous_model_equal_to_the_global_one_gives_log_2_and_no_gradient() -> None:
    z, other = draw(4, 3).float().requires_grad_(), draw(4, 3, seed=1).float()
    loss = model_contrastive_loss(z, global_features=other, previous_features=other.clone())
    (gradient,) = torch.autograd.grad(loss, z)
    assert loss.item() == pytest.approx(math.log(2))
    assert not gradient.any()


@given(st.integers(1, 9), st.integers(0, 99), st.floats(0.01, 100))
def test_the_length_of_a_feature_does_not_matter(n: int, seed: int, factor: float) -> None:
    z, z_global, z_previous = draw(3, n, 4, seed=seed)
    loss = model_contrastive_loss(z, global_features=z_global, previous_features=z_previous)
    scaled = model_contrastive_loss(factor * z, global_features=z_global / factor, previous_features=z_previous)
    torch.testing.assert_close(scaled, loss)


@pytest.mark.parametrize("dead", [0, 1, 2])
@pytest.mark.parametrize("length", [0.0, 1e-12])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_feature_without_a_direction_costs_a_finite_number_and_has_a_small_gradient(
    dead: int, length: float, dtype: torch.dtype
) -> None:
    batch = [draw(1, 3, seed=seed).to(dtype) for seed in range(3)]
    batch[dead] = torch.full((1, 3), length, dtype=dtype)
    z = batch[0].requires_grad_()
    loss = model_contrastive_loss(z, global_features=batch[1], previous_features=batch[2])
    (gradient,) = torch.autograd.grad(loss, z)
    assert loss.isfinite()
    assert gradient.abs().max() < 10


def test_the_term_compares_with_the_anchor_and_with_the_state() -> None:
    z, z_global, z_previous = (draw(4, 3, seed=seed) for seed in range(3))
    expected = 5 * model_contrastive_loss(z, global_features=z_global, previous_features=z_previous, temperature=0.3)
    torch.testing.assert_close(
        MOON(mu=5, temperature=0.3)(step(output(z), output(z_global), output(z_previous))), expected
    )


def test_several_layers_count_as_their_mean() -> None:
    models = [output(draw(4, 3, seed=seed), stage=draw(4, 6, seed=seed + 3)) for seed in range(3)]
    both = MOON(layers=("stage", "features"))(step(*models))
    torch.testing.assert_close(both, (MOON(layers=("stage",))(step(*models)) + MOON()(step(*models))) / 2)


def test_mu_zero_is_a_constant_zero_that_runs_no_model_and_keeps_none() -> None:
    moon = MOON(mu=0.0)
    nothing = moon(SimpleNamespace(output=output(torch.full((1, 3), torch.nan, requires_grad=True))))
    assert nothing.item() == 0.0
    assert not nothing.requires_grad
    model = ModelState({"w": torch.ones(1)})
    assert moon.init_state(model) == {}
    assert moon.next_state({}, trained(model)) == {}


def test_a_new_client_keeps_a_copy_of_the_anchor_with_its_buffers() -> None:
    anchor = ModelState({"w": torch.ones(1)}, {"running_mean": torch.zeros(1)})
    state = MOON().init_state(anchor)
    anchor.params["w"].add_(1)
    assert state == {"w": torch.ones(1), "running_mean": torch.zeros(1)}


def test_after_a_round_it_keeps_the_local_model_with_its_buffers() -> None:
    local = ModelState({"w": torch.full((1,), 2.0)}, {"running_mean": torch.full((1,), 3.0)})
    assert MOON().next_state({"w": torch.ones(1)}, trained(local)) == {"w": local.params["w"], **local.buffers}


def test_it_is_a_stateful_term() -> None:
    assert isinstance(MOON(), StatefulTerm)


@pytest.mark.parametrize("mu", [-1.0, math.inf, math.nan])
def test_a_mu_that_is_no_strength_is_refused(mu: float) -> None:
    with pytest.raises(ValueError, match="mu is a strength"):
        MOON(mu=mu)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        MOON(temperature=temperature)
