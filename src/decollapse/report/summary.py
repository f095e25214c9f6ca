"""Runs grouped by recipe, and their numbers: mean ± standard deviation over seeds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from decollapse.report.labels import differences, label
from decollapse.report.view import RunView, lookup

MISSING = "\N{EN DASH}"
"""What a table shows where nothing was recorded."""


@dataclass(frozen=True)
class Statistic:
    """A number measured once for each of `num` runs.

    Attributes:
        mean: over the runs.
        std: the sample standard deviation (divided by `num - 1`), or None for a single run.
        num: how many runs have the number.
    """

    mean: float
    std: float | None
    num: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Statistic | None:
        """Summarise `values`; None when there are none.

        >>> Statistic.of([1.0, 2.0, 3.0])
        Statistic(mean=2.0, std=1.0, num=3)
        """
        if not values:
            return None
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Column:
    """One number of the table.

    Attributes:
        key: its name in JSON.
        title: its heading, with the unit.
        path: where a round record holds it.
        scale: what the recorded number is multiplied by; 100 for a percentage.
        decimals: digits after the point.
        higher_is_better: whether more of it is for the better.
    """

    key: str
    title: str
    path: tuple[str, ...]
    scale: float = 1.0
    decimals: int = 1
    higher_is_better: bool = True

    def of(self, run: RunView, round_: int | None) -> float | None:
        """A run's number at a round, or None where it was not recorded; times are a mean over rounds."""
        if self.path[0] == "seconds":
            # Round 0 is an evaluation without training, so it would make a round look cheap.
            seconds = [value for at, value in run.series(*self.path) if at > 0]
            return statistics.fmean(seconds) * self.scale if seconds else None
        found = dict(run.series(*self.path)).get(-1 if round_ is None else round_)
        return None if found is None else found * self.scale

    def show(self, statistic: Statistic | None) -> str:
        """The number as the table prints it.

        >>> COLUMNS[0].show(Statistic(54.25, 0.84, 3)), COLUMNS[0].show(Statistic(54.25, None, 1))
        ('54.2 ± 0.8', '54.2')
        """
        if statistic is None:
            return MISSING
        mean = f"{statistic.mean:.{self.decimals}f}"
        return mean if statistic.std is None else f"{mean} ± {statistic.std:.{self.decimals}f}"


COLUMNS = (
    Column("accuracy", "accuracy (%)", ("evaluation", "accuracy"), scale=100),
    Column("loss", "loss", ("evaluation", "loss"), decimals=3, higher_is_better=False),
    Column("effective_rank", "effective rank", ("spectrum", "covariance", "effective_rank")),
    Column("effective_rank_correlation", "effective rank (corr.)", ("spectrum", "correlation", "effective_rank")),
    Column("participation_ratio", "participation ratio", ("spectrum", "covariance", "participation_ratio")),
    Column("num_dead", "dead dimensions", ("spectrum", "num_dead"), higher_is_better=False),
    Column("seconds_per_round", "seconds a round", ("seconds", "total"), decimals=2, higher_is_better=False),
)
"""The columns of the comparison, in order. All but the last are of one round; the last is a mean over rounds."""


def columns_by_value(runs: Iterable[RunView]) -> dict[str, list[Column]]:
    """For each column of the test data that accuracy is recorded by, such as the domain: a column for each value."""
    found: dict[str, dict[str, int]] = {}
    for run in runs:
        for name, counts in (run.description.get("test_groups") or {}).items():
            found.setdefault(name, {}).update(counts)
    return {
        name: [
            Column(f"accuracy_{name}_{value}", f"{value} ({num})", ("evaluation", "by_column", name, value), scale=100)
            for value, num in counts.items()
        ]
        for name, counts in found.items()
    }


def all_columns(runs: Iterable[RunView]) -> list[Column]:
    """`COLUMNS`, and those of `columns_by_value`."""
    return [*COLUMNS, *(column for columns in columns_by_value(runs).values() for column in columns)]


