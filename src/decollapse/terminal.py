"""Runs in a terminal: progress on stderr, as a live bar for a person and as plain lines for a file."""

from __future__ import annotations

import itertools
import json
import re
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from inspect import signature
from operator import itemgetter
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table as RichTable
from rich.text import Text

from decollapse.catalog import CATALOG
from decollapse.core import Broadcast, ClientCall, ClientResult, ClientState
from decollapse.engines import Engine
from decollapse.engines.memory import keep_freed_memory
from decollapse.experiment import Experiment
from decollapse.profile import Profile
from decollapse.report.comparison import summary_table
from decollapse.report.summary import group_runs, summary_rows
from decollapse.report.view import read_run
from decollapse.runs import RunFolder, continue_run
from decollapse.simulation import RoundRecord
from decollapse.spectrum import effective_rank
from decollapse.tables import Table
from decollapse.tables.text import as_text, print_table

WIDTH_OF_FILES = 160
stderr = Console(stderr=True, soft_wrap=True, highlight=False)


def run_folders(folders: Sequence[RunFolder]) -> None:
    """Run what is missing of each folder, one after the other, and tell the person how it goes."""
    keep_freed_memory()
    for number, folder in enumerate(folders, start=1):
        where = f"[{number}/{len(folders)}] {folder.path}" if len(folders) > 1 else str(folder.path)
        for _ in run_folder(folder, where):
            pass


def run_folder(folder: RunFolder, where: str = "") -> Generator[RoundRecord]:
    """Run what is missing of a folder, tell the person how it goes, and yield each round once it is saved."""
    experiment, done = folder.experiment, folder.rounds_done
    where = where or str(folder.path)
    if done == experiment.rounds:
        stderr.print(f"{where}: finished before", markup=False)
        return
    stderr.print(f"{where}: {f'going on after round {done}' if done is not None else 'begins'}", markup=False)
    with _bar(experiment, done or 0) as bar:
        for record, _ in continue_run(folder, watch=bar.watch):
            bar.progress.console.print(round_line(record, experiment.rounds), markup=False)
            yield record


@dataclass
class _Bar:
    """The live bar of one run: a step for each client trained."""

    progress: Progress
    task: TaskID
    epochs: int
    began: float = field(default_factory=time.monotonic)
    examples: int = 0

    def watch(self, engine: Engine) -> Engine:
        """`engine`, with this bar told of each result."""
        return _WatchedEngine(engine, self)

    def advance(self, result: ClientResult) -> None:
        """Move by one client."""
        if result.num_steps == 0:  # a measurement, no training
            return
        self.examples += result.num_examples * self.epochs
        speed = self.examples / (time.monotonic() - self.began)
        self.progress.update(self.task, advance=1, speed=f"{speed:,.0f} examples/s")


@contextmanager
def _bar(experiment: Experiment, rounds_done: int) -> Iterator[_Bar]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    cohort = experiment.cohort_size or experiment.num_clients
    with Progress(*columns, console=stderr, transient=True, disable=not stderr.is_terminal) as progress:
        task = progress.add_task("clients", total=experiment.rounds * cohort, completed=rounds_done * cohort, speed="")
        yield _Bar(progress, task, experiment.client.epochs)


@dataclass(frozen=True)
class _WatchedEngine:
    """An engine that reports each result to a bar on its way through."""

    engine: Engine
    bar: _Bar

    def run(
        self, call: ClientCall, broadcast: Broadcast, cohort: Sequence[int], states: Mapping[int, ClientState]
    ) -> Iterator[tuple[ClientResult, ClientState]]:
        """See `Engine.run`."""
        for result, state in self.engine.run(call, broadcast, cohort, states):
            self.bar.advance(result)
            yield result, state


