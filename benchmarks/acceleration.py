"""What `compile` and `autocast` of an engine gain: a training step each way, in turn.

    python benchmarks/acceleration.py
    python benchmarks/acceleration.py --model resnet18 --turns 3

One thread, batches of 64 CIFAR-sized images in `channels_last`, forward and backward. Milliseconds a step, the fastest
and the median of all turns, and how often faster than the plain step, by medians. Beside them the share of the
machine's own matrix-multiply rate, measured in the same run in float32, that the multiplications come to.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from decollapse.catalog import MODELS
from decollapse.engines.acceleration import PAYS_FROM, accelerate
from decollapse.engines.memory import keep_freed_memory

WAYS = {
    "plain": (False, False),
    "compiled": (True, False),
    "autocast": (False, True),
    "compiled, autocast": (True, True),
}
SHAPE, NUM_CLASSES, BATCH = (3, 32, 32), 10, 64


def step(name: str, *, compile: bool, autocast: bool) -> Callable[[], None]:
    """A training step, without the optimiser, warmed up."""
    torch.manual_seed(0)
    model = MODELS[name]()(SHAPE, NUM_CLASSES).to(memory_format=torch.channels_last)
    accelerate(model, device="cpu", compile=compile, autocast=autocast)
    x, y = torch.randn(BATCH, *SHAPE).to(memory_format=torch.channels_last), torch.randint(NUM_CLASSES, (BATCH,))

    def one() -> None:
        model.zero_grad()
        F.cross_entropy(model(x).logits, y).backward()

    for _ in range(PAYS_FROM + 2 if compile else 2):
        one()
    return one


def seconds(work: Callable[[], object]) -> float:
    """Of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet20", choices=sorted(MODELS))
    parser.add_argument("--turns", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    steps = {way: step(options.model, compile=flags[0], autocast=flags[1]) for way, flags in WAYS.items()}
    with FlopCounterMode(display=False) as counter:
        steps["plain"]()
    a, b = torch.randn(2, 2048, 2048)
    rate = 2 * 2048**3 / min(seconds(lambda: a @ b) for _ in range(5))
    taken: dict[str, list[float]] = {way: [] for way in steps}
    for _ in range(options.turns):
        for way, work in steps.items():
            taken[way].append(seconds(work))
    plain = statistics.median(taken["plain"])
    print(f"{options.model}: {counter.get_total_flops() / 1e9:.1f} GFLOP a step; matmul {rate / 1e9:.0f} GFLOP/s")
    for way, times in taken.items():
        middle = statistics.median(times)
        share = counter.get_total_flops() / middle / rate
        print(
            f"{way:20} median {1e3 * middle:7.1f} ms  fastest {1e3 * min(times):7.1f} ms  "
            f"{plain / middle:4.2f} x plain  {share:.2f} of the matmul rate"
        )


if __name__ == "__main__":
    main()
