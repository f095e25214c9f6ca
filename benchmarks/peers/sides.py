"""The sides of the comparison: script, environment, the ways a side is tried, and what it cannot do."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parent / ".venvs"
NO_BUFFERS = (
    "pfl averages parameters alone: BatchNorm's statistics would be those of the client that trained last "
    "(its own benchmarks replace BatchNorm)"
)
ONE_OR_TWO_THREADS = {"1 thread": ("--threads", "1"), "2 threads": ("--threads", "2")}


@dataclass(frozen=True)
class Side:
    """A contender.

    Attributes:
        title: in the table.
        script: in this folder.
        environment: a folder of `benchmarks/.venvs`; empty for the one that runs the comparison.
        variants: the ways it is tried, all in the first turn, the fastest from then on.
        cannot: jobs it cannot do, and why.
        jobs: where it takes part unless --sides says otherwise.
    """

    title: str
    script: str
    environment: str = ""
    variants: dict[str, tuple[str, ...]] = field(default_factory=lambda: {"": ()})
    cannot: dict[str, str] = field(default_factory=dict)
    jobs: str = "abc"

    @property
    def python(self) -> Path:
        """The interpreter."""
        return ENVIRONMENTS / self.environment / "bin" / "python" if self.environment else Path(sys.executable)

    @property
    def missing(self) -> str | None:
        """Why it cannot be started, if so."""
        if self.python.exists():
            return None
        return f"there is no environment {self.environment}; `make bench-peers` makes it"


SIDES: dict[str, Side] = {
    "decollapse": Side("decollapse", "decollapse_side.py"),
    "decollapse_off": Side("decollapse without FedDecorr", "decollapse_side.py", jobs="b"),
    "by_hand": Side("hand-written loop", "by_hand.py", variants=ONE_OR_TWO_THREADS),
    "by_hand_compiled": Side(
        "hand-written loop with torch.compile",
        "by_hand.py",
        variants={"1 thread": ("--compile", "--threads", "1"), "2 threads": ("--compile", "--threads", "2")},
        jobs="",
    ),
    "flower": Side("Flower, 2 Ray actors", "flower_side.py", "flower"),
    "pfl": Side(
        "pfl",
        "pfl_side.py",
        "pfl",
        variants={
            "2 processes": ("--processes", "2", "--threads", "1"),
            "1 process, 2 threads": ("--threads", "2"),
            "1 process, 1 thread": ("--threads", "1"),
        },
        cannot={"b": NO_BUFFERS},
    ),
    "fluke": Side("fluke", "fluke_side.py", "fluke", variants=ONE_OR_TWO_THREADS),
    "release": Side(
        "model of the FedDecorr release",
        "release.py",
        variants={"2 threads, 6 loaders": ("--threads", "2", "--workers", "6")},
        cannot={
            "a": "one network a client, 6 loader processes an epoch: not meant for 1,000 clients",
            "c": "no images",
        },
        jobs="",
    ),
    "release_lean": Side(
        "model of the FedDecorr release, evaluating less",
        "release.py",
        variants={
            "2 threads, 2 loaders": ("--lean", "--threads", "2", "--workers", "2"),
            "2 threads, no loaders": ("--lean", "--threads", "2", "--workers", "0"),
        },
        jobs="",
    ),
}


def usual(job: str) -> list[str]:
    """The sides that take part in a job unless one says otherwise, those that cannot among them: the table says why."""
    return [name for name, side in SIDES.items() if job in side.jobs]
