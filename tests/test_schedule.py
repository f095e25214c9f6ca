from __future__ import annotations

import math
import pickle
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from members import PullBack, one_client
from torch import Tensor

from decollapse.aggregate.mean import WeightedMean
from decollapse.algorithms import Algorithm, fedavg, with_term
from decollapse.client import ClientUpdate
from decollapse.core import Broadcast, ModelState, Output
from decollapse.objective import LayerTerm, Step, Term, Trained
from decollapse.schedule import Constant, Cosine, Schedule, Scheduled, WarmUp
from decollapse.server import ServerOptimizer
from decollapse.server.feddyn import ServerFedDyn
from decollapse.server.scaffold import ServerScaffold
from decollapse.server.sgd import ServerSGD
from decollapse.terms.adaptive_feddecorr import AdaptiveFedDecorr
from decollapse.terms.cross_entropy import CrossEntropy
from decollapse.terms.feddecorr import FedDecorr
from decollapse.terms.feddyn import FedDyn
from decollapse.terms.global_feddecorr import GlobalFedDecorr
from decollapse.terms.moon import MOON
from decollapse.terms.proximal import Proximal
from decollapse.terms.scaffold import Scaffold

MODEL = ModelState({"w": torch.tensor([1.0, 2.0])})


def step(w: Tensor, round: int = 1) -> Any:
    return SimpleNamespace(
        params={"w": w},
        anchor=ModelState({"w": torch.tensor([0.3, -0.2])}),
        broadcast=Broadcast(round, MODEL, seed=0, extras={"scaffold/w": torch.zeros(2)}),
        output=SimpleNamespace(features=torch.zeros(2, 3)),
    )


