"""What our layer costs on Flower: seconds a round beside Flower's own FedAvg, on its simulation, with the same work.

    python benchmarks/overhead.py --out docs/results/speed/flower_overhead.json

Both sides train the same clients with the same call in the same engine; ours also describes calls, guards updates,
keeps a run folder that can be gone on with, and remembers what clients keep. Evaluation and diagnosis are off. Sides
alternate, each turn a process of its own. A round is from its first message to the first message of the next; the
first one, in which actors start, is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Context, Message, MessageType
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from overhead_client import flower_client, prepared

from decollapse.flower import DealtData, make_client_app
from decollapse.flower.server import run_federation
from decollapse.provenance import provenance

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Of Flower and Ray: nothing is sent, looked up or installed."""
RECIPE = """
data = "fashion-mnist-small"
num_clients = {clients}
rounds = {rounds}
model = {{ name = "small_cnn", channels = [16, 32, 64], norm = "batch" }}
engine = "serial"
[client]
epochs = {epochs}
batch_size = 32
[evaluation]
every = {rounds}
local_every = 0
"""


def flower_server(recipe: str, out: Path) -> Callable[[Grid], None]:
    """Flower's own federated averaging."""
    experiment = prepared(recipe).experiment

    def serve(grid: Grid) -> None:
        start = prepared(recipe).initial_model()
        strategy = FedAvg(
            fraction_evaluate=0.0, min_train_nodes=experiment.num_clients, min_available_nodes=experiment.num_clients
        )
        strategy.start(grid, ArrayRecord(start.params | start.buffers), num_rounds=experiment.rounds)

    return serve


def our_server(recipe: str, out: Path) -> Callable[[Grid], None]:
    """The experiment, with its run folder."""
    return lambda grid: print(run_federation(grid, recipe, DealtData(), {"out": str(out), "wait": 60}))


SIDES = {
    "flower": (flower_client, flower_server),
    "decollapse": (lambda recipe: make_client_app(DealtData()), our_server),
}


def turn(side: str, recipe: str) -> list[float]:
    """Seconds of each round but the first and the last."""
    client, server = SIDES[side]
    sent: list[float] = []
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        push = grid.push_messages

        def timed(messages: Iterable[Message]) -> Iterable[str]:
            listed = list(messages)
            sent.extend(time.perf_counter() for message in listed if message.metadata.message_type == MessageType.TRAIN)
            return push(listed)

        grid.push_messages = timed  # type: ignore[method-assign]  # a stopwatch, for this run
        with tempfile.TemporaryDirectory() as folder:
            server(recipe, Path(folder) / "run")(grid)

    experiment = prepared(recipe).experiment
    cores = len(os.sched_getaffinity(0))
    run_simulation(
        server_app=app,
        client_app=client(recipe),
        num_supernodes=experiment.num_clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": cores}},
    )
    begins = sent[:: experiment.num_clients]
    if len(begins) != experiment.rounds:
        raise SystemExit(f"{side} began {len(begins)} of {experiment.rounds} rounds; its log says why.")
    return [after - before for before, after in pairwise(begins[1:])]


def main() -> None:
    """Take turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=8, help="of a turn; the first and the last are not counted")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help="one turn of one side, as JSON")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    recipe = RECIPE.format(clients=args.clients, rounds=args.rounds, epochs=args.epochs)
    if args.side:
        print(json.dumps(turn(args.side, recipe)))
        return
    seconds: dict[str, list[list[float]]] = {side: [] for side in SIDES}
    sizes = ["--clients", str(args.clients), "--rounds", str(args.rounds), "--epochs", str(args.epochs)]
    for _ in range(args.turns):
        for side, turns in seconds.items():
            command = [sys.executable, __file__, "--side", side, *sizes]
            done = subprocess.run(command, env=os.environ | QUIET, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{side} failed: {done.stderr[-2000:]}")
            turns.append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{side:10} {statistics.median(turns[-1]):.2f} s a round, median of {len(turns[-1])}", flush=True)
    medians = {side: [statistics.median(turn) for turn in turns] for side, turns in seconds.items()}
    ratios = [ours / theirs for ours, theirs in zip(medians["decollapse"], medians["flower"], strict=True)]
    print(f"decollapse / flower: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    if args.out:
        about = provenance(prepared(recipe))
        found: dict[str, Any] = {"recipe": recipe, "seconds": seconds, "ratios": ratios}
        found |= {name: about[name] for name in ("machine", "versions")}
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
