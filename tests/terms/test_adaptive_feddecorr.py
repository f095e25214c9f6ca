from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from feature_batches import draw
from hypothesis import given
from hypothesis import strategies as st
from members import one_client
from torch import Tensor

from decollapse.core import Broadcast, ModelState, Output
from decollapse.objective import LayerTerm, StatefulTerm, Trained
from decollapse.terms.adaptive_feddecorr import AdaptiveFedDecorr
from decollapse.terms.feddecorr import FedDecorr, trust
from decollapse.tree import Tree

SCALE = 63**2 / 64
NOTHING = ModelState({})


def beta(value: float) -> Tree:
    return {"beta": torch.tensor(value, dtype=torch.float64)}


def step(features: Tensor, state: Tree, **layers: Tensor) -> Any:
    return SimpleNamespace(output=Output(torch.zeros(len(features), 2), features, layers), state=state)


def after(term: AdaptiveFedDecorr, state: Tree, value: float) -> Tree:
    """The next state of a client whose penalty was `value` on average."""
    sent = Broadcast(1, NOTHING, seed=0)
    return term.next_state(
        state, Trained(NOTHING, NOTHING, one_client(), sent, num_steps=1, step_size=None, metrics={term.name: value})
    )


def test_the_value_by_hand() -> None:
    # A dimension and its double: one direction, participation ratio 1.
    features = torch.tensor([[1.0, 2.0], [-1.0, -2.0], [3.0, 6.0]])
    assert AdaptiveFedDecorr(target=1.5)(step(features, beta(0.5))).item() == pytest.approx(0.5 * SCALE)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_value_is_one_over_the_participation_ratio_of_the_correlations(dtype: torch.dtype) -> None:
    features = draw(9, 5, dtype=dtype)
    spectrum = torch.linalg.eigvalsh(torch.corrcoef(features.double().T))
    ratio = spectrum.sum() ** 2 / spectrum.square().sum()
    value = AdaptiveFedDecorr(target=4.0)(step(features, beta(0.3))).item()
    assert value == pytest.approx(0.3 * SCALE / ratio.item(), rel=1e-4)


def test_its_gradient_is_feddecorrs_times_d_minus_one_over_d() -> None:
    features = draw(18, 5).requires_grad_()
    (ours,) = torch.autograd.grad(AdaptiveFedDecorr()(step(features, beta(0.3))), features)
    (theirs,) = torch.autograd.grad(FedDecorr(beta=0.3)(step(features, {})), features)
    torch.testing.assert_close(ours, theirs * 4 / 5, rtol=1e-9, atol=1e-12)


def test_the_first_round_has_the_chosen_beta() -> None:
    state = AdaptiveFedDecorr(beta=0.07).init_state(NOTHING)
    assert state["beta"].item() == 0.07
    assert isinstance(AdaptiveFedDecorr(), StatefulTerm)


def test_the_next_beta_by_hand() -> None:
    # Measured 4 dimensions, wanted 8: beta doubles; with half the gain it grows by the root of 2.
    value = 0.03 * SCALE / 4
    assert after(AdaptiveFedDecorr(target=8.0), beta(0.03), value)["beta"].item() == pytest.approx(0.06)
    half = AdaptiveFedDecorr(target=8.0, gain=0.5)
    assert after(half, beta(0.03), value)["beta"].item() == pytest.approx(0.03 * math.sqrt(2))
    less = AdaptiveFedDecorr(target=2.0)
    assert after(less, beta(0.03), value)["beta"].item() == pytest.approx(0.015)


def test_on_target_beta_stays() -> None:
    assert after(AdaptiveFedDecorr(target=4.0), beta(0.03), 0.03 * SCALE / 4)["beta"].item() == pytest.approx(0.03)


@pytest.mark.parametrize(("gain", "power"), [(1.0, 0.5), (0.5, 0.5), (1.0, 1.5), (1.5, 0.3)])
@pytest.mark.parametrize("first", [1e-3, 0.5])
def test_a_client_whose_ratio_grows_with_beta_comes_to_the_target(gain: float, power: float, first: float) -> None:
    # In logarithms the gap is multiplied by 1 - gain power each round.
    term = AdaptiveFedDecorr(target=12.0, beta=first, gain=gain, smallest=1e-6, largest=1e3)
    state = term.init_state(NOTHING)
    for _ in range(60):
        ratio = 40.0 * state["beta"].item() ** power
        state = after(term, state, state["beta"].item() * SCALE / ratio)
    assert 40.0 * state["beta"].item() ** power == pytest.approx(12.0, rel=1e-6)


