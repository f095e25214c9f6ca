"""The picture of a table: means and standard deviations over seeds, the measure and the effective rank side by side.

Few methods stand beside each other above each condition; many are lines of their own, with a colour for each condition.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from decollapse.pictures import FULL_WIDTH, Look, colors, legend, save_picture
from decollapse.report.summary import Column, Statistic
from decollapse.reproduce.results import Results
from decollapse.reproduce.writing import RANK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
FEW_METHODS = 8
SPREAD = 0.8
"""Of the distance between two labels of an axis, what the dots of one stand on."""
BAND = "#f5f6f9"
LABEL_WIDTH = 10
"""Characters of a condition in a line."""


def save_table(results: Results, stem: Path) -> Path:
    """Write `stem`.svg; the same numbers give the same bytes.

    Raises:
        MatplotlibMissingError: there is no matplotlib.
    """
    columns = [results.column, *([RANK] if results.grid.choice.preset.measure == "accuracy" else [])]
    title = results.grid.choice.preset.title
    (path,) = save_picture(lambda: figure_of(results, columns), stem, title=title, suffixes=("svg",))
    return path


def figure_of(results: Results, columns: Sequence[Column]) -> Figure:
    """Each of `columns` in an axis of its own."""
    return _by_condition(results, columns) if len(results.grid.rows) <= FEW_METHODS else _by_method(results, columns)


def method_looks(rows: Sequence[str]) -> dict[str, Look]:
    """A look for each method: a colour for each algorithm, filled markers for what is added to it.

    Where there is one algorithm alone, everything added to it has a colour of its own.

    >>> looks = method_looks(["FedAvg", "FedAvg + FedDecorr", "MOON", "MOON + FedDecorr"])
    >>> looks["MOON"].color == looks["MOON + FedDecorr"].color, looks["MOON"].filled, looks["MOON + FedDecorr"].filled
    (True, False, True)
    """
    algorithms = list(dict.fromkeys(row.partition(" + ")[0] for row in rows))
    families = algorithms if len(algorithms) > 1 else list(rows)
    shades = colors(len(families))
    looks = {}
    for row in rows:
        at = families.index(row.partition(" + ")[0] if len(algorithms) > 1 else row)
        looks[row] = Look(shades[at], 1.0, "", MARKERS[at % len(MARKERS)], filled=" + " in row)
    return looks


def _by_condition(results: Results, columns: Sequence[Column]) -> Figure:
    """The conditions side by side, and above each its methods."""
    from matplotlib.figure import Figure

    rows, conditions = results.grid.rows, results.grid.columns
    looks = method_looks(rows)
    figure = Figure(figsize=(FULL_WIDTH, 2.9))
    for number, column in enumerate(columns):
        axis = figure.add_subplot(1, len(columns), number + 1)
        for at, row in enumerate(rows):
            points = _points(results, column, [(row, condition) for condition in conditions])
            _dots(axis, _beside(points, at, len(rows)), looks[row])
        axis.set_xticks(range(len(conditions)), [fill(condition, LABEL_WIDTH) for condition in conditions])
        axis.set(ylabel=column.title, xlim=(-0.5, len(conditions) - 0.5))
        axis.grid(axis="x", visible=False)
    legend(figure, [(row, looks[row]) for row in rows])
    return figure


def _by_method(results: Results, columns: Sequence[Column]) -> Figure:
    """A line for each method, the first on top, and a colour for each condition."""
    from matplotlib.figure import Figure

    rows, conditions = results.grid.rows, results.grid.columns
    shades = colors(len(conditions))
    looks = {
        condition: Look(shades[at], 1.0, "", MARKERS[at % len(MARKERS)]) for at, condition in enumerate(conditions)
    }
    figure = Figure(figsize=(FULL_WIDTH, 0.9 + (0.13 + 0.07 * len(conditions)) * len(rows)))
    for number, column in enumerate(columns):
        axis = figure.add_subplot(1, len(columns), number + 1)
        for at, condition in enumerate(conditions):
            points = _points(results, column, [(row, condition) for row in rows])
            _dots(axis, _beside(points, at, len(conditions)), looks[condition], upright=False)
        for at in range(0, len(rows), 2):
            axis.axhspan(at - 0.5, at + 0.5, color=BAND, zorder=0)
        axis.set_yticks(range(len(rows)), rows if number == 0 else [""] * len(rows))
        axis.set(xlabel=column.title, ylim=(len(rows) - 0.5, -0.5))
        axis.grid(axis="y", visible=False)
    if len(conditions) > 1:
        legend(figure, list(looks.items()))
    return figure


def _points(results: Results, column: Column, labels: Sequence[tuple[str, str]]) -> dict[float, Statistic]:
    """The cells that have a number, by their place among `labels`."""
    cells = {(cell.row, cell.column): cell for cell in results.grid.cells}
    found = {at: results.statistic(cells[label], column) for at, label in enumerate(labels)}
    return {at: statistic for at, statistic in found.items() if statistic}


def _beside(points: dict[float, Statistic], at: int, count: int) -> dict[float, Statistic]:
    """Moved from their label to the place of the `at`-th of `count` that share it."""
    return {place + SPREAD * ((at + 0.5) / count - 0.5): found for place, found in points.items()}


def _dots(axis: Axes, points: dict[float, Statistic], look: Look, *, upright: bool = True) -> None:
    """A dot at each mean, and a bar of a standard deviation to both sides."""
    places, means = list(points), [statistic.mean for statistic in points.values()]
    spreads = [statistic.std or 0.0 for statistic in points.values()]
    bars = {"capsize": 2.0, "elinewidth": 1.0, "markersize": 4.5, **look.style}
    if upright:
        axis.errorbar(places, means, yerr=spreads, **bars)
    else:
        axis.errorbar(means, places, xerr=spreads, **bars)
