"""What the report reads of a run folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from decollapse.config import from_table, to_table
from decollapse.report.eigenvalues import GlobalSpectra, LocalSpectra, RoundSpectra, by_round, last_global, last_local

FORMAT = 1
"""The format of run folders that is read here."""

Record = Mapping[str, Any]
"""One line of `records.jsonl`; any key may be absent or null."""


@dataclass(frozen=True)
class RunView:
    """One run as its folder tells it.

    Attributes:
        folder: where it was read.
        description: `run.json`: recipe, versions, machine, partition, model.
        records: one for each finished round, round 0 (the untrained model) first.
        spectra: of the last round that has any, or None.
        local_spectra: of the last round that has any, or None; clients may be measured less often.
        history: of the diagnosed rounds and of the untrained model; empty where no round was diagnosed.
    """

    folder: Path
    description: Record
    records: tuple[Record, ...]
    spectra: GlobalSpectra | None
    local_spectra: LocalSpectra | None
    history: tuple[RoundSpectra, ...] = ()

    @property
    def name(self) -> str:
        """The name the run was given, or its folder's."""
        return str(self.description.get("name") or self.folder.name)

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe; settings that are newer than the run have their defaults, so that old and new compare.

        As it is written where it names what is not installed here.
        """
        recipe: dict[str, Any] = self.description.get("recipe") or {}
        try:
            return to_table(from_table(recipe)) if recipe else recipe
        except (ValueError, TypeError):
            return recipe

    @property
    def seed(self) -> int | None:
        """The seed, or None where the recipe has none."""
        return self.recipe.get("seed")

    @property
    def num_rounds(self) -> int:
        """Rounds asked for, or those finished where the recipe does not say."""
        return int(self.recipe.get("rounds", self.last_round))

    @property
    def last_round(self) -> int:
        """The last finished round; 0 before the first."""
        return max((int(record["round"]) for record in self.records), default=0)

    @property
    def finished(self) -> bool:
        """Whether every round asked for was run."""
        return bool(self.records) and self.last_round >= self.num_rounds

    @property
    def seconds(self) -> float:
        """Wall-clock time of all finished rounds."""
        return sum(value for _, value in self.series("seconds", "total"))

    @cached_property
    def class_counts(self) -> list[list[int]]:
        """Training examples of each class, one row a client; empty when not recorded."""
        return list((self.description.get("partition") or {}).get("class_counts") or [])

    @property
    def classes(self) -> list[str]:
        """Names of the classes, their numbers where they have none."""
        names = (self.description.get("partition") or {}).get("classes")
        width = len(self.class_counts[0]) if self.class_counts else 0
        return [str(name) for name in names] if names else [str(index) for index in range(width)]

    @property
    def num_features(self) -> int | None:
        """Width of the features, where recorded."""
        widths = [lookup(record, "spectrum", "num_features") for record in self.records]
        known = [int(width) for width in (lookup(self.description, "model", "feature_dim"), *widths) if width]
        return known[0] if known else None

    def series(self, *keys: str) -> list[tuple[int, float]]:
        """(round, value) of a nested number, for the rounds that recorded a finite one.

        `series("evaluation", "accuracy")` reads `record["evaluation"]["accuracy"]`.
        """
        pairs = ((int(record["round"]), lookup(record, *keys)) for record in self.records)
        return [(round_, float(value)) for round_, value in pairs if is_finite(value)]


def lookup(record: Record, *keys: str) -> Any:
    """The value at a path of keys, or None where any step of the path is missing.

    >>> lookup({"evaluation": {"loss": 2.0}}, "evaluation", "loss"), lookup({"evaluation": None}, "evaluation", "loss")
    (2.0, None)
    """
    value: Any = record
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def is_finite(value: Any) -> bool:
    """Whether `value` is a finite number.

    >>> is_finite(1.5), is_finite(float("nan")), is_finite(None)
    (True, False, False)
    """
    return isinstance(value, int | float) and bool(np.isfinite(value))


def is_diagnosed(record: Record) -> bool:
    """Whether a round has a diagnosis with anything in it."""
    return isinstance(record.get("diagnosis"), Mapping) and bool(record["diagnosis"])


def read_run(folder: Path) -> RunView:
    """Read a run folder, finished or not.

    A last line of the records that was cut off while it was written is left out: the round it tells of is not finished.

    Raises:
        ValueError: the folder is missing, is not a run, or holds a damaged file.
    """
    path = folder / "run.json"
    if not path.is_file():
        raise ValueError(f"{folder} is not a run folder: it has no run.json. Give folders that `decollapse run` wrote.")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not readable as JSON ({error}); restore it or leave this run out.") from error
    if not isinstance(description, dict) or not isinstance(description.get("recipe"), dict):
        raise ValueError(f"{path} does not describe a run: it has no recipe. Restore it or leave this run out.")
    if description.get("format") != FORMAT:
        found = description.get("format")
        raise ValueError(f"{folder} has format {found!r}, this version reads {FORMAT}; use the version that wrote it.")
    records = _read_records(folder / "records.jsonl")
    diagnosed = [int(record["round"]) for record in records if is_diagnosed(record)]
    return RunView(
        folder=folder,
        description=description,
        records=records,
        spectra=last_global(folder),
        local_spectra=last_local(folder),
        history=by_round(folder, [0, *diagnosed]) if diagnosed else (),
    )


def _read_records(path: Path) -> tuple[Record, ...]:
    if not path.is_file():
        return ()
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    records: dict[int, Record] = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            records[int(record["round"])] = record
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number} is not a round record ({error}); restore the file.") from error
    return tuple(records[round_] for round_ in sorted(records))
