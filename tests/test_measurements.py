from __future__ import annotations

import io
import json
import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from decollapse.algorithms import clients_only
from decollapse.client import ClientUpdate
from decollapse.config import RecipeError, load_recipe
from decollapse.data import DataSource, Dirichlet, Groups
from decollapse.diagnosis.measure_features import MeasureFeatures
from decollapse.diagnosis.neural_collapse import neural_collapse
from decollapse.diagnosis.sketch import Sketch
from decollapse.engines.process import Process
from decollapse.engines.serial import Serial
from decollapse.evaluation import outputs
from decollapse.experiment import Experiment, prepare
from decollapse.measurements import EvaluationSettings
from decollapse.models import MLP
from decollapse.optim import SGD
from decollapse.records import record_as_json, spectra_as_npz
from decollapse.server_state import ServerState
from decollapse.simulation import RoundRecord

TINY = Experiment(
    data=DataSource("digits", train_size=200),
    model=MLP(hidden=(16,), norm="batch"),
    client=ClientUpdate(epochs=1),
    partition=Dirichlet(alpha=0.5, min_examples=5),
    num_clients=4,
    rounds=3,
    engine=Serial(dtype="float64"),
    evaluation=EvaluationSettings(local_every=0, federated_every=2),
)


def run(experiment: Experiment) -> list[tuple[RoundRecord, ServerState]]:
    return list(prepare(experiment).run())


def asking(**options: object) -> Experiment:
    """TINY, with other federated measurements."""
    return replace(TINY, evaluation=replace(TINY.evaluation, federated=MeasureFeatures(**options)))  # type: ignore[arg-type]


