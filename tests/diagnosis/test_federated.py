from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from members import initial_model, noisy_network, small_dataset, small_federation
from torch import Tensor, nn

from decollapse import spectrum
from decollapse.core import MEASURED, Broadcast, ClientData, ClientResult, ModelState, Output
from decollapse.diagnosis.federated import (
    FederatedStatistics,
    add_sums,
    federated_spectrum,
    federated_statistics,
)
from decollapse.diagnosis.measure_features import MeasureFeatures, statistics_of
from decollapse.diagnosis.sketch import Sketch, most_collapsed
from decollapse.engines import ClientError, Federation
from decollapse.engines.process import Process
from decollapse.engines.serial import Serial
from decollapse.feature_statistics import STRIP, FeatureStatistics
from decollapse.spectrum import Spectrum


class Passing(nn.Module):
    """Features are the input; the weight is there because a model has one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))

    def forward(self, x: Tensor) -> Output:
        return Output(logits=x, features=x)


MODEL = ModelState({"weight": torch.zeros(1, dtype=torch.float64)})


class Clients(list[ClientData]):
    def num_examples(self, client: int) -> int:
        return len(self[client])

    def share_memory(self) -> object:
        return self


def same(x: Tensor) -> Tensor:
    return x


def divided(x: Tensor, sizes: Sequence[int]) -> Federation:
    """Clients with the rows of `x`, in order; labels go round the classes 0, 1, 2."""
    y = torch.arange(len(x)) % 3
    parts = zip(x.split(list(sizes)), y.split(list(sizes)), strict=True)
    return Federation(Passing, Clients(ClientData(k, a, b, 3, preprocess=same) for k, (a, b) in enumerate(parts)))


def draw(n: int, d: int, *, mean: float = 1.0, seed: int = 0, rank: int | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, dtype=torch.float64, generator=generator)
    mixing[rank or d :] = 0
    return torch.randn(n, d, dtype=torch.float64, generator=generator) @ mixing + mean


def measure(x: Tensor, sizes: Sequence[int], **options: object) -> FederatedStatistics:
    with Serial(dtype="float64", channels_last=False)(divided(x, sizes)) as engine:
        return federated_statistics(engine, MODEL, range(len(sizes)), seed=0, **options)  # type: ignore[arg-type]


def covariance(x: Tensor) -> np.ndarray:
    """Independent: numpy, float64, two passes."""
    z = x.double().numpy()
    z = z - z.mean(axis=0)
    return z.T @ z / len(z)


def assert_pooled(found: FeatureStatistics, x: Tensor, *, rtol: float = 1e-10) -> None:
    expected = covariance(x)
    assert found.num_examples == len(x)
    np.testing.assert_allclose(found.mean.numpy(), x.double().numpy().mean(axis=0), rtol=rtol, atol=1e-12)
    np.testing.assert_allclose(found.covariance().numpy(), expected, rtol=0, atol=rtol * expected.max())


# Exactness


def test_three_clients_by_hand():
    found = measure(torch.tensor([[0.0, 0.0], [2.0, -4.0], [4.0, 1.0]]), [1, 1, 1])
    assert found.statistics.num_examples == 3
    assert found.statistics.mean.tolist() == pytest.approx([2.0, -1.0])
    assert found.statistics.covariance().flatten().tolist() == pytest.approx([8 / 3, 2 / 3, 2 / 3, 14 / 3])


@pytest.mark.parametrize(
    "sizes", [[60], [30, 20, 10], [57, 1, 1, 1], [1] * 60], ids=["one", "few", "unequal", "single"]
)
def test_the_federation_has_the_statistics_of_its_pooled_features(sizes: list[int]):
    x = draw(60, 5)
    assert_pooled(measure(x, sizes).statistics, x)


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(6)), mean=st.sampled_from([0.0, 30.0]), per_class=st.booleans())
def test_the_order_of_the_clients_makes_no_difference(order: list[int], mean: float, per_class: bool):
    x = draw(40, 4, mean=mean)
    call = MeasureFeatures(per_class=per_class)
    federation, broadcast = divided(x, [1, 9, 10, 1, 15, 4]), Broadcast(0, MODEL, 0)
    results = [call(Passing(), federation.clients[client], broadcast, {})[0] for client in order]
    assert_pooled(statistics_of(add_sums(results)), x)


def test_the_processes_find_what_one_process_finds_and_it_is_the_pooled_computation():
    dataset, call = small_dataset(), MeasureFeatures(per_class=True)
    found = []
    for engine_settings in (Serial(), Process(workers=2)):
        with engine_settings(small_federation()) as engine:
            found.append(federated_statistics(engine, initial_model(), range(5), seed=0, measure=call).statistics)
    assert torch.equal(found[0].within, found[1].within)
    model = noisy_network()
    initial_model().load_into(model)
    with torch.no_grad():
        features = model.eval()(dataset.preprocess(dataset.train_x)).features
    assert found[0].counts.tolist() == [40] * 4
    # Float32 features of another batch differ in their last digit.
    np.testing.assert_allclose(found[0].covariance().numpy(), covariance(features), rtol=1e-4, atol=1e-6)


def test_classes_kept_apart_are_those_of_the_pooled_features():
    x = draw(50, 4)
    found = measure(x, [1, 20, 29], measure=MeasureFeatures(per_class=True)).statistics
    expected = FeatureStatistics.of(x, torch.arange(50) % 3, num_classes=3)
    assert torch.equal(found.counts, expected.counts)
    torch.testing.assert_close(found.means, expected.means, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found.within, expected.within, rtol=1e-10, atol=1e-10)
    assert_pooled(found, x)


def test_features_wider_than_the_strips_of_the_scatter_are_summed_up_right():
    x = draw(40, 2 * STRIP + 30)
    found = FeatureStatistics.empty(x.shape[1])
    for batch in x.split(15):
        found.update(batch)
    assert torch.equal(found.within, found.within.T)
    assert_pooled(found, x)


# Large means


@pytest.mark.parametrize("per_class", [False, True])
def test_two_passes_keep_the_digits_that_a_large_mean_costs(per_class: bool):
    x, call = draw(60, 5, mean=1e6), MeasureFeatures(per_class=per_class)
    sizes = [1, 29, 30]
    assert_pooled(measure(x, sizes, passes=2, measure=call).statistics, x, rtol=1e-10)
    once = measure(x, sizes, measure=call).statistics.covariance().numpy()
    assert np.abs(once - covariance(x)).max() > 1e-7 * covariance(x).max()


def test_an_origin_near_the_mean_does_the_same_in_one_pass():
    x = draw(60, 5, mean=1e6)
    assert_pooled(measure(x, [30, 30], origin=torch.full((5,), 1e6)).statistics, x)


def test_the_second_pass_starts_from_the_mean_that_the_first_found_from_a_given_origin():
    x = draw(60, 5, mean=1e6)
    assert_pooled(measure(x, [30, 30], origin=torch.full((5,), 9e5), passes=2).statistics, x)


# Small clients


def test_clients_below_the_minimum_are_left_out():
    x = draw(40, 4)
    found = measure(x, [4, 30, 6], measure=MeasureFeatures(min_examples=5))
    assert found.num_clients == 3
    assert_pooled(found.statistics, x[4:])


@pytest.mark.parametrize("passes", [1, 2])
def test_where_all_clients_are_below_the_minimum_there_is_no_spectrum_and_no_error(passes: int):
    with Serial(dtype="float64")(divided(draw(6, 3), [3, 3])) as engine:
        found = federated_spectrum(
            engine, MODEL, range(2), seed=0, measure=MeasureFeatures(min_examples=4), passes=passes
        )
    assert found.spectrum.num_examples == 0
    assert found.spectrum.covariance.tolist() == [0.0, 0.0, 0.0]


# Cost


@pytest.mark.parametrize(
    ("call", "passes", "numbers"),
    [
        (MeasureFeatures(), 1, 1 + 8 + 36),
        (MeasureFeatures(per_class=True), 1, 3 + 24 + 36),
        (MeasureFeatures(sketch=Sketch(2)), 1, 1 + 8 + 8 + 16),
        (MeasureFeatures(), 2, 1 + 8 + 36 + 1 + 8 + 8),
    ],
)
def test_the_bytes_of_a_client_are_those_of_its_numbers(call: MeasureFeatures, passes: int, numbers: int):
    with Serial(dtype="float64")(divided(draw(30, 8), [10, 20])) as engine:
        found = federated_spectrum(engine, MODEL, range(2), seed=0, measure=call, passes=passes)
    assert found.bytes_per_client == 8 * numbers
    assert found.num_clients == 2
    assert found.seconds > 0.0


# Spectra


def test_the_spectrum_is_that_of_the_pooled_features_and_misses_nothing():
    x = draw(90, 6)
    with Serial(dtype="float64")(divided(x, [1, 40, 49])) as engine:
        found = federated_spectrum(engine, MODEL, range(3), seed=0)
    expected = np.linalg.eigvalsh(covariance(x))[::-1]
    np.testing.assert_allclose(found.spectrum.covariance.numpy(), expected, rtol=1e-9)
    pooled = Spectrum.of(FeatureStatistics.of(x))
    torch.testing.assert_close(found.spectrum.correlation, pooled.correlation, rtol=1e-9, atol=1e-12)
    assert (found.covariance_missing, found.correlation_missing) == (0.0, 0.0)


@pytest.mark.parametrize("passes", [1, 2])
def test_a_sketched_spectrum_is_exact_where_features_have_collapsed(passes: int):
    x = draw(90, 20, rank=3)
    with Serial(dtype="float64")(divided(x, [1, 40, 49])) as engine:
        found = federated_spectrum(
            engine, MODEL, range(3), seed=0, measure=MeasureFeatures(sketch=Sketch(8)), passes=passes
        )
    expected = np.linalg.eigvalsh(covariance(x))[::-1]
    assert found.spectrum.num_examples == 90
    np.testing.assert_allclose(found.spectrum.covariance.numpy(), expected, rtol=0, atol=1e-10 * expected.sum())
    assert found.covariance_missing <= 1e-10 * expected.sum()


def test_a_sketch_counted_from_an_origin_finds_the_dead_dimensions_of_the_pooled_features():
    x, origin = draw(60, 5), torch.tensor([0.0, 0.0, 1e8, 0.0, 0.0])
    x[:, 2] += 1e8
    with Serial(dtype="float64")(divided(x, [30, 30])) as engine:
        call = MeasureFeatures(sketch=Sketch(5))
        found = federated_spectrum(engine, MODEL, range(2), seed=0, measure=call, origin=origin)
    assert found.spectrum.num_dead == int(FeatureStatistics.of(x).dead().sum()) == 1


def test_a_sketched_spectrum_bounds_that_of_features_that_have_not():
    x = draw(90, 20)
    with Serial(dtype="float64")(divided(x, [1, 40, 49])) as engine:
        found = federated_spectrum(engine, MODEL, range(3), seed=0, measure=MeasureFeatures(sketch=Sketch(8)))
    true = np.linalg.eigvalsh(covariance(x))[::-1]
    values = found.spectrum.covariance
    assert (values.numpy() <= true * (1 + 1e-9)).all()
    assert float(values.sum()) + found.covariance_missing == pytest.approx(true.sum())
    lowest = spectrum.effective_rank(most_collapsed(values, found.covariance_missing))
    assert lowest <= spectrum.effective_rank(torch.from_numpy(true.copy()))


# Bad input


def test_a_client_with_features_that_are_not_finite_is_named():
    x = draw(9, 3)
    x[4, 1] = math.nan
    with pytest.raises(ClientError, match="client 1 failed .* client 1: features must be finite, .* 1 of 3 examples"):
        measure(x, [3, 3, 3])


def results_of(*features: Tensor, call: MeasureFeatures = MeasureFeatures()) -> list[ClientResult]:
    clients = (ClientData(k + 3, x, torch.zeros(len(x), dtype=torch.int64), 2, same) for k, x in enumerate(features))
    return [call(Passing(), data, Broadcast(0, MODEL, 0), {})[0] for data in clients]


def test_clients_whose_features_differ_in_width_are_named():
    with pytest.raises(ValueError, match="client 4 has features of width 5, client 3 of 6; .* the same layer"):
        add_sums(results_of(draw(4, 6), draw(4, 5)))


def test_clients_that_measured_in_different_ways_are_named():
    sketched = results_of(draw(4, 6), draw(4, 6), call=MeasureFeatures(sketch=Sketch(2)))[1]
    with pytest.raises(
        ValueError, match=r"client 4 sent sums of shapes .*'product'.* client 3 of .* same MeasureFeatures"
    ):
        add_sums([*results_of(draw(4, 6)), sketched])


def test_sums_that_are_not_finite_name_the_client():
    first, second = results_of(draw(4, 3), draw(4, 3))
    broken = replace(second, extras=second.extras | {MEASURED + "gram": torch.full((6,), math.nan)})
    with pytest.raises(ValueError, match="client 4 sent sums with NaN or infinity; leave it out"):
        add_sums([first, broken])


def test_adding_up_leaves_the_results_alone():
    results = results_of(draw(4, 3), draw(5, 3))
    before = [result.extras[MEASURED + "gram"].clone() for result in results]
    add_sums(results)
    assert all(torch.equal(was, result.extras[MEASURED + "gram"]) for was, result in zip(before, results, strict=True))


def test_no_client_is_an_error_and_so_is_one_that_comes_twice():
    with Serial(dtype="float64")(divided(draw(6, 3), [3, 3])) as engine:
        with pytest.raises(ValueError, match="at least one client, got none"):
            federated_statistics(engine, MODEL, [], seed=0)
        with pytest.raises(ValueError, match=r"each client counts once, but one comes twice in \[0, 1, 0\]"):
            federated_spectrum(engine, MODEL, [0, 1, 0], seed=0)


def test_statistics_with_a_sketch_and_other_passes_than_one_or_two_are_refused():
    with Serial(dtype="float64")(divided(draw(6, 3), [3, 3])) as engine:
        with pytest.raises(ValueError, match="a sketch has no d x d statistics; take federated_spectrum"):
            federated_statistics(engine, MODEL, [0], seed=0, measure=MeasureFeatures(sketch=Sketch(1)))
        with pytest.raises(ValueError, match="passes must be 1 or 2, got 3"):
            federated_statistics(engine, MODEL, [0], seed=0, passes=3)
