"""A study of the paper's figures that takes seconds: digits, a small MLP, two seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decollapse.report.view import RunView

TINY = [
    "model=mlp", "model.hidden=[16]", "data.train_size=600", "data.test_size=120", "rounds=2", "client.epochs=1",
    "engine=serial", "evaluation.probe_size=80",
]  # fmt: skip
STUDY = ["figures", "--data", "digits", "--seeds", "2", *(word for setting in TINY for word in ("--set", setting))]


@dataclass(frozen=True)
class Drawn:
    """What `decollapse figures` left behind."""

    folder: Path
    stdout: str
    stderr: str


MakeView = Callable[..., RunView]
"""`make_view(partition, *, beta=None, seed=0, spectrum=[1.0, 0.1], local=None, ...)`: a run that was never trained."""

IID = {"name": "iid"}


def dirichlet(alpha: float) -> dict[str, Any]:
    return {"name": "dirichlet", "alpha": alpha}
