"""Recipes: TOML in, an `Experiment` out, and back.

The frozen dataclasses of the package are the schema; nothing is declared twice. A field that holds a component is
written as a table with a `name` from the catalogue, as that name alone, or as an import path:

    partition = "iid"
    model = { name = "resnet20", norm = "group" }
    [client.objective.feddecorr]
    beta = 0.1

The objective is a table with one entry a term; `cross_entropy = false` takes one out.
"""

from __future__ import annotations

import dataclasses
import importlib
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from decollapse.catalog import KINDS
from decollapse.client import ClientUpdate
from decollapse.experiment import Experiment
from decollapse.objective import Term

Table = Mapping[str, Any]


class RecipeError(ValueError):
    """A recipe says something that cannot be run; the message names file, key, value and the nearest right name."""


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
        raise RecipeError(f"{path}: {error}" if path else str(error)) from None


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
    *parents, last = key.strip().split(".")
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
    experiment = _build(Experiment, table, "")
    assert isinstance(experiment, Experiment)
    return experiment


def to_table(experiment: Experiment) -> dict[str, Any]:
    """The complete recipe of an experiment, defaults included; `from_table` gives the experiment back."""
    table = _unbuild(experiment, None)
    assert isinstance(table, dict)
    return table


def _build(schema: type, table: Table, where: str) -> Any:
    """An instance of the dataclass `schema` from the keys of `table`."""
    hints = _field_types(schema)
    for key in table:
        if key not in hints:
            raise RecipeError(f"{_join(where, key)} is no setting of {_title(schema, where)}{_nearest(key, hints)}")
    values = {key: _value(hints[key], value, _join(where, key)) for key, value in table.items()}
    try:
        return schema(**values)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{where or 'recipe'}: {error}") from None


def _value(kind: Any, value: Any, where: str) -> Any:
    """What a field of type `kind` gets for the TOML value `value`."""
    if kind in KINDS:
        return _component(kind, value, where)
    if get_origin(kind) is tuple and get_args(kind)[0] in KINDS:
        item = get_args(kind)[0]
        if item is Term:
            return _objective(value, where)
        if not isinstance(value, list):
            raise RecipeError(f"{where} is a list of names or tables, got {value!r}.")
        return tuple(_component(item, entry, f"{where}[{index}]") for index, entry in enumerate(value))
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _build(kind, {"name": value} if isinstance(value, str) else _as_table(value, where), where)
    try:
        return _adapter(kind).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise RecipeError(f"{where} = {value!r}: {reason[0].lower()}{reason[1:]}.") from None


def _component(kind: Any, value: Any, where: str) -> Any:
    """A component of a catalogue from its name, or from a table with its name and settings."""
    names = KINDS[kind]
    table = {"name": value} if isinstance(value, str) else dict(_as_table(value, where))
    name = table.pop("name", None) or (next(iter(names)) if table else None)
    if not isinstance(name, str):
        raise RecipeError(f'{where} needs a name, such as "{next(iter(names))}"; known: {", ".join(names)}.')
    return _build(_component_class(name, names, where), table, where)


def _objective(value: Any, where: str) -> tuple[Any, ...]:
    """The terms of an objective; cross-entropy is one of them unless it is taken out."""
    entries = {"cross_entropy": {}} | dict(_as_table(value, where))
    return tuple(
        _build(_component_class(name, KINDS[Term], where), _as_table(settings, _join(where, name)), _join(where, name))
        for name, settings in entries.items()
        if settings is not False
    )


def _component_class(name: str, names: Mapping[str, type], where: str) -> type:
    if ":" not in name:
        if name not in names:
            raise RecipeError(f"{where} = {name!r} is not known{_nearest(name, names)}")
        return names[name]
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise RecipeError(f"{where} = {name!r} cannot be imported: {error}.") from None
    if not (isinstance(found, type) and dataclasses.is_dataclass(found)):
        raise RecipeError(f"{where} = {name!r} must be a frozen dataclass, got {type(found).__name__}.")
    return found


def _unbuild(value: Any, kind: Any) -> Any:
    """The TOML value of a component, a settings record or a plain value."""
    if get_origin(kind) is tuple and get_args(kind)[0] is Term:
        return _unbuild_objective(value)
    if isinstance(value, tuple):
        item = get_args(kind)[0] if get_args(kind) else None
        return [_unbuild(entry, item) for entry in value]
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    hints = _field_types(type(value))
    fields = {key: _unbuild(getattr(value, key), hints[key]) for key in hints}
    table = {key: field for key, field in fields.items() if field is not None}
    return {"name": _name_of(type(value), kind)} | table if kind in KINDS else table


def _unbuild_objective(terms: Sequence[Any]) -> dict[str, Any]:
    entries = {_name_of(type(term), Term): _unbuild(term, None) for term in terms}
    return entries if "cross_entropy" in entries else {"cross_entropy": False} | entries


def _name_of(component: type, kind: Any) -> str:
    for name, known in KINDS[kind].items():
        if known is component:
            return name
    return f"{component.__module__}:{component.__qualname__}"


@cache
def _field_types(schema: type) -> dict[str, Any]:
    hints = get_type_hints(schema)
    return {field.name: hints[field.name] for field in dataclasses.fields(schema) if field.init}


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _as_table(value: Any, where: str) -> Table:
    if value is True:
        return {}
    if not isinstance(value, Mapping):
        raise RecipeError(f"{where} is a table of settings, got {value!r}.")
    return value


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _title(schema: type, where: str) -> str:
    if schema is Experiment:
        return "a recipe"
    return "client" if schema is ClientUpdate else f"{where} ({schema.__name__})"


def _nearest(name: str, known: Mapping[str, Any]) -> str:
    """The end of a sentence about an unknown name."""
    close = get_close_matches(name, known, n=1)
    there = f"there is {', '.join(known)}." if known else "it has no settings."
    return f"; did you mean {close[0]!r}?" if close else f"; {there}"
