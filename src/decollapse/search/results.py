"""What a search found: the best trials in a table, and the command that runs the best one again."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from decollapse.config import parse_value
from decollapse.search.question import Search
from decollapse.search.trials import Tried
from decollapse.tables import Cell, Heading, Table

SHOWN = 10
"""Trials in the table."""


def ranked(search: Search, trials: Sequence[Tried]) -> list[tuple[float, Tried]]:
    """The finished trials that are no repetition of another one, the best first, each with its mean."""
    distinct = {str(trial.settings): (trial.found.mean, trial) for trial in reversed(trials) if trial.found}
    best = sorted(distinct.values(), key=lambda pair: pair[1].number)
    return sorted(best, key=lambda pair: pair[0], reverse=search.column.higher_is_better)


def best_trials(search: Search, trials: Sequence[Tried]) -> Table:
    """The best trials, a line each, and below how many there were and how to run the best."""
    keys = [part.key for part in search.space]
    headings = [
        Heading("trial", "trial"),
        *(Heading(key, _short(key, keys)) for key in keys),
        Heading(search.metric, search.column.title),
    ]
    found = ranked(search, trials)
    rows = [
        [
            Cell(str(trial.number)),
            *(Cell(_rounded(trial.settings[key])) for key in keys),
            Cell(search.column.show(trial.found)),
        ]
        for _, trial in found[:SHOWN]
    ]
    return Table(headings, rows, notes=[_counts(trials), *([command(search, found[0][1])] if found else [])])


def command(search: Search, trial: Tried) -> str:
    """The command that runs a trial's settings."""
    recipe = [] if search.recipe is None else [str(search.recipe)]
    written = [*search.overrides, *(f"{key}={value}" for key, value in trial.settings.items())]
    return shlex.join(["decollapse", "run", *recipe, *(word for setting in written for word in ("-s", setting))])


def as_json(search: Search, trials: Sequence[Tried]) -> dict[str, Any]:
    """Every trial, and the best one's number and command."""
    found = ranked(search, trials)
    best = {"trial": found[0][1].number, "command": command(search, found[0][1])} if found else None
    return {"metric": search.metric, "best": best, "trials": [asdict(trial) for trial in trials]}


def _counts(trials: Sequence[Tried]) -> str:
    counts = Counter(trial.outcome for trial in trials)
    parts = [f"{counts[outcome]} {outcome}" for outcome in ("finished", "pruned", "failed") if counts[outcome]]
    return f"{len(trials)} trials: {', '.join(parts)}."


def _short(key: str, keys: Sequence[str]) -> str:
    """The last word of a key, or all of it where another one ends the same."""
    lasts = [other.rpartition(".")[2] for other in keys]
    last = key.rpartition(".")[2]
    return last if lasts.count(last) == 1 else key


def _rounded(written: str) -> str:
    value = parse_value(written)
    return f"{value:.4g}" if isinstance(value, float) else written
