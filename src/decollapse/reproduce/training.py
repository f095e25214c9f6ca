"""What a process does that trains one run of a grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from decollapse.data import Dataset
from decollapse.experiment import prepare
from decollapse.runs import RunFolder, continue_run
from decollapse.terminal import round_line


@dataclass(frozen=True, eq=False)
class TrainRun:
    """Runs what is missing of a run, and tells a line for every round.

    Attributes:
        path: its folder.
        dataset: its data, in shared memory.
    """

    path: Path
    dataset: Dataset = field(repr=False)

    def __call__(self, place: int, tell: Callable[[str], None]) -> None:
        """See `side_by_side.Work`."""
        choose_gpu(place)
        folder = RunFolder.open(self.path)
        for record, _ in continue_run(folder, prepared=prepare(folder.experiment, self.dataset)):
            tell(round_line(record, folder.experiment.rounds))


def choose_gpu(place: int) -> None:
    """Where there are GPUs, make one of them what "cuda" means in this process."""
    if torch.cuda.is_available():
        torch.cuda.set_device(place % torch.cuda.device_count())