def pooled(experiment: Experiment, server: ServerState, clients: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Features, logits and labels of the clients' own examples, all in one place."""
    prepared = prepare(experiment)
    model = prepared.build_model().double()
    server.model.load_into(model)
    data = [prepared.clients[client] for client in clients]
    found = [outputs(model, part.x, preprocess=part.preprocess) for part in data]
    features, logits = (torch.cat([getattr(part, name) for part in found]) for name in ("features", "logits"))
    return features, logits, torch.cat([part.y for part in data])


def test_federated_spectra_are_of_the_rounds_asked_for_and_of_the_last() -> None:
    assert [record.federated is not None for record, _ in run(TINY)] == [False, False, True, True]


@pytest.mark.parametrize("cohort_size", [None, 2])
def test_a_federated_spectrum_is_that_of_the_cohorts_pooled_examples(cohort_size: int | None) -> None:
    experiment = replace(TINY, cohort_size=cohort_size)
    *_, (record, server) = run(experiment)
    assert record.federated is not None
    features, _, _ = pooled(experiment, server, list(record.cohort))
    z = features.numpy() - features.numpy().mean(axis=0)
    expected = np.linalg.eigvalsh(z.T @ z / len(z))[::-1]
    found = record.federated.spectrum
    np.testing.assert_allclose(found.covariance.numpy(), expected, rtol=0, atol=1e-10 * expected.max())
    assert found.num_examples == len(features)
    assert record.federated.num_clients == len(record.cohort)


def test_asking_the_clients_changes_no_weight() -> None:
    *_, (_, asked) = run(TINY)
    *_, (_, plain) = run(replace(TINY, evaluation=EvaluationSettings(local_every=0)))
    assert all(torch.equal(leaf, plain.model.params[name]) for name, leaf in asked.model.params.items())


def test_the_process_engine_has_the_same_spectrum() -> None:
    *_, (serial, _) = run(TINY)
    *_, (process, _) = run(replace(TINY, engine=Process(workers=2, dtype="float64")))
    assert serial.federated is not None
    assert process.federated is not None
    assert torch.equal(serial.federated.spectrum.covariance, process.federated.spectrum.covariance)


def test_sums_of_each_class_tell_the_measures_of_neural_collapse() -> None:
    *_, (record, server) = run(asking(per_class=True))
    features, _, y = pooled(TINY, server, list(record.cohort))
    expected = neural_collapse(features, y)
    assert record.federated is not None
    found = record.federated.neural_collapse
    assert found is not None
    for name in ("nc1", "nc2_norms", "nc2_angles", "between_rank", "within_rank"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-8)
    assert (found.nc3, found.nc4, found.num_classes) == (None, None, 10)


def test_a_sketch_is_smaller_and_says_what_it_misses() -> None:
    *_, (exact, _) = run(TINY)
    *_, (record, _) = run(asking(sketch=Sketch(size=4)))
    assert exact.federated is not None
    assert record.federated is not None
    assert record.federated.bytes_per_client == 8 * (1 + 16 + 16 * 4 + 16) < exact.federated.bytes_per_client
    total = float(exact.federated.spectrum.covariance.sum())
    seen = float(record.federated.spectrum.covariance.sum())
    assert 0 < record.federated.covariance_missing == pytest.approx(total - seen)


def test_a_recipe_reaches_every_setting(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        "[evaluation]\nfederated_every = 1\n[evaluation.federated]\nper_class = true\nsketch = { size = 8 }"
    )
    found = load_recipe(recipe, ["evaluation.federated.min_examples=5"]).evaluation
    assert found.federated == MeasureFeatures(per_class=True, sketch=Sketch(size=8), min_examples=5)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "evaluation.federated.sketch={sise=3}",
            "evaluation.federated.sketch.sise is no setting .* did you mean 'size'",
        ),
        ("evaluation.federated.sketch=3", "evaluation.federated.sketch.* table"),
        (
            "evaluation.federated.sketch.size=-2",
            "evaluation.federated.sketch: the size of a sketch is at least 0, got -2",
        ),
    ],
)
def test_a_sketch_that_is_none_is_named(setting: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(None, [setting])


def test_the_record_and_the_arrays_of_a_round_tell_it() -> None:
    *_, (record, _) = run(asking(per_class=True))
    assert record.federated is not None
    line = json.loads(json.dumps(record_as_json(record), allow_nan=False))["federated"]
    assert line["spectrum"]["num_examples"] == 200
    assert line["bytes_per_client"] == 8 * (10 + 160 + 136)
    assert line["num_clients"] == 4
    assert line["neural_collapse"]["num_classes"] == 10
    arrays = np.load(io.BytesIO(spectra_as_npz(record) or b""))
    np.testing.assert_array_equal(arrays["federated_covariance"], record.federated.spectrum.covariance.numpy())


@pytest.mark.parametrize("experiment", [TINY, TINY.with_algorithm(clients_only(ClientUpdate(epochs=1)))])
def test_every_evaluation_has_the_accuracy_at_each_value_of_a_column(experiment: Experiment) -> None:
    digits = experiment.data.load()
    halves = Groups(("early", "late"), (torch.arange(len(digits.test_y)) >= 100).long())
    *_, (record, _) = prepare(experiment, replace(digits, test_groups={"time": halves})).run()
    assert record.evaluation is not None
    found = json.loads(json.dumps(record_as_json(record)))["evaluation"]["by_column"]["time"]
    late = (len(halves.codes) - 100) / len(halves.codes)
    assert found["early"] != found["late"]
    assert (1 - late) * found["early"] + late * found["late"] == pytest.approx(record.evaluation.accuracy)


@pytest.mark.parametrize("engine", [Serial(), Process(workers=2)])
def test_a_diverged_model_has_no_federated_spectrum_and_the_run_goes_on(engine: Serial | Process) -> None:
    diverging = replace(
        TINY,
        model=MLP(hidden=(16, 16), norm="none"),
        client=ClientUpdate(epochs=1, batch_size=200, optimizer=SGD(lr=1e30)),  # one step: large, yet finite
        evaluation=EvaluationSettings(local_every=0, federated_every=1),
        engine=engine,
    )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        records = [record for record, _ in run(diverging)]
    # Of several workers, whoever fails first is told of.
    sentence = r"no federated spectrum: client \d failed in round 1: ValueError: client \d: features must be finite"
    assert re.match(sentence, str(said[0].message))
    assert records[-1].round == 3
    assert records[1].federated is None


def test_clients_that_keep_their_own_models_have_no_common_spectrum() -> None:
    alone = clients_only(ClientUpdate(epochs=1))
    assert all(record.federated is None for record, _ in run(TINY.with_algorithm(alone)))


def test_under_secure_aggregation_no_local_model_is_measured() -> None:
    settings = EvaluationSettings(local_every=1, federated_every=1)
    records = [record for record, _ in run(replace(TINY, secure_aggregation=True, evaluation=settings))]
    assert all(not client.measurements for record in records for client in record.clients)
    assert all(record.diagnosis is None for record in records)
    assert records[-1].federated is not None
