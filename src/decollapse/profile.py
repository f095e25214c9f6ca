"""Where the time of a run goes, from its records; and how near its arithmetic comes to the machine's own rate."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from decollapse.experiment import prepare
from decollapse.report.view import lookup, read_run
from decollapse.runs import RunFolder, RunFolderError

TRAINING = ("data", "forward", "loss", "backward", "optimizer")
"""Parts of a local step, as `ClientUpdate` times them: on the clock of the host, so that on a GPU, which works on while
the host goes ahead, whoever waits for it is charged."""


@dataclass(frozen=True)
class Profile:
    """Seconds of an average round, of all workers together: the parts add up to `workers` times `wall`.

    Attributes:
        rounds: how many were averaged.
        workers: processes that train.
        wall: seconds of a round on the clock.
        parts: seconds by what was done; `waiting` is what workers spend idle while clients are trained, for the last
            one, for the server's step or for their start.
        examples: trained a second, on the clock of the whole round.
        share: of the rate at which all workers multiply large float32 matrices, reached while clients train.
    """

    rounds: int
    workers: int
    wall: float
    parts: dict[str, float]
    examples: float
    share: float


def profile_run(folder: RunFolder) -> Profile:
    """The profile of a run, without its round 0.

    Raises:
        ValueError: no round was trained, or the run is from a version that did not time its parts.
    """
    run = read_run(folder.path)
    records = [record for record in run.records if record["round"] > 0]
    if not records or any("parts" not in client for record in records for client in record["clients"]):
        raise RunFolderError(f"{folder.path}: no round whose parts were timed; run at least one with this version.")
    workers = _workers(run.recipe, run.description)
    parts = _parts(records, workers)
    experiment = folder.experiment
    trained = (
        sum(client["num_examples"] for record in records for client in record["clients"]) * experiment.client.epochs
    )
    prepared = prepare(experiment)
    with torch.random.fork_rng(devices=[]):
        flops = flops_an_example(prepared.build_model(), prepared.clients[0].preprocess(prepared.clients[0].x[:2]))
    arithmetic = flops * trained / sum(_seconds(records, "clients")) / (workers * matmul_rate())
    total = sum(_seconds(records, "total"))
    wall = total / len(records)
    return Profile(len(records), workers, wall, parts, trained / total, arithmetic)


def flops_an_example(model: nn.Module, x: torch.Tensor) -> float:
    """Floating-point operations of convolutions and matrix products, forward and backward, for each row of `x`."""
    with FlopCounterMode(display=False) as counter:
        loss = F.cross_entropy(model(x).logits, torch.zeros(len(x), dtype=torch.int64))
        torch.autograd.grad(loss, [param for param in model.parameters() if param.requires_grad], allow_unused=True)
    return float(counter.get_total_flops() / len(x))


def matmul_rate(*, size: int = 2048, turns: int = 3) -> float:
    """Floating-point operations a second of one thread that multiplies two large float32 matrices, at its best."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        a, b = torch.ones(2, size, size)
        return float(2 * size**3 / min(_timed(a, b) for _ in range(turns)))
    finally:
        torch.set_num_threads(threads)


def _timed(a: torch.Tensor, b: torch.Tensor) -> float:
    began = time.perf_counter()
    torch.mm(a, b)
    return time.perf_counter() - began


def _parts(records: Sequence[Mapping[str, Any]], workers: int) -> dict[str, float]:
    """Seconds of all workers in an average round."""
    clients = [client for record in records for client in record["clients"]]
    in_steps = {part: sum(client["parts"].get(part, 0.0) for client in clients) for part in TRAINING}
    at_work = sum(client["seconds"] for client in clients)
    between = {part: workers * sum(_seconds(records, part)) for part in ("evaluation", "diagnosis", "federated")}
    total, training = (workers * sum(_seconds(records, part)) for part in ("total", "clients"))
    found = in_steps | {"rest of a client": at_work - sum(in_steps.values()), "waiting": training - at_work} | between
    found["records"] = total - sum(found.values())
    return {part: seconds / len(records) for part, seconds in found.items()}


def _seconds(records: Sequence[Mapping[str, Any]], part: str) -> list[float]:
    return [float(lookup(record, "seconds", part) or 0.0) for record in records]


def _workers(recipe: Mapping[str, Any], description: Mapping[str, Any]) -> int:
    engine = recipe.get("engine") or {}
    if engine.get("name") != "process":
        return 1
    return int(min(engine.get("workers") or lookup(description, "machine", "cores") or 1, recipe.get("num_clients", 1)))
