"""What a client measures of its own model, and what travels of it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from members import initial_model, noisy_network, one_client, small_dataset
from torch import Tensor, nn

from decollapse.client import ClientUpdate
from decollapse.core import MEASURED, Broadcast, ClientData, ClientResult, ClientState, ModelState
from decollapse.diagnosis.local import (
    BUFFERS,
    FEATURES,
    SKETCH,
    SKETCH_SIZE,
    MeasureLocalModel,
    Probe,
    lasting,
    measured_accuracy,
    measured_spectrum,
    sketch,
)
from decollapse.evaluation import evaluate, outputs


def probe(size: int = 30) -> Probe:
    dataset = small_dataset()
    return Probe(dataset.test_x[:size], dataset.test_y[:size], dataset.num_classes, dataset.preprocess)


def trained(call: ClientUpdate | MeasureLocalModel) -> tuple[ClientResult, nn.Module]:
    model = noisy_network()
    broadcast = Broadcast(round=1, model=initial_model(), seed=0)
    result, _ = call(model, one_client(), broadcast, {})
    return result, model


def local_model(result: ClientResult) -> nn.Module:
    """The client's model from what it sent: the global one plus its update, with its buffers."""
    model, start = noisy_network(), initial_model()
    ModelState({name: leaf + result.delta[name] for name, leaf in start.params.items()}, result.buffers).load_into(
        model
    )
    return model


# Measuring


def test_what_is_measured_is_the_local_model_on_the_probe() -> None:
    result, _ = trained(MeasureLocalModel(ClientUpdate(epochs=2), probe()))
    examples, model = probe(), local_model(result)
    output = outputs(model, examples.x, preprocess=examples.preprocess)
    torch.testing.assert_close(result.extras[FEATURES], output.features, rtol=1e-4, atol=1e-5)
    alone = evaluate(model, examples.x, examples.y, num_classes=4, preprocess=examples.preprocess)
    assert measured_accuracy(result.extras) == pytest.approx(alone.accuracy)
    spectrum = measured_spectrum(result.extras)
    assert spectrum is not None
    assert alone.spectrum is not None
    assert (spectrum.num_examples, spectrum.num_dead) == (30, alone.spectrum.num_dead)
    torch.testing.assert_close(spectrum.covariance, alone.spectrum.covariance, rtol=1e-4, atol=1e-6)


def test_measuring_changes_no_bit_of_the_result() -> None:
    plain, _ = trained(ClientUpdate(epochs=2))
    measured, _ = trained(MeasureLocalModel(ClientUpdate(epochs=2), probe()))
    for tree, other in ((plain.delta, measured.delta), (plain.buffers, measured.buffers)):
        assert tree.keys() == other.keys()
        assert all(torch.equal(leaf, other[name]) for name, leaf in tree.items())
    assert plain.metrics == measured.metrics
    assert not any(name.startswith(MEASURED) for name in plain.extras)


def test_measuring_draws_no_random_number_and_keeps_the_mode_of_every_module() -> None:
    model = noisy_network().train()
    model.encoder[1].eval()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    probe().output(model)
    sketch({"w": torch.ones(2 * SKETCH_SIZE)})
    assert torch.equal(before, torch.get_rng_state())
    assert model.training
    assert not model.encoder[1].training


def test_buffers_travel_without_counters() -> None:
    result, _ = trained(MeasureLocalModel(ClientUpdate(), probe()))
    sent = {name.removeprefix(BUFFERS) for name in result.extras if name.startswith(BUFFERS)}
    assert sent == {name for name in result.buffers if not name.endswith("num_batches_tracked")}


def test_what_lasts_of_a_measurement_is_numbers() -> None:
    result, _ = trained(MeasureLocalModel(ClientUpdate(), probe()))
    kept = lasting(result.extras)
    assert {name.removeprefix(MEASURED) for name in kept} == {
        "accuracy",
        "num_examples",
        "num_dead",
        "covariance",
        "correlation",
    }
    assert sum(leaf.numel() for leaf in kept.values()) == 3 + 2 * 24


class _Broken:
    """A client call whose model has diverged."""

    def __call__(
        self, model: nn.Module, data: ClientData, broadcast: Broadcast, state: ClientState
    ) -> tuple[ClientResult, ClientState]:
        with torch.no_grad():
            model.head.bias.fill_(math.nan)
        return ClientResult(data.client, 1, 1, delta={}, buffers={}, metrics={}), {"kept": {}}


