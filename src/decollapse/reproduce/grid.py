"""The grid of a table: an experiment for every row and column, a run for every seed of it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations
from pathlib import Path

import torch

from decollapse.config import from_table, set_key
from decollapse.data import Dataset
from decollapse.experiment import Experiment
from decollapse.reproduce.presets import Preset
from decollapse.reproduce.protocol import Scale, base_recipe, data_entries, scales_of
from decollapse.schema import RecipeError, nearest


@dataclass(frozen=True)
class Choice:
    """What a person chose of a preset.

    Attributes:
        preset: the table.
        dataset: of which data set.
        scale: the paper's, or the small one.
        data: where the data are, as `data.name` of a recipe.
        seeds: a run for each.
        rows: those of the preset's rows to run; empty for all.
        columns: those of its columns; empty for all.
        overrides: further settings of every run, `key=value`.

    Raises:
        ValueError: it is not there, or a seed is there twice.
    """

    preset: Preset
    dataset: str
    scale: Scale
    data: str
    seeds: tuple[int, ...] = (0, 1, 2)
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()

    @property
    def rows_chosen(self) -> tuple[str, ...]:
        """The rows to run."""
        return self.rows or self.preset.rows_at(self.scale)

    @property
    def columns_chosen(self) -> tuple[str, ...]:
        """The columns to run."""
        return self.columns or self.preset.columns_at(self.scale)

    def __post_init__(self) -> None:
        name, known = self.preset.name, dict.fromkeys(self.preset.datasets)
        if self.dataset not in known:
            raise RecipeError(f"{name} is not made of a data set {self.dataset!r}{nearest(self.dataset, known)}")
        if self.scale not in scales_of(self.dataset):
            raise RecipeError(
                f"there is no --scale {self.scale} of {self.dataset}: it is no experiment of the paper; leave it out."
            )
        if not self.seeds or min(self.seeds) < 0:
            raise RecipeError(f"--seeds takes how many, at least 1, or a list such as 0,1,2; got {self.seeds}.")
        if twice := [seed for seed in self.seeds if self.seeds.count(seed) > 1]:
            raise RecipeError(
                f"seed {twice[0]} is in the list twice: the same run would count as two; name every seed once."
            )
        methods, conditions = (
            (self.preset.rows_at(self.scale), "method"),
            (self.preset.columns_at(self.scale), "condition"),
        )
        for chosen, (there, what) in ((self.rows, methods), (self.columns, conditions)):
            for label in chosen:
                if label not in there:
                    raise RecipeError(f"{name} has no {what} {label!r}{nearest(label, dict.fromkeys(there))}")


@dataclass(frozen=True, eq=False)
class Cell:
    """One cell of the table.

    Attributes:
        row: its label.
        column: its label.
        experiment: what is run, with seed 0.
        paper: the same at the paper's scale; None where the paper has no such experiment.
    """

    row: str
    column: str
    experiment: Experiment
    paper: Experiment | None


@dataclass(frozen=True, eq=False)
class Run:
    """One run of the grid.

    Attributes:
        cell: the first of the cells that it stands in.
        experiment: the cell's, with this run's seed.
        path: of its folder, below the grid's.
    """

    cell: Cell
    experiment: Experiment
    path: Path

    @property
    def title(self) -> str:
        """What to call it in a line."""
        return f"{self.cell.column}, {self.cell.row}, seed {self.experiment.seed}"


@dataclass(frozen=True, eq=False)
class Grid:
    """All runs of a table.

    Attributes:
        choice: what was asked for.
        cells: by columns, and in each by rows.
    """

    choice: Choice
    cells: tuple[Cell, ...] = field(repr=False)

    @cached_property
    def rows(self) -> tuple[str, ...]:
        """The rows' labels."""
        return tuple(dict.fromkeys(cell.row for cell in self.cells))

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns' labels."""
        return tuple(dict.fromkeys(cell.column for cell in self.cells))

    @cached_property
    def runs(self) -> tuple[Run, ...]:
        """Every run once, though it may stand in several cells; all of a seed before those of the next."""
        return tuple(self._by_experiment.values())

    def run_of(self, cell: Cell, seed: int) -> Run:
        """The run of a cell with a seed."""
        return self._by_experiment[replace(cell.experiment, seed=seed)]

    @cached_property
    def _by_experiment(self) -> dict[Experiment, Run]:
        found: dict[Experiment, Run] = {}
        for seed in self.choice.seeds:
            for cell in self.cells:
                experiment = replace(cell.experiment, seed=seed)
                path = Path("runs") / slug(cell.column) / slug(cell.row) / f"seed={seed}"
                found.setdefault(experiment, Run(cell, experiment, path))
        return found