def test_a_warm_up_rises_in_equal_steps_and_stays() -> None:
    assert [WarmUp(rounds=4)(round) for round in range(1, 7)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert WarmUp(rounds=1)(1) == 1.0


def test_a_cosine_falls_from_one_to_its_end_and_stays() -> None:
    # (1 + cos(pi t)) / 2 at t = 0, 1/3, 2/3, 1 is 1, 3/4, 1/4, 0.
    assert [Cosine(rounds=4)(round) for round in range(1, 7)] == pytest.approx([1.0, 0.75, 0.25, 0.0, 0.0, 0.0])
    assert [Cosine(rounds=3, end=0.2)(round) for round in (1, 2, 3, 9)] == pytest.approx([1.0, 0.6, 0.2, 0.2])


def test_a_cosine_of_one_round_is_at_its_end() -> None:
    assert Cosine(rounds=1, end=0.3)(1) == pytest.approx(0.3)


def test_a_constant_is_the_same_in_every_round() -> None:
    assert {Constant(factor=0.4)(round) for round in range(1, 100)} == {0.4}


@given(
    st.one_of(
        st.builds(Constant, st.floats(0, 1)),
        st.builds(WarmUp, st.integers(1, 1000)),
        st.builds(Cosine, st.integers(1, 1000), st.floats(0, 1)),
    ),
    st.integers(1, 2000),
)
def test_factors_are_from_0_to_1(schedule: Schedule, round: int) -> None:
    assert 0 <= schedule(round) <= 1


@dataclass(frozen=True)
class Asked:
    """Notes the rounds it was asked in."""

    rounds: list[int] = field(default_factory=list)

    def __call__(self, round: int) -> float:
        self.rounds.append(round)
        return 1.0


def test_the_factor_is_that_of_the_broadcasts_round() -> None:
    asked = Asked()
    Scheduled(Proximal(), asked)(step(torch.ones(2), round=7))
    assert asked.rounds == [7]


def test_the_value_and_gradient_are_scaled() -> None:
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    plain, scaled = Proximal(mu=0.7)(step(w)), Scheduled(Proximal(mu=0.7), WarmUp(rounds=4))(step(w, round=1))
    torch.testing.assert_close(scaled, 0.25 * plain)
    torch.testing.assert_close(torch.autograd.grad(scaled, w)[0], 0.25 * torch.autograd.grad(plain, w)[0])


def test_a_factor_of_one_is_the_term_bitwise() -> None:
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(2, generator=generator).requires_grad_()
    plain, scheduled = Proximal(mu=0.7)(step(w)), Scheduled(Proximal(mu=0.7), WarmUp(rounds=4))(step(w, round=4))
    assert torch.equal(plain, scheduled)
    assert torch.equal(torch.autograd.grad(plain, w)[0], torch.autograd.grad(scheduled, w)[0])


def test_a_factor_of_zero_leaves_the_term_out_uncomputed() -> None:
    @dataclass(frozen=True)
    class Fails:
        name: ClassVar[str] = "fails"

        def __call__(self, step: Step) -> Tensor:
            raise AssertionError

    value = Scheduled(Fails(), Constant(factor=0.0))(step(torch.ones(2)))
    assert value.item() == 0.0
    assert value.shape == ()


def test_it_goes_by_the_name_of_its_term_and_reads_its_layers() -> None:
    scheduled = Scheduled(FedDecorr(layers=("encoder.0",)), WarmUp())
    assert isinstance(scheduled, LayerTerm)
    assert (scheduled.name, scheduled.layers) == ("feddecorr", ("encoder.0",))
    assert Scheduled(Proximal(), WarmUp()).layers == ()


def trained(metrics: dict[str, float], round: int = 1) -> Trained:
    sent = Broadcast(round, MODEL, seed=0, extras={"scaffold/w": torch.tensor([0.5, 0.5])})
    return Trained(
        ModelState({"w": torch.tensor([4.0, 5.0])}, {}), MODEL, one_client(), sent, 3, step_size=0.5, metrics=metrics
    )


def test_the_state_is_that_of_the_term() -> None:
    scheduled, term = Scheduled(PullBack(), WarmUp()), PullBack()
    after = trained({"pull_back": 1.0})
    assert scheduled.init_state(MODEL).keys() == term.init_state(MODEL).keys()
    assert torch.equal(scheduled.next_state({}, after)["w"], term.next_state({}, after)["w"])


def test_a_term_without_state_has_none() -> None:
    scheduled = Scheduled(Proximal(), WarmUp())
    assert (scheduled.init_state(MODEL), scheduled.next_state({}, trained({"proximal": 1.0}))) == ({}, {})
    assert scheduled.upload({}, {}) == {}


def test_what_a_term_sends_is_sent() -> None:
    before, after = {"w": torch.tensor([1.0])}, {"w": torch.tensor([3.0])}
    assert Scheduled(Scaffold(), Constant()).upload(before, after)["w"].tolist() == [2.0]
    assert Scheduled(MOON(), Constant()).upload(before, after) == {}


def test_what_a_term_remembers_of_a_batch_and_shares_is_passed_on() -> None:
    term = GlobalFedDecorr()
    batch: Any = SimpleNamespace(
        output=Output(torch.zeros(3, 2), torch.tensor([[1.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])), state={}
    )
    state = Scheduled(term, Constant()).after_batch(batch)
    mean = term.upload(state, {})
    assert state["features/sum"].tolist() == term.after_batch(batch)["features/sum"].tolist()
    assert Scheduled(term, Constant()).share({}, mean)["features"].tolist() == term.share({}, mean)["features"].tolist()


def test_a_term_that_remembers_no_batch_and_shares_nothing_is_left_so() -> None:
    scheduled, kept = Scheduled(PullBack(), Constant()), {"w": torch.ones(2)}
    assert scheduled.after_batch(SimpleNamespace(state=kept)) is kept
    assert scheduled.share({}, kept) == {}


@pytest.mark.parametrize("round", [1, 2, 4, 9])
def test_a_term_that_steers_by_its_own_value_sees_it_without_the_factor(round: int) -> None:
    # Measured 4 dimensions, wanted 8, so beta doubles, whatever the warm-up has made of the value.
    term, schedule = AdaptiveFedDecorr(target=8.0, beta=0.03), WarmUp(rounds=4)
    value = schedule(round) * 0.03 * 63**2 / 64 / 4
    state = Scheduled(term, schedule).next_state(
        term.init_state(MODEL), trained({"adaptive_feddecorr": value, "cross_entropy": 2.0}, round)
    )
    assert state["beta"].item() == pytest.approx(0.06)


def test_the_other_metrics_are_left_as_they_are() -> None:
    seen: list[dict[str, float]] = []

    @dataclass(frozen=True)
    class Notes(PullBack):
        def next_state(self, state: dict[str, Tensor], trained: Trained) -> dict[str, Tensor]:
            seen.append(dict(trained.metrics))
            return {}

    known = trained({"pull_back": 1.0, "cross_entropy": 2.0})
    Scheduled(Notes(), Constant(factor=0.5)).next_state({}, known)
    Scheduled(Notes(), Constant(factor=0.0)).next_state({}, known)
    assert seen == [{"pull_back": 2.0, "cross_entropy": 2.0}, {"pull_back": 1.0, "cross_entropy": 2.0}]
    assert known.metrics == {"pull_back": 1.0, "cross_entropy": 2.0}


@pytest.mark.parametrize(
    ("half", "server"),
    [
        (Scaffold(), ServerScaffold()),
        (FedDyn(), ServerFedDyn()),
        (Scaffold(), ServerSGD()),
        (FedDyn(), ServerSGD()),
    ],
)
def test_half_of_a_method_takes_no_schedule(half: Term, server: ServerOptimizer) -> None:
    client = ClientUpdate((CrossEntropy(), Scheduled(half, WarmUp())))
    with pytest.raises(ValueError, match=f"{half.name} takes no schedule"):
        Algorithm(client, WeightedMean(weights="uniform"), server)


def test_a_scheduled_term_pickles_and_is_equal_to_its_like() -> None:
    algorithm = with_term(fedavg(), Scheduled(FedDecorr(), Cosine(rounds=7)))
    assert pickle.loads(pickle.dumps(algorithm)) == algorithm


@pytest.mark.parametrize(
    ("schedule", "settings", "message"),
    [
        (Constant, {"factor": -0.1}, "from 0 to 1, got -0.1"),
        (Constant, {"factor": 1.1}, "from 0 to 1, got 1.1"),
        (Constant, {"factor": math.nan}, "from 0 to 1, got nan"),
        (WarmUp, {"rounds": 0}, "at least 1 round, got 0"),
        (Cosine, {"rounds": 0}, "rounds >= 1"),
        (Cosine, {"end": 1.5}, "an end from 0 to 1, got 100 and 1.5"),
        (Cosine, {"end": math.nan}, "an end from 0 to 1, got 100 and nan"),
    ],
)
def test_settings_out_of_range_are_refused(schedule: type, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule(**settings)
