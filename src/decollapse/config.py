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
import json
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError

from decollapse.algorithms import Algorithm
from decollapse.catalog import ALGORITHMS, KINDS
from decollapse.client import ClientUpdate
from decollapse.experiment import Experiment
from decollapse.models import import_object
from decollapse.objective import Term
from decollapse.schedule import Schedule, Scheduled

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
    experiment = _build(Experiment, settings, "")
    assert isinstance(experiment, Experiment)
    return experiment if chosen is None else _with_algorithm(experiment, chosen, settings)


def to_table(experiment: Experiment) -> dict[str, Any]:
    """The complete recipe of an experiment, defaults included; `from_table` gives the experiment back."""
    table = _unbuild(experiment, None)
    assert isinstance(table, dict)
    return table


def _with_algorithm(experiment: Experiment, chosen: Any, settings: Table) -> Experiment:
    """`experiment` with the slots that an algorithm fills; a slot that the recipe fills, too, is a contradiction."""
    table = {"name": chosen} if isinstance(chosen, str) else dict(_as_table(chosen, "algorithm"))
    name = table.pop("name", None)
    if name not in ALGORITHMS:
        raise RecipeError(f"algorithm = {name!r} is not known{_nearest(str(name), ALGORITHMS)}")
    make = ALGORITHMS[name]
    hints = {key: kind for key, kind in get_type_hints(make).items() if key not in ("client", "return")}
    for key in table:
        if key not in hints:
            raise RecipeError(f"algorithm.{key} is no setting of {name}{_nearest(key, hints)}")
    values = {key: _value(hints[key], value, f"algorithm.{key}", None) for key, value in table.items()}
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


def _build(schema: type, table: Table, where: str, default: Any = None) -> Any:
    """An instance of the dataclass `schema` from the keys of `table`; the rest is as in `default`, if it is one."""
    hints = _field_types(schema)
    for key in table:
        if key not in hints:
            raise RecipeError(f"{_join(where, key)} is no setting of {_title(schema, where)}{_nearest(key, hints)}")
    start = default if type(default) is schema else None
    defaults = _defaults(schema) if start is None else {key: getattr(start, key) for key in hints}
    values = {key: _value(hints[key], value, _join(where, key), defaults.get(key)) for key, value in table.items()}
    for key in hints:
        if key not in values and key not in defaults:
            raise RecipeError(f"{where} needs a value for {key!r}: set {_join(where, key)}.")
    try:
        return schema(**(defaults | values))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"{where or 'recipe'}: {error}") from None


def _value(kind: Any, value: Any, where: str, default: Any) -> Any:
    """What a field of type `kind` gets for the TOML value `value`."""
    if kind in KINDS:
        return _component(kind, value, where, default)
    if get_origin(kind) is tuple and get_args(kind)[0] in KINDS:
        item = get_args(kind)[0]
        if item is Term:
            return _objective(value, where)
        if not isinstance(value, list):
            raise RecipeError(f'{where} is a list, such as ["{next(iter(KINDS[item]))}"], got {value!r}.')
        return tuple(_component(item, entry, f"{where}[{index}]", None) for index, entry in enumerate(value))
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _build(kind, {"name": value} if isinstance(value, str) else _as_table(value, where), where, default)
    try:
        # As JSON, because there a list is a tuple, but "5" and true are no numbers.
        return _adapter(kind).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise RecipeError(f"{where} = {value!r}: {reason[0].lower()}{reason[1:]}.") from None


def _component(kind: Any, value: Any, where: str, default: Any) -> Any:
    """A component from its name, or from a table; without a name, or with the default's, it starts from the default."""
    names = KINDS[kind]
    table = {"name": value} if isinstance(value, str) else dict(_as_table(value, where))
    name = table.pop("name", None)
    if name is None and default is not None:
        return _build(type(default), table, where, default)
    if not isinstance(name, str):
        raise RecipeError(f'{where} needs a name, such as "{next(iter(names))}"; there is {", ".join(names)}.')
    return _build(_component_class(name, names, where), table, where, default)


def _objective(value: Any, where: str) -> tuple[Any, ...]:
    """The terms of an objective, in order; cross-entropy comes first unless it is placed or taken out."""
    if isinstance(value, str):
        raise RecipeError(f"{where} is a table of terms; set {where}.{value}=true to add this one.")
    entries = dict(_as_table(value, where))
    if "cross_entropy" not in entries:
        entries = {"cross_entropy": {}} | entries
    return tuple(
        _term(name, settings, _join(where, name)) for name, settings in entries.items() if settings is not False
    )


def _term(name: str, settings: Any, where: str) -> Any:
    """One term, times its schedule if it has one."""
    table = dict(_as_table(settings, where))
    schedule = table.pop("schedule", None)
    term = _build(_component_class(name, KINDS[Term], where.rpartition(".")[0]), table, where)
    if schedule is None:
        return term
    return Scheduled(term, _component(Schedule, schedule, f"{where}.schedule", None))


def _component_class(name: str, names: Mapping[str, type], where: str) -> type:
    if ":" not in name:
        if name not in names:
            raise RecipeError(f"{where} = {name!r} is not known{_nearest(name, names)}")
        return names[name]
    try:
        found = import_object(name)
    except ValueError as error:
        raise RecipeError(f"{where} = {name!r} cannot be imported: {error}") from None
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
    entries: dict[str, Any] = {}
    for term in terms:
        plain = term.term if isinstance(term, Scheduled) else term
        settings = _unbuild(plain, None)
        if isinstance(term, Scheduled):
            settings |= {"schedule": _unbuild(term.schedule, Schedule)}
        entries[_name_of(type(plain), Term)] = settings
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
def _defaults(schema: type) -> dict[str, Any]:
    found = {}
    for field in dataclasses.fields(schema):
        if field.default is not dataclasses.MISSING:
            found[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            found[field.name] = field.default_factory()
    return {key: value for key, value in found.items() if key in _field_types(schema)}


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
