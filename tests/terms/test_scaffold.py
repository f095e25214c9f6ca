from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from members import initial_model, noisy_network, one_client
from quadratics import Distance, Point, descent, points
from torch import Tensor

from decollapse.client import ClientUpdate
from decollapse.core import Broadcast, ModelState
from decollapse.objective import SendingTerm, Step, Trained
from decollapse.optim import SGD, Adam, LocalOptimizer
from decollapse.sam import SAM
from decollapse.terms.cross_entropy import CrossEntropy
from decollapse.terms.scaffold import Scaffold
from decollapse.tree import Tree

ANCHOR = ModelState({"w": torch.tensor([1.0, 1.0], dtype=torch.float64)}, {"running_mean": torch.ones(2)})
START = ModelState({"w": torch.zeros(1, dtype=torch.float64)})


def tree(*values: float) -> Tree:
    return {"w": torch.tensor(values, dtype=torch.float64)}


def broadcast(*c: float) -> Broadcast:
    return Broadcast(1, ANCHOR, seed=0, extras={"scaffold/w": torch.tensor(c, dtype=torch.float64)})


def trained(delta: tuple[float, ...], step_size: float | None, sent: Broadcast) -> Trained:
    local = ModelState({"w": ANCHOR.params["w"] + torch.tensor(delta, dtype=torch.float64)})
    return Trained(local, ANCHOR, one_client(), sent, num_steps=2, step_size=step_size, metrics={"scaffold": 0.0})


def step(w: Tensor, own: Tree, sent: Broadcast) -> Any:
    return SimpleNamespace(params={"w": w}, anchor=ANCHOR, state=own, broadcast=sent)


def test_the_value_and_its_gradient_by_hand() -> None:
    # <c - c_i, w - w_g> = (5 - 2) * 1 + (-1 - 3) * 2
    w = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)
    value = Scaffold()(step(w, tree(2.0, 3.0), broadcast(5.0, -1.0)))
    assert value.item() == -5.0
    (gradient,) = torch.autograd.grad(value, w)
    assert gradient.tolist() == [3.0, -4.0]


def test_variates_of_zero_correct_nothing() -> None:
    w = torch.tensor([2.0, 3.0], dtype=torch.float64, requires_grad=True)
    value = Scaffold()(step(w, tree(0.0, 0.0), broadcast(0.0, 0.0)))
    (gradient,) = torch.autograd.grad(value, w)
    assert (value.item(), gradient.tolist()) == (0.0, [0.0, 0.0])


def test_the_next_variate_by_hand() -> None:
    # c_i - c - delta / (tau lr) = 2 - 5 - 3 / 0.5 and 3 + 1 + 2 / 0.5
    after = Scaffold().next_state(tree(2.0, 3.0), trained((3.0, -2.0), 0.5, broadcast(5.0, -1.0)))
    assert after["w"].tolist() == [-9.0, 8.0]


def test_what_is_sent_is_the_change() -> None:
    assert Scaffold().upload(tree(2.0, 3.0), tree(-9.0, 8.0))["w"].tolist() == [-11.0, 5.0]
    assert isinstance(Scaffold(), SendingTerm)


def test_a_client_begins_with_a_variate_of_zeros_over_parameters_only() -> None:
    state = Scaffold().init_state(ANCHOR)
    assert state.keys() == {"w"}
    assert state["w"].tolist() == [0.0, 0.0]


def test_states_are_left_as_they_were() -> None:
    own, sent = tree(2.0, 3.0), broadcast(5.0, -1.0)
    Scaffold().next_state(own, trained((3.0, -2.0), 0.5, sent))
    assert own["w"].tolist() == [2.0, 3.0]
    assert sent.extras["scaffold/w"].tolist() == [5.0, -1.0]
    assert ANCHOR.params["w"].tolist() == [1.0, 1.0]


