"""What each term of the client objective costs: local training with it, over local training by cross-entropy alone.

    python benchmarks/terms.py
    python benchmarks/terms.py --model mobilenetv2 --terms feddecorr log_determinant moon --json terms.json

Times `ClientUpdate`, the loop that trains, on one client with CIFAR-sized images, every term at its defaults; so a step
here is forward, backward, SGD and a share of what a round costs once. Cross-entropy alone and with the term take turns,
A B A B; each pair gives a ratio; medians, and the middle half of the ratios. "cross_entropy" is measured against itself
and shows the noise. Only the ratios of one run mean something. Terms that can take the place of cross-entropy
(restricted_softmax and its like) are added to it all the same.

A term that asks another model costs a forward pass a step at 1 epoch. Without augmentation, as here, the answers are
kept for the round, so it costs less with more --epochs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from decollapse.aggregate import sent_extras
from decollapse.catalog import MODELS, TERMS
from decollapse.client import ClientUpdate
from decollapse.core import Broadcast, ClientData, ClientState, ModelState
from decollapse.data import Normalize
from decollapse.objective import Term
from decollapse.server.scaffold import ServerScaffold
from decollapse.term_states import shared_by
from decollapse.terms.cross_entropy import CrossEntropy

Row = dict[str, float | str]
SHAPE, NUM_CLASSES = (3, 32, 32), 10


@dataclass
class Client:
    """One client's training with one objective, ready to be repeated from the state of its first round."""

    update: ClientUpdate
    model: nn.Module
    data: ClientData
    broadcast: Broadcast
    state: ClientState

    def seconds_a_step(self) -> float:
        """Train once."""
        began = time.perf_counter()
        result, _ = self.update(self.model, self.data, self.broadcast, self.state)
        return (time.perf_counter() - began) / result.num_steps


def skewed_client(num_images: int) -> ClientData:
    """Noise; one class in eleven of sixteen images, five in one of sixteen, and four that this client lacks."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (num_images, *SHAPE), dtype=torch.uint8, generator=generator)
    y = (torch.arange(num_images) % 16).clamp(max=5)
    return ClientData(0, x, y, NUM_CLASSES, Normalize(mean=(0.5,), std=(0.29,)))


def first_broadcast(model: nn.Module) -> Broadcast:
    """The model, and the control variate without which SCAFFOLD's term does not run; the others do not look."""
    start, server = ModelState.of(model), ServerScaffold()
    _, extras = server.broadcast(start.params, server.init(start.params, num_clients=1))
    return Broadcast(1, start, seed=0, extras=extras)


def compare(name: str, model: nn.Module, data: ClientData, *, epochs: int, batch_size: int, turns: int) -> Row:
    """Cross-entropy alone, and with the term `name`, in turns after one untimed round of each."""
    broadcast = first_broadcast(model)
    with_term: tuple[Term, ...] = (CrossEntropy(),) if name == "cross_entropy" else (CrossEntropy(), TERMS[name]())
    clients = []
    for objective in ((CrossEntropy(),), with_term):
        update = ClientUpdate(objective=objective, epochs=epochs, batch_size=batch_size)
        result, state = update(model, data, broadcast, {})
        extras = broadcast.extras | shared_by(objective, {}, sent_extras(result))  # as in every round but the first
        clients.append(Client(update, model, data, replace(broadcast, extras=extras), state))
    pairs = [[client.seconds_a_step() for client in clients] for _ in range(turns)]
    ratios = [term / alone for alone, term in pairs]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {
        "term": name,
        "alone_ms": 1e3 * statistics.median(alone for alone, _ in pairs),
        "step_ms": 1e3 * statistics.median(term for _, term in pairs),
        "ratio": statistics.median(ratios),
        "ratio_low": low,
        "ratio_high": high,
    }


def main() -> None:
    """Measure, print a Markdown table, save the numbers."""
    models = sorted(MODELS.keys() & {"small_cnn", "resnet8", "resnet18", "resnet20", "resnet32", "mobilenetv2"})
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=models, default="resnet20")
    parser.add_argument("--terms", nargs="+", choices=list(TERMS), default=list(TERMS), metavar="TERM")
    parser.add_argument("--images", type=int, default=256, help="examples of the client")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--turns", type=int, default=9, help="pairs of timed rounds, at least 2")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="a file for the numbers")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = MODELS[args.model]()(SHAPE, NUM_CLASSES).to(memory_format=torch.channels_last)
    data = skewed_client(args.images)

    print(f"{args.model}, batches of {args.batch_size}, {args.threads} thread(s), median of {args.turns} pairs\n")
    print("| term | ms a step | over cross-entropy alone | middle half |")
    print("| --- | ---: | ---: | :---: |")
    rows = []
    for name in args.terms:
        row = compare(name, model, data, epochs=args.epochs, batch_size=args.batch_size, turns=args.turns)
        rows.append(row)
        spread = f"{row['ratio_low']:.3f} to {row['ratio_high']:.3f}"
        print(f"| {name} | {row['step_ms']:.1f} | {row['ratio']:.3f} | {spread} |", flush=True)
    if args.json:
        machine = {"platform": platform.platform(), "cores": len(os.sched_getaffinity(0)), "torch": torch.__version__}
        settings = {key: value for key, value in vars(args).items() if key not in ("json", "terms")}
        args.json.write_text(json.dumps({"machine": machine, "settings": settings, "terms": rows}, indent=1))


if __name__ == "__main__":
    main()