@dataclass(frozen=True)
class Group:
    """Runs whose recipes differ in nothing but the seed.

    Attributes:
        label: what sets the group apart from the others, in words.
        runs: ordered by seed.
    """

    label: str
    runs: tuple[RunView, ...]

    @property
    def compared(self) -> tuple[RunView, ...]:
        """The runs that enter means: the finished ones, or all that have records where none is finished."""
        return tuple(run for run in self.runs if run.finished) or tuple(run for run in self.runs if run.records)

    @property
    def round(self) -> int | None:
        """The last round that every compared run has evaluated, or else finished; None where nothing is recorded."""
        evaluated = [{at for at, _ in run.series("evaluation", "accuracy")} for run in self.compared]
        shared = set.intersection(*evaluated) if evaluated else set()
        return max(shared, default=min((run.last_round for run in self.compared), default=None))


@dataclass(frozen=True)
class SummaryRow:
    """One line of the comparison.

    Attributes:
        label: of the group.
        num_runs: runs that enter the numbers.
        num_found: runs in the group, unfinished ones included.
        round: the round the numbers are of, or None.
        num_rounds: rounds the recipe asks for.
        values: a statistic for each of `COLUMNS`, by key, or None where no run recorded it.
    """

    label: str
    num_runs: int
    num_found: int
    round: int | None
    num_rounds: int
    values: dict[str, Statistic | None]

    def cells(self) -> list[str]:
        """The line as text: label, runs, round, then one cell for each of `COLUMNS`."""
        runs = str(self.num_runs) if self.num_runs == self.num_found else f"{self.num_runs} of {self.num_found}"
        reached = 0 if self.round is None else self.round
        rounds = str(reached) if reached == self.num_rounds else f"{reached} of {self.num_rounds}"
        return [self.label, runs, rounds, *(column.show(self.values[column.key]) for column in COLUMNS)]


HEADINGS = ("setting", "runs", "round", *(column.title for column in COLUMNS))
"""What `SummaryRow.cells` are, in order."""


def group_runs(runs: Sequence[RunView]) -> list[Group]:
    """Group runs by everything in their recipes but seed and engine, in the order the first run of each group came."""
    members: dict[str, list[RunView]] = {}
    for run in runs:
        members.setdefault(json.dumps(unseeded(run), sort_keys=True), []).append(run)
    recipes = [unseeded(group[0]) for group in members.values()]
    differing = differences(recipes)
    labels = _unique([label(recipe, differing) for recipe in recipes])
    return [
        Group(text, tuple(sorted(group, key=lambda run: run.seed or 0)))
        for text, group in zip(labels, members.values(), strict=True)
    ]


def unseeded(run: RunView) -> dict[str, Any]:
    """The recipe without what leaves the result alone or is averaged over; of the engine, only its dtype stays."""
    table = {key: value for key, value in run.recipe.items() if key not in ("seed", "engine")}
    dtype = lookup(run.recipe, "engine", "dtype")
    return table if dtype is None else {**table, "engine": {"dtype": dtype}}


def summary_rows(groups: Sequence[Group]) -> list[SummaryRow]:
    """One line a group: mean ± standard deviation over its compared runs, at the last round all of them have."""
    return [_row(group) for group in groups]


def by_round(runs: Sequence[RunView], read: Callable[[RunView], Sequence[tuple[int, float]]]) -> dict[int, Statistic]:
    """A statistic over `runs` for each round in which all of them have the number.

    Rounds that only some runs have are left out: a mean over fewer and fewer runs would show a jump that no run made.
    """
    series = [dict(read(run)) for run in runs]
    shared = sorted(set.intersection(*(set(values) for values in series))) if series else []
    pairs = ((round_, Statistic.of([values[round_] for values in series])) for round_ in shared)
    return {round_: statistic for round_, statistic in pairs if statistic is not None}


def _row(group: Group) -> SummaryRow:
    runs = group.compared
    return SummaryRow(
        label=group.label,
        num_runs=len(runs),
        num_found=len(group.runs),
        round=group.round,
        num_rounds=group.runs[0].num_rounds,
        values={column.key: statistic_of(column, runs, group.round) for column in COLUMNS},
    )


def statistic_of(column: Column, runs: Sequence[RunView], round_: int | None) -> Statistic | None:
    """A column's number over the runs that recorded it at a round."""
    return Statistic.of([value for run in runs if (value := column.of(run, round_)) is not None])


def _unique(labels: Sequence[str]) -> list[str]:
    """Number the repetitions, so that a label names one group."""
    return [
        text if labels.count(text) == 1 else f"{text} ({labels[: i + 1].count(text)})" for i, text in enumerate(labels)
    ]
