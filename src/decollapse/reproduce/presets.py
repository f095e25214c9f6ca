"""Presets: a table or figure of the paper as data."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import TypeAdapter, ValidationError

from decollapse.report.summary import COLUMNS, Column
from decollapse.reproduce.protocol import SCALES, Scale, data_entries, places
from decollapse.reproduce.words import FORBID, Word, Words, meanings, shared_words
from decollapse.schema import RecipeError, nearest

PRESETS = Path(__file__).with_name("presets")


@dataclass(frozen=True)
class Published:
    """Numbers that somebody published for some of the rows and columns.

    Attributes:
        dataset: of which data set.
        source: who, where and how; "as recalled" where nobody looked it up again.
        columns: labels.
        rows: for the label of a row, one number a column.
    """

    __pydantic_config__: ClassVar[Any] = FORBID
    dataset: str
    source: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class AtScale:
    """What is otherwise at one scale: rows and columns instead of the preset's, settings and notes beside them."""

    __pydantic_config__: ClassVar[Any] = FORBID
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    set: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Preset:
    """One table: a run for every row, column and seed.

    Attributes:
        name: of its file, and of what follows `decollapse reproduce`.
        title: what the table compares.
        about: where the table is from, and what the paper says it shows; "as recalled" where nobody looked it up again.
        datasets: that it can be made of; the first is the default.
        rows: labels, made of words; usually methods.
        columns: labels, made of words; usually conditions.
        against: a row that all others are compared with, beside the row they add something to; usually none.
        measure: what the table shows, a key of `report.summary.COLUMNS`.
        set: settings of every run.
        alone: one run at a time, because the table is of seconds.
        notes: what a reader has to know.
        words: of this preset, beside those of `words.toml`.
        paper: what is otherwise at the paper's scale.
        small: what is otherwise at the small scale.
        published: numbers to compare with.

    Raises:
        RecipeError: something in it is unknown, or does not fit together.
    """

    __pydantic_config__: ClassVar[Any] = FORBID
    name: str
    title: str
    about: str
    datasets: tuple[str, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    against: str = ""
    measure: str = "accuracy"
    set: tuple[str, ...] = ()
    alone: bool = False
    notes: tuple[str, ...] = ()
    words: Mapping[str, Word] = field(default_factory=dict)
    paper: AtScale = AtScale()
    small: AtScale = AtScale()
    published: tuple[Published, ...] = ()

    def __post_init__(self) -> None:
        for dataset in (*self.datasets, *(numbers.dataset for numbers in self.published)):
            if dataset not in data_entries():
                raise RecipeError(f"there is no data set {dataset!r}{nearest(dataset, data_entries())}")
        if self.measure not in {column.key for column in COLUMNS}:
            raise RecipeError(f"measure = {self.measure!r}{nearest(self.measure, {c.key: c for c in COLUMNS})}")
        for scale in SCALES:
            for labels in (self.rows_at(scale), self.columns_at(scale)):
                if not labels or len(set(labels)) < len(labels):
                    raise RecipeError(f"rows and columns need at least one label and none twice, got {labels}.")
                for label in labels:
                    meanings(label, self.all_words)
        if self.against and self.against not in self.rows:
            raise RecipeError(f"against = {self.against!r}{nearest(self.against, dict.fromkeys(self.rows))}")
        for numbers in self.published:
            self._check_published(numbers)

    def _check_published(self, numbers: Published) -> None:
        for given, known in ((numbers.rows, self.rows), (numbers.columns, self.columns)):
            for label in given:
                if label not in known:
                    raise RecipeError(f"{numbers.source} is given for {label!r}{nearest(label, dict.fromkeys(known))}")
        for row, values in numbers.rows.items():
            if len(values) != len(numbers.columns):
                raise RecipeError(f"{numbers.source}, {row}: {len(values)} numbers for {len(numbers.columns)} columns.")

    @property
    def all_words(self) -> Words:
        """The shared words and the preset's own, which come first."""
        return {**self.words, **{key: word for key, word in shared_words().items() if key not in self.words}}

    @property
    def column(self) -> Column:
        """How the number of the table is read and shown."""
        return next(column for column in COLUMNS if column.key == self.measure)

    def at(self, scale: Scale) -> AtScale:
        """What is otherwise at a scale."""
        return {"paper": self.paper, "small": self.small}[scale]

    def rows_at(self, scale: Scale) -> tuple[str, ...]:
        """The rows at a scale."""
        return self.at(scale).rows or self.rows

    def columns_at(self, scale: Scale) -> tuple[str, ...]:
        """The columns at a scale."""
        return self.at(scale).columns or self.columns

    def settings(self, row: str, column: str, dataset: str, scale: Scale) -> list[str]:
        """The settings of a cell, later ones over earlier ones: the preset's, the scale's, the column's, the row's."""
        words = [*meanings(column, self.all_words), *meanings(row, self.all_words)]
        of_labels = [setting for word, value in words for setting in word.settings(value, places(dataset, scale))]
        return [*self.set, *self.at(scale).set, *of_labels]


def preset_names() -> list[str]:
    """Every table there is."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load_preset(name: str) -> Preset:
    """Read a preset.

    Raises:
        RecipeError: there is none of this name, or something is wrong in its file.
    """
    if name not in preset_names():
        raise RecipeError(f"there is no preset {name!r}{nearest(name, dict.fromkeys(preset_names()))}")
    return read_preset(PRESETS / f"{name}.toml")


def read_preset(path: Path) -> Preset:
    """A preset from its file; see `load_preset`."""
    try:
        return TypeAdapter(Preset).validate_python({"name": path.stem, **tomllib.loads(path.read_text())})
    except ValidationError as error:
        first = error.errors()[0]
        where = "".join(f"{part}: " for part in first["loc"])
        raise RecipeError(f"{path.name}: {where}{first['msg'].removeprefix('Value error, ')}") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path.name} is not TOML: {error}.") from None
