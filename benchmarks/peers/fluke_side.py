"""fluke: `CentralizedFL` with its own server, clients and channel.

Its `FastDataLoader` holds tensors and takes an augmentation of whole batches, so it gets ours; SGD is fused, the model
in channels_last, clients forget their models after a round. fluke trains one client after the other on the CPU, so
threads are tried. Changes, so that all sides do the same work: the cohorts are the job's; the evaluation computes
accuracy alone, when the job says; `finalize`, which would evaluate and send the model once more, does nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

try:
    import torchvision  # noqa: F401  # fluke imports it
except RuntimeError:
    # PyPI's build is for CUDA and does not load its operators beside a CPU build of PyTorch. fluke uses none of them;
    # torchvision wants these to be declared.
    DECLARED = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        DECLARED.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from fluke import FlukeENV
from fluke.algorithms import CentralizedFL
from fluke.client import Client
from fluke.config import OptimizerConfigurator
from fluke.data import FastDataLoader
from fluke.evaluation import Evaluator
from fluke.server import Server
from fluke.utils import FederationObserver
from torch import Tensor, nn

import jobs
from decollapse.core import Output
from local import Images, accuracy, first_model, objective, size
from side import Clock, parser


class Objective(nn.Module):
    """The job's loss, as fluke calls it."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, output: Output, y: Tensor) -> Tensor:
        """Of one batch."""
        return objective(output, y, self.beta)


class GivenCohorts(Server):
    """fluke's server with the cohorts of the job."""

    def __init__(self, problem: jobs.Problem, **settings: object) -> None:
        super().__init__(**settings)
        self.cohorts = iter(problem.cohorts)

    def get_eligible_clients(self, eligible_perc: float) -> Sequence[Client]:
        """The clients of the next round."""
        return [self.clients[client] for client in next(self.cohorts)]


class NoFinale(CentralizedFL):
    """Ends with its last round."""

    def finalize(self) -> None:
        """Do nothing."""


class Rounds(FederationObserver):
    """Starts and stops the clock."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def start_round(self, round: int, global_model: nn.Module) -> None:
        """Called by fluke."""
        self.clock.start_round()

    def end_round(self, round: int) -> None:
        """Called by fluke, after the evaluation."""
        self.clock.end_round()


class WhenDue(Evaluator):
    """Accuracy on the test set, when the job says."""

    def __init__(self, problem: jobs.Problem, images: Images, clock: Clock) -> None:
        super().__init__()
        self.problem, self.images, self.clock = problem, images, clock

    def evaluate(self, round: int, model: nn.Module, *inputs: object, **settings: object) -> dict[str, float]:
        """Of the server's model."""
        if not self.problem.job.due(round):
            return {}
        self.clock.accuracies[round] = accuracy(model, self.images.test, self.problem.test_y)
        return {"accuracy": self.clock.accuracies[round]}


def loaders(problem: jobs.Problem, images: Images) -> list[FastDataLoader]:
    """The training data of each client."""
    job = problem.job

    def channels_in_front(x: Tensor) -> Tensor:
        return x.permute(0, 3, 1, 2)

    return [
        FastDataLoader(
            images.train[rows],
            problem.train_y[rows],
            num_labels=problem.num_classes,
            batch_size=job.batch_size,
            shuffle=True,
            transforms=images.augmented if job.augment else channels_in_front,
            skip_singleton=False,
        )
        for rows in problem.parts
    ]


def main() -> None:
    """Run one problem."""
    args = parser(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    problem = jobs.load(args.problem)
    job, images = problem.job, Images(problem)
    model, data = first_model(problem), loaders(problem, images)
    environment = FlukeENV()
    environment.set_seed(jobs.SEED)
    environment.set_device("cpu")
    environment.set_inmemory(True)
    environment.set_eval_cfg(pre_fit=False, post_fit=False, locals=False, server=True)

    clock = Clock(size(model))
    environment.set_evaluator(WhenDue(problem, images, clock))
    sgd = OptimizerConfigurator(
        {"name": "SGD", "lr": job.lr, "momentum": job.momentum, "weight_decay": job.weight_decay, "fused": True}
    )
    clients = [
        Client(number, train_set, None, sgd, Objective(job.beta), local_epochs=job.epochs, persistency=False)
        for number, train_set in enumerate(data)
    ]
    # fluke asks whether there is a test set; the evaluator has its own.
    server = GivenCohorts(problem, model=model, test_set=data[0], clients=clients, weighted=True)
    federation = NoFinale(job.num_clients, None, {}, clients=clients, server=server)
    federation.set_callbacks([Rounds(clock)])
    clock.accuracies[0] = accuracy(model, images.test, problem.test_y)
    federation.run(n_rounds=job.rounds, eligible_perc=job.cohort / job.num_clients)
    clock.report("fluke-fl")


if __name__ == "__main__":
    main()