def test_a_broadcast_without_a_variate_is_refused() -> None:
    w = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    bare = Broadcast(1, ANCHOR, seed=0)
    with pytest.raises(ValueError, match='set server = "scaffold"'):
        Scaffold()(step(w, tree(0.0, 0.0), bare))
    with pytest.raises(ValueError, match='set server = "scaffold"'):
        Scaffold().next_state(tree(0.0, 0.0), trained((3.0, -2.0), 0.5, bare))


def test_an_optimiser_without_a_step_size_is_refused() -> None:
    with pytest.raises(ValueError, match="use sgd"):
        Scaffold().next_state(tree(0.0, 0.0), trained((3.0, -2.0), Adam().step_size(2), broadcast(0.0, 0.0)))


@dataclass(frozen=True)
class Slope:
    """The loss `3 w`: a constant gradient."""

    name: ClassVar[str] = "slope"

    def __call__(self, step: Step) -> Tensor:
        return 3.0 * step.params["w"].sum()


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(lr=0.1, momentum=0.0),
        SGD(lr=0.1, momentum=0.9),
        SGD(lr=0.1, momentum=0.9, nesterov=True),
        SAM(SGD(lr=0.1, momentum=0.9), rho=0.5),
    ],
)
@pytest.mark.parametrize(("c", "own"), [(0.0, 0.0), (5.0, -2.0)])
def test_a_client_under_a_constant_gradient_ends_with_that_gradient_as_its_variate(
    optimizer: LocalOptimizer, c: float, own: float
) -> None:
    client = ClientUpdate((Slope(), Scaffold()), optimizer, epochs=7)
    sent = Broadcast(1, START, seed=0, extras={"scaffold/w": torch.tensor([c], dtype=torch.float64)})
    result, state = client(Point(), points(0.0).clients[0], sent, {"scaffold": tree(own)})
    assert state["scaffold"]["w"].item() == pytest.approx(3.0, rel=1e-12)
    assert result.extras["scaffold/w"].item() == pytest.approx(3.0 - own, rel=1e-12)


def test_the_variate_is_the_mean_gradient_along_the_way_without_the_correction() -> None:
    @dataclass(frozen=True)
    class Notes(Distance):
        seen: ClassVar[list[float]] = []

        def __call__(self, step: Step) -> Tensor:
            self.seen.append(step.params["w"].item() - step.x.mean().item())
            return super().__call__(step)

    client = ClientUpdate((Notes(), Scaffold()), SGD(lr=0.3, momentum=0.0), epochs=4)
    sent = Broadcast(1, START, seed=0, extras={"scaffold/w": torch.tensor([5.0], dtype=torch.float64)})
    _, state = client(Point(), points(4.0).clients[0], sent, {"scaffold": tree(-2.0)})
    assert len(Notes.seen) == 4
    assert state["scaffold"]["w"].item() == pytest.approx(sum(Notes.seen) / 4, rel=1e-12)


def test_the_correction_is_in_the_gradient_that_momentum_sees() -> None:
    # Two steps of lr 0.1, momentum 0.5, corrected gradient w - 4 + 1: v = -3, w = 0.3; v = -1.5 - 2.7, w = 0.72.
    sent = Broadcast(1, START, seed=0, extras={"scaffold/w": torch.tensor([1.0], dtype=torch.float64)})
    client = descent(Scaffold(), lr=0.1, momentum=0.5, steps=2)
    result, _ = client(Point(), points(4.0).clients[0], sent, {})
    assert result.delta["w"].item() == pytest.approx(0.72)


def test_a_frozen_part_has_no_correction_in_its_weights() -> None:
    model = initial_model()
    extras = {f"scaffold/{name}": torch.ones_like(leaf) for name, leaf in model.params.items()}
    client = ClientUpdate((CrossEntropy(), Scaffold()), batch_size=8, frozen=("head",))
    result, _ = client(noisy_network(), one_client(), Broadcast(1, model, seed=0, extras=extras), {})
    assert not result.delta["head.weight"].any()
    assert result.delta["encoder.0.weight"].any()
