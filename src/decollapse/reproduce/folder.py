"""The folder of a grid: what it is of, and its runs."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from decollapse.checkpoint import write_atomically
from decollapse.config import to_table
from decollapse.report.labels import differences
from decollapse.report.view import lookup
from decollapse.reproduce.grid import Choice, Grid, Run
from decollapse.runs import RunFolder, RunFolderError, find_runs

FORMAT = 1
GRID = "grid.json"


def check_folder(out: Path, choice: Choice) -> None:
    """See that `out` is new, empty, or holds this very grid; nothing is written.

    Raises:
        RunFolderError: it is a file, holds something else or another grid, or its grid.json is damaged.
    """
    if out.exists() and not out.is_dir():
        raise RunFolderError(f"{out} is a file; --out takes a folder.")
    path = out / GRID
    if not path.exists():
        if out.exists() and any(out.iterdir()):
            raise RunFolderError(f"{out} is not empty and holds no {GRID}; choose another --out, or empty it.")
        return
    try:
        there = json.loads(path.read_text())
        before = {key: there[key] for key in ("format", *_identity(choice))}
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"{path} is damaged or half-written ({type(error).__name__}: {error}); restore a copy, or choose another "
            "--out."
        ) from None
    for key, value in {"format": FORMAT, **_identity(choice)}.items():
        if before[key] != value:
            raise RunFolderError(
                f"{out} holds another grid: {key} is {before[key]!r} there and {value!r} here; choose another --out."
            )


@contextmanager
def locked(out: Path, choice: Choice) -> Iterator[None]:
    """Make the folder and say what it is of; keep other processes from making the same table there.

    Raises:
        RunFolderError: one is at it now, or the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"format": FORMAT, **_identity(choice)}, indent=1, ensure_ascii=False)
        write_atomically(out / GRID, (text + "\n").encode())
        lock = (out / ".lock").open("w")
    except OSError as error:
        raise RunFolderError(f"{out} cannot be written ({error.strerror}); choose another --out.") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFolderError(f"another process is making the table in {out} now; wait for it or end it.") from None
        yield


def create_runs(out: Path, grid: Grid) -> None:
    """Make the folders of all runs, or see that those there are these; nothing is trained yet.

    Raises:
        RunFolderError: a run was begun there with other settings, is damaged, or cannot be written.
    """
    for run in grid.runs:
        _check_run(out, run, grid)
    for run in grid.runs:
        RunFolder.create(out / run.path, run.experiment, name=run.title, reuse=True)


def take_over(out: Path, grid: Grid, others: Sequence[Path]) -> None:
    """Copy finished runs of other tables that are runs of this one, too, unless they are here.

    Args:
        out: this table's folder.
        grid: its runs.
        others: folders of run folders, such as those of other tables.

    Raises:
        RunFolderError: there is no run below one of `others`.
    """
    there = {folder.experiment: folder for folder in find_runs(others)} if others else {}
    for run in grid.runs:
        other, path = there.get(run.experiment), out / run.path
        if other is not None and not path.exists() and other.rounds_done == run.experiment.rounds:
            shutil.copytree(other.path, path)


def _check_run(out: Path, run: Run, grid: Grid) -> None:
    path = out / run.path
    if not (path / "checkpoint.safetensors").exists():
        return
    there, here = to_table(RunFolder.open(path).experiment), to_table(run.experiment)
    if found := differences([there, here]):
        key, before, now = ".".join(found[0]), lookup(there, *found[0]), lookup(here, *found[0])
        raise RunFolderError(
            f"the preset {grid.choice.preset.name} or its scale has changed since {out} was begun: {key} is {before!r} "
            f"there and {now!r} here; choose another --out for the new one."
        )


def _identity(choice: Choice) -> dict[str, str | Sequence[str]]:
    """What a folder is of. More seeds, or other methods, are still the same grid."""
    return {
        "preset": choice.preset.name,
        "dataset": choice.dataset,
        "scale": choice.scale,
        "data": choice.data,
        "settings": list(choice.overrides),
    }
