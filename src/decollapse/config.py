"""Recipes: TOML in, an `Experiment` out, and back.

The frozen dataclasses of the package are the schema; nothing is declared twice. A field that holds a component is
written as a table with a `name` from the catalogue, as that name alone, or as an import path:

    partition = "iid"
    model = { name = "resnet20", norm = "group" }
    [client.objective.feddecorr]
    beta = 0.1

The objective is a table with one entry a term; `cross_entropy = false` takes one out, and `schedule` in a term's table
changes its coefficient from round to round. `algorithm = "moon"` is short for what the function `moon` of `algorithms`
does to the rest of the recipe.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

from decollapse.algorithm import Algorithm
from decollapse.catalog import ALGORITHMS
from decollapse.experiment import Experiment
from decollapse.schema import RecipeError as RecipeError
from decollapse.schema import Table, as_table, build, nearest, read_value, unbuild


def load_recipe(path: Path | None, overrides: Sequence[str] = ()) -> Experiment:
    """Read a recipe and apply `key=value` overrides in order.

    Args:
        path: a TOML file; None starts from the defaults.
        overrides: such as `client.epochs=5`; the value is TOML, or a plain word.

    Raises:
        RecipeError: the file is missing or not TOML, or something in it is unknown or out of range.

    >>> load_recipe(None, ["client.objective.feddecorr.beta=0.05", "model=mlp"]).model
    MLP(hidden=(128, 128), norm='none')
    """
    table: dict[str, Any] = {}
    if path is not None:
        try:
            table = tomllib.loads(path.read_text())
        except FileNotFoundError:
            raise RecipeError(f"there is no recipe {path}; `decollapse list` shows what a recipe can say.") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path} is not TOML: {error}.") from None
        except OSError as error:
            raise RecipeError(f"the recipe {path} cannot be read: {error.strerror}.") from None
    for override in overrides:
        set_key(table, override)
    try:
        return from_table(table)
    except RecipeError as error:
        source = f"{path} with --set: " if path and overrides else f"{path}: " if path else ""
        raise RecipeError(f"{source}{error}") from None


def set_key(table: dict[str, Any], override: str) -> None:
    """Apply one `key=value` to a nested table, in place.

    >>> table = {}
    >>> set_key(table, "client.epochs=5")
    >>> table
    {'client': {'epochs': 5}}
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"an override is written key=value, such as client.epochs=5; got {override!r}.")
    *parents, last = _key_path(key.strip())
    for parent in parents:
        inner = table.get(parent)
        if isinstance(inner, str):
            inner = {"name": inner}
        elif not isinstance(inner, dict):
            inner = {}
        table[parent] = inner
        table = inner
    value = parse_value(text)
    if isinstance(value, str) and isinstance(table.get(last), dict):
        value = {"name": value}
    table[last] = value


def _key_path(key: str) -> list[str]:
    """The parts of a dotted key; one that has dots itself is quoted, as in TOML.

    >>> _key_path('client.objective."my_pkg.terms:MyTerm".weight')
    ['client', 'objective', 'my_pkg.terms:MyTerm', 'weight']
    """
    try:
        nested = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        return key.split(".")
    path: list[str] = []
    while isinstance(nested, dict):
        ((part, nested),) = nested.items()
        path.append(part)
    return path


def parse_value(text: str) -> Any:
    """A TOML value, or the text itself where it is none.

    >>> parse_value("0.1"), parse_value("[1, 2]"), parse_value("resnet20")
    (0.1, [1, 2], 'resnet20')
    """
    try:
        return tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def from_table(table: Table) -> Experiment:
    """Build an experiment from a nested table; what it does not say has the default."""
    settings = dict(table)
    chosen = settings.pop("algorithm", None)
    experiment = build(Experiment, settings, "")
    assert isinstance(experiment, Experiment)
    return experiment if chosen is None else _with_algorithm(experiment, chosen, settings)


def to_table(experiment: Experiment) -> dict[str, Any]:
    """The complete recipe of an experiment, defaults included; `from_table` gives the experiment back."""
    table = unbuild(experiment, None)
    assert isinstance(table, dict)
    return table


def _with_algorithm(experiment: Experiment, chosen: Any, settings: Table) -> Experiment:
    """`experiment` with the slots that an algorithm fills; a slot that the recipe fills, too, is a contradiction."""
    table = {"name": chosen} if isinstance(chosen, str) else dict(as_table(chosen, "algorithm"))
    name = table.pop("name", None)
    if name not in ALGORITHMS:
        raise RecipeError(f"algorithm = {name!r} is not known{nearest(str(name), ALGORITHMS)}")
    make = ALGORITHMS[name]
    hints = {key: kind for key, kind in get_type_hints(make).items() if key not in ("client", "return")}
    for key in table:
        if key not in hints:
            raise RecipeError(f"algorithm.{key} is no setting of {name}{nearest(key, hints)}")
    values = {key: read_value(hints[key], value, f"algorithm.{key}", None) for key, value in table.items()}
    try:
        algorithm = make(experiment.client, **values)
        kept = {}
        for slot in ("aggregate", "server"):
            fills = getattr(algorithm, slot) != getattr(Algorithm(), slot)
            if fills and slot in settings:
                raise ValueError(f"{name} fills the slot {slot!r}, and so does the recipe; leave one of them out.")
            kept[slot] = getattr(algorithm if fills else experiment, slot)
        return dataclasses.replace(experiment, client=algorithm.client, **kept)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"algorithm = {name!r}: {error}") from None
