"""What a grid will do, in words: its runs, its settings, its departures, its time."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from decollapse.checkpoint import CheckpointError
from decollapse.reproduce.departures import departures
from decollapse.reproduce.estimate import Estimate
from decollapse.reproduce.grid import Choice, Grid, Run
from decollapse.reproduce.protocol import data_entries
from decollapse.runs import RunFolder


def outline(grid: Grid, out: Path, *, at_once: int) -> Iterator[str]:
    """What will be run, a line each."""
    choice, preset = grid.choice, grid.choice.preset
    experiment = grid.cells[0].experiment
    yield f"{preset.name}: {preset.title}"
    yield preset.about
    yield f"data       {data_entries()[choice.dataset].title}, {choice.data}"
    yield f"methods    {', '.join(grid.rows)}"
    yield f"conditions {', '.join(grid.columns)}"
    yield f"seeds      {', '.join(map(str, choice.seeds))}"
    yield f"runs       {len(grid.runs)} of {experiment.rounds} rounds, {at_once} at a time, below {out}"
    yield f"scale      {choice.scale}"
    for departure in departures(grid):
        yield f"           - {departure}"


def forecast(grid: Grid, done: Mapping[Run, int | None], expected: Estimate) -> Iterator[str]:
    """What is done, and how long the rest takes."""
    finished = sum(done[run] == run.experiment.rounds for run in grid.runs)
    if finished:
        yield f"done       {finished} of {len(grid.runs)} runs"
    if begun := sum(done[run] not in (None, run.experiment.rounds) for run in grid.runs):
        yield f"begun      {begun} of {len(grid.runs)} runs"
    if expected.seconds:
        work = f"{duration(sum(expected.seconds.values()))} of one core or GPU"
        yield f"estimate   {duration(expected.wall)}; {work}, timed in {duration(expected.measuring)}"
    if expected.load > expected.at_once / 2:
        yield f"           - the machine has other work (load {expected.load:.1f}): the estimate holds while it has"
    for run, reason in expected.untimed.items():
        yield f"untimed    {run.title}: {reason}"


def rounds_done(path: Path) -> int | None:
    """Rounds of the run in a folder; None where it was not begun, or its checkpoint is damaged."""
    try:
        return RunFolder.open(path).rounds_done if (path / "checkpoint.safetensors").exists() else None
    except CheckpointError:  # told when it is that run's turn, so that the others go on
        return None


def command_line(choice: Choice) -> str:
    """The command that makes this table."""
    words = ["decollapse", "reproduce", choice.preset.name, "--dataset", choice.dataset, "--scale", choice.scale]
    words += ["--seeds", seeds_option(choice.seeds)]
    words += ["--data", choice.data] if choice.data != data_entries()[choice.dataset].data else []
    words += [word for row in choice.rows for word in ("--methods", row)]
    words += [word for column in choice.columns for word in ("--conditions", column)]
    words += [word for setting in choice.overrides for word in ("--set", setting)]
    return shlex.join(words)


def seeds_option(seeds: tuple[int, ...]) -> str:
    """Seeds as `--seeds` takes them.

    >>> seeds_option((0, 1, 2)), seeds_option((0, 5)), seeds_option((7,))
    ('3', '0,5', '7,')
    """
    if seeds == tuple(range(len(seeds))):
        return str(len(seeds))
    return ",".join(map(str, seeds)) + ("," if len(seeds) == 1 else "")


def duration(seconds: float) -> str:
    """A time as a person says it.

    >>> duration(4.2), duration(200), duration(9000), duration(200000)
    ('4.2 s', '3.3 min', '2.5 hours', '2.3 days')
    """
    for unit, size in (("days", 86400), ("hours", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s"
