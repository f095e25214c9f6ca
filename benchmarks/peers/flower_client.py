"""The client app of the Flower side: a module of its own, because Ray's workers import it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

import jobs
from local import Trainer, first_model

app = ClientApp()


@cache
def trainer(path: str) -> Trainer:
    """Data and scratch model of this worker, read and built once: what a careful user of Flower does."""
    torch.set_num_threads(1)
    problem = jobs.load(Path(path))
    return Trainer(problem, first_model(problem))


@app.train()
def train(message: Message, context: Context) -> Message:
    """Local training of the client that the server's message names."""
    config = message.content["config"]
    arrays = message.content["arrays"]
    assert isinstance(config, ConfigRecord)
    assert isinstance(arrays, ArrayRecord)
    local, client = trainer(str(config["path"])), clients(config)[message.metadata.dst_node_id]
    local.model.load_state_dict(arrays.to_torch_state_dict())
    local.train(client)
    metrics = MetricRecord({"num-examples": len(local.problem.parts[client])})
    content = RecordDict({"arrays": ArrayRecord(local.model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


def clients(config: ConfigRecord) -> dict[int, int]:
    """Which client of the federation each node of the cohort is."""
    nodes, numbers = config["nodes"], config["clients"]
    assert isinstance(nodes, list)
    assert isinstance(numbers, list)
    return dict(zip(nodes, numbers, strict=True))  # type: ignore[arg-type]  # lists of integers, as sent
