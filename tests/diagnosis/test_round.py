"""The diagnosis of a round, from what clients measured to a line of a record."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from decollapse.aggregate import Aggregate
from decollapse.algorithms import clients_only
from decollapse.client import ClientUpdate
from decollapse.core import ModelState, Output
from decollapse.data import IID, DataSource, Dirichlet
from decollapse.diagnosis.attribution import attribute
from decollapse.diagnosis.drift import drift, lost_variance
from decollapse.diagnosis.local import BUFFERS, FEATURES, SKETCH, Probe
from decollapse.diagnosis.neural_collapse import neural_collapse
from decollapse.diagnosis.round import RoundDiagnosis, diagnose_round
from decollapse.diagnosis.verdict import judge
from decollapse.engines.process import Process
from decollapse.engines.serial import Serial
from decollapse.experiment import Experiment, prepare
from decollapse.measurements import EvaluationSettings
from decollapse.models import MLP
from decollapse.objective import Step, Trained
from decollapse.records import record_as_json
from decollapse.server_state import ServerState
from decollapse.simulation import RoundRecord
from decollapse.terms.cross_entropy import CrossEntropy

TINY = Experiment(
    data=DataSource("digits", train_size=200),
    model=MLP(hidden=(16,), norm="batch"),
    client=ClientUpdate(epochs=2),
    partition=Dirichlet(alpha=0.5, min_examples=5),
    num_clients=4,
    rounds=2,
    engine=Serial(),
    evaluation=EvaluationSettings(local_every=1, probe_size=120),
)


def run(experiment: Experiment) -> list[tuple[RoundRecord, ServerState]]:
    return list(prepare(experiment).run())


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def probe(y: Tensor, num_classes: int = 3) -> Probe:
    return Probe(y, y, num_classes, torch.Tensor.float)


def measured(seed: int, *, n: int = 60, d: int = 5) -> dict[str, Tensor]:
    return {
        FEATURES: gaussian(n, d, seed=seed),
        SKETCH: gaussian(8, seed=seed).double(),
        f"{BUFFERS}norm.running_mean": gaussian(d, seed=seed),
        f"{BUFFERS}norm.running_var": gaussian(d, seed=seed).abs(),
    }


Y = torch.arange(60) % 3
AVERAGED = Output(logits=gaussian(60, 3, seed=7), features=gaussian(60, 5, seed=8))
MODEL = ModelState({"head.weight": gaussian(3, 5, seed=9)})


def diagnosed(clients: dict[int, dict[str, Tensor]], **change: object) -> RoundDiagnosis | None:
    settings = {"averaged": AVERAGED, "model": MODEL, "probe": probe(Y), **change}
    return diagnose_round(
        settings["averaged"],  # type: ignore[arg-type]
        settings["model"],  # type: ignore[arg-type]
        clients,
        {client: 10 * (client + 1) for client in clients},
        settings["probe"],  # type: ignore[arg-type]
    )


def test_every_part_is_that_of_its_own_function() -> None:
    clients = {2: measured(2), 5: measured(5), 6: {}}
    found = diagnosed(clients)
    assert found is not None
    assert found.clients == (2, 5)
    local = [clients[client][FEATURES] for client in (2, 5)]
    assert found.attribution == attribute(AVERAGED.features, local)
    assert found.drift == drift([clients[client][SKETCH] for client in (2, 5)], [30, 60])
    buffers = [
        {name: clients[client][f"{BUFFERS}{name}"] for name in ("norm.running_mean", "norm.running_var")}
        for client in (2, 5)
    ]
    assert found.lost_variance == lost_variance(buffers, [30, 60])
    head = MODEL.params["head.weight"]
    assert found.neural_collapse == neural_collapse(AVERAGED.features, Y, logits=AVERAGED.logits, head=head)
    assert found.verdict == judge(found.evidence)


def test_the_evidence_is_of_the_covariance_and_of_the_probe() -> None:
    found = diagnosed({0: measured(0), 1: measured(1)})
    assert found is not None
    ranks = found.attribution.covariance
    evidence = found.evidence
    assert (evidence.averaged_rank, evidence.local_ranks, evidence.concatenated_rank) == (
        ranks.averaged,
        ranks.local,
        ranks.concatenated,
    )
    assert (evidence.num_examples, evidence.num_features, evidence.num_classes, evidence.num_dead) == (60, 5, 3, 0)
    assert evidence.reference_rank is None


@pytest.mark.parametrize("clients", [{}, {0: {}, 1: {}}])
def test_without_a_measured_client_there_is_no_diagnosis(clients: dict[int, dict[str, Tensor]]) -> None:
    assert diagnosed(clients) is None


@pytest.mark.parametrize("params", [{}, {"head.weight": torch.ones(5, 3)}, {"other.weight": torch.ones(3, 5)}])
def test_without_a_head_that_fits_nc3_alone_is_left_out(params: dict[str, Tensor]) -> None:
    found = diagnosed({0: measured(0)}, model=ModelState(params))
    assert found is not None
    assert found.neural_collapse is not None
    assert found.neural_collapse.nc3 is None
    assert found.neural_collapse.nc4 is not None


def test_a_probe_of_one_class_has_no_neural_collapse() -> None:
    found = diagnosed({0: measured(0)}, probe=probe(torch.ones(60, dtype=torch.int64)))
    assert found is not None
    assert found.neural_collapse is None
    assert found.evidence.num_classes == 1


def test_a_class_missing_from_the_probe_is_not_expected() -> None:
    found = diagnosed({0: measured(0)}, probe=probe(Y, num_classes=10))
    assert found is not None
    assert found.evidence.num_classes == 3


def test_without_batchnorm_no_variance_is_lost() -> None:
    found = diagnosed({0: {name: leaf for name, leaf in measured(0).items() if not name.startswith(BUFFERS)}})
    assert found is not None
    assert found.lost_variance is None


# In a run


def test_a_measured_round_has_a_diagnosis_of_its_cohort_and_another_has_none() -> None:
    records = [record for record, _ in run(replace(TINY, rounds=3, evaluation=replace(TINY.evaluation, local_every=2)))]
    assert [record.diagnosis is not None for record in records] == [False, False, True, True]
    assert records[-1].diagnosis.clients == records[-1].cohort
    assert records[-1].diagnosis.lost_variance > 0


def test_with_one_client_the_averaged_model_is_its_own() -> None:
    *_, (record, _) = run(replace(TINY, num_clients=1, partition=IID(), rounds=1))
    found = record.diagnosis
    assert found.attribution.covariance.local[0] == pytest.approx(found.attribution.covariance.averaged, rel=1e-4)
    assert found.attribution.alignment.cka_between == 1.0
    assert (*found.drift.cosines, found.drift.agreement) == pytest.approx((1.0, 1.0))
    assert found.lost_variance == pytest.approx(0.0, abs=1e-12)


def test_diagnosing_changes_no_bit_of_a_weight_a_buffer_or_a_cohort() -> None:
    *_, (with_it, state) = run(TINY)
    *_, (without, plain) = run(replace(TINY, evaluation=EvaluationSettings(local_every=0, every=2)))
    assert without.diagnosis is None
    assert with_it.cohort == without.cohort
    for tree, other in ((state.model.params, plain.model.params), (state.model.buffers, plain.model.buffers)):
        assert all(torch.equal(leaf, other[name]) for name, leaf in tree.items())
    assert with_it.evaluation == without.evaluation


def test_processes_and_the_serial_engine_give_the_same_diagnosis() -> None:
    tiny = replace(TINY, rounds=1)
    serial = [record.diagnosis for record, _ in run(tiny)]
    processes = [record.diagnosis for record, _ in run(replace(tiny, engine=Process(workers=2)))]
    assert serial[1] is not None
    assert serial == processes


def test_the_record_is_json_and_says_all_of_it() -> None:
    *_, (record, _) = run(TINY)
    line = json.loads(json.dumps(record_as_json(record), allow_nan=False))
    found = line["diagnosis"]
    assert found["verdict"] == asdict(record.diagnosis.verdict)
    assert found["evidence"]["local_ranks"] == list(record.diagnosis.evidence.local_ranks)
    assert set(found) == {
        "verdict",
        "evidence",
        "attribution",
        "clients",
        "neural_collapse",
        "drift",
        "lost_variance",
    }
    assert not any(name.startswith((FEATURES, SKETCH, BUFFERS)) for name in record.clients[0].measurements)


def test_what_is_not_a_number_is_null_in_the_record() -> None:
    *_, (record, _) = run(replace(TINY, rounds=1))
    broken = replace(record.diagnosis, lost_variance=math.nan)
    line = record_as_json(replace(record, diagnosis=broken))
    assert line["diagnosis"]["lost_variance"] is None


@dataclass(frozen=True)
class Diverges:
    """Cross-entropy that becomes NaN on a client that holds the example asked for."""

    name: ClassVar[str] = "diverges"
    clients_of: int = 0

    def __call__(self, step: Step) -> Tensor:
        return step.params["head.bias"].sum() * (math.nan if len(step.data) < self.clients_of else 0.0)


def test_a_client_that_diverges_is_left_out_and_the_others_are_diagnosed() -> None:
    sizes = sorted(len(part) for part in prepare(TINY).clients.parts)
    client = replace(TINY.client, objective=(CrossEntropy(), Diverges(clients_of=sizes[0] + 1)))
    *_, (record, state) = run(replace(TINY, client=client))
    assert len(record.rejected) == 1
    assert len(record.diagnosis.clients) == 3
    assert record.rejected[0].client not in record.diagnosis.clients
    assert math.isfinite(record.diagnosis.drift.agreement)
    assert all(leaf.isfinite().all() for leaf in state.model.params.values())


@dataclass(frozen=True)
class Forgets:
    """A term that trains nothing and ends with a NaN in its state on clients with few examples: they are rejected."""

    name: ClassVar[str] = "forgets"
    clients_of: int = 0

    def __call__(self, step: Step) -> Tensor:
        return step.output.features.new_zeros(())

    def init_state(self, anchor: ModelState) -> dict[str, Tensor]:
        return {"memory": torch.zeros(1)}

    def next_state(self, state: dict[str, Tensor], trained: Trained) -> dict[str, Tensor]:
        return {"memory": torch.full((1,), math.nan if len(trained.data) < self.clients_of else 0.0)}


def test_a_rejected_client_is_not_diagnosed_although_its_model_could_be_measured() -> None:
    sizes = sorted(len(part) for part in prepare(TINY).clients.parts)
    client = replace(TINY.client, objective=(CrossEntropy(), Forgets(clients_of=sizes[0] + 1)))
    *_, (record, _) = run(replace(TINY, client=client, rounds=1))
    (rejected,) = record.rejected
    assert any(client.measurements for client in record.clients if client.client == rejected.client)
    assert len(record.diagnosis.clients) == 3
    assert rejected.client not in record.diagnosis.clients


def test_where_every_client_diverges_there_is_no_diagnosis_and_the_run_goes_on() -> None:
    client = replace(TINY.client, objective=(CrossEntropy(), Diverges(clients_of=10_000)))
    records = [record for record, _ in run(replace(TINY, client=client))]
    assert [record.round for record in records] == [0, 1, 2]
    assert all(record.diagnosis is None for record in records)


@dataclass(frozen=True)
class Explode:
    """An aggregator that makes the global model NaN."""

    needs_single_updates: ClassVar[bool] = False

    def __call__(self, results: object) -> Aggregate | None:
        inner = TINY.aggregate(results)  # type: ignore[arg-type]
        return inner and replace(inner, delta={name: leaf * math.nan for name, leaf in inner.delta.items()})


def test_an_averaged_model_that_is_nan_has_no_diagnosis_and_the_run_goes_on() -> None:
    records = [record for record, _ in run(replace(TINY, aggregate=Explode()))]
    assert [record.round for record in records] == [0, 1, 2]
    assert all(record.diagnosis is None for record in records)


def test_clients_that_never_meet_have_nothing_averaged_to_diagnose() -> None:
    records = [record for record, _ in run(TINY.with_algorithm(clients_only(TINY.client)))]
    assert all(record.diagnosis is None for record in records)
