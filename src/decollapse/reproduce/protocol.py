"""Data sets, scales, and the recipe that the runs of a data set start from at a scale."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from pydantic import TypeAdapter

from decollapse.data import Dataset
from decollapse.reproduce.words import FORBID
from decollapse.schema import Table, nearest

Scale = Literal["paper", "small"]
SCALES: tuple[Scale, ...] = get_args(Scale)
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class DataEntry:
    """A data set of the experiments.

    Attributes:
        title: what people call it.
        data: where it is looked for, as `data.name` of a recipe.
        get: what to do to have it there, as a clause.
        num_classes: that it must have; None for any.
        clients: the column whose values are the clients; empty where they are made by a partition.
        like: the data set whose protocol and words hold here, too.
        note: what a reader of a table has to know of it.
    """

    __pydantic_config__: ClassVar[Any] = FORBID
    title: str
    data: str
    get: str
    num_classes: int | None = None
    clients: str = ""
    like: str = ""
    note: str = ""

    def check(self, name: str, dataset: Dataset) -> None:
        """Raise ValueError where `dataset` cannot be this one."""
        if self.num_classes not in (None, dataset.num_classes):
            raise ValueError(
                f"{name} has {self.num_classes} classes and {dataset.name} {dataset.num_classes}; name the folder of "
                "the right data with --data."
            )
        if self.clients and self.clients not in dataset.train_columns:
            there = ", ".join(dataset.train_columns) or "none"
            raise ValueError(
                f"the clients of {name} are the values of the column {self.clients!r}, and {dataset.name} has "
                f"{there}; write it as docs/reproduce.md shows."
            )


@cache
def data_entries() -> Mapping[str, DataEntry]:
    """Every data set that a preset can name: `datasets.toml`."""
    return TypeAdapter(dict[str, DataEntry]).validate_python(_read("datasets.toml"))


@cache
def _scales() -> Mapping[Scale, Mapping[str, Table]]:
    """`scales.toml`, in which only scales and data sets can have recipes."""
    found = TypeAdapter(dict[Scale, dict[str, dict[str, Any]]]).validate_python(_read("scales.toml"))
    for scale, recipes in found.items():
        for name in recipes:
            if name not in data_entries() and name != "all":
                raise ValueError(f"scales.toml: {scale}.{name} is of no data set{nearest(name, data_entries())}")
    return found


def scales_of(dataset: str) -> tuple[Scale, ...]:
    """The scales at which there is a recipe for a data set."""
    entry = data_entries()[dataset]
    return tuple(scale for scale in SCALES if {dataset, entry.like} & set(_scales()[scale]))


def places(dataset: str, scale: Scale) -> tuple[str, ...]:
    """Where a run is, in the words of `Word.on`, the more special the later.

    >>> places("tinyimagenet100", "small")
    ('small', 'cifar100', 'small/cifar100', 'tinyimagenet100', 'small/tinyimagenet100')
    """
    names = [name for name in (data_entries()[dataset].like, dataset) if name]
    return (scale, *(place for name in names for place in (name, f"{scale}/{name}")))


def base_recipe(dataset: str, scale: Scale) -> dict[str, Any]:
    """What every run of a data set starts from; of the small scale, the paper's with the small one laid over it.

    >>> recipe = base_recipe("cifar10", "small")
    >>> recipe["num_clients"], recipe["client"]["batch_size"]
    (10, 64)
    """
    names = ["all", *(name for name in (data_entries()[dataset].like, dataset) if name)]
    recipe: dict[str, Any] = {}
    for layer in SCALES[: SCALES.index(scale) + 1]:
        for name in names:
            recipe = laid_over(recipe, _scales()[layer].get(name, {}))
    return recipe


def laid_over(recipe: Table, upper: Table) -> dict[str, Any]:
    """`recipe` with the settings of `upper`; a table with a name is another component, and replaces the lower one.

    >>> laid_over({"model": {"name": "mlp", "norm": "none"}, "client": {"epochs": 10}}, {"client": {"batch_size": 5}})
    {'model': {'name': 'mlp', 'norm': 'none'}, 'client': {'epochs': 10, 'batch_size': 5}}
    >>> laid_over({"model": {"name": "mlp", "norm": "none"}}, {"model": {"name": "resnet8"}})
    {'model': {'name': 'resnet8'}}
    """
    merged = dict(recipe)
    for key, value in upper.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and "name" not in value:
            value = laid_over(below, value)
        merged[key] = value
    return merged


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((FOLDER / name).read_text())
