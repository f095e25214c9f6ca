from __future__ import annotations

from dataclasses import replace
from math import inf, nan
from pathlib import Path

import numpy as np
import pytest
import torch

from decollapse.aggregate.normalized import NormalizedMean
from decollapse.algorithms import clients_only
from decollapse.client import ClientUpdate
from decollapse.core import ModelState
from decollapse.data import IID, DataSource, Dirichlet
from decollapse.diagnosis.local import measured_spectrum
from decollapse.engines.serial import Serial
from decollapse.evaluation import evaluate
from decollapse.experiment import Experiment, prepare
from decollapse.measurements import EvaluationSettings
from decollapse.models import MLP, SimplexClassifier
from decollapse.optim import SGD, Adam
from decollapse.robust import Krum, TrimmedMean
from decollapse.server.fedexp import FedExP
from decollapse.spectrum import Spectrum
from decollapse.terms.feddecorr import FedDecorr
from decollapse.terms.proximal import Proximal

TINY = Experiment(
    data=DataSource("digits", train_size=200),
    model=MLP(hidden=(16,), norm="batch"),
    client=ClientUpdate(epochs=2),
    partition=Dirichlet(alpha=0.5, min_examples=5),
    num_clients=4,
    rounds=3,
    engine=Serial(),
    evaluation=EvaluationSettings(every=2, local_every=2, probe_size=60),
)


def test_measurements_happen_when_asked_for_and_in_the_last_round() -> None:
    records = [record for record, _ in prepare(TINY).run()]
    assert [record.evaluation is not None for record in records] == [True, False, True, True]
    measured = [[measured_spectrum(client.measurements) is not None for client in record.clients] for record in records]
    assert measured == [[], [False] * 4, [True] * 4, [True] * 4]


def test_measuring_changes_no_weight() -> None:
    *_, (_, measured) = prepare(TINY).run()
    *_, (_, plain) = prepare(replace(TINY, evaluation=EvaluationSettings(every=3, local_every=0))).run()
    for name, leaf in measured.model.params.items():
        assert torch.equal(leaf, plain.model.params[name])


def test_a_local_spectrum_is_that_of_the_clients_own_model() -> None:
    prepared = prepare(replace(TINY, rounds=1, num_clients=1, partition=IID()))
    (_, start), (record, server) = prepared.run()
    spectrum = measured_spectrum(record.clients[0].measurements)
    assert spectrum is not None
    # With one client, the averaged model is the local one.
    model = prepared.build_model()
    server.model.load_into(model)
    probe = prepared.probe
    again = evaluate(model, probe.x, probe.y, num_classes=10, preprocess=probe.preprocess)
    assert isinstance(again.spectrum, Spectrum)
    torch.testing.assert_close(spectrum.covariance, again.spectrum.covariance)
    assert start.round == 0


