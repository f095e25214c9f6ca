"""How long the FedDecorr loss takes, forward and backward, beside the plain d x d formula and a training step.

    python benchmarks/loss.py
    python benchmarks/loss.py --n 16 64 512 --d 64 1280 4096 --model --out loss.json

Contenders take turns, A B A B, so that whatever else the machine does falls on both; medians of the turns. Only the
ratios of one run mean something.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from decollapse.models import MobileNetV2
from decollapse.terms.feddecorr import decorrelation_loss

Row = dict[str, float]


def plain_formula(features: Tensor, eps: float = 1e-8) -> Tensor:
    """The release's formula as one writes it down: z-scores, a d x d matrix, its off-diagonal entries, autograd."""
    n, d = features.shape
    x = features - features.mean(0)
    x = x / (eps + x.var(0)).sqrt()
    off_diagonal = (x.T @ x).flatten()[:-1].view(d - 1, d + 1)[:, 1:]
    return off_diagonal.square().mean() / n


def seconds(contenders: Sequence[Callable[[], object]], *, turns: int, shortest_turn: float = 0.02) -> list[float]:
    """The median time of one call of each contender, over `turns` turns of at least `shortest_turn` seconds."""
    calls = []
    for run in contenders:
        run()
        started = time.perf_counter()
        run()
        calls.append(max(1, round(shortest_turn / (time.perf_counter() - started))))
    times: list[list[float]] = [[] for _ in contenders]
    for _ in range(turns):
        for run, count, taken in zip(contenders, calls, times, strict=True):
            started = time.perf_counter()
            for _ in range(count):
                run()
            taken.append((time.perf_counter() - started) / count)
    return [statistics.median(taken) for taken in times]


def forward_backward(loss: Callable[[Tensor], Tensor], features: Tensor) -> None:
    """One value and one gradient."""
    features.grad = None
    loss(features).backward()


def compare(n: int, d: int, *, turns: int) -> Row:
    """Plain formula, this package's loss, and its covariance variant on the same features."""
    features = torch.randn(n, d, generator=torch.Generator().manual_seed(0)).relu_().requires_grad_()
    losses = [plain_formula, decorrelation_loss, partial(decorrelation_loss, matrix="covariance")]
    plain, ours, covariance = seconds([partial(forward_backward, loss, features) for loss in losses], turns=turns)
    return {
        "n": n,
        "d": d,
        "plain_ms": 1e3 * plain,
        "loss_ms": 1e3 * ours,
        "covariance_ms": 1e3 * covariance,
        "speedup": plain / ours,
    }


def share_of_a_step(n: int, *, turns: int) -> Row:
    """What the loss adds to a training step of MobileNetV2 on 32 x 32 images, 1280 features."""
    torch.manual_seed(0)
    model = MobileNetV2()((3, 32, 32), 10).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x = torch.randn(n, 3, 32, 32).to(memory_format=torch.channels_last)
    y = torch.arange(n) % 10

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(model(x).logits, y).backward()
        optimizer.step()

    features = model(x).features.detach().requires_grad_()
    whole, loss = seconds([step, partial(forward_backward, decorrelation_loss, features)], turns=turns)
    return {"n": n, "d": features.shape[1], "step_ms": 1e3 * whole, "loss_ms": 1e3 * loss, "share": loss / whole}


def main() -> None:
    """Measure, print a table, save the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", nargs="+", type=int, default=[64], help="batch sizes")
    parser.add_argument("--d", nargs="+", type=int, default=[256, 1280, 2048], help="feature dimensions")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", action="store_true", help="also the share of a MobileNetV2 training step")
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    print(f"{'n':>5} {'d':>5} {'plain ms':>10} {'loss ms':>9} {'covariance ms':>14} {'speed-up':>9}")
    rows = []
    for n in args.n:
        for d in args.d:
            row = compare(n, d, turns=args.turns)
            rows.append(row)
            print(
                f"{n:5} {d:5} {row['plain_ms']:10.2f} {row['loss_ms']:9.3f} {row['covariance_ms']:14.3f} "
                f"{row['speedup']:8.1f}x",
                flush=True,
            )
    steps = [share_of_a_step(n, turns=args.turns) for n in args.n] if args.model else []
    for row in steps:
        print(
            f"MobileNetV2, batch {row['n']}: step {row['step_ms']:.0f} ms, loss {row['loss_ms']:.2f} ms, "
            f"{row['share']:.2%} of the step"
        )
    if args.out:
        machine = {"torch": torch.__version__, "machine": platform.machine(), "threads": args.threads}
        args.out.write_text(json.dumps({"machine": machine, "losses": rows, "steps": steps}, indent=1))


if __name__ == "__main__":
    main()
