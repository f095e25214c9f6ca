"""Flower's simulation: FedAvg on Ray, as many actors as there are cores, one thread each.

As the documentation has it: `ServerApp` with `FedAvg`, `ClientApp`, `run_simulation`, a supernode a client. The clients
train with the same page of PyTorch as the hand-written loop, and keep data and model between messages. The one change
is that the strategy takes the job's cohorts instead of random ones.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

for variable, value in (
    ("FLWR_TELEMETRY_ENABLED", "0"),
    ("FLWR_DISABLE_UPDATE_CHECK", "1"),
    ("FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION", "1"),
    ("RAY_USAGE_STATS_ENABLED", "0"),
):
    os.environ[variable] = value  # before Flower and Ray are imported: nothing is sent, looked up or installed

import torch
from flwr.app import (
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

import jobs
from flower_client import app as client_app
from local import Trainer, first_model, size
from side import Clock, parser


class GivenCohorts(FedAvg):
    """Federated averaging of the cohorts that the job has."""

    def __init__(self, problem: jobs.Problem, path: str, clock: Clock) -> None:
        super().__init__(fraction_evaluate=0.0)
        self.problem, self.path, self.clock = problem, path, clock

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """A message to the node of each client."""
        while len(nodes := sorted(grid.get_node_ids())) < self.problem.job.num_clients:
            time.sleep(0.05)  # they register while the server starts; Flower's own strategy waits a second at a time
        self.clock.start_round()
        cohort = self.problem.cohorts[server_round - 1]
        config["path"] = self.path
        config["nodes"] = [nodes[client] for client in cohort]
        config["clients"] = cohort
        content = RecordDict({self.arrayrecord_key: arrays, self.configrecord_key: config})
        return [
            Message(content=content, message_type=MessageType.TRAIN, dst_node_id=nodes[client]) for client in cohort
        ]


def main() -> None:
    """Run one problem."""
    options = parser(__doc__)
    options.add_argument("--actors", type=int, default=len(os.sched_getaffinity(0)), help="clients at the same time")
    args = options.parse_args()
    torch.set_num_threads(args.actors)  # the server evaluates while no client trains
    problem = jobs.load(args.problem)
    trainer = Trainer(problem, first_model(problem))
    server_app = ServerApp()
    clock = Clock(size(trainer.model))

    def evaluate(round: int, arrays: ArrayRecord) -> MetricRecord | None:
        if problem.job.due(round):
            trainer.model.load_state_dict(arrays.to_torch_state_dict())
            clock.accuracies[round] = trainer.accuracy()
        if round:
            clock.end_round()
        return None

    @server_app.main()
    def serve(grid: Grid, context: Context) -> None:
        strategy = GivenCohorts(problem, str(args.problem.resolve()), clock)
        arrays = ArrayRecord(trainer.model.state_dict())
        strategy.start(grid=grid, initial_arrays=arrays, num_rounds=problem.job.rounds, evaluate_fn=evaluate)

    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=problem.job.num_clients,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": args.actors},
        },
    )
    if len(clock.rounds) != problem.job.rounds:
        raise SystemExit(f"Flower ended after {len(clock.rounds)} of {problem.job.rounds} rounds; its log says why.")
    clock.report("flwr", "ray")


if __name__ == "__main__":
    main()
