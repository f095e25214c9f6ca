from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from members import PullBack, initial_model, one_client
from torch import Tensor

from decollapse.core import Broadcast, ModelState
from decollapse.objective import Step, Trained
from decollapse.schedule import Scheduled, WarmUp
from decollapse.term_states import following_states, shared_by, starting_states
from decollapse.terms.cross_entropy import CrossEntropy
from decollapse.terms.moon import MOON
from decollapse.tree import Tree

MODEL = ModelState({"w": torch.ones(2)}, {"running_mean": torch.zeros(3)})
TRAINED = Trained(
    ModelState({"w": torch.tensor([4.0, 5.0])}),
    MODEL,
    one_client(),
    Broadcast(1, MODEL, seed=0),
    num_steps=3,
    step_size=0.5,
    metrics={"pull_back": 1.0, "counts": 0.0},
)


@dataclass(frozen=True)
class Counts:
    """Counts its rounds, and sends by how much the count grew."""

    name: ClassVar[str] = "counts"

    def __call__(self, step: Step) -> Tensor:
        return torch.zeros(())

    def init_state(self, anchor: ModelState) -> Tree:
        return {"rounds": torch.tensor(0)}

    def next_state(self, state: Tree, trained: Trained) -> Tree:
        return {"rounds": state["rounds"] + 1}

    def upload(self, before: Tree, after: Tree) -> Tree:
        return {"grown": after["rounds"] - before["rounds"]}


@dataclass(frozen=True)
class Tells(Counts):
    """Lets all clients know by how much their counts have grown on average, in all rounds."""

    name: ClassVar[str] = "tells"

    def share(self, shared: Tree, mean: Tree) -> Tree:
        return {"total": mean["grown"] + shared.get("total", 0)}


def test_what_is_shared_goes_under_the_terms_name_and_comes_back_to_it() -> None:
    extras = {"counts/grown": torch.tensor(9.0), "tells/grown": torch.tensor(2.0)}
    once = shared_by((CrossEntropy(), Counts(), Tells()), {}, extras)
    twice = shared_by((Scheduled(Tells(), WarmUp()),), once, extras)
    assert {name: leaf.item() for name, leaf in once.items()} == {"tells/total": 2}
    assert {name: leaf.item() for name, leaf in twice.items()} == {"tells/total": 4}


def test_a_client_that_never_took_part_begins_with_the_initial_states() -> None:
    states = starting_states((PullBack(), Counts()), {}, MODEL, client=3)
    assert states.keys() == {"pull_back", "counts"}
    assert torch.equal(states["pull_back"]["w"], MODEL.params["w"])
    assert states["counts"]["rounds"].item() == 0


def test_a_client_that_did_goes_on_from_what_it_kept() -> None:
    kept = {"counts": {"rounds": torch.tensor(5)}, "buffers": {"running_mean": torch.ones(3)}}
    states = starting_states((Counts(),), kept, MODEL, client=3)
    assert states.keys() == {"counts"}
    assert states["counts"]["rounds"].item() == 5


def test_the_next_states_and_what_is_sent_go_under_the_terms_names() -> None:
    objective = (PullBack(), Counts())
    states = starting_states(objective, {}, MODEL, client=3)
    following, extras = following_states(objective, states, TRAINED)
    assert following.keys() == {"pull_back", "counts"}
    assert following["pull_back"]["w"].tolist() == [4.0, 5.0]
    assert {name: leaf.item() for name, leaf in extras.items()} == {"counts/grown": 1}
    assert states["counts"]["rounds"].item() == 0


def test_a_term_that_keeps_nothing_leaves_no_trace() -> None:
    objective = (MOON(mu=0.0), Scheduled(CrossEntropy(label_smoothing=0.1), WarmUp()))
    states = starting_states(objective, {}, MODEL, client=3)
    assert following_states(objective, states, TRAINED) == ({}, {})
    assert starting_states(objective, {"buffers": {"running_mean": torch.zeros(3)}}, MODEL, client=3) == states


def test_a_state_of_another_algorithm_is_refused() -> None:
    kept = {"moon": {"w": torch.ones(2)}, "buffers": {"running_mean": torch.zeros(3)}}
    with pytest.raises(
        ValueError,
        match="client 3 has a state, of buffers, moon, but nothing in it of the term 'pull_back'.*begin a new run",
    ):
        starting_states((PullBack(),), kept, MODEL, client=3)


@pytest.mark.parametrize("name", ["w", "running_mean"])
def test_a_state_of_another_model_is_refused(name: str) -> None:
    with pytest.raises(
        ValueError,
        match=rf"client 3's state of the term 'pull_back' is of another model: '{name}' has shape \(7,\), "
        r"the model's has \(.,\); begin a new run",
    ):
        starting_states((PullBack(),), {"pull_back": {name: torch.ones(7)}}, MODEL, client=3)


def test_leaves_that_are_not_the_models_may_have_any_shape() -> None:
    kept = {"pull_back": {"a number": torch.ones(7, 7)}}
    assert starting_states((PullBack(),), kept, MODEL, client=3) == kept


def test_what_a_client_kept_of_this_model_fits() -> None:
    model = initial_model()
    kept = {"moon": model.params | model.buffers}
    assert starting_states((MOON(),), kept, model, client=0) == kept
