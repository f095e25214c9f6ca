from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from members import initial_model, one_client
from quadratics import Point, descent, points
from torch import Tensor

from decollapse.core import Broadcast, ModelState
from decollapse.objective import SendingTerm, Trained
from decollapse.terms.feddyn import FedDyn
from decollapse.tree import Tree

DTYPES = [torch.float32, torch.float64]


def step(w: Tensor, anchor: float | Tensor, past: Tree) -> Any:
    center = anchor if isinstance(anchor, Tensor) else torch.full_like(w, anchor)
    return SimpleNamespace(params={"w": w}, anchor=ModelState({"w": center.detach()}), state=past)


def test_the_value_and_its_gradient_by_hand() -> None:
    # 0.5 * (2 * 2) + 0.5 / 2 * 2^2 with d = 2, w - w_g = 2
    w = torch.tensor([3.0], requires_grad=True)
    value = FedDyn(alpha=0.5)(step(w, 1.0, {"w": torch.tensor([2.0])}))
    assert value.item() == 3.0
    (gradient,) = torch.autograd.grad(value, w)
    assert gradient.tolist() == [0.5 * 2 + 0.5 * 2]


@pytest.mark.parametrize("dtype", DTYPES)
@given(st.floats(1e-3, 10), st.integers(0, 100))
def test_it_is_the_papers_regulariser_up_to_a_constant(dtype: torch.dtype, alpha: float, seed: int) -> None:
    # -<g, w> + alpha / 2 ||w - w_g||^2 with g = -alpha d: the same gradient, the difference does not depend on w.
    generator = torch.Generator().manual_seed(seed)
    w, other, anchor, past = torch.randn(4, 3, generator=generator, dtype=dtype)
    g = -alpha * past
    gradients, values = [], []
    for at in (w, other):
        at.requires_grad_()
        ours = FedDyn(alpha=alpha)(step(at, anchor, {"w": past}))
        paper = -(g * at).sum() + alpha / 2 * (at - anchor).square().sum()
        values.append((ours - paper).item())
        gradients.append((torch.autograd.grad(ours, at)[0], torch.autograd.grad(paper, at)[0]))
    for mine, theirs in gradients:
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * alpha)
    assert values[0] == pytest.approx(values[1], abs=1e-4 * alpha)


def test_it_is_the_authors_loss_up_to_a_constant() -> None:
    # alpha <w, d - w_g> + alpha / 2 ||w||^2
    w = torch.tensor([3.0, -1.0], dtype=torch.float64, requires_grad=True)
    anchor, past = torch.tensor([0.5, 2.0], dtype=torch.float64), torch.tensor([2.0, -4.0], dtype=torch.float64)
    ours = FedDyn(alpha=0.3)(step(w, anchor, {"w": past}))
    authors = 0.3 * (w * (past - anchor)).sum() + 0.15 * w.square().sum()
    torch.testing.assert_close(torch.autograd.grad(ours, w), torch.autograd.grad(authors, w))


@pytest.mark.parametrize(
    ("b", "anchor", "past", "minimum", "following"),
    [(0.0, 0.0, 0.0, 0.0, 0.0), (4.0, 0.0, 0.0, 2.0, 2.0), (0.0, 2.0, 0.0, 1.0, -1.0), (4.0, 2.0, 2.0, 2.0, 2.0)],
)
def test_the_local_minima_of_two_rounds_by_hand(
    b: float, anchor: float, past: float, minimum: float, following: float
) -> None:
    # L = (w - b)^2 / 2, alpha 1: at (b + w_g - d) / 2 the gradients cancel; d grows by the update.
    term, state = FedDyn(alpha=1.0), {"w": torch.tensor([past])}
    w = torch.tensor([minimum], requires_grad=True)
    (gradient,) = torch.autograd.grad(0.5 * (w - b).square().sum() + term(step(w, anchor, state)), w)
    assert gradient.item() == 0.0
    trained = Trained(
        ModelState({"w": w.detach()}),
        ModelState({"w": torch.tensor([anchor])}),
        one_client(),
        Broadcast(1, ModelState({}), seed=0),
        num_steps=1,
        step_size=None,
        metrics={},
    )
    assert term.next_state(state, trained)["w"].item() == following
    assert state["w"].item() == past


def test_a_client_comes_to_that_minimum() -> None:
    sent = Broadcast(1, ModelState({"w": torch.tensor([2.0], dtype=torch.float64)}), seed=0)
    past = {"feddyn": {"w": torch.tensor([2.0], dtype=torch.float64)}}
    client = descent(FedDyn(alpha=1.0), lr=0.3, steps=40)
    result, state = client(Point(), points(8.0).clients[0], sent, past)
    assert result.delta["w"].item() == pytest.approx((8 + 2 - 2) / 2 - 2)
    assert state["feddyn"]["w"].item() == pytest.approx(2 + (8 + 2 - 2) / 2 - 2)


def test_a_client_begins_with_no_past_over_parameters_only() -> None:
    state = FedDyn().init_state(initial_model())
    assert state.keys() == initial_model().params.keys()
    assert not any(leaf.any() for leaf in state.values())


def test_it_sends_nothing_beside_the_update() -> None:
    assert not isinstance(FedDyn(), SendingTerm)


@pytest.mark.parametrize("alpha", [0.0, -0.1, float("nan"), float("inf")])
def test_an_alpha_out_of_range_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match=f"alpha must be positive and finite, got {alpha}"):
        FedDyn(alpha=alpha)
