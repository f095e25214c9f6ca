"""What stacking tiny clients gains: stacked, serial and a hand-written loop in turn, one thread, ratios of medians.

    python benchmarks/stacked.py                 # all cohorts
    python benchmarks/stacked.py --only mlp      # mlp, mlp-feddecorr, mlp-fedprox, cnn or tiny-cnn

mlp       100 clients x 10 examples of 64 numbers, MLP 64-128-10, one step each; also with FedDecorr and FedProx
cnn       20 clients x 50 images of 28 x 28, SmallCNN
tiny-cnn  100 clients x 10 images of 8 x 8, a CNN with 8 and 16 channels
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from decollapse.client import ClientUpdate
from decollapse.core import Broadcast, ModelState
from decollapse.data import Dataset, FederatedData, Normalize
from decollapse.engines import EngineSettings, Federation
from decollapse.engines.serial import Serial
from decollapse.engines.stacked import Stacked
from decollapse.models import MLP, SmallCNN
from decollapse.objective import Term
from decollapse.terms.cross_entropy import CrossEntropy
from decollapse.terms.feddecorr import FedDecorr, decorrelation_loss
from decollapse.terms.proximal import Proximal


def federation(build: Callable[[], nn.Module], num_clients: int, size: int, shape: tuple[int, ...]) -> Federation:
    """Clients of `size` random examples each."""
    generator = torch.Generator().manual_seed(0)
    n = num_clients * size
    x = torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=generator)
    y = torch.randint(10, (n,), generator=generator)
    dataset = Dataset("noise", x, y, x[:10], y[:10], tuple("abcdefghij"), Normalize((0.5,), (0.3,)))
    return Federation(build, FederatedData(dataset, np.split(np.arange(n), num_clients)))


def on_engine(settings: EngineSettings, job: Federation, call: ClientUpdate, start: ModelState) -> Callable[[], float]:
    """Seconds of a cohort of everybody; a first one is left out."""

    def cohort() -> float:
        with settings(job) as engine:
            seconds = []
            for _ in range(2):
                began = time.perf_counter()
                for _ in engine.run(call, Broadcast(1, start, seed=0), range(len(job.clients)), {}):
                    pass
                seconds.append(time.perf_counter() - began)
        return seconds[-1]

    return cohort


def by_hand(job: Federation, penalty: Callable[[Tensor, nn.Module], Tensor], start: ModelState) -> Callable[[], float]:
    """The same with one page of PyTorch, client after client."""
    model = job.build_model().to(memory_format=torch.channels_last)

    def cohort() -> float:
        torch.set_num_threads(1)
        began = time.perf_counter()
        for data in job.clients:
            model.load_state_dict(start.params | start.buffers)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
            for batch in torch.randperm(len(data)).split(64):
                optimizer.zero_grad()
                output = model(data.preprocess(data.x[batch]))
                (F.cross_entropy(output.logits, data.y[batch]) + penalty(output.features, model)).backward()
                optimizer.step()
            _ = {name: leaf - start.params[name] for name, leaf in model.state_dict().items()}
        return time.perf_counter() - began

    return cohort


def measure(name: str, turns: int) -> None:
    """Print a line: milliseconds a client, and how many times the others take what the stack takes."""
    perceptron = ((lambda: MLP(hidden=(128,))((1, 8, 8), 10)), 100, 10, (1, 8, 8))
    small = ((lambda: SmallCNN()((1, 28, 28), 10)), 20, 50, (1, 28, 28))
    tiny = ((lambda: SmallCNN(channels=(8, 16), features=32)((1, 8, 8), 10)), 100, 10, (1, 8, 8))
    build, num_clients, size, shape = {"cnn": small, "tiny-cnn": tiny}.get(name, perceptron)
    job = federation(build, num_clients, size, shape)
    start = ModelState.of(build())
    anchor = start.params

    def distance(features: Tensor, model: nn.Module) -> Tensor:
        return 0.005 * sum(((leaf - anchor[name]) ** 2).sum() for name, leaf in model.named_parameters())

    extra: dict[str, tuple[tuple[Term, ...], Callable[[Tensor, nn.Module], Tensor]]] = {
        "mlp-feddecorr": ((FedDecorr(beta=0.1),), lambda features, model: 0.1 * decorrelation_loss(features)),
        "mlp-fedprox": ((Proximal(mu=0.01),), distance),
    }
    terms, penalty = extra.get(name, ((), lambda features, model: features.new_zeros(())))
    call = ClientUpdate(objective=(CrossEntropy(), *terms))
    sides = {
        "stacked": on_engine(Stacked(), job, call, start),
        "serial": on_engine(Serial(), job, call, start),
        "by hand": by_hand(job, penalty, start),
    }
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(turns):
        for side, run in sides.items():
            seconds[side].append(run())
    ratios = {
        side: statistics.median(b / a for a, b in zip(seconds["stacked"], seconds[side], strict=True))
        for side in ("serial", "by hand")
    }
    print(
        f"{name:14} stacked {statistics.median(seconds['stacked']) / num_clients * 1e3:7.3f} ms a client   "
        f"serial / stacked {ratios['serial']:5.2f}   by hand / stacked {ratios['by hand']:5.2f}"
    )


def main() -> None:
    """Print a line a cohort."""
    names = ["mlp", "mlp-feddecorr", "mlp-fedprox", "tiny-cnn", "cnn"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=names)
    parser.add_argument("--turns", type=int, default=15)
    options = parser.parse_args()
    for name in [options.only] if options.only else names:
        measure(name, options.turns)


if __name__ == "__main__":
    main()
