"""What every side has in common: its command line, its clock, and the one line of JSON it prints."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the file of the problem."""
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("problem", type=Path, help="the file that compare.py wrote")
    found.add_argument("--threads", type=int, default=1, help="of PyTorch, in each process")
    return found


@dataclass
class Clock:
    """Times of a run; it starts when it is made, with the libraries imported and the data in memory.

    Attributes:
        start: the sum of the absolute values of the first model's parameters, to tell whether all sides have the same.
        began: when.
        rounds: seconds of each round, with the evaluation that follows it.
        accuracies: of each evaluation, by round; 0 is before the first.
    """

    start: float
    began: float = field(default_factory=time.perf_counter)
    rounds: list[float] = field(default_factory=list)
    accuracies: dict[int, float] = field(default_factory=dict)
    _round_began: float = 0.0

    def start_round(self) -> None:
        """A round begins."""
        self._round_began = time.perf_counter()

    def end_round(self) -> None:
        """A round, its evaluation included, is over."""
        self.rounds.append(time.perf_counter() - self._round_began)

    def report(self, *packages: str) -> None:
        """Print the line: the run ends here."""
        seconds = time.perf_counter() - self.began
        line = {
            "seconds": seconds,
            "start": self.start,
            "startup": seconds - sum(self.rounds),
            "seconds_a_round": self.rounds,
            "accuracy": self.accuracies[max(self.accuracies)],
            "accuracies": self.accuracies,
            "versions": {"python": platform.python_version()} | {name: version(name) for name in ("torch", *packages)},
        }
        print(json.dumps(line))
        sys.stdout.flush()
