"""Local training and evaluation as fast as a page of PyTorch can do them, for the sides whose users write this part.

Data are tensors in memory, in the layout and the type that the convolutions want; augmentation is arithmetic on whole
epochs; SGD is fused; nothing waits for a number that is only printed.
"""

from __future__ import annotations

import torch
import torch._dynamo  # the first optimiser imports it, which takes most of a second; here it counts as an import
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from decollapse.core import Output
from decollapse.data.augment import Crop, Flip
from decollapse.terms.feddecorr import decorrelation_loss
from jobs import Problem
from networks import BUILDERS


def first_model(problem: Problem) -> nn.Module:
    """The model every side starts from, bit for bit."""
    torch.manual_seed(problem.model_seed)
    shape = tuple(problem.train_x.shape[1:])
    return BUILDERS[problem.job.model](shape, problem.num_classes).to(memory_format=torch.channels_last)


def size(model: nn.Module) -> float:
    """The sum of the absolute values of the parameters, in double precision."""
    return sum(float(parameter.detach().double().abs().sum()) for parameter in model.parameters())


def objective(output: Output, y: Tensor, beta: float) -> Tensor:
    """Cross-entropy, and FedDecorr where the job has it."""
    loss = cross_entropy(output.logits, y)
    return loss + beta * decorrelation_loss(output.features) if beta else loss


class Images:
    """The images of a problem as float32 in channels_last, normalised.

    Without augmentation this is done once, for all of them; with it, for the epoch of a client at a time.
    """

    def __init__(self, problem: Problem) -> None:
        self.job = problem.job
        self.mean = torch.tensor(problem.mean).mul_(255)[:, None, None]
        self.scale = 1 / torch.tensor(problem.std).mul_(255)[:, None, None]
        self.crop, self.flip = Crop(padding=4), Flip()
        self.generator = torch.Generator().manual_seed(1)
        self.test = self.floats(problem.test_x)
        self.train = problem.train_x if self.job.augment else _channels_behind(self.floats(problem.train_x))

    def floats(self, x: Tensor) -> Tensor:
        """uint8 to normalised float32."""
        return x.to(torch.float32, memory_format=torch.channels_last).sub_(self.mean).mul_(self.scale)

    def augmented(self, x: Tensor) -> Tensor:
        """uint8 to randomly cropped and flipped float32."""
        return self.floats(self.flip(self.crop(x, self.generator), self.generator))

    def epoch(self, rows: Tensor) -> Tensor:
        """The training images of an epoch, in the order of `rows`, augmented where the job says so."""
        if self.job.augment:
            return self.augmented(self.train[rows])
        return self.train[rows].permute(0, 3, 1, 2)


def _channels_behind(x: Tensor) -> Tensor:
    """(n, h, w, c) in memory order: rows are then copied in one piece, and a permutation is channels_last."""
    return x.permute(0, 2, 3, 1).contiguous()


class Trainer:
    """Trains and evaluates one model in place."""

    def __init__(self, problem: Problem, model: nn.Module) -> None:
        self.problem, self.model, self.images = problem, model, Images(problem)

    def train(self, client: int) -> None:
        """The local epochs of one client, from the weights that `model` has."""
        job, rows = self.problem.job, self.problem.parts[client]
        optimizer = torch.optim.SGD(
            self.model.parameters(), lr=job.lr, momentum=job.momentum, weight_decay=job.weight_decay, fused=True
        )
        self.model.train()
        for _ in range(job.epochs):
            order = rows[torch.randperm(len(rows), generator=self.images.generator)]
            x, y = self.images.epoch(order), self.problem.train_y[order]
            for batch, labels in zip(x.split(job.batch_size), y.split(job.batch_size), strict=True):
                optimizer.zero_grad()
                objective(self.model(batch), labels, job.beta).backward()
                optimizer.step()

    def accuracy(self) -> float:
        """On the test set."""
        return accuracy(self.model, self.images.test, self.problem.test_y)


@torch.inference_mode()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The share of examples classified right."""
    model.eval()
    parts = zip(x.split(500), y.split(500), strict=True)
    return sum(int((model(part).logits.argmax(1) == labels).sum()) for part, labels in parts) / len(y)
