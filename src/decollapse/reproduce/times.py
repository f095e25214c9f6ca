"""How long a table was estimated to take, and took: one entry for each call that trained all that was missing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from decollapse.checkpoint import write_atomically
from decollapse.runs import RunFolderError

TIMES = "times.json"


@dataclass(frozen=True)
class Call:
    """A call of the command that trained all that was missing.

    Attributes:
        num_runs: how many runs that was.
        at_once: runs at the same time.
        estimated: seconds on the clock, said before.
        took: seconds on the clock.
    """

    num_runs: int
    at_once: int
    estimated: float
    took: float


def read_calls(out: Path) -> list[Call]:
    """The calls so far that made the table in `out`, the first one first.

    Raises:
        RunFolderError: the file is damaged.
    """
    path = out / TIMES
    try:
        return TypeAdapter(list[Call]).validate_json(path.read_bytes()) if path.exists() else []
    except ValidationError:
        raise RunFolderError(
            f"{path} is damaged; restore a copy, or delete it: it says what earlier calls took."
        ) from None


def write_calls(out: Path, calls: Sequence[Call]) -> None:
    """Keep the calls in `out`.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write_calls(Path(folder), [Call(24, 2, 1650.0, 1712.5)])
    ...     read_calls(Path(folder))
    [Call(num_runs=24, at_once=2, estimated=1650.0, took=1712.5)]
    """
    write_atomically(out / TIMES, (json.dumps([asdict(call) for call in calls], indent=1) + "\n").encode())
