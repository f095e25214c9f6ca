from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from decollapse.algorithms import fedavg
from decollapse.client import ClientUpdate
from decollapse.core import ModelState, Output
from decollapse.data import IID, FederatedData, load_dataset
from decollapse.engines import EngineSettings, Federation
from decollapse.engines.acceleration import PAYS_FROM, accelerate
from decollapse.engines.process import Process
from decollapse.engines.serial import Serial
from decollapse.models import SmallCNN
from decollapse.simulation import simulate

DIGITS = load_dataset("digits", train_size=160)
CLIENTS = FederatedData(DIGITS, IID()(DIGITS.train_y, 4, seed=0))
BUILD = partial(SmallCNN(channels=(4, 8), features=16, norm="batch"), DIGITS.input_shape, 10)


def trained(engine: EngineSettings) -> ModelState:
    torch.manual_seed(0)
    start = ModelState.of(BUILD())
    with engine(Federation(BUILD, CLIENTS)) as started:
        call = fedavg(ClientUpdate(epochs=3, batch_size=16))
        *_, (_, server) = simulate(call, started, start, num_clients=4, rounds=2, seed=0)
    return server.model


def largest_difference(a: ModelState, b: ModelState) -> float:
    return max(float((a.params[name] - b.params[name]).abs().max()) for name in a.params)


class Spy(nn.Module):
    """Notes the dtype its layer computes in."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.seen: list[torch.dtype] = []

    def forward(self, x: Tensor) -> Output:
        features = self.layer(x)
        self.seen.append(features.dtype)
        return Output(features, features)


def test_autocast_trains_near_full_precision_with_weights_in_it() -> None:
    plain, cast = trained(Serial()), trained(Serial(autocast=True))
    assert 0 < largest_difference(plain, cast) < 0.02
    assert all(leaf.dtype == torch.float32 for leaf in cast.params.values())


def test_autocast_holds_while_gradients_are_computed_and_not_in_evaluation() -> None:
    spy = Spy()
    model = accelerate(spy, device="cpu", compile=False, autocast=True)
    output = model(torch.ones(4, 3))
    with torch.no_grad():
        model(torch.ones(4, 3))
    assert spy.seen == [torch.bfloat16, torch.float32]
    assert output.logits.dtype == output.features.dtype == torch.float32


def test_workers_have_the_bits_of_the_serial_engine_with_autocast_too() -> None:
    assert largest_difference(trained(Serial(autocast=True)), trained(Process(workers=2, autocast=True))) == 0.0


def test_autocast_beside_float64_is_refused() -> None:
    for engine in (Serial, Process):
        with pytest.raises(ValueError, match="autocast trains in bfloat16, which float64 is not for"):
            engine(dtype="float64", autocast=True)


def test_without_options_the_model_is_left_alone() -> None:
    spy = Spy()
    assert accelerate(spy, device="cpu", compile=False, autocast=False) is spy
    assert "forward" not in vars(spy)


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """What was asked of the compiler, which returns what it was given."""
    asked: list[dict[str, object]] = []

    def compile(function: Callable[[Tensor], Output], **options: object) -> Callable[[Tensor], Output]:
        asked.append(options)
        return function

    monkeypatch.setattr(torch, "compile", compile)
    return asked


def test_the_first_size_that_comes_often_is_compiled_and_no_other(compilations: list[dict[str, object]]) -> None:
    model = accelerate(Spy(), device="cpu", compile=True, autocast=False)
    for size in [5] * (PAYS_FROM - 1) + [4] * PAYS_FROM + [5] * 3:
        model(torch.ones(size, 3))
    assert compilations == [{"dynamic": False}]


def test_a_model_that_cannot_be_compiled_trains_on_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile(function: object, **options: object) -> Callable[[Tensor], Output]:
        def fail(x: Tensor) -> Output:
            raise RuntimeError("no C++ compiler\nand much more")

        return fail

    monkeypatch.setattr(torch, "compile", compile)
    spy = Spy()
    model = accelerate(spy, device="cpu", compile=True, autocast=False)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        outputs = [model(torch.ones(4, 3)) for _ in range(3 * PAYS_FROM)]
    (only,) = said
    assert str(only.message).endswith("cannot be compiled and trains as it is: RuntimeError: no C++ compiler")
    assert len(spy.seen) == len(outputs)


def test_an_error_of_the_models_own_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    model = accelerate(Spy(), device="cpu", compile=True, autocast=False)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(torch.ones(4, 7))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_model_trains_as_the_plain_one() -> None:
    torch.manual_seed(0)
    plain = BUILD()
    x, y = torch.randn(16, *DIGITS.input_shape), torch.arange(16) % 10
    compiled = BUILD()
    compiled.load_state_dict(plain.state_dict())
    accelerate(compiled, device="cpu", compile=True, autocast=False)
    for model in (plain, compiled):
        for _ in range(PAYS_FROM + 5):
            model.zero_grad()
            nn.functional.cross_entropy(model(x).logits, y).backward()
    for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(compiled.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
