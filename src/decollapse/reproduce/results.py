"""The numbers of a grid's finished runs, cell by cell and run by run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decollapse.report.paired import Paired
from decollapse.report.summary import Column, Statistic, all_columns
from decollapse.report.view import RunView, read_run
from decollapse.reproduce.grid import Cell, Grid, Run
from decollapse.reproduce.presets import Published
from decollapse.runs import RunFolder


@dataclass(frozen=True, eq=False)
class Results:
    """What there is of a grid.

    Attributes:
        grid: the table's runs.
        views: the finished ones.
    """

    grid: Grid
    views: Mapping[Run, RunView]

    @classmethod
    def read(cls, out: Path, grid: Grid) -> Results:
        """The finished runs below `out`."""
        there = ((run, out / run.path) for run in grid.runs)
        views = {run: read_run(path) for run, path in there if (path / "run.json").exists()}
        return cls(grid, {run: view for run, view in views.items() if view.finished})

    @property
    def column(self) -> Column:
        """What the table shows."""
        return self.grid.choice.preset.column

    def by_seed(self, cell: Cell, column: Column) -> dict[int, float]:
        """A number of each finished run of a cell."""
        runs = {seed: self.grid.run_of(cell, seed) for seed in self.grid.choice.seeds}
        views = {seed: self.views[run] for seed, run in runs.items() if run in self.views}
        values = {seed: column.of(view, view.num_rounds) for seed, view in views.items()}
        return {seed: value for seed, value in values.items() if value is not None}

    def statistic(self, cell: Cell, column: Column) -> Statistic | None:
        """Mean and standard deviation over the finished runs of a cell."""
        return Statistic.of(list(self.by_seed(cell, column).values()))

    def gain(self, cell: Cell, baseline: Cell, column: Column) -> Paired | None:
        """What a cell gains over another, paired by seed: same split, cohorts and initial weights."""
        ours, theirs = self.by_seed(cell, column), self.by_seed(baseline, column)
        return Paired.of(
            [ours[seed] - theirs[seed] for seed in ours if seed in theirs], higher_is_better=column.higher_is_better
        )

    def pairs(self) -> Iterator[tuple[Cell, Cell]]:
        """Each cell with that of the row without its last addition, and with that of the preset's `against`."""
        cells = {(cell.row, cell.column): cell for cell in self.grid.cells}
        against = self.grid.choice.preset.against
        for cell in self.grid.cells:
            plain = cell.row.rpartition(" + ")[0]
            for row in dict.fromkeys((plain, against)):
                if row != cell.row and (row, cell.column) in cells:
                    yield cell, cells[row, cell.column]

    def published(self, cell: Cell) -> list[tuple[float, Published]]:
        """What was published for a cell, the first source of the preset first."""
        choice = self.grid.choice
        return [
            (numbers.rows[cell.row][numbers.columns.index(cell.column)], numbers)
            for numbers in choice.preset.published
            if numbers.dataset == choice.dataset and cell.row in numbers.rows and cell.column in numbers.columns
        ]


def run_as_json(run: Run, view: RunView, folder: RunFolder) -> dict[str, Any]:
    """A finished run in one line: which, its numbers after the last round, how long it took, what it was."""
    values = {column.key: column.of(view, view.num_rounds) for column in all_columns([view])}
    return {
        "row": run.cell.row,
        "column": run.cell.column,
        "seed": run.experiment.seed,
        "rounds": view.num_rounds,
        **values,
        "seconds": view.seconds,
        "recipe": folder.digest,
        "fingerprint": view.description.get("fingerprint"),
    }


def machine(views: Sequence[RunView]) -> list[str]:
    """The machines the runs were on, in words."""
    abouts = [(view.description.get("machine") or {}, view.description.get("versions") or {}) for view in views]
    return sorted(
        {f"{where.get('cpu')}, {where.get('cores')} cores, torch {versions.get('torch')}" for where, versions in abouts}
    )
