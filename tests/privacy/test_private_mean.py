from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from members import initial_model, small_federation

from decollapse.aggregate import Aggregate
from decollapse.algorithms import Algorithm
from decollapse.client import ClientUpdate
from decollapse.config import from_table
from decollapse.core import ClientResult
from decollapse.engines.serial import Serial
from decollapse.privacy.gaussian import epsilon_of
from decollapse.privacy.private_mean import PrivateMean, spent
from decollapse.schema import RecipeError
from decollapse.server.fedexp import FedExP
from decollapse.server_state import ServerState
from decollapse.simulation import simulate


def result(client: int, *update: float, num_examples: int = 1) -> ClientResult:
    return ClientResult(client, num_examples, 1, {"w": torch.tensor(update)}, {"mean": torch.ones(1)}, {})


RESULTS = [result(0, 3.0, 4.0, num_examples=90), result(1, 0.0, 0.5, num_examples=10)]


def mean(aggregator: PrivateMean, *, round: int = 1, seed: int = 0, results: list[ClientResult] = RESULTS) -> Aggregate:
    aggregate = aggregator.in_round(seed=seed, round=round)(results)
    assert aggregate is not None
    return aggregate


def test_without_noise_it_is_the_uniform_mean_of_clipped_updates() -> None:
    found = mean(PrivateMean(clip=1.0, noise_multiplier=0.0))
    assert found.delta["w"].tolist() == pytest.approx([0.3, (0.8 + 0.5) / 2])
    assert (found.num_clients, found.num_examples, found.squared_norm) == (2, 100, None)


def test_what_was_not_clipped_or_noised_is_not_released() -> None:
    assert mean(PrivateMean()).buffers == {}
    with pytest.raises(ValueError, match="client 0 sends 'scaffold/w' beside its update"):
        mean(PrivateMean(), results=[replace(RESULTS[0], extras={"scaffold/w": torch.zeros(1)})])
    with pytest.raises(ValueError, match="use weighted_mean"):
        FedExP().update(mean(PrivateMean()), {})


def test_the_noise_on_the_sum_is_the_multiplier_times_the_clip() -> None:
    zeros = [ClientResult(client, 1, 1, {"w": torch.zeros(20_000)}, {}, {}) for client in range(4)]
    noise = mean(PrivateMean(clip=0.5, noise_multiplier=3.0), results=zeros).delta["w"]
    assert float(noise.std()) == pytest.approx(3.0 * 0.5 / 4, rel=5 / math.sqrt(2 * 20_000))
    assert abs(float(noise.mean())) < 5 * 0.375 / math.sqrt(20_000)


def test_in_a_run_the_noise_is_a_function_of_seed_and_round() -> None:
    one = mean(PrivateMean(), seed=0, round=1).delta["w"]
    assert torch.equal(one, mean(PrivateMean(), seed=0, round=1).delta["w"])
    assert not torch.equal(one, mean(PrivateMean(), seed=0, round=2).delta["w"])
    assert not torch.equal(one, mean(PrivateMean(), seed=1, round=1).delta["w"])


def test_from_the_system_or_outside_of_a_run_it_is_never_the_same() -> None:
    private = PrivateMean(draw="from_system")
    assert not torch.equal(mean(private).delta["w"], mean(private).delta["w"])
    first, second = PrivateMean()(RESULTS), PrivateMean()(RESULTS)
    assert first is not None
    assert second is not None
    assert not torch.equal(first.delta["w"], second.delta["w"])


def test_a_clip_of_infinity_is_the_uniform_mean_and_takes_no_noise() -> None:
    found = mean(PrivateMean(clip=math.inf, noise_multiplier=0.0))
    assert found.delta["w"].tolist() == [1.5, 2.25]
    assert found.buffers["mean"].item() == 1.0
    with pytest.raises(ValueError, match="bounds no update"):
        PrivateMean(clip=math.inf)


@pytest.mark.parametrize("settings", [{"clip": 0.0}, {"clip": -1.0}, {"noise_multiplier": -0.1}, {"clip": math.nan}])
def test_settings_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="clip is a length"):
        PrivateMean(**settings)


def test_nobody_is_no_aggregate() -> None:
    assert PrivateMean()([]) is None


def test_one_clients_update_moves_the_sum_by_the_clip_at_most() -> None:
    quiet = PrivateMean(clip=2.0, noise_multiplier=0.0)
    for update in ([1e30, -1e30], [0.1, 0.1]):
        there = mean(quiet, results=[*RESULTS, result(2, *update)]).delta["w"]
        zero = mean(quiet, results=[*RESULTS, result(2, 0.0, 0.0)]).delta["w"]
        assert float((there - zero).norm()) * 3 <= 2.0 * (1 + 1e-6)


def test_a_run_resumes_with_the_same_noise() -> None:
    algorithm = Algorithm(ClientUpdate(batch_size=8), PrivateMean(clip=0.1))

    def run(start: object, rounds: int) -> ServerState:
        with Serial()(small_federation()) as engine:
            *_, (_, server) = simulate(algorithm, engine, start, num_clients=5, rounds=rounds, seed=1)
        return server

    whole, resumed = run(initial_model(), 3), run(run(initial_model(), 2), 3)
    for name, leaf in whole.model.params.items():
        assert torch.equal(leaf, resumed.model.params[name])


def test_a_recipe_names_it_and_where_its_noise_comes_from() -> None:
    table = {"aggregate": {"name": "private_mean", "clip": 0.3, "draw": "from_system"}, "secure_aggregation": True}
    assert from_table(table).aggregate == PrivateMean(clip=0.3, draw="from_system")
    with pytest.raises(RecipeError, match="aggregate.draw"):
        from_table({"aggregate": {"name": "private_mean", "draw": "from_dice"}})


def test_what_is_spent_counts_the_rounds_of_the_client_that_took_part_most() -> None:
    found = spent(PrivateMean(noise_multiplier=4.0), [(), (0, 1), (1, 2), (1, 0)], delta=1e-6)
    assert (found.rounds, found.delta) == (3, 1e-6)
    assert found.epsilon == pytest.approx(epsilon_of(4.0 / math.sqrt(3), 1e-6))


def test_without_noise_everything_is_spent() -> None:
    assert spent(PrivateMean(noise_multiplier=0.0), [(0,)]).epsilon == math.inf
    assert spent(PrivateMean(), []).epsilon == 0.0