def test_runs_of_one_seed_start_from_the_same_weights_and_split_whatever_the_algorithm() -> None:
    a = prepare(TINY)
    b = prepare(replace(TINY, client=ClientUpdate(epochs=5, optimizer=SGD(lr=0.1))))
    assert all(torch.equal(leaf, b.initial_model().params[name]) for name, leaf in a.initial_model().params.items())
    assert all(np.array_equal(x, y) for x, y in zip(a.clients.parts, b.clients.parts, strict=True))
    c = prepare(replace(TINY, seed=1))
    assert not torch.equal(a.initial_model().params["head.weight"], c.initial_model().params["head.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"client": ClientUpdate(frozen=("haed",))}, "no part 'haed'; the nearest names are head"),
        ({"client": ClientUpdate(personal=("noorm",))}, "no part 'noorm'"),
        ({"client": ClientUpdate(frozen=("all",))}, "leaves nothing to train"),
        ({"client": ClientUpdate(objective=(FedDecorr(layers=("encoder.linear9",)),))}, "no layer 'encoder.linear9'"),
        ({"aggregate": Krum(num_byzantine=1)}, "needs a cohort of at least 5, got 4"),
        ({"aggregate": TrimmedMean(), "cohort_size": 2}, "needs a cohort of at least 3, got 2"),
        ({"aggregate": Krum(num_byzantine=0), "server": FedExP()}, "FedExP needs the mean of the updates' squared"),
        ({"aggregate": NormalizedMean(), "client": ClientUpdate(optimizer=Adam())}, "this local optimiser has not"),
        ({"model": SimplexClassifier(MLP(hidden=(6,)))}, "10 classes needs at least 10 features, got 6"),
    ],
)
def test_what_cannot_work_is_found_before_training(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(replace(TINY, **change)).check()


def test_clients_alone_are_evaluated_one_by_one_and_never_meet() -> None:
    federated, alone = TINY, TINY.with_algorithm(clients_only(TINY.client))
    *_, (record, server) = prepare(alone).run()
    dataset, build = prepare(alone).dataset, prepare(alone).build_model
    accuracies = []
    for client in range(4):
        model, state = build(), server.clients[client]
        ModelState(state["personal"], state["buffers"]).load_into(model)
        result = evaluate(
            model, dataset.test_x, dataset.test_y, num_classes=dataset.num_classes, preprocess=dataset.preprocess
        )
        accuracies.append(result.accuracy)
    assert record.evaluation.accuracy == pytest.approx(sum(accuracies) / 4)
    assert record.evaluation.spectrum is None
    first, together = (
        next(record.clients for record, _ in prepare(experiment).run() if record.round == 1)
        for experiment in (alone, federated)
    )
    assert [client.metrics for client in first] == [client.metrics for client in together]


def test_one_client_is_the_centralised_baseline() -> None:
    experiment = replace(TINY, num_clients=1)
    assert len(prepare(experiment).clients[0]) == 200


def test_the_fingerprint_changes_with_one_pixel(tmp_path: Path) -> None:
    prints = []
    for pixel in (0, 1):
        x = np.zeros((20, 4, 4), np.uint8)
        x[3, 2, 2] = pixel
        x[0] = 7
        for split in ("train", "test"):
            np.savez(tmp_path / f"{split}.npz", x=x, y=np.arange(20) % 2)
        source = DataSource(f"npz:{tmp_path}")
        prints.append(prepare(replace(TINY, data=source, partition=IID(), model=MLP(hidden=(4,)))).fingerprint)
    assert prints[0] != prints[1]


def test_float64_is_a_setting_of_the_engine() -> None:
    *_, (_, server) = prepare(replace(TINY, rounds=1, engine=Serial(dtype="float64"))).run()
    assert all(leaf.dtype == torch.float64 for leaf in server.model.params.values())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SGD(lr=0), "lr is a step size"),
        (lambda: SGD(momentum=1), "momentum is a share"),
        (lambda: SGD(weight_decay=-1), "weight_decay"),
        (lambda: SGD(momentum=0, nesterov=True), "nesterov needs a momentum"),
        (lambda: Adam(lr=0), "must be positive"),
        (lambda: Adam(betas=(1.0, 0.9)), "betas are shares"),
        (lambda: SGD(lr=nan), "lr is a step size and must be positive and finite, got nan"),
        (lambda: SGD(lr=inf), "lr is a step size and must be positive and finite, got inf"),
        (lambda: SGD(momentum=nan), "momentum is a share"),
        (lambda: SGD(momentum=inf), "momentum is a share"),
        (lambda: SGD(weight_decay=nan), "weight_decay must be finite"),
        (lambda: SGD(weight_decay=inf), "weight_decay must be finite"),
        (lambda: Adam(lr=nan), "must be positive and finite, got nan"),
        (lambda: Adam(lr=inf), "must be positive and finite, got inf"),
        (lambda: Adam(eps=nan), "must be positive and finite, got 0.001 and nan"),
        (lambda: Adam(eps=inf), "must be positive and finite, got 0.001 and inf"),
        (lambda: Adam(betas=(0.9, nan)), "betas are shares"),
        (lambda: Adam(betas=(inf, 0.9)), "betas are shares"),
        (lambda: Adam(weight_decay=-1), "weight_decay must be finite and cannot be negative"),
        (lambda: Adam(weight_decay=nan), "weight_decay must be finite"),
        (lambda: Adam(weight_decay=inf), "weight_decay must be finite"),
        (lambda: Proximal(mu=nan), "mu is a strength, a finite number"),
        (lambda: Proximal(mu=inf), "mu is a strength, a finite number"),
        (lambda: EvaluationSettings(every=0), "every of evaluation is at least 1, got 0"),
        (lambda: Experiment(rounds=0), "at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]  # a lambda
