"""The small decisions behind the local step and the messages, each beside what it replaced.

    python benchmarks/hot_path.py

One thread; medians of many calls, the two sides in turn. The comments in the source that quote a gain name this script.
"""

from __future__ import annotations

import io
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch.multiprocessing import get_context
from torch.nn import functional as F

from decollapse.engines.mailbox import Mailbox
from decollapse.engines.memory import keep_freed_memory
from decollapse.models import MLP, ResNet20
from decollapse.optim import SGD

CALLS = 200
STEPS = 12


def alternating(calls: int, *sides: Callable[[], object]) -> list[float]:
    """The median milliseconds of each side."""
    times: list[list[float]] = [[] for _ in sides]
    for _ in range(calls):
        for taken, side in zip(times, sides, strict=True):
            began = time.perf_counter()
            side()
            taken.append(1000 * (time.perf_counter() - began))
    return [statistics.median(taken) for taken in times]


def optimizer() -> None:
    """Making an SGD, and a step of it, for the MLP of 64 inputs."""
    model = MLP()((64,), 10)
    params = list(model.parameters())
    for param in params:
        param.grad = torch.randn_like(param)
    settings = SGD(lr=1e-6, momentum=0.9)

    def theirs() -> torch.optim.SGD:
        return torch.optim.SGD(params, lr=1e-6, momentum=0.9, fused=True)

    made = alternating(CALLS, lambda: settings(params), theirs)
    stepped = alternating(CALLS, settings(params).step, theirs().step)
    print(f"make an SGD: {made[0]:.3f} ms, torch.optim.SGD {made[1]:.3f} ms")
    print(f"a step of it: {stepped[0]:.3f} ms, torch.optim.SGD {stepped[1]:.3f} ms")


def imported() -> None:
    """What the first torch.optim.SGD of a process costs."""
    code = (
        "import time, torch; p = [torch.zeros(1, requires_grad=True)]; began = time.perf_counter(); "
        "torch.optim.SGD(p, lr=1.0); print(time.perf_counter() - began)"
    )
    took = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(3)]
    print(f"the first torch.optim.SGD of a process: {statistics.median(took):.2f} s")


def seeding() -> None:
    """torch.manual_seed, which seeds devices that are not there, too."""
    theirs, ours = alternating(CALLS, lambda: torch.manual_seed(0), lambda: torch.default_generator.manual_seed(0))
    print(f"seed the CPU's generator: {ours:.4f} ms, torch.manual_seed {theirs:.4f} ms")


def messages() -> None:
    """An update of the MLP, packed: with pickle protocol 5 into shared memory, and by torch.save for each tensor."""
    update = {name: leaf.detach() for name, leaf in MLP()((64,), 10).named_parameters()}
    box = Mailbox(get_context("spawn"), 1 << 20)

    def saved() -> None:
        for leaf in update.values():
            torch.save(leaf, io.BytesIO())

    ours, theirs = alternating(CALLS, lambda: box.pack(update), saved)
    print(f"pack an update of {len(update)} tensors: {ours:.3f} ms, torch.save of each {theirs:.3f} ms")


def memory() -> None:
    """A training step of ResNet-20 at batch 64, before and after freed memory is kept; it cannot be undone."""
    model = ResNet20()((3, 32, 32), 10).to(memory_format=torch.channels_last)
    x, y = torch.randn(64, 3, 32, 32).to(memory_format=torch.channels_last), torch.randint(10, (64,))

    def step() -> None:
        model.zero_grad()
        F.cross_entropy(model(x).logits, y).backward()

    before = alternating(STEPS, step)[0]
    keep_freed_memory()
    alternating(2, step)
    after = alternating(STEPS, step)[0]
    print(f"a step of ResNet-20: {before:.1f} ms, with freed memory kept {after:.1f} ms")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for measure in (imported, optimizer, seeding, messages, memory):
        measure()
