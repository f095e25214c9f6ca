"""This package, by its public interface: a recipe, its data, its rounds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

import jobs
from decollapse.config import load_recipe
from decollapse.data import Dataset, Normalize
from decollapse.experiment import prepare
from networks import RECIPES
from side import Clock, parser


@dataclass(frozen=True)
class Dealt:
    """The split that the problem's file holds, as a partition.

    Attributes:
        path: the file.
    """

    path: str

    def __call__(
        self, labels: Tensor, num_clients: int, *, seed: int = 0, columns: Mapping[str, Tensor] | None = None
    ) -> list[np.ndarray]:
        """The rows of each client."""
        with np.load(self.path) as file:
            return np.split(file["rows"], np.cumsum(file["sizes"])[:-1])


def recipe(job: jobs.Job, path: Path) -> Iterator[str]:
    """The job in the words of a recipe. What is not said has this package's defaults, the engine among it."""
    yield from RECIPES[job.model]
    yield "partition.name=decollapse_side:Dealt"
    yield f'partition.path="{path}"'
    yield f"num_clients={job.num_clients}"
    yield f"cohort_size={job.cohort}"
    yield f"rounds={job.rounds}"
    yield f"seed={jobs.SEED}"
    yield f"client.epochs={job.epochs}"
    yield f"client.batch_size={job.batch_size}"
    yield f"client.optimizer.lr={job.lr}"
    yield f"client.optimizer.momentum={job.momentum}"
    yield f"client.optimizer.weight_decay={job.weight_decay}"
    if job.augment:
        yield 'client.augment=["crop", "flip"]'
    if job.beta:
        yield f"client.objective.feddecorr.beta={job.beta}"
    yield f"evaluation.every={job.evaluate_every}"
    yield "evaluation.local_every=0"  # the peers have no diagnosis of local models


def main() -> None:
    """Run one problem."""
    options = parser(__doc__)
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of `decollapse run`")
    args = options.parse_args()
    problem = jobs.load(args.problem)
    classes = tuple(str(label) for label in range(problem.num_classes))
    examples = problem.train_x, problem.train_y, problem.test_x, problem.test_y
    dataset = Dataset("benchmark", *examples, classes, Normalize(problem.mean, problem.std))
    prepared = prepare(load_recipe(None, [*recipe(problem.job, args.problem.resolve()), *args.set]), dataset)

    start = sum(float(leaf.double().abs().sum()) for leaf in prepared.initial_model().params.values())
    clock = Clock(start)
    for record, _ in prepared.run():
        if record.evaluation is not None:
            clock.accuracies[record.round] = record.evaluation.accuracy
        if record.round:
            assert list(record.cohort) == problem.cohorts[record.round - 1]
            clock.rounds.append(record.seconds["total"])
    clock.report()


if __name__ == "__main__":
    main()
