"""What the engines cost and gain: ratios within one run, the two sides in turn, medians.

    python benchmarks/engine.py                  # all four
    python benchmarks/engine.py --only serial    # serial, process, layout or memory

serial   the serial engine against the best one page of PyTorch can do: the same steps on the same batches
process  two workers against the serial engine, at a job of about a minute
layout   channels_last against PyTorch's own layout, forward and backward
memory   peak memory of 10,000 clients against 20, cohorts of 20, in processes of their own
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional as F

from decollapse.algorithms import fedavg
from decollapse.client import ClientUpdate
from decollapse.data import IID, Dataset, Dirichlet, FederatedData, Normalize, load_dataset
from decollapse.engines import EngineSettings, Federation
from decollapse.engines.process import Process
from decollapse.engines.serial import Serial
from decollapse.experiment import Experiment, Prepared
from decollapse.models import ModelBuilder, ResNet20, SmallCNN
from decollapse.simulation import simulate

CLIENT = ClientUpdate(epochs=1)


def in_turn(sides: dict[str, Callable[[], float]], turns: int) -> dict[str, list[float]]:
    """Seconds of each side, A B A B …"""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, side in sides.items():
            seconds[name].append(side())
    return seconds


def prepared(num_clients: int = 10, train_size: int | None = None) -> Prepared:
    """Fashion-MNIST among `num_clients`, and the small convolutional network."""
    dataset = load_dataset("fashion-mnist-small", train_size=train_size)
    parts = Dirichlet(alpha=0.5)(dataset.train_y, num_clients, seed=0)
    return Prepared(Experiment(num_clients=num_clients, client=CLIENT), dataset, FederatedData(dataset, parts))


def serial(turns: int) -> dict[str, list[float]]:
    """The serial engine against a hand-written loop."""
    job = prepared()
    start = job.initial_model()

    def ours() -> float:
        with Serial()(Federation(job.build_model, job.clients)) as engine:
            began = time.perf_counter()
            for _ in simulate(fedavg(CLIENT), engine, start, num_clients=10, rounds=2, seed=0):
                pass
            return time.perf_counter() - began

    def by_hand() -> float:
        torch.set_num_threads(1)
        model = job.build_model().to(memory_format=torch.channels_last)
        began = time.perf_counter()
        weights = start.params | start.buffers
        for _ in range(2):
            total = {name: torch.zeros_like(leaf) for name, leaf in weights.items()}
            for data in job.clients:
                model.load_state_dict(weights)
                optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
                for batch in torch.randperm(len(data)).split(64):
                    optimizer.zero_grad()
                    output = model(data.preprocess(data.x[batch]))
                    F.cross_entropy(output.logits, data.y[batch]).backward()
                    optimizer.step()
                for name, leaf in model.state_dict().items():
                    total[name] += (leaf * (len(data) / 5000)).to(leaf.dtype)
            weights = total
        return time.perf_counter() - began

    return in_turn({"decollapse": ours, "by hand": by_hand}, turns)


def process(turns: int) -> dict[str, list[float]]:
    """Two workers against one process, whole runs, start-up included."""
    job = prepared()
    start = job.initial_model()

    def run(settings: EngineSettings) -> float:
        began = time.perf_counter()
        with settings(Federation(job.build_model, job.clients)) as engine:
            for _ in simulate(fedavg(ClientUpdate(epochs=5)), engine, start, num_clients=10, rounds=6, seed=0):
                pass
        return time.perf_counter() - began

    return in_turn({"process": lambda: run(Process(workers=2)), "serial": lambda: run(Serial())}, turns)


def layout(builder: ModelBuilder, turns: int) -> dict[str, list[float]]:
    """Seconds of ten training steps in each memory layout."""
    torch.set_num_threads(1)

    def side(memory: torch.memory_format) -> Callable[[], float]:
        model = builder((3, 32, 32), 10).to(memory_format=memory)
        x, y = torch.randn(64, 3, 32, 32).to(memory_format=memory), torch.randint(10, (64,))

        def steps() -> float:
            began = time.perf_counter()
            for _ in range(10):
                model.zero_grad()
                F.cross_entropy(model(x).logits, y).backward()
            return time.perf_counter() - began

        steps()
        return steps

    return in_turn({"channels_last": side(torch.channels_last), "contiguous": side(torch.contiguous_format)}, turns)


def memory(turns: int) -> dict[str, list[float]]:
    """Peak memory in MB of ten rounds, cohorts of 20, among 20 to 10,000 clients with 20,000 images of 28 x 28."""

    def peak(num_clients: int) -> float:
        command = [sys.executable, __file__, "--memory-of", str(num_clients)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    sides = {f"{n} clients": (lambda n=n: peak(n)) for n in (20, 1_000, 10_000)}
    return in_turn(sides, min(turns, 3))


def memory_of(num_clients: int) -> float:
    """Peak resident memory in MB of this process after ten rounds with cohorts of 20."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (20_000, 1, 28, 28), dtype=torch.uint8, generator=generator)
    y = torch.arange(20_000) % 10
    dataset = Dataset("noise", x, y, x[:10], y[:10], tuple("abcdefghij"), Normalize((0.5,), (0.5,)))
    clients = FederatedData(dataset, IID()(y, num_clients, seed=0))
    job = Prepared(Experiment(num_clients=num_clients), dataset, clients)
    with Serial()(Federation(job.build_model, clients)) as engine:
        for _ in simulate(
            fedavg(CLIENT), engine, job.initial_model(), num_clients=num_clients, cohort_size=20, rounds=10, seed=0
        ):
            pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print a line a side and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["serial", "process", "layout", "memory"])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--out", help="a file for the JSON")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print(memory_of(options.memory_of))
        return
    jobs = {
        "serial": serial,
        "process": process,
        "layout of SmallCNN": partial(layout, SmallCNN()),
        "layout of ResNet-20": partial(layout, ResNet20()),
        "memory": memory,
    }
    chosen = {name: job for name, job in jobs.items() if options.only in (None, name.split()[0])}
    results = {name: job(options.turns) for name, job in chosen.items()}
    for name, sides in results.items():
        medians = {side: statistics.median(values) for side, values in sides.items()}
        last = list(medians.values())[-1]
        for side, values in sides.items():
            spread = f"median {medians[side]:9.3f}  min {min(values):9.3f}  max {max(values):9.3f}"
            print(f"{name:20} {side:14} {spread}  against the last {medians[side] / last:5.2f}")
    if options.out:
        machine = {"platform": platform.platform(), "cores": len(os.sched_getaffinity(0)), "torch": torch.__version__}
        with open(options.out, "w") as file:
            json.dump({"machine": machine, "results": results}, file, indent=1)


if __name__ == "__main__":
    main()
