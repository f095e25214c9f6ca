"""The tables of a grid: ours like the paper's, beside the published numbers, and what is gained within a seed."""

from __future__ import annotations

from dataclasses import asdict

from decollapse.report.summary import COLUMNS, MISSING, Column, all_columns, columns_by_value
from decollapse.reproduce.grid import Cell
from decollapse.reproduce.results import Results
from decollapse.tables import Cell as Entry
from decollapse.tables import Heading, Scalar, Table

METHOD, CONDITION = Heading("method", "method", align="left"), Heading("condition", "condition", align="left")
RANK = next(column for column in COLUMNS if column.key == "effective_rank")


def own_table(results: Results, column: Column) -> Table:
    """Ours, in the shape of the paper's table: a line for each method, mean ± standard deviation over seeds."""
    grid = results.grid
    cells = {(cell.row, cell.column): cell for cell in grid.cells}
    headings = [METHOD, *(Heading(label, label) for label in grid.columns)]
    rows = [
        [Entry(row), *(statistic_entry(results, cells[row, label], column) for label in grid.columns)]
        for row in grid.rows
    ]
    return Table(headings, rows, notes=[_seeds(results)])


def by_column_tables(results: Results) -> dict[str, Table]:
    """For each column of the data, accuracy at each of its values: a line for each cell."""
    return {
        name: Table(
            [METHOD, CONDITION, *(Heading(column.key, column.title) for column in columns)],
            [
                [*(Entry(cell.row), Entry(cell.column)), *(statistic_entry(results, cell, each) for each in columns)]
                for cell in results.grid.cells
            ],
            notes=[f"Mean ± standard deviation over seeds; in brackets, test examples of each {name}."],
        )
        for name, columns in columns_by_value(results.views.values()).items()
    }


def published_table(results: Results) -> Table:
    """Ours, what was published and the difference, a line for every number that was published."""
    headings = [
        *(METHOD, CONDITION),
        *(Heading("ours", "ours"), Heading("published", "published"), Heading("difference", "difference")),
        Heading("source", "source", align="left"),
    ]
    column = results.column
    rows = []
    for cell in results.grid.cells:
        for value, numbers in results.published(cell):
            statistic = results.statistic(cell, column)
            difference = None if statistic is None else statistic.mean - value
            rows.append(
                [
                    *(Entry(cell.row), Entry(cell.column), statistic_entry(results, cell, column)),
                    Entry(f"{value:g}", {"": value}),
                    Entry(signed(difference, column), {"": difference}),
                    Entry(numbers.source),
                ]
            )
    return Table(headings, rows)


def long_table(results: Results) -> Table:
    """Everything, a line for each cell: what CSV holds."""
    columns = all_columns(results.views.values())
    of_columns = [Heading(column.key, column.title) for column in columns]
    rows = [
        [
            *(Entry(cell.row), Entry(cell.column)),
            *(statistic_entry(results, cell, column) for column in columns),
            _published(results, cell),
        ]
        for cell in results.grid.cells
    ]
    return Table([METHOD, CONDITION, *of_columns, Heading("published", "published")], rows)


def _published(results: Results, cell: Cell) -> Entry:
    first = next(iter(results.published(cell)), None)
    numbers: dict[str, Scalar] = {"": first[0], "source": first[1].source} if first else {"": None, "source": None}
    return Entry(f"{first[0]:g}" if first else "", numbers)


def statistic_entry(results: Results, cell: Cell, column: Column) -> Entry:
    """Mean ± standard deviation of a cell; with how many seeds, where some are not finished."""
    statistic = results.statistic(cell, column)
    if statistic is None:
        return Entry(MISSING, {"mean": None, "std": None, "num": 0})
    missing = len(results.grid.choice.seeds) - statistic.num
    few = f" ({statistic.num} of {statistic.num + missing} seeds)" if missing else ""
    return Entry(column.show(statistic) + few, asdict(statistic))


def signed(value: float | None, column: Column) -> str:
    """A difference as the table prints it.

    >>> signed(-1.24, COLUMNS[0]), signed(None, COLUMNS[0])
    ('−1.2', '–')
    """
    return MISSING if value is None else f"{value:+.{column.decimals}f}".replace("-", "\N{MINUS SIGN}")


def _seeds(results: Results) -> str:
    seeds = results.grid.choice.seeds
    if len(seeds) == 1:
        return f"Seed {seeds[0]} alone: there is no standard deviation."
    return f"Mean ± standard deviation over {len(seeds)} seeds ({', '.join(map(str, seeds))})."
