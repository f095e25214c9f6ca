"""A client call arrives as it was sent, though nothing that runs is sent."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch

pytest.importorskip("flwr")

from decollapse.buffers import Recalibrate
from decollapse.catalog import ALGORITHMS
from decollapse.client import ClientUpdate
from decollapse.data import AutoAugment, Crop, Flip
from decollapse.diagnosis.local import MeasureLocalModel, Probe
from decollapse.diagnosis.measure_features import MeasureFeatures
from decollapse.diagnosis.sketch import Sketch
from decollapse.flower.calls import UnknownCallError, described, from_description
from decollapse.held_out import EvaluateModel
from decollapse.objective import Term
from decollapse.optim import SGD
from decollapse.schedule import Cosine, Scheduled
from decollapse.terms.cross_entropy import CrossEntropy
from decollapse.terms.feddecorr import FedDecorr

CLIENT = ClientUpdate(
    objective=(Scheduled(FedDecorr(beta=0.1 + 0.2), Cosine(rounds=5)), CrossEntropy()),
    augment=(Crop(padding=1), Flip(), AutoAugment()),
    optimizer=SGD(lr=1 / 3),
    frozen=("head",),
)
CALLS = [
    CLIENT,
    Recalibrate(batch_size=7),
    EvaluateModel(batch_size=9),
    MeasureFeatures(per_class=True, min_examples=3),
    MeasureFeatures(sketch=Sketch(size=8, seed=3)),
    *(make(ClientUpdate()).client for make in ALGORITHMS.values()),
]


@pytest.mark.parametrize("call", CALLS, ids=repr)
def test_the_call_that_arrives_equals_the_one_sent(call: object) -> None:
    table, tensors = described(call)
    assert not tensors
    assert from_description(json.loads(json.dumps(table)), {}, torch.nn.Identity()) == call


def test_a_probe_travels_with_the_call_and_is_prepared_as_the_client_prepares_its_own() -> None:
    probe = Probe(torch.rand(5, 3), torch.arange(5), 6, torch.nn.Identity())
    table, tensors = described(MeasureLocalModel(CLIENT, probe))
    call = from_description(json.loads(json.dumps(table)), tensors, torch.tanh)
    assert isinstance(call, MeasureLocalModel)
    assert call.train == CLIENT
    assert torch.equal(call.probe.x, probe.x)
    assert torch.equal(call.probe.y, probe.y)
    assert (call.probe.num_classes, call.probe.preprocess) == (6, torch.tanh)


@dataclass(frozen=True)
class Strange:
    terms: tuple[Term, ...] = ()


def test_a_call_that_nobody_described_is_one_clear_error() -> None:
    with pytest.raises(UnknownCallError, match="Strange cannot be sent.*client_update"):
        described(Strange())


@pytest.mark.parametrize("table", [{}, {"call": "strange", "settings": {}}, {"call": "client_update"}])
def test_a_description_of_an_unknown_call_is_one_clear_error(table: dict[str, object]) -> None:
    with pytest.raises(UnknownCallError, match="one version of decollapse"):
        from_description(table, {}, torch.nn.Identity())
