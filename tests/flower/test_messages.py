"""Tasks and results survive the wire, and what is neither is refused."""

from __future__ import annotations

import math

import pytest
import torch

pytest.importorskip("flwr")

from flwr.app import ConfigRecord, RecordDict
from loopback import content_over_the_wire

from decollapse.core import Broadcast, ClientResult, ModelState
from decollapse.flower.messages import MessageError, Task, decode_result, decode_task, encode_result, encode_task

MODEL = ModelState(
    {"w": torch.tensor([0.1, -0.0])}, {"mean": torch.tensor([1e-45]), "batches": torch.tensor(2**53 + 1)}
)


def result(**changes: object) -> ClientResult:
    numbers = {"client": 3, "num_examples": 7, "num_steps": 2, "metrics": {"loss": 0.1 + 0.2, "accuracy": math.nan}}
    trees = {"delta": MODEL.params, "buffers": MODEL.buffers, "extras": {"measured/x": torch.zeros(0, 2)}}
    return ClientResult(**(numbers | trees | {"step_size": 1 / 3, "seconds": 1.5, "parts": {"data": 0.5}} | changes))


def test_a_task_arrives_whole() -> None:
    broadcast = Broadcast(4, MODEL, seed=2**62 + 1, extras={"control/w": torch.ones(2)})
    state = {"moon": {"w": torch.tensor([3.0])}, "buffers": {}}
    task = Task({"rounds": 3, "lr": 0.1}, {"call": "recalibrate"}, {"x": torch.tensor([1, 2])}, broadcast, 5, state)
    came = decode_task(content_over_the_wire(encode_task(task)))
    assert (came.recipe, came.call, came.client) == (task.recipe, task.call, 5)
    assert (came.broadcast.round, came.broadcast.seed) == (4, 2**62 + 1)
    assert came.state.keys() == {"moon", "buffers"}
    for sent, arrived in (
        (MODEL.params, came.broadcast.model.params),
        (MODEL.buffers, came.broadcast.model.buffers),
        (broadcast.extras, came.broadcast.extras),
        (task.tensors, came.tensors),
        (state["moon"], came.state["moon"]),
    ):
        assert sent.keys() == arrived.keys()
        assert all(
            torch.equal(leaf, arrived[name]) and leaf.dtype == arrived[name].dtype for name, leaf in sent.items()
        )


def test_a_result_arrives_whole() -> None:
    came, state = decode_result(content_over_the_wire(encode_result(result(), {"moon": {"w": torch.ones(1)}})), 3)
    assert (came.num_examples, came.num_steps, came.step_size, came.seconds) == (7, 2, 1 / 3, 1.5)
    assert came.metrics["loss"] == 0.1 + 0.2
    assert math.isnan(came.metrics["accuracy"])
    assert torch.equal(came.buffers["batches"], torch.tensor(2**53 + 1))
    assert torch.equal(state["moon"]["w"], torch.ones(1))


def test_a_failure_arrives_with_its_reason() -> None:
    came, _ = decode_result(encode_result(ClientResult.failed(3, "no disk"), {}), 3)
    assert came.failure == "no disk"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (RecordDict(), "no record 'about'"),
        (RecordDict({"about": ConfigRecord({"json": "{"})}), "no record 'about'"),
        (RecordDict({"about": ConfigRecord({"json": "[1]"})}), "no record 'about'"),
        (RecordDict({"about": ConfigRecord({"json": '{"client": 3}'})}), "num_examples"),
        (encode_result(result(client=4), {}), "client 4"),
        (encode_result(result(num_examples=-1), {}), "num_examples is -1"),
        (encode_result(result(num_steps=1.5), {}), "num_steps is 1.5"),
        (encode_result(result(metrics={"loss": "low"}), {}), "metrics"),
        (RecordDict({"about": encode_result(result(), {})["about"]}), "no arrays 'delta'"),
    ],
)
def test_what_is_no_result_is_refused(content: RecordDict, complaint: str) -> None:
    with pytest.raises(MessageError, match=complaint):
        decode_result(content, 3)


def test_what_is_no_task_is_refused() -> None:
    with pytest.raises(MessageError, match="about"):
        decode_task(RecordDict())
