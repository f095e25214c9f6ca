"""Runs in a terminal: progress on stderr, as a live bar for a person and as plain lines for a file."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from decollapse.core import Broadcast, ClientCall, ClientResult, ClientState
from decollapse.engines import Engine
from decollapse.experiment import Experiment
from decollapse.runs import RunFolder, continue_run
from decollapse.simulation import RoundRecord
from decollapse.spectrum import effective_rank, eigenvalues

stderr = Console(stderr=True, soft_wrap=True, highlight=False)


def run_folders(folders: Sequence[RunFolder]) -> None:
    """Run what is missing of each folder, one after the other, and tell the person how it goes."""
    for number, folder in enumerate(folders, start=1):
        experiment = folder.experiment
        done = folder.rounds_done
        where = f"[{number}/{len(folders)}] {folder.path}" if len(folders) > 1 else str(folder.path)
        if done == experiment.rounds:
            stderr.print(f"{where}: finished before", markup=False)
            continue
        stderr.print(f"{where}: {f'going on after round {done}' if done is not None else 'begins'}", markup=False)
        with _bar(experiment, done or 0) as bar:
            for record, _ in continue_run(folder, watch=bar.watch):
                bar.progress.console.print(round_line(record, experiment.rounds), markup=False)


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
        self.examples += result.num_examples * (self.epochs if result.num_steps else 0)
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
        if evaluation.statistics is not None:
            rank = effective_rank(eigenvalues(evaluation.statistics.covariance()))
            parts.append(f"effective rank {rank:5.1f} of {evaluation.statistics.num_features}")
    if record.clients:
        examples = sum(client.num_examples for client in record.clients)
        parts.append(f"{len(record.clients)} clients, {examples} examples")
    if record.rejected:
        parts.append("rejected: " + ", ".join(f"client {r.client} ({r.reason})" for r in record.rejected))
    return "  ".join([*parts, f"{record.seconds['total']:.1f} s"])


def print_comparison(paths: Sequence[Path], *, as_json: bool) -> None:
    """Print what runs came to, on stdout."""
    sys.stdout.write(str(paths))
