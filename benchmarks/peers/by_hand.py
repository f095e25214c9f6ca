"""The hand-written loop: one process, one page, as fast as PyTorch alone gets."""

from __future__ import annotations

from pathlib import Path

import torch

import jobs
from local import Trainer, first_model, size
from side import Clock, parser


def run(path: Path, *, threads: int, compiled: bool) -> None:
    """Federated averaging: copy the weights in, train, add the result to the sum, all in place."""
    torch.set_num_threads(threads)
    problem = jobs.load(path)
    model = first_model(problem)
    trainer = Trainer(problem, torch.compile(model) if compiled else model)
    tensors = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    weights = [tensor.clone() for tensor in tensors]

    clock = Clock(size(model))
    clock.accuracies[0] = trainer.accuracy()
    for round, cohort in enumerate(problem.cohorts, start=1):
        clock.start_round()
        total = [torch.zeros_like(tensor) for tensor in tensors]
        for client in cohort:
            torch._foreach_copy_(tensors, weights)
            trainer.train(client)
            torch._foreach_add_(total, tensors, alpha=problem.share(client, round))
        weights = total
        torch._foreach_copy_(tensors, weights)
        if problem.job.due(round):
            clock.accuracies[round] = trainer.accuracy()
        clock.end_round()
    clock.report()


def main() -> None:
    """Run one problem."""
    options = parser(__doc__)
    options.add_argument("--compile", action="store_true", help="with torch.compile, whose time counts")
    args = options.parse_args()
    run(args.problem, threads=args.threads, compiled=args.compile)


if __name__ == "__main__":
    main()