def test_a_batch_of_features_is_held_at_the_target() -> None:
    # Correlated features under their own gradient and a pull back to where they began, as a task pulls back.
    start = draw(32, 12) @ torch.full((12, 12), 0.6, dtype=torch.float64).add(torch.eye(12))
    term = AdaptiveFedDecorr(target=6.0, beta=0.001, gain=1.0, smallest=1e-6, largest=10.0)
    state, features = term.init_state(NOTHING), start.clone()
    ratios = []
    for _ in range(25):
        values = []
        for _ in range(20):
            features.requires_grad_()
            value = term(step(features, state))
            loss = value + 0.5 * (features - start).square().mean(1).sum()
            (gradient,) = torch.autograd.grad(loss, features)
            features = (features - 0.5 * gradient).detach()
            values.append(value.item())
        mean = sum(values) / len(values)
        ratios.append(state["beta"].item() * SCALE / mean)
        state = after(term, state, mean)
    assert ratios[0] < 2.0
    assert ratios[-1] == pytest.approx(6.0, rel=0.1)


@given(st.floats(1e-4, 1.0), st.floats(1e-30, 1e30), st.floats(0.1, 100), st.floats(0.1, 2.0))
def test_beta_stays_within_its_bounds(start: float, value: float, target: float, gain: float) -> None:
    term = AdaptiveFedDecorr(target=target, gain=gain)
    assert 1e-4 <= after(term, beta(start), value)["beta"].item() <= 1.0


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_round_that_measured_nothing_leaves_beta_as_it_was(value: float) -> None:
    state = beta(0.03)
    assert after(AdaptiveFedDecorr(), state, value) is state


def test_a_batch_of_one_moves_nothing() -> None:
    features = torch.ones(1, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(AdaptiveFedDecorr()(step(features, beta(0.5))), features)
    assert not gradient.any()


@pytest.mark.parametrize("n", [1, 2, 4, 9])
def test_a_batch_that_cannot_reach_the_target_counts_as_on_target_and_keeps_what_is_trusted_of_its_gradient(
    n: int,
) -> None:
    features = draw(n, 5).requires_grad_()
    small, other = AdaptiveFedDecorr(target=8.0), AdaptiveFedDecorr(target=1e-3)
    value = small(step(features, beta(0.3)))
    assert value.item() == pytest.approx(0.3 * SCALE / 8)
    gradients = [torch.autograd.grad(term(step(features, beta(0.3))), features)[0] for term in (small, other)]
    torch.testing.assert_close(gradients[0], trust(n) * gradients[1])


@pytest.mark.parametrize("remainder", [0, 1, 2, 4, 13])
def test_the_size_of_the_last_batch_does_not_run_away_with_beta(remainder: int) -> None:
    # 20 directions in 128 dimensions, whatever beta is: about on target.
    term = AdaptiveFedDecorr(target=13.0)
    state = term.init_state(NOTHING)
    mix = torch.randn(20, 128, generator=torch.Generator().manual_seed(99))
    for round in range(8):
        generator = torch.Generator().manual_seed(round)
        features = torch.randn(64 + remainder, 20, generator=generator) @ mix
        values = [term(step(rows, state)).item() for rows in features.split(64)]
        state = after(term, state, sum(values) / len(values))
    assert 0.01 < state["beta"].item() < 0.03


@pytest.mark.parametrize(
    "features",
    [torch.ones(4, 3), torch.zeros(4, 3), torch.tensor([[1.0, 2.0], [3.0, 4.0]]), draw(6, 4) * torch.eye(4)[0]],
    ids=["identical examples", "zeros", "two examples", "dead features"],
)
def test_values_and_gradients_are_finite(features: Tensor) -> None:
    features = features.clone().requires_grad_()
    value = AdaptiveFedDecorr()(step(features, beta(0.5)))
    (gradient,) = torch.autograd.grad(value, features)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


def test_layers_are_averaged() -> None:
    features, other = draw(9, 5), draw(9, 3, seed=1)
    term = AdaptiveFedDecorr(target=4.0, layers=("features", "stage"))
    assert isinstance(term, LayerTerm)
    alone = [AdaptiveFedDecorr(target=4.0)(step(z, beta(0.3))).item() for z in (features, other)]
    assert term(step(features, beta(0.3), stage=other)).item() == pytest.approx(sum(alone) / 2)


@pytest.mark.parametrize("name", ["target", "beta", "gain", "smallest", "largest"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_setting_that_is_not_positive_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must be positive and finite, got {value}"):
        AdaptiveFedDecorr(**{name: value})


@pytest.mark.parametrize("value", [1e-5, 2.0])
def test_a_beta_outside_its_bounds_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="between smallest and largest, got"):
        AdaptiveFedDecorr(beta=value)