def make_grid(choice: Choice, dataset: Dataset) -> Grid:
    """Every cell of the table of `choice`, made for the clients that `dataset` has.

    Raises:
        RecipeError: an override cannot be understood, does not fit a cell, or sets what the table varies.
    """
    scale = choice.scale
    labels = [(row, column) for column in choice.columns_chosen for row in choice.rows_chosen]
    given = [_experiment(choice, *label, scale, dataset) for label in labels]
    ours = [_experiment(choice, *label, scale, dataset, choice.overrides) for label in labels]
    if len(set(ours)) < len(set(given)):
        _refuse(labels, given, ours)
    with_paper = "paper" in scales_of(choice.dataset)
    papers = [_experiment(choice, *label, "paper", dataset) if with_paper else None for label in labels]
    cells = (Cell(*label, mine, paper) for label, mine, paper in zip(labels, ours, papers, strict=True))
    return Grid(choice, tuple(cells))


def _refuse(labels: Sequence[tuple[str, str]], given: Sequence[Experiment], ours: Sequence[Experiment]) -> None:
    """Raise for the first two cells that overrides have made the same."""
    for first, second in combinations(range(len(labels)), 2):
        if ours[first] == ours[second] and given[first] != given[second]:
            cells = " and ".join(f"{row} at {column}" for row, column in (labels[first], labels[second]))
            raise RecipeError(
                f"--set sets what the table varies: {cells} would be the same run; leave that setting out."
            )


def base_experiment(choice: Choice) -> Experiment:
    """What all cells start from: tells which data to load."""
    return from_table(_recipe(choice, choice.scale, choice.overrides))


def _recipe(choice: Choice, scale: Scale, overrides: Sequence[str]) -> dict[str, object]:
    recipe = deepcopy(base_recipe(choice.dataset, scale))
    for override in (f"data.name={choice.data}", *_side_by_side(), *overrides):
        set_key(recipe, override)
    return recipe


def _side_by_side() -> Iterator[str]:
    """The engine of runs that are trained beside others: one thread, or one GPU, each."""
    yield "engine=serial"
    if torch.cuda.is_available():
        yield "engine.device=cuda"


def _experiment(
    choice: Choice, row: str, column: str, scale: Scale, dataset: Dataset, overrides: Sequence[str] = ()
) -> Experiment:
    recipe = _recipe(choice, scale, ())
    named = data_entries()[choice.dataset].clients
    counted = [f"num_clients={int(dataset.train_columns[named].max()) + 1}"] if named else []
    try:
        for setting in (*counted, *choice.preset.settings(row, column, choice.dataset, scale), *overrides):
            set_key(recipe, setting)
        return from_table(recipe)
    except RecipeError as error:
        raise RecipeError(f"{choice.preset.name}, {column}, {row}: {error}") from None


def slug(label: str) -> str:
    """A label as the name of a folder.

    >>> slug("MOON + FedDecorr"), slug("α 0.05")
    ('moon+feddecorr', 'alpha-0.05')
    """
    spelled = re.sub(r"[^\x00-\x7f]", lambda found: unicodedata.name(found[0]).rpartition(" ")[2], label)
    return re.sub(r"[^a-z0-9.+=]+", "-", spelled.lower().replace(" + ", "+")).strip("-")
