from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from decollapse.core import ModelState, Output
from decollapse.data import IID, Dataset, FederatedData, Normalize, load_dataset
from decollapse.engines import EngineSettings, Federation
from decollapse.engines.process import Process
from decollapse.engines.serial import Serial
from decollapse.evaluation import Evaluation, evaluate, outputs
from decollapse.held_out import WithTestSet, evaluate_in_parts
from decollapse.models import MLP

DIGITS = load_dataset("digits", train_size=100)
BUILD = partial(MLP(hidden=(16,), norm="batch"), DIGITS.input_shape, 10)


def with_test_set(dataset: Dataset = DIGITS) -> WithTestSet:
    return WithTestSet(FederatedData(dataset, IID()(dataset.train_y, 4, seed=0)), dataset)


def repeated(times: int) -> Dataset:
    return replace(DIGITS, test_x=DIGITS.test_x.repeat(times, 1, 1, 1), test_y=DIGITS.test_y.repeat(times))


def weights() -> ModelState:
    torch.manual_seed(0)
    return ModelState.of(BUILD())


def in_parts(engine: EngineSettings, dataset: Dataset) -> Evaluation:
    clients = with_test_set(dataset)
    with engine(Federation(BUILD, clients)) as started:
        return evaluate_in_parts(started, weights(), clients.parts, round=1)


@pytest.mark.parametrize(("times", "count"), [(1, 1), (2, 2), (30, 8)])
def test_the_parts_are_the_test_set_in_its_order(times: int, count: int) -> None:
    dataset = repeated(times)
    clients = with_test_set(dataset)
    assert list(clients.parts) == list(range(4, 4 + count))
    assert torch.equal(torch.cat([clients[part].x for part in clients.parts]), dataset.test_x)
    assert torch.equal(torch.cat([clients[part].y for part in clients.parts]), dataset.test_y)
    assert [clients.num_examples(part) for part in clients.parts] == [len(clients[part]) for part in clients.parts]


def test_clients_are_who_they_were() -> None:
    clients = with_test_set()
    assert len(clients) == 4
    for client in range(4):
        assert torch.equal(clients[client].x, clients.clients[client].x)
        assert clients.num_examples(client) == len(clients[client])


def test_the_parts_together_are_evaluated_as_the_whole() -> None:
    dataset = repeated(7)
    model = BUILD()
    weights().load_into(model)
    whole = evaluate(model, dataset.test_x, dataset.test_y, num_classes=10, preprocess=dataset.preprocess)
    found = in_parts(Serial(), dataset)
    assert (found.num_examples, found.accuracy, found.class_counts) == (
        len(dataset.test_y),
        whole.accuracy,
        whole.class_counts,
    )
    assert found.per_class_accuracy == whole.per_class_accuracy
    assert found.loss == pytest.approx(whole.loss, rel=1e-6)
    assert found.spectrum is not None
    assert whole.spectrum is not None
    torch.testing.assert_close(found.spectrum.covariance, whole.spectrum.covariance, rtol=1e-5, atol=1e-7)


def test_the_parts_say_of_each_example_whether_it_is_right_in_the_order_of_the_test_set() -> None:
    dataset = repeated(7)
    model = BUILD()
    weights().load_into(model)
    expected = outputs(model, dataset.test_x, preprocess=dataset.preprocess).logits.argmax(1) == dataset.test_y
    assert 0 < expected.sum() < len(expected)
    assert torch.equal(in_parts(Serial(), dataset).correct, expected)


def test_processes_evaluate_to_the_same_bits() -> None:
    dataset = repeated(7)
    serial, processes = in_parts(Serial(), dataset), in_parts(Process(workers=2), dataset)
    assert serial == processes
    assert torch.equal(serial.correct, processes.correct)
    assert serial.spectrum is not None
    assert processes.spectrum is not None
    assert torch.equal(serial.spectrum.covariance, processes.spectrum.covariance)


class Constant(nn.Module):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, x: torch.Tensor) -> Output:
        return Output(self.value * torch.ones(len(x), 10), self.value * torch.ones(len(x), 3))


def test_a_model_that_has_diverged_has_a_loss_and_no_statistics() -> None:
    clients = with_test_set(replace(DIGITS, preprocess=Normalize((0.0,), (1.0,))))
    with Serial()(Federation(partial(Constant, float("nan")), clients)) as engine:
        found = evaluate_in_parts(engine, ModelState({"value": torch.tensor(float("nan"))}), clients.parts, round=1)
    assert (found.accuracy, found.statistics, found.finite) == (0.0, None, False)
