"""In what the runs of a grid are not the paper's, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from decollapse.config import to_table
from decollapse.report.labels import Path, Recipe, differences, phrase
from decollapse.report.view import lookup
from decollapse.reproduce.grid import Cell, Grid
from decollapse.reproduce.protocol import data_entries
from decollapse.reproduce.words import meanings

NO_MATTER = ("engine", "evaluation", "seed")
"""Tables of a recipe on which the result does not depend, but for `ARITHMETIC`."""
ARITHMETIC = ("dtype", "autocast", "compile")
"""Settings of an engine that change more than who trains where."""
UNSET: Mapping[Path, str] = {
    ("data", "train_size"): "all",
    ("data", "test_size"): "all",
    ("data", "preprocess"): "the data's own",
    ("client", "augment"): "none",
}
"""What a setting says that is left out, or an empty list."""


def departures(grid: Grid) -> list[str]:
    """What differs from the paper's protocol in all cells, then what in some, named; then what a reader has to know."""
    found: dict[str, list[Cell]] = {}
    for cell in grid.cells:
        for difference in cell_departures(cell):
            found.setdefault(difference, []).append(cell)
    everywhere = [difference for difference, cells in found.items() if len(cells) == len(grid.cells)]
    in_some = [
        f"{_where(cells, grid)}: {difference}" for difference, cells in found.items() if len(cells) < len(grid.cells)
    ]
    return [*everywhere, *in_some, *_notes(grid)]


def cell_departures(cell: Cell) -> list[str]:
    """What differs in one cell, such as "10 rounds instead of 100"; nothing where the paper has no such experiment."""
    if cell.paper is None:
        return []
    ours, papers = (_relevant(to_table(experiment)) for experiment in (cell.experiment, cell.paper))
    return [
        f"{phrase(path, _value(ours, path))} instead of {_say(_value(papers, path))}"
        for path in differences([ours, papers])
    ]


def _relevant(recipe: Recipe) -> Recipe:
    """What the result depends on."""
    engine = {key: recipe["engine"][key] for key in ARITHMETIC}
    return {**{key: value for key, value in recipe.items() if key not in NO_MATTER}, "engine": engine}


def _value(recipe: Recipe, path: Path) -> Any:
    """A setting in words; a component with its settings."""
    value = lookup(recipe, *path)
    if value in (None, []):
        return UNSET.get(path, "none")
    if path[-1] == "name" and len(path) > 1:
        settings = lookup(recipe, *path[:-1])
        told = [phrase((*path[:-1], key), setting) for key, setting in settings.items() if key not in ("name", "norm")]
        return f"{_say(value)} ({', '.join(told)})" if told else _say(value)
    return value


def _say(value: Any) -> str:
    return phrase(("name",), value)


def _where(cells: Sequence[Cell], grid: Grid) -> str:
    """The cells in few words: whole rows, whole columns, or one by one."""
    rows, columns = dict.fromkeys(cell.row for cell in cells), dict.fromkeys(cell.column for cell in cells)
    if len(cells) == len(rows) * len(grid.columns):
        return ", ".join(rows)
    if len(cells) == len(columns) * len(grid.rows):
        return ", ".join(columns)
    return "; ".join(f"{cell.row} at {cell.column}" for cell in cells)


def _notes(grid: Grid) -> list[str]:
    choice, preset = grid.choice, grid.choice.preset
    labels = (*grid.rows, *grid.columns)
    words = [word.note for label in labels for word, _ in meanings(label, preset.all_words)]
    notes = [data_entries()[choice.dataset].note, *preset.notes, *preset.at(choice.scale).notes, *words]
    return [note for note in dict.fromkeys(notes) if note]