def round_line(record: RoundRecord, rounds: int) -> str:
    """What a round came to, in one line."""
    parts = [f"round {record.round:>{len(str(rounds))}}/{rounds}"]
    evaluation = record.evaluation
    if evaluation is not None:
        parts += [f"accuracy {100 * evaluation.accuracy:5.1f} %", f"loss {evaluation.loss:.3f}"]
        if evaluation.spectrum is not None:
            eigenvalues = evaluation.spectrum.covariance
            parts.append(f"effective rank {effective_rank(eigenvalues):5.1f} of {len(eigenvalues)}")
    if record.clients:
        examples = sum(client.num_examples for client in record.clients)
        parts.append(f"{_counted(len(record.clients), 'client')}, {_counted(examples, 'example')}")
    if record.rejected:
        parts.append("rejected: " + ", ".join(f"client {r.client} ({r.reason})" for r in record.rejected))
    if record.traffic:
        to_clients, from_clients = record.traffic.to_clients / 1e6, record.traffic.from_clients / 1e6
        parts.append(f"{to_clients:.1f} MB to clients, {from_clients:.1f} MB back")
    return "  ".join([*parts, f"{record.seconds['total']:.1f} s"])


def print_comparison(paths: Sequence[Path], *, as_json: bool) -> None:
    """Print what runs came to on stdout: a line for each setting, mean and standard deviation over its seeds."""
    rows = summary_rows(group_runs([read_run(path) for path in paths]))
    if as_json:
        sys.stdout.write(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
        return
    print_tables([summary_table(rows)])


def print_tables(tables: Sequence[Table]) -> None:
    """Print tables on stdout, each with its notes below."""
    console = Console()
    for table in tables:
        if console.is_terminal:
            print_table(table, console)
        else:
            sys.stdout.write(f"{as_text(table)}\n")


def print_profile(profiles: Mapping[Path, Profile]) -> None:
    """Print on stderr where the time of each run went."""
    for path, profile in profiles.items():
        table = RichTable("part", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("s a round", justify="right")
        table.add_column("share", justify="right")
        whole = profile.workers * profile.wall
        for part, seconds in profile.parts.items():
            table.add_row(part, f"{seconds:.3f}", f"{100 * seconds / whole:.1f} %")
        stderr.print(
            f"{path}: {_counted(profile.rounds, 'round')} of {profile.wall:.2f} s on "
            f"{_counted(profile.workers, 'worker')}, {profile.examples:,.0f} examples/s, "
            f"{100 * profile.share:.0f} % of the machine's matrix-multiply rate while clients train",
            markup=False,
        )
        stderr.print(table)


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def print_catalog(*, as_json: bool) -> None:
    """Print every component a recipe can name, with what it is and its settings, on stdout."""
    entries: list[dict[str, Any]] = [
        {
            "where": where,
            "name": name,
            "summary": (component.__doc__ or "").strip().partition("\n")[0],
            "source": source(component),
            "settings": {
                key: "(required)" if setting.default is setting.empty else setting.default
                for key, setting in signature(component).parameters.items()
                if key != "client"
            },
        }
        for where, kind in CATALOG.items()
        for name, component in kind.items()
    ]
    if as_json:
        sys.stdout.write(json.dumps(entries, indent=1, default=str) + "\n")
        return
    table = RichTable("name", "what it is", "settings", box=box.SIMPLE_HEAD, pad_edge=False)
    for where, kind in itertools.groupby(entries, key=itemgetter("where")):
        table.add_row(Text(where, style="bold"))
        for entry in kind:
            settings = ", ".join(f"{key} = {value}" for key, value in entry["settings"].items())
            described = [entry["summary"], *([entry["source"]] if entry["source"] else [])]
            table.add_row(Text(f"  {entry['name']}"), Text("\n".join(described)), Text(settings))
    _stdout().print(table)


def source(component: Any) -> str | None:
    """The paper a component is from: the first link in its own documentation or its module's, if there is one.

    >>> from decollapse.terms.proximal import Proximal
    >>> source(Proximal)
    'https://arxiv.org/abs/1812.06127'
    """
    for text in (component.__doc__, sys.modules[component.__module__].__doc__):
        if found := re.search(r"https://[^\s),;]+", text or ""):
            return found[0].rstrip(".:")
    return None


def _stdout() -> Console:
    """A console as wide as the terminal, or wide enough for a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH_OF_FILES)
