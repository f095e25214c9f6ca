"""Which penalty keeps features apart without killing units? Candidates on equal terms, on digits.

    python benchmarks/dead_units.py                              # with and without BatchNorm
    python benchmarks/dead_units.py --norm none --seeds 3 --penalties release covariance --betas 0.01 0.1
    python benchmarks/dead_units.py --easy --data fashion-mnist-small --train-size 1500 --seeds 2 --betas 0 0.1

A post-ReLU unit that never fires has no correlation with any other, so FedDecorr's formula rewards its death. The
candidates differ in how they charge for that. 10 clients, Dirichlet 0.05, MLP 64-128-128-10, 20 rounds of 5 epochs.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from decollapse.client import ClientUpdate
from decollapse.data import DataSource, Dirichlet
from decollapse.data.preprocess import Normalize
from decollapse.engines.serial import Serial
from decollapse.experiment import Experiment, prepare
from decollapse.measurements import EvaluationSettings
from decollapse.models import MLP, ModelBuilder, SmallCNN
from decollapse.objective import Step
from decollapse.optim import SGD
from decollapse.spectrum import summarize
from decollapse.terms.cross_entropy import CrossEntropy
from decollapse.terms.feddecorr import RELEASE_STRENGTH_AT_64, decorrelation_loss

Formula = Callable[[Tensor], Tensor]


def moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centred features, variances, and their mean, kept off zero."""
    x = x - x.mean(0)
    variance = x.square().sum(0) / (len(x) - 1)
    return x, variance, variance.mean() + 1e-12


def mean_off_diagonal(z: Tensor) -> Tensor:
    """The mean over i != j of ((z^T z)_ij / (n - 1))^2."""
    n, d = z.shape
    gram, energy = z @ z.T / (n - 1), z.square().sum(0) / (n - 1)
    return (gram.square().sum() - energy.square().sum()) / (d * (d - 1))


def release(x: Tensor) -> Tensor:
    """The reference release's formula."""
    return decorrelation_loss(x, normalization="release")


def correlation(x: Tensor) -> Tensor:
    """The default: the same at n = 64, with one strength for every batch size."""
    return decorrelation_loss(x)


def covariance(x: Tensor) -> Tensor:
    """Eigenvalues of the covariance instead of the correlation matrix."""
    return decorrelation_loss(x, matrix="covariance")


def log_covariance(x: Tensor) -> Tensor:
    """ln(d / participation ratio of the covariance)."""
    return torch.log(decorrelation_loss(x, matrix="covariance", normalization="paper") * x.shape[1])


def hinge(strength: float) -> Formula:
    """The release's formula + strength * mean relu(1 - std_j / rms std)."""

    def penalty(x: Tensor) -> Tensor:
        _, variance, mean = moments(x)
        return release(x) + strength * torch.relu(1 - (variance / mean + 1e-12).sqrt()).mean()

    return penalty


def squared_hinge(x: Tensor) -> Tensor:
    """The formula + 30 * mean relu(1 - std_j / rms std)^2."""
    _, variance, mean = moments(x)
    return correlation(x) + 30 * torch.relu(1 - (variance / mean + 1e-12).sqrt()).square().mean()


def std_variance(x: Tensor) -> Tensor:
    """The formula + 10 * variance of the stds over their mean square."""
    _, variance, mean = moments(x)
    return correlation(x) + 10 * (1 - (variance / mean + 1e-12).sqrt().mean().square())


def log_barrier(x: Tensor) -> Tensor:
    """The formula + the log of the ratio of arithmetic to geometric mean of the variances, floored at 1e-4."""
    _, variance, mean = moments(x)
    return correlation(x) - 0.5 * torch.log(variance / mean + 1e-4).mean()


def reliability(noise: float) -> Formula:
    """Mean over pairs of 1 - w_i w_j (1 - K_ij^2), w = variance / (variance + noise * mean variance)."""

    def penalty(x: Tensor) -> Tensor:
        x, variance, mean = moments(x)
        d, floored = x.shape[1], variance + noise * mean
        w = variance / floored
        pairs = (w.sum().square() - w.square().sum()) / (d * (d - 1))
        return RELEASE_STRENGTH_AT_64 * (1 - pairs + mean_off_diagonal(x / floored.sqrt()))

    return penalty


def dead_counts_as_copy(x: Tensor) -> Tensor:
    """Mean over pairs of 1 - w_i w_j (1 - K_ij^2), w = min(1, std / rms std)."""
    x, variance, mean = moments(x)
    d, std = x.shape[1], (variance / mean + 1e-8).sqrt()
    w = std.clamp(max=1)
    pairs = (w.sum().square() - w.square().sum()) / (d * (d - 1))
    return RELEASE_STRENGTH_AT_64 * (1 - pairs + mean_off_diagonal(x / mean.sqrt() / std * w.sqrt()))


def variance_floor(x: Tensor) -> Tensor:
    """The formula with a tenth of the mean variance added to every variance."""
    x, variance, mean = moments(x)
    return RELEASE_STRENGTH_AT_64 * mean_off_diagonal(x / (variance + 0.1 * mean).sqrt())


def covariance_off_diagonal(x: Tensor) -> Tensor:
    """Squared off-diagonal covariances over the squared mean variance: variances themselves are free."""
    x, _, mean = moments(x)
    return RELEASE_STRENGTH_AT_64 * mean_off_diagonal(x / mean.sqrt())


