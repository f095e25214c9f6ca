"""The time that a plan will take on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from decollapse.data import IID, Dataset
from decollapse.experiment import Experiment
from decollapse.reproduce.grid import Run
from decollapse.reproduce.pace import MeasurePace, Pace, Timing, makespan
from decollapse.reproduce.plan import Plan
from decollapse.reproduce.side_by_side import Told, side_by_side


@dataclass(frozen=True)
class Estimate:
    """How long what is missing will take.

    Attributes:
        seconds: of each run that could be timed, on its core or GPU.
        wall: on the clock, with several at once.
        measuring: what it took to find out.
        at_once: how many runs at the same time.
        load: of the machine before, in processes that want a core.
        untimed: for each run that could not be timed, why: it will hardly train either.
    """

    seconds: Mapping[Run, float]
    wall: float
    measuring: float
    at_once: int
    load: float
    untimed: Mapping[Run, str]


def estimate(plan: Plan, done: Mapping[Run, int | None], *, at_once: int) -> Estimate:
    """Time every kind of run that is not finished, as many at once as will be trained at once, and count its steps.

    Args:
        plan: the runs.
        done: rounds done of each; None where it was not begun.
        at_once: runs at the same time.
    """
    began, load = time.perf_counter(), os.getloadavg()[0]
    unfinished = [run for run in plan.grid.runs if done[run] != run.experiment.rounds]
    kinds = {run: _kind(run.experiment) for run in unfinished}
    paces = _paces({kind: run for run, kind in reversed(kinds.items())}, plan.dataset, at_once=at_once)
    seconds: dict[Run, float] = {}
    untimed: dict[Run, str] = {}
    for run, kind in kinds.items():
        pace = paces[kind]
        if isinstance(pace, str):
            untimed[run] = pace
        else:
            clients = plan.prepared[run].clients
            sizes = np.array([clients.num_examples(client) for client in range(len(clients))])
            seconds[run] = pace.run(run.experiment, sizes, len(plan.dataset.test_y), done=done[run])
    wall = makespan(list(seconds.values()), at_once=at_once)
    return Estimate(seconds, wall, time.perf_counter() - began, at_once, load, untimed)


def _kind(experiment: Experiment) -> Experiment:
    """What a step of a run depends on: not how the data are dealt, nor how often anything is done."""
    client = replace(experiment.client, epochs=1)
    return replace(experiment, seed=0, rounds=1, num_clients=1, cohort_size=None, partition=IID(), client=client)


def _paces(runs: Mapping[Experiment, Run], dataset: Dataset, *, at_once: int) -> dict[Experiment, Pace | str]:
    """The pace of each kind, or why there is none.

    Where there are few, each is timed as often as there are places, so that none has the machine to itself.
    """
    times = at_once if len(runs) < 2 * at_once else 1
    kinds = [kind for kind in runs for _ in range(times)]
    work = [MeasurePace(runs[kind].experiment, dataset) for kind in kinds]
    timings: dict[int, Timing] = {}
    measured: dict[Experiment, list[Pace]] = {kind: [] for kind in runs}
    failures: dict[Experiment, str] = {}
    for news in side_by_side(work, at_once=at_once):
        kind = kinds[news.number]
        if isinstance(news, Told):
            timings[news.number] = news.what
        elif news.failure:
            failures[kind] = news.failure
        else:
            timing = timings[news.number]
            measured[kind].append(replace(timing.pace, process=news.seconds - timing.seconds))
    return {kind: failures.get(kind) or Pace.mean(paces) for kind, paces in measured.items()}
