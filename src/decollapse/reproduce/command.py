"""The command: plan, estimate, run side by side, tables."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from decollapse.pictures import has_matplotlib
from decollapse.reproduce.estimate import Estimate, estimate
from decollapse.reproduce.files import write_results
from decollapse.reproduce.folder import check_folder, create_runs, locked, take_over
from decollapse.reproduce.grid import Choice, Run
from decollapse.reproduce.outline import command_line, duration, forecast, outline, rounds_done
from decollapse.reproduce.page import titled_tables
from decollapse.reproduce.plan import Plan, make_plan
from decollapse.reproduce.presets import load_preset, preset_names
from decollapse.reproduce.results import Results
from decollapse.reproduce.side_by_side import Ended, side_by_side
from decollapse.reproduce.times import Call, read_calls, write_calls
from decollapse.reproduce.training import TrainRun
from decollapse.tables import as_text
from decollapse.terminal import stderr


def default_jobs() -> int:
    """A run for each GPU; without any, for each core that this process may use."""
    return torch.cuda.device_count() if torch.cuda.is_available() else len(os.sched_getaffinity(0))


def reproduce(choice: Choice, out: Path, *, jobs: int, take_from: Sequence[Path] = (), dry_run: bool = False) -> bool:
    """Run what is missing of a table below `out`, and print it; tell on stderr how it goes.

    Args:
        choice: which table.
        out: its folder.
        jobs: runs at the same time, at least 1.
        take_from: folders of other tables, whose finished runs are copied where they are runs of this one, too.
        dry_run: show what there is to do and how long it takes, and leave it at that; nothing is written.

    Returns:
        Whether every run is finished.

    Raises:
        ValueError: something cannot be run, or `out` holds something else; nothing was trained.
    """
    if jobs < 1:
        raise ValueError(f"--jobs is how many runs at the same time, at least 1; got {jobs}.")
    check_folder(out, choice)
    plan = make_plan(choice)
    at_once = 1 if choice.preset.alone else min(jobs, len(plan.grid.runs))
    tell(outline(plan.grid, out, at_once=at_once), on_stdout=dry_run)
    with nullcontext() if dry_run else locked(out, choice):
        if not dry_run:
            take_over(out, plan.grid, take_from)
            create_runs(out, plan.grid)
        done = {run: rounds_done(out / run.path) for run in plan.grid.runs}
        expected = estimate(plan, done, at_once=at_once)
        tell(forecast(plan.grid, done, expected), on_stdout=dry_run)
        return True if dry_run else _run(plan, out, done, expected)


def _run(plan: Plan, out: Path, done: Mapping[Run, int | None], expected: Estimate) -> bool:
    calls, began = read_calls(out), time.perf_counter()
    try:
        failures = train(plan, out, done, at_once=expected.at_once)
        took = time.perf_counter() - began
        if expected.seconds and not failures:
            write_calls(out, [*calls, Call(len(expected.seconds), expected.at_once, expected.wall, took)])
    finally:  # a table that is stopped shows what there is
        _tables(plan, out)
    tell(f"failed: {run.title}: {failure}" for run, failure in failures.items())
    if expected.seconds:
        tell([f"estimated {duration(expected.wall)}, took {duration(took)}"])
    return not failures


def _tables(plan: Plan, out: Path) -> None:
    """Print the tables of the finished runs, and keep them."""
    results = Results.read(out, plan.grid)
    if not results.views:
        return
    files = write_results(out, results, command=command_line(plan.grid.choice))
    for title, table in titled_tables(results):
        sys.stdout.write(f"{title}\n{as_text(table)}\n")
    sys.stdout.writelines(f"{path}\n" for path in files)
    if not has_matplotlib():
        tell(["For a picture of the table: pip install 'decollapse[figures]', and the same command again."])


def train(plan: Plan, out: Path, done: Mapping[Run, int | None], *, at_once: int) -> dict[Run, str]:
    """Train what is missing, as many runs at once; return why the runs failed that did."""
    runs = [run for run in plan.grid.runs if done[run] != run.experiment.rounds]
    work = [TrainRun(out / run.path, plan.dataset) for run in runs]
    failures: dict[Run, str] = {}
    columns = TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        bar = progress.add_task("runs", total=len(runs))
        for news in side_by_side(work, at_once=at_once):
            run = runs[news.number]
            if isinstance(news, Ended):
                progress.advance(bar)
                line = f"failed: {news.failure}" if news.failure else "finished"
                if news.failure:
                    failures[run] = news.failure
            else:
                line = news.what
            stderr.print(f"[{news.number + 1}/{len(runs)}] {run.title}: {line}", markup=False)
    return failures


def tell(lines: Iterable[str], *, on_stdout: bool = False) -> None:
    """Print lines, on stderr unless they are the result that was asked for."""
    for line in lines:
        if on_stdout:
            sys.stdout.write(f"{line}\n")
        else:
            stderr.print(line, markup=False)


def list_presets() -> None:
    """Print every table there is on stdout."""
    for name in preset_names():
        preset = load_preset(name)
        sys.stdout.write(f"{name:14} {preset.title} ({', '.join(preset.datasets)})\n")
    sys.stdout.write(f"{'figures':14} Spectra, significant dimensions, features: `decollapse figures`\n")
