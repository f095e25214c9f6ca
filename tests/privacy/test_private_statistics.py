from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from members import initial_model, small_federation
from torch import Tensor, nn

from decollapse.config import from_table, to_table
from decollapse.core import MEASURED, Broadcast, ClientData, ClientResult, ModelState, Output
from decollapse.diagnosis.federated import FederatedSpectrum, federated_spectrum
from decollapse.diagnosis.measure_features import ORIGIN, MeasureFeatures, statistics_of
from decollapse.diagnosis.sketch import Sketch
from decollapse.engines.serial import Serial
from decollapse.privacy.gaussian import epsilon_of, sigma_of
from decollapse.privacy.private_statistics import PrivateStatistics
from decollapse.records import _federated_as_json
from decollapse.tree import Tree, sub, under

LOOSE = PrivateStatistics(epsilon=1e9, clip=10.0)  # next to no noise
TIGHT = PrivateStatistics(epsilon=1.0, clip=2.0)


class Identity(nn.Module):
    """Features are the input."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Output:
        return Output(logits=x, features=x + self.shift)


def measured(
    rows: list[list[float]] | Tensor,
    privacy: PrivateStatistics | None,
    *,
    origin: Tensor | None = None,
    seed: int = 0,
    y: list[int] | None = None,
) -> tuple[Tree, ClientResult]:
    x = torch.as_tensor(rows, dtype=torch.float64)
    labels = torch.zeros(len(x), dtype=torch.int64) if y is None else torch.tensor(y)
    data, model = ClientData(3, x, labels, 2, preprocess=lambda x: x), Identity()
    extras = {} if origin is None else {ORIGIN: origin}
    call = MeasureFeatures(privacy=privacy, per_class=y is not None)
    result, _ = call(model, data, Broadcast(1, ModelState.of(model), seed, extras), {})
    return under(result.extras, MEASURED), result


def test_features_are_clipped_by_hand() -> None:
    rows = PrivateStatistics(epsilon=1.0, clip=5.0).clipped(torch.tensor([[6.0, 8.0], [3.0, 4.0], [0.0, 0.0]]))
    assert rows.tolist() == [[3.0, 4.0], [3.0, 4.0], [0.0, 0.0]]


def test_with_little_noise_the_sums_are_those_of_clipped_features_counted_from_the_origin() -> None:
    sums, result = measured([[1.0, 3.0], [31.0, 42.0]], LOOSE, origin=torch.tensor([1.0, 2.0]))
    assert sums["count"].tolist() == [2.0]
    assert sums["sum"][0].tolist() == pytest.approx([6.0, 9.0], abs=1e-2)  # (0, 1) and (30, 40) shortened to (6, 8)
    assert sums["gram"].tolist() == pytest.approx([36.0, 48.0, 65.0], abs=1e-1)
    assert result.num_examples == 2


@pytest.mark.parametrize("privacy", [TIGHT, replace(TIGHT, clip=0.1)])
def test_one_example_changes_all_sums_together_by_the_square_root_of_3_at_most(privacy: PrivateStatistics) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(6, 4, generator=generator, dtype=torch.float64) * 5
    quiet = replace(privacy, epsilon=1e12)
    most = 0.0
    for example in range(6):
        others = torch.cat([rows[:example], rows[example + 1 :]])
        change = sub(measured(rows, quiet)[0], measured(others, quiet)[0])
        unit = {"count": 1.0, "sum": privacy.clip, "gram": privacy.clip**2}
        most = max(most, math.sqrt(sum(float((change[name] / unit[name]).square().sum()) for name in unit)))
    assert 1.5 < most < math.sqrt(3) * (1 + 1e-3)


def test_the_noise_is_the_exact_mechanisms_for_that_sensitivity() -> None:
    assert TIGHT.noise == math.sqrt(3) * sigma_of(1.0, 1e-5)
    zeros = {"count": torch.zeros(1), "sum": torch.zeros(1, 4000), "gram": torch.zeros(20_000)}
    noisy = TIGHT.noisy({name: leaf.double() for name, leaf in zeros.items()}, seed=0)
    assert float(noisy["sum"].std()) == pytest.approx(TIGHT.noise * 2.0, rel=0.06)
    assert float(noisy["gram"].std()) == pytest.approx(TIGHT.noise * 4.0, rel=0.03)
    assert noisy["count"].item() == round(noisy["count"].item())


def test_split_noise_adds_up_to_that_of_one() -> None:
    zeros = {"gram": torch.zeros(20_000, dtype=torch.float64)}
    split = replace(TIGHT, split=9)
    total = sum(split.noisy(zeros | {"count": torch.zeros(1)}, seed=seed)["gram"] for seed in range(9))
    assert float(total.std()) == pytest.approx(TIGHT.noise * 4.0, rel=0.03)


def test_noise_is_a_function_of_seed_round_and_client_or_of_nothing() -> None:
    rows = [[1.0, 0.0]]
    assert torch.equal(measured(rows, TIGHT)[0]["gram"], measured(rows, TIGHT)[0]["gram"])
    assert not torch.equal(measured(rows, TIGHT)[0]["gram"], measured(rows, TIGHT, seed=1)[0]["gram"])
    system = replace(TIGHT, draw="from_system")
    assert not torch.equal(measured(rows, system)[0]["gram"], measured(rows, system)[0]["gram"])


def test_the_number_of_examples_is_not_told_beside_the_noisy_count() -> None:
    told = {measured(torch.zeros(5, 2), TIGHT, seed=seed)[1].num_examples for seed in range(20)}
    assert len(told) > 3
    assert min(told) >= 0


def test_counts_and_scatter_that_noise_made_negative_are_put_right() -> None:
    sums = {
        "count": torch.tensor([-3.0, 4.0], dtype=torch.float64),
        "sum": torch.tensor([[9.0, 9.0], [0.0, 0.0]], dtype=torch.float64),
        "gram": torch.tensor([4.0, 0.0, -2.0], dtype=torch.float64),
    }
    found = statistics_of(sums, noisy=True)
    assert found.counts.tolist() == [0, 4]
    assert found.means.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    torch.testing.assert_close(found.within, torch.tensor([[4.0, 0.0], [0.0, 0.0]], dtype=torch.float64))


def spectrum(privacy: PrivateStatistics | None, *, per_class: bool = False) -> FederatedSpectrum:
    measure = MeasureFeatures(per_class=per_class, privacy=privacy)
    with Serial()(small_federation()) as engine:
        return federated_spectrum(engine, initial_model(), range(5), seed=0, measure=measure)


def test_epsilon_delta_and_the_noise_floor_are_reported_beside_the_spectrum() -> None:
    found = spectrum(TIGHT, per_class=True)
    assert found.privacy is not None
    assert (found.privacy.epsilon, found.privacy.delta) == (pytest.approx(1.0, rel=1e-6), 1e-5)
    n, d = found.spectrum.num_examples, len(found.spectrum.covariance)
    assert found.privacy.noise_floor == pytest.approx(2 * TIGHT.noise * 4.0 * math.sqrt(5 * d) / n)
    assert json.loads(json.dumps(_federated_as_json(found)))["privacy"]["delta"] == 1e-5
    assert spectrum(None).privacy is None


def test_too_few_clients_for_split_noise_is_said_in_epsilon() -> None:
    found = spectrum(replace(TIGHT, split=20))
    assert found.privacy is not None
    assert found.privacy.epsilon == pytest.approx(epsilon_of(TIGHT.noise / math.sqrt(3) / 2, 1e-5))


def test_with_next_to_no_noise_the_spectrum_is_the_plain_one() -> None:
    ours, theirs = spectrum(replace(LOOSE, clip=1e3, epsilon=1e25)), spectrum(None)
    torch.testing.assert_close(ours.spectrum.covariance, theirs.spectrum.covariance, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("num_clients", [1, 4])
def test_the_noise_floor_is_the_largest_eigenvalue_of_noise_alone(num_clients: int) -> None:
    d, n = 60, 1000
    privacy = replace(TIGHT, epsilon=3.0)
    zeros = {"count": torch.zeros(1), "sum": torch.zeros(1, d), "gram": torch.zeros(d * (d + 1) // 2)}
    sums = [privacy.noisy({name: leaf.double() for name, leaf in zeros.items()}, seed=s) for s in range(num_clients)]
    total = {name: sum(each[name] for each in sums) for name in zeros}
    scatter = statistics_of(total | {"count": torch.tensor([float(n)]), "sum": total["sum"] * 0}, noisy=True)
    floor = privacy.of_sum(num_clients=num_clients, num_features=d, num_examples=n).noise_floor
    assert float(torch.linalg.eigvalsh(scatter.covariance())[-1]) == pytest.approx(floor, rel=0.15)


@pytest.mark.parametrize("other", [{"sketch": Sketch(size=2)}, {"min_examples": 5}])
def test_options_that_the_noise_is_not_made_for_are_refused(other: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="leave sketch and min_examples out"):
        MeasureFeatures(privacy=TIGHT, **other)


@pytest.mark.parametrize(
    "settings",
    [{"epsilon": 0.0}, {"epsilon": 1.0, "clip": 0.0}, {"epsilon": 1.0, "split": 0}, {"epsilon": 1.0, "delta": 2.0}],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="positive"):
        PrivateStatistics(**settings)


def test_a_recipe_switches_it_on() -> None:
    table = {"evaluation": {"federated_every": 5, "federated": {"privacy": {"epsilon": 2.0, "clip": 4.0}}}}
    experiment = from_table(table)
    assert experiment.evaluation.federated.privacy == PrivateStatistics(epsilon=2.0, clip=4.0)
    assert from_table(to_table(experiment)) == experiment
