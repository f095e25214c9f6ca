"""A model of the pipeline of the FedDecorr release (https://github.com/bytedance/FedDecorr, commit 973e4af).

One client after the other, a network for each; `DataLoader` with worker processes; every image through Pillow on its
own (pad, crop, flip, to tensor, normalise); PyTorch's default layout and optimiser; the loss by its d x d formula and
its value asked for at every step. Before and after its training a client is evaluated on its own data, augmented as in
training, and on the test set; the new global model is evaluated on the whole training set and on the test set.

Departures: Pillow is called directly, because torchvision's transforms add their own time; nothing is logged; the CPU
takes the place of CUDA. `--lean` leaves out every evaluation but those of a client on its own data and of the global
model on the test set, where the job has one.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

import jobs
from local import size
from networks import BUILDERS
from side import Clock, parser


class Pictures(TorchDataset[tuple[Tensor, int]]):
    """Images that are decoded, augmented and normalised one at a time."""

    def __init__(self, x: Tensor, y: Tensor, problem: jobs.Problem, *, augment: bool) -> None:
        self.x, self.y, self.augment = x.permute(0, 2, 3, 1).contiguous().numpy(), y.numpy(), augment
        self.mean, self.std = (torch.tensor(values)[:, None, None] for values in (problem.mean, problem.std))

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = self.x[index]
        if self.augment:
            height, width = pixels.shape[:2]
            image = ImageOps.expand(Image.fromarray(pixels), 4)
            left, top = random.randrange(9), random.randrange(9)
            image = image.crop((left, top, left + width, top + height))
            if random.random() < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            pixels = np.array(image)
        x = torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float().div(255)
        return x.sub_(self.mean).div_(self.std), int(self.y[index])


Loader = DataLoader[tuple[Tensor, Tensor]]


def feddecorr(features: Tensor) -> Tensor | float:
    """The loss as the release has it."""
    n, d = features.shape
    if n == 1:
        return 0.0
    x = features - features.mean(dim=0, keepdim=True)
    x = x / torch.sqrt(1e-8 + x.var(dim=0, keepdim=True))
    off_diagonal = (x.t() @ x).flatten()[:-1].view(d - 1, d + 1)[:, 1:].flatten()
    return off_diagonal.pow(2).mean() / n


@torch.no_grad()
def accuracy(network: nn.Module, loader: Loader) -> float:
    """Accuracy, with a loss computed beside it; the mode is put back."""
    was_training = network.training
    network.eval()
    right, losses = 0, []
    for x, y in loader:
        logits = network(x).logits
        losses.append(nn.functional.cross_entropy(logits, y).item())
        right += int((logits.argmax(1) == y).sum().item())
    network.train(was_training)
    return right / len(loader.dataset)  # type: ignore[arg-type]  # every dataset here has a length


class Release:
    """All the networks, and the loaders of all the data."""

    def __init__(self, problem: jobs.Problem, *, workers: int, lean: bool) -> None:
        self.problem, self.job, self.lean = problem, problem.job, lean
        build = BUILDERS[self.job.model]
        shape = tuple(problem.train_x.shape[1:])
        torch.manual_seed(problem.model_seed)
        self.server = build(shape, problem.num_classes)
        self.networks = [build(shape, problem.num_classes) for _ in problem.parts]

        def loader(x: Tensor, y: Tensor, *, train: bool) -> Loader:
            pictures = Pictures(x, y, problem, augment=train and self.job.augment)
            return DataLoader(pictures, batch_size=self.job.batch_size, shuffle=train, num_workers=workers)

        self.loaders = [loader(problem.train_x[rows], problem.train_y[rows], train=True) for rows in problem.parts]
        self.all_train = loader(problem.train_x, problem.train_y, train=True)
        self.test = loader(problem.test_x, problem.test_y, train=False)

    def evaluate_client(self, client: int) -> None:
        """As before and after every local training."""
        accuracy(self.networks[client], self.loaders[client])
        if not self.lean:
            accuracy(self.networks[client], self.test)

    def train(self, client: int) -> None:
        """One client's part of a round."""
        network = self.networks[client]
        network.train()
        self.evaluate_client(client)
        job = self.job
        optimizer = torch.optim.SGD(
            network.parameters(), lr=job.lr, momentum=job.momentum, weight_decay=job.weight_decay
        )
        for _ in range(job.epochs):
            for x, y in self.loaders[client]:
                optimizer.zero_grad()
                output = network(x)
                loss = nn.functional.cross_entropy(output.logits, y)
                if job.beta:
                    loss = loss + job.beta * feddecorr(output.features)
                loss.backward()
                optimizer.step()
                loss.item()
        self.evaluate_client(client)

    def round(self, cohort: list[int], shares: list[float]) -> None:
        """Send, train one after the other, average the state dicts."""
        for client in cohort:
            self.networks[client].load_state_dict(self.server.state_dict())
        for client in cohort:
            self.train(client)
        states = [self.networks[client].state_dict() for client in cohort]
        self.server.load_state_dict(
            {
                name: sum(state[name] * share for state, share in zip(states, shares, strict=True))
                for name in self.server.state_dict()
            }
        )


def run(path: Path, *, threads: int, workers: int, lean: bool) -> None:
    """All rounds."""
    torch.set_num_threads(threads)
    problem = jobs.load(path)
    release = Release(problem, workers=workers, lean=lean)
    clock = Clock(size(release.server))
    clock.accuracies[0] = accuracy(release.server, release.test)
    for round, cohort in enumerate(problem.cohorts, start=1):
        clock.start_round()
        release.round(cohort, [problem.share(client, round) for client in cohort])
        if not lean:
            accuracy(release.server, release.all_train)
        if not lean or problem.job.due(round):
            clock.accuracies[round] = accuracy(release.server, release.test)
        clock.end_round()
    clock.report("pillow")


def main() -> None:
    """Run one problem."""
    options = parser(__doc__)
    options.add_argument("--workers", type=int, default=6, help="processes of each DataLoader; the release has 6")
    options.add_argument("--lean", action="store_true", help="without the evaluations that the job does not ask for")
    args = options.parse_args()
    run(args.problem, threads=args.threads, workers=args.workers, lean=args.lean)


if __name__ == "__main__":
    main()