PENALTIES: dict[str, Formula] = {
    "release": release,
    "correlation": correlation,
    "covariance": covariance,
    "log_covariance": log_covariance,
    "hinge_10": hinge(10.0),
    "hinge_30": hinge(30.0),
    "squared_hinge": squared_hinge,
    "std_variance": std_variance,
    "log_barrier": log_barrier,
    "reliability_0.01": reliability(0.01),
    "reliability_0.1": reliability(0.1),
    "reliability_1": reliability(1.0),
    "dead_counts_as_copy": dead_counts_as_copy,
    "variance_floor": variance_floor,
    "covariance_off_diagonal": covariance_off_diagonal,
}


@dataclass(frozen=True)
class Candidate:
    """A penalty as a term of the client objective."""

    name: ClassVar[str] = "candidate"
    penalty: str
    beta: float

    def __call__(self, step: Step) -> Tensor:
        """Its value on this batch; a single example has none."""
        features = step.output.features
        return self.beta * PENALTIES[self.penalty](features) if len(features) > 1 else features.sum() * 0.0


@dataclass(frozen=True)
class DefaultInit:
    """`model` with PyTorch's own initial weights, smaller than this package's: features start out more alike."""

    model: ModelBuilder

    def __call__(self, input_shape: tuple[int, ...], num_classes: int) -> nn.Module:
        """Draw again what `model` drew."""
        network = self.model(input_shape, num_classes)
        for module in network.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                module.reset_parameters()
        return network


@dataclass(frozen=True)
class Setting:
    """One line of the table."""

    data: str
    train_size: int | None
    model: str
    easy: bool
    norm: str
    penalty: str
    beta: float
    lr: float
    batch_size: int
    rounds: int
    epochs: int
    alpha: float


def run(setting: Setting, seed: int) -> dict[str, float]:
    """Train once; accuracy in %, and what the test set's features look like."""
    term = () if setting.beta == 0.0 else (Candidate(setting.penalty, setting.beta),)
    network = MLP(hidden=(128, 128), norm=setting.norm) if setting.model == "mlp" else SmallCNN(norm=setting.norm)
    raw = None if setting.easy else Normalize(mean=(0.0,), std=(1.0,))
    experiment = Experiment(
        data=DataSource(setting.data, train_size=setting.train_size, preprocess=raw),
        partition=Dirichlet(alpha=setting.alpha),
        model=network if setting.easy else DefaultInit(network),
        client=ClientUpdate(
            objective=(CrossEntropy(), *term),
            optimizer=SGD(lr=setting.lr, momentum=0.9),
            epochs=setting.epochs,
            batch_size=setting.batch_size,
        ),
        rounds=setting.rounds,
        seed=seed,
        evaluation=EvaluationSettings(every=setting.rounds, local_every=0),
        engine=Serial(),
    )
    *_, (record, _) = prepare(experiment).run()
    measured = record.evaluation
    if measured is None or measured.statistics is None:
        return {"accuracy": 0.0, "loss": float("inf"), "dead": float("nan"), "effective_rank": float("nan")}
    summary = summarize(measured.statistics)
    return {
        "accuracy": 100 * measured.accuracy,
        "loss": measured.loss,
        "dead": summary["num_dead"],
        "effective_rank": summary["covariance_effective_rank"],
    }


def main() -> None:
    """Run every combination asked for, print a line each, save all of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--train-size", type=int)
    parser.add_argument("--model", default="mlp", choices=["mlp", "cnn"])
    parser.add_argument("--easy", action="store_true", help="standardised inputs and this package's initial weights")
    parser.add_argument("--norm", nargs="+", default=["none", "batch"])
    parser.add_argument("--penalties", nargs="+", default=["correlation", "covariance", "hinge_10"], choices=PENALTIES)
    parser.add_argument("--betas", nargs="+", type=float, default=[0.0, 0.01, 0.03, 0.1])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--out", type=Path, help="a JSON file for every number of every seed")
    args = parser.parse_args()

    rows = []
    print(f"norm   {'penalty':24}   beta  {'accuracy %':>12}  {'dead':>12}  {'eff. rank':>12}   loss     s")
    for norm in args.norm:
        for penalty, beta in combinations(args.penalties, args.betas):
            setting = Setting(
                data=args.data,
                train_size=args.train_size,
                model=args.model,
                easy=args.easy,
                norm=norm,
                penalty=penalty,
                beta=beta,
                lr=args.lr,
                batch_size=args.batch_size,
                rounds=args.rounds,
                epochs=args.epochs,
                alpha=args.alpha,
            )
            started = time.perf_counter()
            seeds = [run(setting, seed) for seed in range(args.seeds)]
            seconds = time.perf_counter() - started
            rows.append({"setting": asdict(setting), "seeds": seeds, "seconds": seconds})
            cells = {key: [seed[key] for seed in seeds] for key in seeds[0]}
            print(
                f"{norm:6} {penalty:24} {beta:6g}  {spread(cells['accuracy']):>12}  {spread(cells['dead']):>12}  "
                f"{spread(cells['effective_rank']):>12}  {statistics.mean(cells['loss']):5.2f}  {seconds:4.0f}",
                flush=True,
            )
            if args.out:
                machine = {"torch": torch.__version__, "machine": platform.machine()}
                args.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))


def combinations(penalties: list[str], betas: list[float]) -> list[tuple[str, float]]:
    """Every penalty with every beta; beta 0 once, under the name none."""
    none = [("none", 0.0)] if 0.0 in betas else []
    return none + [(penalty, beta) for penalty in penalties for beta in betas if beta > 0]


def spread(values: list[float]) -> str:
    """Mean ± population standard deviation over seeds."""
    return f"{statistics.mean(values):5.1f} ± {statistics.pstdev(values):4.1f}"


if __name__ == "__main__":
    main()