def test_a_model_that_diverged_is_not_measured_and_its_result_is_passed_on() -> None:
    result, state = MeasureLocalModel(_Broken(), probe())(
        noisy_network(), one_client(), Broadcast(1, initial_model(), 0), {}
    )
    assert result.extras == {}
    assert state == {"kept": {}}
    assert measured_spectrum(result.extras) is None
    assert measured_accuracy(result.extras) is None


@pytest.mark.parametrize("where", ["features", "logits"])
def test_a_probe_has_no_answer_for_nan(where: str) -> None:
    model = noisy_network()
    with torch.no_grad():
        (model.head.bias if where == "logits" else model.encoder[1].bias).fill_(math.nan)
    assert probe().output(model) is None
    assert probe().spectrum(model) is None


def test_a_probe_of_one_example_measures_nothing_and_does_not_fail() -> None:
    spectrum = probe(1).spectrum(noisy_network())
    assert spectrum is not None
    assert spectrum.covariance.abs().sum() == 0


def test_a_probe_without_examples_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one example"):
        probe(0).output(noisy_network())


# The sketch


def update(size: int, *, seed: int) -> dict[str, Tensor]:
    flat = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    return {"a": flat[: size // 3].reshape(-1, 1), "b": flat[size // 3 :]}


def dot(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return sum(float((leaf.double() * b[name].double()).sum()) for name, leaf in a.items())


@pytest.mark.parametrize("size", [1, 3, SKETCH_SIZE])
def test_a_short_update_is_kept_as_it_is(size: int) -> None:
    found = sketch(update(size, seed=0))
    assert found.dtype == torch.float64
    assert torch.equal(found, torch.cat([leaf.flatten() for leaf in update(size, seed=0).values()]).double())


def test_a_long_update_becomes_as_many_numbers_as_promised() -> None:
    assert sketch(update(SKETCH_SIZE + 1, seed=0)).shape == (SKETCH_SIZE,)
    assert sketch({}).shape == (0,)


def test_every_number_falls_into_one_bin_with_one_sign_the_same_for_everybody() -> None:
    size = SKETCH_SIZE + 50
    for position in (0, 17, size - 1):
        one_hot = torch.zeros(size)
        one_hot[position] = 2.0
        first, again = sketch({"w": one_hot}), sketch({"w": one_hot})
        assert torch.equal(first, again)
        assert first.abs().sum() == 2.0
        assert (first != 0).sum() == 1


def test_bins_are_used_evenly_and_signs_are_balanced() -> None:
    size = 50 * SKETCH_SIZE
    signed = sketch({"w": torch.ones(size)})
    # A bin holds a sum of about 50 signs: mean 0, standard deviation sqrt(50).
    assert float(signed.mean()) == pytest.approx(0.0, abs=4 * math.sqrt(50 / SKETCH_SIZE))
    assert float(signed.std()) == pytest.approx(math.sqrt(50), rel=0.1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(-5.0, 5.0))
def test_the_sketch_is_linear(seed: int, factor: float) -> None:
    a, b = update(SKETCH_SIZE + 100, seed=seed), update(SKETCH_SIZE + 100, seed=seed + 1)
    mixed = {name: leaf.double() + factor * b[name].double() for name, leaf in a.items()}
    torch.testing.assert_close(sketch(mixed), sketch(a) + factor * sketch(b), rtol=1e-9, atol=1e-9)


def test_cosines_survive_to_the_stated_error() -> None:
    errors = []
    for seed in range(40):
        a, noise = update(20_000, seed=seed), update(20_000, seed=seed + 500)
        mix = {name: seed / 40 * leaf + (1 - seed / 40) * noise[name] for name, leaf in a.items()}
        exact = dot(a, mix) / math.sqrt(dot(a, a) * dot(mix, mix))
        short, other = sketch(a), sketch(mix)
        errors.append(float(short @ other / short.norm() / other.norm()) - exact)
    spread = math.sqrt(sum(error**2 for error in errors) / len(errors))
    assert spread < 1 / math.sqrt(SKETCH_SIZE)
    assert max(map(abs, errors)) < 4 / math.sqrt(SKETCH_SIZE)
    assert abs(sum(errors) / len(errors)) < 4 / math.sqrt(SKETCH_SIZE * len(errors))  # no bias


def test_lengths_survive_on_average() -> None:
    ratios = [float(sketch(u).norm() ** 2) / dot(u, u) for u in (update(20_000, seed=seed) for seed in range(30))]
    assert sum(ratios) / len(ratios) == pytest.approx(1.0, abs=0.02)


def test_the_measured_sketch_is_that_of_the_update() -> None:
    result, _ = trained(MeasureLocalModel(ClientUpdate(), probe()))
    assert torch.equal(result.extras[SKETCH], sketch(result.delta))
