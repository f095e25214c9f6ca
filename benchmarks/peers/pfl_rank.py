"""pfl-research: `SimulatedBackend` and `FederatedAveraging`, as in its own CIFAR-10 benchmark.

Images are float tensors in memory, normalised once, in channels_last (its benchmark gets there by feeding (n, h, w, c)
through a permutation). Departures from its benchmark, so that all sides do the same work: the cohorts are the job's; no
user is evaluated before and after training; the test set is evaluated when the job says. SGD is fused, as everywhere.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from pfl.aggregate.simulate import SimulatedBackend
from pfl.aggregate.weighting import WeightByDatapoints
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.central_evaluation import CentralEvaluationCallback
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.pytorch import PyTorchTensorDataset
from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
from pfl.metrics import Metrics, StringMetricName, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor, nn

import jobs
from local import Images, first_model, objective, size
from side import Clock, parser

ACCURACY = StringMetricName("Central val | accuracy")


class Network(nn.Module):
    """The job's model with the two methods that pfl calls."""

    def __init__(self, problem: jobs.Problem) -> None:
        super().__init__()
        self.classifier, self.beta = first_model(problem), problem.job.beta

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Of a training batch."""
        self.train()
        return objective(self.classifier(x), y, self.beta)

    @torch.inference_mode()
    def metrics(self, x: Tensor, y: Tensor) -> dict[str, Weighted]:
        """Of a test batch."""
        self.eval()
        return {"accuracy": Weighted((self.classifier(x).logits.argmax(1) == y).sum().item(), len(y))}


class NoLocalEvaluation(FederatedAveraging):
    """Federated averaging that does not evaluate users around their training."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def get_next_central_contexts(self, *inputs: Any, **named: Any) -> tuple[Any, Any, Any]:
        """pfl's, with evaluation switched off; a round begins here."""
        contexts, model, metrics = super().get_next_central_contexts(*inputs, **named)
        if contexts is not None:
            self.clock.start_round()
            contexts = tuple(replace(context, do_evaluation=False) for context in contexts)
        return contexts, model, metrics


class Evaluation(CentralEvaluationCallback):
    """Evaluation on the test set, divided among the processes, when the job says; a round ends with it."""

    def __init__(self, job: jobs.Job, clock: Clock, dataset: PyTorchTensorDataset, settings: NNEvalHyperParams) -> None:
        super().__init__(dataset, model_eval_params=settings)
        self.job, self.clock = job, clock

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:
        """Before the first round."""
        self._note(0, super().on_train_begin(model=model))
        return Metrics()  # pfl would keep them with those of the first round, which have the same names

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """After each round; pfl counts from 0."""
        metrics = Metrics()
        if self.job.due(central_iteration + 1):
            metrics = self._eval(model)[1]
            self._note(central_iteration + 1, metrics)
        self.clock.end_round()
        return False, metrics

    def _note(self, round: int, metrics: Metrics) -> None:
        self.clock.accuracies[round] = metrics[ACCURACY].overall_value


def users(problem: jobs.Problem, images: Images) -> FederatedDataset:
    """The clients, in the order of the job's cohorts."""

    def user(client: int) -> PyTorchTensorDataset:
        rows = problem.parts[client]
        return PyTorchTensorDataset((images.epoch(rows), problem.train_y[rows]), user_id=str(client))

    order = iter([client for cohort in problem.cohorts for client in cohort])
    return FederatedDataset(user, lambda: next(order))


def main() -> None:
    """Run one problem, or this process's share of it."""
    args = parser(__doc__).parse_args()
    torch.set_num_threads(args.threads)
    problem = jobs.load(args.problem)
    job, images, network = problem.job, Images(problem), Network(problem)
    np.random.seed(jobs.SEED)  # noqa: NPY002  # pfl draws from this one; every process must draw the same
    dataset = users(problem, images)
    sgd = partial(torch.optim.SGD, momentum=job.momentum, weight_decay=job.weight_decay, fused=True)
    model = PyTorchModel(
        model=network,
        local_optimizer_create=sgd,
        central_optimizer=torch.optim.SGD(network.parameters(), 1.0),
    )
    settings = NNEvalHyperParams(local_batch_size=500)

    clock = Clock(size(network))
    NoLocalEvaluation(clock).run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=job.rounds,
            evaluation_frequency=job.rounds,
            train_cohort_size=job.cohort,
            val_cohort_size=None,
        ),
        backend=SimulatedBackend(dataset, dataset, postprocessors=[WeightByDatapoints()]),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=job.epochs, local_learning_rate=job.lr, local_batch_size=job.batch_size
        ),
        model_eval_params=settings,
        callbacks=[Evaluation(job, clock, PyTorchTensorDataset((images.test, problem.test_y)), settings)],
    )
    if os.environ.get("RANK", "0") == "0":
        clock.report("pfl")


if __name__ == "__main__":
    main()
